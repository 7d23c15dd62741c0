"""Pictures and captions for the starter model.

    python data.py --pictures lobehub-fluent-emoji-3d/assets --labels emojibase-data/en/data.json \
        --size 128 --out work/data.npz

Pictures: npm package @lobehub/fluent-emoji-3d (MIT). Labels and tags: emojibase-data (MIT).
Faces, animals, food, travel, activities and objects; no skin tones, flags or clocks; on white.
"""

import argparse
import json
import pathlib

import numpy as np
from PIL import Image

GROUPS = {0, 3, 4, 5, 6, 7}  # smileys, animals, food, travel, activities, objects


def wanted(entry):
    label = entry["label"]
    return entry.get("group") in GROUPS and "o’clock" not in label and "-thirty" not in label


def load(pictures, labels, size):
    images, captions = [], []
    for entry in json.loads(pathlib.Path(labels).read_text()):
        if not wanted(entry):
            continue
        code = entry["hexcode"].lower()
        names = [code, code.replace("-fe0f", ""), code + "-fe0f"]
        path = next((p for n in names if (p := pathlib.Path(pictures, n + ".webp")).exists()), None)
        if path is None:
            continue
        picture = Image.open(path).convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        white.alpha_composite(picture)
        images.append(np.asarray(white.convert("RGB").resize((size, size), Image.LANCZOS)))
        captions.append({"label": entry["label"], "tags": entry.get("tags", [])})
    return np.stack(images), captions


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--pictures", required=True)
    parser.add_argument("--labels", required=True)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", required=True)
    args = parser.parse_args()
    images, captions = load(args.pictures, args.labels, args.size)
    np.savez(args.out, images=images, captions=json.dumps(captions))
    print(len(captions), "pictures,", images.shape)
