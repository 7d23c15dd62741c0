"""Tables of what run.sh left in a folder.

    python table.py OUT
"""

import collections
import csv
import json
import pathlib
import re
import statistics
import sys


def rows(lines):
    """Medians a contender and type: text, step, decode, and whole pictures, the first of a process left out."""
    found = collections.defaultdict(list)
    for line in map(json.loads, lines):
        if line.get("peer"):
            kind = "diffusers" + (" compiled" if line["compile"] else "")
            found[kind, line["dtype"]].append((line["text_s"], line["step_s"], line["decode_s"]))
        else:
            runs = line["runs"][1:] or line["runs"]
            found["colora", line["dtype"]] += [(run["encode"], run["steps"], run["decode"]) for run in runs]
    for (who, dtype), runs in found.items():
        text, decode = (statistics.median(run[i] for run in runs) for i in (0, 2))
        step = statistics.median(step for run in runs for step in run[1])
        picture = statistics.median(text + sum(steps) + decode for text, steps, decode in runs)
        yield f"{who:20} {dtype:5} {text:8.4f} {step:8.4f} {decode:8.4f} {picture:8.3f}"


def profile(path):
    """The kernels that take the most time in all."""
    lines = [line for line in path.read_text(errors="replace").splitlines() if line.startswith('"')]
    total = collections.Counter()
    count = collections.Counter()
    for row in csv.DictReader(lines):
        try:
            time = float(row["gpu__time_duration.sum"].replace(",", ""))
        except (KeyError, ValueError, AttributeError):
            continue
        name = re.sub(r"<.*|\(.*", "", row["Kernel Name"])[:90]
        total[name] += time
        count[name] += 1
    for name, time in total.most_common(40):
        yield f"{time:14.1f} {count[name]:6} {name}"


def main(folder):
    folder = pathlib.Path(folder)
    for which in ("sd15", "sdxl"):
        path = folder / f"{which}.json"
        if path.exists():
            print(f"{which:26} {'text s':>8} {'step s':>8} {'decode s':>8} {'picture':>8}")
            print(*rows(path.read_text().splitlines()), sep="\n")
    path = folder / "profile.csv"
    if path.exists():
        print(*profile(path), sep="\n")


if __name__ == "__main__":
    main(sys.argv[1])
