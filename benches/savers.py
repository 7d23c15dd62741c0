"""What the step savers cost and save on the starter model.

    python3 benches/savers.py target/release/colora [FOLDER]

Draws every prompt with and without each saver, and prints PSNR against the picture without (mean and
lowest over the prompts) and seconds of sampling (median). With FOLDER the pictures stay there, side by
side in sheet.png. Needs numpy and Pillow.
"""

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy
from PIL import Image

PROMPTS = ["a red apple", "cat face", "rocket", "a red fox", "pizza", "a house", "sunflower", "a blue fish"]
SAVERS = [
    [],
    ["--guidance-interval", "0..0.5"],
    ["--guidance-interval", "0.2..0.8"],
    ["--guidance-interval", "0..0.8"],
    ["--reuse", "2"],
    ["--reuse", "3"],
    ["--reuse", "5"],
    ["--merge-tokens", "0.25"],
    ["--merge-tokens", "0.5"],
    ["--merge-tokens", "0.75"],
    ["--reuse", "2", "--guidance-interval", "0..0.8"],
]
ALWAYS = ["-s", "20", "--dtype", "f32", "--json", "--force", "--progress", "none"]


def draw(program, prompt, saver, path):
    command = [program, *ALWAYS, "-S", "3", "-o", str(path), *saver, prompt]
    out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return json.loads(out)["timings"]["sample"]


def psnr(a, b):
    a, b = (numpy.asarray(Image.open(p).convert("RGB"), dtype=numpy.float64) for p in (a, b))
    error = ((a - b) ** 2).mean()
    return float("inf") if error == 0 else 10 * numpy.log10(255**2 / error)


def sheet(folder):
    rows = [[Image.open(folder / f"{s}-{p}.png") for p in range(len(PROMPTS))] for s in range(len(SAVERS))]
    width, height = rows[0][0].size
    whole = Image.new("RGB", (width * len(PROMPTS), height * len(rows)))
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            whole.paste(picture, (x * width, y * height))
    whole.save(folder / "sheet.png")


def main(program, folder):
    folder.mkdir(parents=True, exist_ok=True)
    seconds = [[] for _ in SAVERS]
    for p, prompt in enumerate(PROMPTS):
        # In alternation, so that what else the machine does falls on all.
        for s, saver in enumerate(SAVERS):
            seconds[s].append(draw(program, prompt, saver, folder / f"{s}-{p}.png"))
    print("| saver | PSNR mean | lowest | s |\n|---|---|---|---|")
    for s, saver in enumerate(SAVERS):
        quality = [psnr(folder / f"0-{p}.png", folder / f"{s}-{p}.png") for p in range(len(PROMPTS))]
        numbers = f"{statistics.mean(quality):.1f} | {min(quality):.1f} | {statistics.median(seconds[s]):.2f}"
        print(f"| `{' '.join(saver) or 'none'}` | {numbers} |")
    sheet(folder)


if __name__ == "__main__":
    if len(sys.argv) > 2:
        main(sys.argv[1], Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as folder:
            main(sys.argv[1], Path(folder))
