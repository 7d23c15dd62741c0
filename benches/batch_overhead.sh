#!/usr/bin/env bash
# What the machinery of a batch costs a picture: the same pictures by `generate -n N` (a plain loop in one process) and
# by `batch`, with the time of starting the program taken off both.
# Usage: benches/batch_overhead.sh [PICTURES] [SIZE] [STEPS]      (default 200 64x64 4; COLORA=PROGRAM)
set -euo pipefail
count=${1:-200} size=${2:-64x64} steps=${3:-4}
root=$(cd "$(dirname "$0")/.." && pwd)
colora=$(realpath "${COLORA:-$root/target/release/colora}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
now() { date +%s.%N; }
loop() { mkdir -p "$2"; "$colora" generate -m starter --size "$size" -s "$steps" -S 1 -n "$1" -q -o "$2/{seed}.png" "a red apple" > /dev/null; }
batch() { echo "--prompt a red apple --seed 1 --repeat $1" > list.txt; "$colora" batch list.txt -m starter --size "$size" -s "$steps" -q -o "$2" > /dev/null; }
seconds() { local begin; begin=$(now); "$@"; echo "$(now) - $begin" | bc; }
loop 1 warm
for round in 1 2 3; do
  l1=$(seconds loop 1 "l1-$round"); b1=$(seconds batch 1 "b1-$round")
  ln=$(seconds loop "$count" "ln-$round"); bn=$(seconds batch "$count" "bn-$round")
  awk -v l1="$l1" -v b1="$b1" -v ln="$ln" -v bn="$bn" -v n="$count" 'BEGIN {
    l = (ln - l1) / (n - 1); b = (bn - b1) / (n - 1);
    printf "loop %.2f ms a picture, batch %.2f ms: %+.1f %%\n", 1000 * l, 1000 * b, 100 * (b / l - 1) }'
done
