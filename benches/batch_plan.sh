#!/usr/bin/env bash
# How long a large file of jobs takes to be checked, ordered and planned, and how much memory.
# Usage: benches/batch_plan.sh [LINES]      (default 100000; COLORA=PROGRAM, default target/release/colora)
set -euo pipefail
lines=${1:-100000}
root=$(cd "$(dirname "$0")/.." && pwd)
colora=$(realpath "${COLORA:-$root/target/release/colora}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/loras" "$work/loras"
cd "$work"
awk -v n="$lines" 'BEGIN { for (i = 0; i < n; i++) print "a photo of a red apple number " i " on a wooden table, soft light" }' > plain.txt
awk -v n="$lines" 'BEGIN { split("flat:0.8,gold:0.5,santa,wizard:0.3", l, ",");
  for (i = 0; i < n; i++) print "--lora " l[i % 4 + 1] " --prompt a photo of a red apple number " i }' > loras.txt
for file in plain.txt loras.txt; do
  /usr/bin/env time -f "$file: $lines lines planned in %e s (%U s of CPU), %M KiB" \
    "$colora" batch "$file" --max-jobs "$lines" --size 64x64 -s 2 --dry-run -q > plan.out
  grep -E '^#' plan.out
done
