"""Makes the zoo: adapter files from the real producers on the tiny bases, and what each does to every weight.

`python make_zoo.py` writes good/, bad/, goldens.safetensors, zoo.json (about two minutes on one core);
`python make_zoo.py --pictures` also pictures.json and pictures.safetensors. See README.md.
"""

import argparse
import importlib

from zoo_store import *

STAGES = ["kohya", "lycoris", "peft", "derived", "bad"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--stages", nargs="*", default=STAGES)
    parser.add_argument("--pictures", action="store_true")
    chosen = parser.parse_args()
    zoo = Zoo()
    zoo.clear()
    for stage in chosen.stages:
        before = len(zoo.entries)
        importlib.import_module(f"zoo_{stage}").make(zoo)
        note(f"{stage}: {len(zoo.entries) - before} files")
    zoo.finish()
    for name, error in sorted(zoo.worst.items(), key=lambda item: -item[1])[:5]:
        note(f"  law against producer: {name} {error:.1e}")
    sizes = {p.name: sum(f.stat().st_size for f in (p.rglob("*") if p.is_dir() else [p]) if f.is_file()) >> 10
             for p in sorted(HERE.iterdir()) if p.name != "__pycache__"}
    note({k: v for k, v in sizes.items() if v > 20}, "KiB, in all", sum(sizes.values()))
    if chosen.pictures:
        importlib.import_module("zoo_pictures").make(zoo)


if __name__ == "__main__":
    main()
