"""colora beside diffusers (and stable-diffusion.cpp) on one model, in alternation, as a markdown table.

    python side_by_side.py MODEL --colora ../../target/release/colora --size 512 --steps 3 --rounds 3
    python side_by_side.py MODEL --colora ... --sdcpp .../sd-cli --sdcpp-model model.gguf
    python side_by_side.py MODEL --colora ... --only "colora bf16" --only "colora bf16 + 4 LoRAs" --lora A --lora B ...

MODEL is a diffusers folder. In each round every contender runs once, each in a process of its own, so that a slow hour of
the machine hits all alike. Seconds are median (minimum-maximum) over all rounds (all steps of them); the ratio is of
medians, to the fastest diffusers of the same precision; above 1 is faster. `others` is how many cores other processes
kept busy meanwhile, at most: above 0.1 distrust the line. A run with more than --disturbed is repeated, at most --retries
times, and the least disturbed one counts.
"""

import argparse
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).parent
# glibc keeps freed memory instead of giving it back after every large tensor; torch on a CPU gains a quarter.
KEEPING = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "1000000000000", "MALLOC_TOP_PAD_": "67108864"}
# torch and its libraries as on a processor without AVX-512.
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
ROWS = ("step", "decode", "text", "load", "peak")
TICK = os.sysconf("SC_CLK_TCK")


def busy():
    """Seconds that all cores together were busy since the machine started, their thieves' time included."""
    user, nice, system, _, _, irq, soft, steal = map(int, open("/proc/stat").readline().split()[1:9])
    return (user + nice + system + irq + soft + steal) / TICK


