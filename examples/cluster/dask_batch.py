"""A prompt file over Dask: each task makes one block of the list by calling the program.

    python dask_batch.py prompts.txt /shared/out --shards 8 [--scheduler tcp://host:8786] [more flags]

Dask computes results again that lived in a lost worker, also finished ones. That is cheap here: the
pictures are files, so a block that is done is only looked at.
"""

import argparse
import os
import subprocess
import sys

from dask.distributed import Client, LocalCluster, as_completed

# A wrong list, a missing model: another try ends the same way. 7: some jobs failed, the log says which.
LASTING = {2, 3, 4, 5, 7}


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
    parser.add_argument("--scheduler")
    known, more = parser.parse_known_args()
    program = os.environ.get("COLORA", "colora")
    command = [program, "batch", os.path.abspath(known.file), "--out", os.path.abspath(known.out), "-q", *more]
    cluster = known.scheduler or LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None)
    with Client(cluster) as client:
        tasks = [client.submit(shard, index + 1, known.shards, command, pure=False, retries=4)
                 for index in range(known.shards)]
        worst = 0
        for task in as_completed(tasks):
            index, code = task.result()
            print(f"part {index}/{known.shards}: exit code {code}", file=sys.stderr)
            worst = max(worst, code)
    return worst


if __name__ == "__main__":
    sys.exit(main())
