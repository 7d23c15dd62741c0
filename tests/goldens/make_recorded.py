"""Runs and noise levels of k-diffusion, ComfyUI and A1111, for samplers and schedules: recorded.json.

They were recorded from the tools themselves, on a toy denoiser in f64 (versions in the file); this script only picks
what tests need out of the file of records, whose path is its argument.
"""

import json
import sys

from common import *

LISTS = {"karras 5", "sgm_uniform 8", "karras 1", "karras 9 from 4", "exponential 2", "karras 24", "karras 40", "karras 3", "karras 4", "karras 6"}


def main(path: str) -> None:
    vectors = read_json(Path(path))
    known = {**vectors["lists"]}
    runs = []
    for run in vectors["trajectories"]:
        f32_only = run["sampler"] in ("uni_pc", "uni_pc_bh2") or run["sampler"] == "dpm_fast" and run.get("options")
        if "final" not in run or run["list"] not in LISTS or ("dtype" in run) != bool(f32_only):
            continue
        keys = ("tool", "sampler", "guided", "list", "options", "evals", "draws", "final")
        kept = {key: run[key] for key in keys if key in run}
        runs.append(kept)
    toy = {key: vectors["toy"][key] for key in ("formula", "start", "noise_list")}
    levels = [s for s in vectors["schedules"]
              if s.get("sigmas") and "model" not in s and "sampler" not in s and "option" not in s
              and None not in s["sigmas"] and s["n"] in (1, 2, 10, 20, 30)]
    out = {"versions": vectors["made_by"], **toy, "lists": known, "runs": runs, "levels": levels}
    lines = []
    for key, value in out.items():
        if key in ("runs", "levels"):
            rows = ",\n  ".join(json.dumps(row, separators=(",", ":")) for row in value)
            lines.append(f" {json.dumps(key)}: [\n  {rows}\n ]")
        else:
            lines.append(f" {json.dumps(key)}: {json.dumps(value, separators=(',', ':'))}")
    target = HERE / "recorded.json"
    target.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    note(len(runs), "runs,", len(levels), "lists,", target.stat().st_size >> 10, "KiB")


if __name__ == "__main__":
    main(sys.argv[1])
