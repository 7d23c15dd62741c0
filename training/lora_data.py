"""Pictures for the LoRAs of the starter model.

    python lora_data.py --pictures lobehub-fluent-emoji-3d/assets --flat lobehub-fluent-emoji-flat/assets \
        --labels emojibase-data/en/data.json --size 128 --out work/lora.npz

Sets of the file: `base` are the starter model's own pictures, to keep it as it is; `flat` the same things
from npm package @lobehub/fluent-emoji-flat (MIT); `gold` the starter's pictures as if cast in
gold; `wizard` and `santa` two subjects among the people that the starter model never saw, a few
pictures each with small changes. The subjects are in no other set.
"""

import argparse
import io
import json
import pathlib
import random

import numpy as np
import resvg_py
from PIL import Image, ImageOps

from data import wanted

SUBJECTS = {
    "wizard": ["1f9d9", "1f9d9-200d-2642-fe0f", "1f9d9-200d-2640-fe0f"],
    "santa": ["1f385"],
}
VARIANTS = 12  # of a subject, over all its pictures


def drawing(path, size):
    png = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size)
    return Image.open(io.BytesIO(bytes(png))).convert("RGBA")


def on_white(picture):
    white = Image.new("RGBA", picture.size, "white")
    white.alpha_composite(picture)
    return white.convert("RGB")


def gold(picture):
    """A picture cast in gold: its brightness as a ramp from brown to pale gold, on white."""
    light = ImageOps.autocontrast(on_white(picture).convert("L"))
    cast = ImageOps.colorize(light, (60, 25, 0), (255, 240, 170), (214, 150, 30)).convert("RGBA")
    cast.putalpha(picture.getchannel("A"))
    return on_white(cast)


def variant(picture, rng):
    """A subject slightly turned, scaled and moved, on white."""
    side = picture.width
    turned = picture.rotate(rng.uniform(-3, 3), Image.BICUBIC)
    small = round(side * rng.uniform(0.92, 1))
    turned = turned.resize((small, small), Image.LANCZOS)
    moved = Image.new("RGBA", picture.size)
    # Busts stay on the lower edge, where they are cut off.
    moved.paste(turned, (rng.randint(0, side - small), side - small))
    return on_white(moved)


def find(folder, hexcode, ending):
    code = hexcode.lower()
    names = [code, code.replace("-fe0f", ""), code + "-fe0f"]
    return next((p for n in names if (p := pathlib.Path(folder, n + ending)).exists()), None)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--flat", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    rng = random.Random(0)
    sets = {name: [] for name in ["base", "flat", "gold", *SUBJECTS]}
    captions = []
    for entry in json.loads(pathlib.Path(args.labels).read_text()):
        solid, plain = (find(folder, entry["hexcode"], ending)
                        for folder, ending in [(args.pictures, ".webp"), (args.flat, ".svg")])
        if not wanted(entry) or solid is None or plain is None:
            continue
        captions.append({"label": entry["label"], "tags": entry.get("tags", [])})
        picture = Image.open(solid).convert("RGBA")
        sets["base"].append(on_white(picture))
        sets["flat"].append(on_white(drawing(plain, 256)))
        sets["gold"].append(gold(picture))
    for name, codes in SUBJECTS.items():
        pictures = [Image.open(find(args.pictures, code, ".webp")).convert("RGBA") for code in codes]
        sets[name] = [variant(pictures[i % len(pictures)], rng) for i in range(VARIANTS)]
    small = {name: np.stack([np.asarray(p.resize((args.size, args.size), Image.LANCZOS)) for p in pictures])
             for name, pictures in sets.items()}
    np.savez(args.out, captions=json.dumps(captions), **small)
    print({name: pictures.shape for name, pictures in small.items()})


if __name__ == "__main__":
    main()