def run(command, environment):
    """(stdout, stderr, peak of resident MB, cores that others kept busy)."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        before, start = busy(), time.monotonic()
        process = subprocess.Popen(command, stdout=out, stderr=err, env={**os.environ, **environment})
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.monotonic() - start
        others = (busy() - before - usage.ru_utime - usage.ru_stime) / wall
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    if process.returncode:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{texts[1]}")
    return *texts, usage.ru_maxrss / 1024, max(others, 0.0)


def colora(args, dtype, cpu=None, loras=()):
    command = [args.colora, "bench", "-m", args.model, "--size", f"{args.size}x{args.size}", "--steps", args.steps,
               "--dtype", dtype, "--json", "-q"]
    command += ["--cpu", cpu] if cpu else []
    for lora in loras:
        command += ["--lora", lora]

    def measure():
        out, _, _, others = run(list(map(str, command)), {})
        found = json.loads(out)
        one = found["runs"][0]
        return {"step": one["steps"], "decode": one["decode"], "text": one["encode"], "compose": one["compose"],
                "load": one["open"] + one["load"] + one["compose"], "peak": (one["peak_bytes"] or 0) / 1e6,
                "others": others, "ceiling": found["ceilings"][f"{dtype}_operations_per_second"] / 1e9}

    return measure


def diffusers(args, dtype, tuned, mask={}):
    command = [sys.executable, HERE / "diffusers_bench.py", args.model, "--size", args.size, "--steps", args.steps,
               "--dtype", dtype] + (["--channels-last"] if tuned else [])

    def measure():
        out, _, peak, others = run(list(map(str, command)), (KEEPING if tuned else {}) | mask)
        found = json.loads(out.splitlines()[-1])
        return {"step": found["step_s"], "decode": found["decode_s"], "text": found["text_s"], "load": found["load_s"],
                "peak": peak * 1.048576, "others": others}

    return measure


def sdcpp(args):
    def measure():
        with tempfile.TemporaryDirectory() as folder:
            command = [args.sdcpp, "-m", args.sdcpp_model, "-p", "a red fox in the snow", "-n", "blurry", "--cfg-scale", "7.5",
                       "--sampling-method", "euler", "--steps", args.steps, "-W", args.size, "-H", args.size, "-s", "1",
                       "-t", os.cpu_count(), "-o", f"{folder}/out.png", *args.sdcpp_flags.split()]
            out, err, peak, others = run(list(map(str, command)), {})

        def seconds(stage):
            found = re.search(rf"{stage} completed, taking ([\d.]+) ?(ms|s)", out + err)
            if not found:
                sys.exit(f"{args.sdcpp} does not say how long {stage} took:\n{out}{err}")
            return float(found[1]) / (1000 if found[2] == "ms" else 1)

        # Weights are read at their first use unless a flag says otherwise, so there is no time to load.
        return {"step": [seconds("sampling") / args.steps], "decode": seconds("decode_first_stage"),
                "text": seconds("get_learned_condition"), "load": None, "peak": peak * 1.048576, "others": others}

    return measure


def contenders(args):
    all = {}
    for dtype in ("bf16", "f32"):
        all[f"colora {dtype}"] = colora(args, dtype)
        all[f"diffusers {dtype}, tuned"] = diffusers(args, dtype, True)
        all[f"diffusers {dtype}"] = diffusers(args, dtype, False)
        all[f"diffusers {dtype}, tuned, avx2"] = diffusers(args, dtype, True, AVX2)
        for cpu in ("avx512", "avx2"):
            all[f"colora {dtype} --cpu {cpu}"] = colora(args, dtype, cpu)
        if args.lora:
            all[f"colora {dtype} + {len(args.lora)} LoRAs"] = colora(args, dtype, loras=args.lora)
    if args.sdcpp and args.sdcpp_model and pathlib.Path(args.sdcpp).exists():
        all["stable-diffusion.cpp"] = sdcpp(args)
    else:
        print("skipped: stable-diffusion.cpp (no --sdcpp and --sdcpp-model, or not there)", file=sys.stderr)
    if unknown := [name for name in args.only if name not in all]:
        sys.exit(f"no contender {unknown}; there are {list(all)}")
    return {name: measure for name, measure in all.items() if not args.only or name in args.only}


def wait(args):
    """Returns when others kept less than half a core busy for two seconds, or after --patience seconds."""
    end = time.monotonic() + args.patience
    while time.monotonic() < end:
        before, start = busy(), time.monotonic()
        time.sleep(2)
        if busy() - before < 0.5 * (time.monotonic() - start):
            return


def quiet(args, measure, name):
    """A measurement that nothing disturbed, or the least disturbed one."""
    best = None
    for _ in range(args.retries + 1):
        wait(args)
        found = measure()
        if best is None or found["others"] < best["others"]:
            best = found
        if best["others"] <= args.disturbed:
            break
        print(f"  {name}: others kept {found['others']:.2f} cores busy", file=sys.stderr, flush=True)
    return best


def numbers(runs, key):
    values = [run.get(key) for run in runs]
    flat = [v for value in values for v in (value if isinstance(value, list) else [value])]
    return [v for v in flat if v is not None]


def cell(values, digits):
    if not values:
        return "-"
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"**{middle:.{digits}f}** ({low:.{digits}f}-{high:.{digits}f})"


def precision(name):
    return "bf16" if "bf16" in name else "f32"


def best(results, name, key):
    """The least median of diffusers in the precision and instructions of `name`; stable-diffusion.cpp counts as f32."""
    peers = [numbers(runs, key) for peer, runs in results.items()
             if peer.startswith("diffusers") and precision(peer) == precision(name) and ("avx2" in peer) == ("avx2" in name)]
    return min((statistics.median(values) for values in peers if values), default=None)


def table(results):
    print("| | UNet step s | ratio | VAE decode s | ratio | text s | load s | peak MB | others |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, runs in results.items():
        cells = [name]
        for key in ROWS:
            values = numbers(runs, key)
            cells.append(cell(values, 0 if key == "peak" else 3 if key == "text" else 2))
            if key in ("step", "decode"):
                peer = best(results, name, key)
                cells.append(f"{peer / statistics.median(values):.2f}" if peer and values else "-")
        cells.append(f"{max(numbers(runs, 'others')):.2f}")
        print("| " + " | ".join(cells) + " |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--colora", required=True, help="the program")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--lora", action="append", default=[], help="adds contenders with these LoRAs")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="a contender; default: all")
    parser.add_argument("--disturbed", type=float, default=0.1, metavar="CORES")
    parser.add_argument("--retries", type=int, default=0)
    parser.add_argument("--patience", type=float, default=0, metavar="SECONDS", help="wait so long for a quiet machine")
    parser.add_argument("--sdcpp", help="stable-diffusion.cpp's program")
    parser.add_argument("--sdcpp-model", help="the same model as GGUF or safetensors")
    parser.add_argument("--sdcpp-flags", default="", help="more flags for it, e.g. --eager-load")
    parser.add_argument("--json", help="a file for every single number")
    args = parser.parse_args()
    measures = contenders(args)
    results = {name: [] for name in measures}
    for index in range(args.rounds):
        for name, measure in measures.items():
            found = quiet(args, measure, name)
            results[name].append(found)
            print(f"round {index + 1}: {name}: {json.dumps(found)}", file=sys.stderr, flush=True)
            if args.json:
                pathlib.Path(args.json).write_text(json.dumps(results, indent=1))
    table(results)
    ceilings = {dtype: numbers([r for name, runs in results.items() if dtype in name and "--cpu" not in name for r in runs],
                               "ceiling") for dtype in ("bf16", "f32")}
    for dtype, values in ceilings.items():
        if values:
            print(f"\nceiling {dtype}: {cell(values, 0)} GFLOP/s", end="")
    print()


if __name__ == "__main__":
    main()
