"""Makes the zoo: adapter files from the real producers on the tiny bases, and what each does to every weight.

`python make_zoo.py` writes good/, bad/, goldens.safetensors, zoo.json (under a minute of one core);
`python make_zoo.py --pictures` also pictures.json and pictures.safetensors. See README.md.
"""

import argparse
import importlib

from safetensors import safe_open

from zoo_store import *

STAGES = ["kohya", "lycoris", "peft", "derived", "bad"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="*", default=STAGES)
    parser.add_argument("--pictures", action="store_true")
    parser.add_argument("--real", type=Path, help="a real cloneofsimo file, for zoo.json's information; else kept as it stands")
    chosen = parser.parse_args()
    zoo = Zoo()
    zoo.clear()
    for stage in chosen.stages:
        before = len(zoo.entries)
        importlib.import_module(f"zoo_{stage}").make(zoo)
        note(f"{stage}: {len(zoo.entries) - before} files")
    zoo.information = information(chosen.real)
    zoo.finish()
    for name, error in sorted(zoo.worst.items(), key=lambda item: -item[1])[:5]:
        note(f"  law against producer: {name} {error:.1e}")
    sizes = {p.name: sum(f.stat().st_size for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()) >> 10
             for p in sorted(HERE.iterdir()) if p.name != "__pycache__"}
    note({k: v for k, v in sizes.items() if v > 20}, "KiB, in all", sum(sizes.values()))
    if chosen.pictures:
        importlib.import_module("zoo_pictures").make(zoo)
    for file in HERE.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            for place in (str(HERE.parents[2]), str(Path.home())):
                assert len(place) < 5 or place.encode() not in file.read_bytes(), f"{file.name} holds a path of this machine"


def information(real: Path | None) -> dict:
    """Counts and shapes of a real file that is not part of the project."""
    if real is None:
        return read_json(HERE / "zoo.json").get("information", {}) if (HERE / "zoo.json").exists() else {}
    out = {"file": real.name, "metadata": {}, "parts": {}, "other": []}
    with safe_open(str(real), "pt") as f:
        out["metadata"] = {k: v for k, v in sorted((f.metadata() or {}).items()) if ":" not in k}
        keys = list(f.keys())
        out["tensors"] = len(keys)
        for part in ("unet", "text_encoder"):
            count = sum(k.startswith(part + ":") and k.endswith(":up") for k in keys)
            rows = []
            for n in range(count):
                up, down = f.get_slice(f"{part}:{n}:up"), f.get_slice(f"{part}:{n}:down")
                rows.append([up.get_shape()[0], *down.get_shape()[1:], down.get_shape()[0], up.get_dtype()])
            runs = []
            for row in rows:
                if runs and runs[-1][1:] == row:
                    runs[-1][0] += 1
                else:
                    runs.append([1, *row])
            out["parts"][part] = {"pairs": count, "runs (how many, out, in, rank, dtype)": runs}
        out["other"] = sorted(k for k in keys if not k.startswith(("unet:", "text_encoder:")))
    return out


if __name__ == "__main__":
    main()
