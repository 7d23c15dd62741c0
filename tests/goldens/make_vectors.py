"""Noise, streams, whole runs of A1111 and schedulers of diffusers, recorded from the tools: vectors.json.

This script only picks what tests need out of the file of records, whose path is its argument. Tests read the whole file
where they find it (COLORA_VECTORS).
"""

import json
import sys

from common import *


def main(path: str) -> None:
    vectors = read_json(Path(path))
    # Few steps of every scheduler and setting.
    kept = {("leading", 7), ("leading", 1), ("linspace", 4), ("trailing", 4)}
    runs = [{k: v for k, v in run.items() if not k.startswith("samples")} for run in vectors["diffusers"]["runs"]
            if (run["spacing"], run["steps"]) in kept and "final" in run and None not in run["final"]]
    keys = ("made_by", "toy", "lists", "brownian", "true_streams", "a1111_timestep_samplers", "whole_a1111", "img2img")
    out = {key: vectors[key] for key in keys if key != "img2img"}
    noise = vectors["noise"]
    out["noise"] = {**noise, "mt19937": [n for n in noise["mt19937"] if n["dtype"] == "f32" and n["n"] < 40]}
    out["diffusers"] = {"runs": runs}
    options = [s for s in vectors["schedules"] if ("option" in s or "sampler" in s or "model" in s) or s["n"] in (1, 4, 25)]
    out["schedules"] = options
    target = HERE / "vectors.json"
    lines = []
    for key, value in out.items():
        if isinstance(value, list):
            rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in value)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    note(len(runs), "runs of diffusers,", target.stat().st_size >> 10, "KiB")


if __name__ == "__main__":
    main(sys.argv[1])
