"""A prompt file over Ray: each task makes one block of the list by calling the program.

    python ray_batch.py prompts.txt /shared/out --shards 8 [more flags of colora batch]

Ray starts a task again whose machine is lost; what was made stays, and the task goes on after it.
Pictures never travel through Ray: a task returns its exit code alone.
"""

import argparse
import os
import subprocess
import sys

import ray

# A wrong list, a missing model: another try ends the same way. 7: some jobs failed, the log says which.
LASTING = {2, 3, 4, 5, 7}


@ray.remote(num_cpus=float(os.environ.get("COLORA_CPUS", 1)), num_gpus=float(os.environ.get("COLORA_GPUS", 0)),
            max_retries=4, retry_exceptions=True)
def shard(index: int, count: int, command: list[str]) -> tuple[int, int]:
    code = subprocess.run([*command, "--shard", f"{index}/{count}"], check=False).returncode
    if code != 0 and code not in LASTING:
        raise RuntimeError(f"part {index} ended with {code}")
    return index, code


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("file")
    parser.add_argument("out")
    parser.add_argument("--shards", type=int, default=8)
    known, more = parser.parse_known_args()
    program = os.environ.get("COLORA", "colora")
    command = [program, "batch", os.path.abspath(known.file), "--out", os.path.abspath(known.out), "-q", *more]
    ray.init()  # the cluster in RAY_ADDRESS, else this machine
    waiting = [shard.remote(index + 1, known.shards, command) for index in range(known.shards)]
    worst = 0
    while waiting:
        (done,), waiting = ray.wait(waiting)
        index, code = ray.get(done)
        print(f"part {index}/{known.shards}: exit code {code}", file=sys.stderr)
        worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main())
