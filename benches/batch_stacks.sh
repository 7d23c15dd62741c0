#!/usr/bin/env bash
# 8 jobs with 4 stacks of LoRAs: one batch against 8 calls of `generate`. Prints both times.
# Usage: benches/batch_stacks.sh MODEL LORA LORA [SIZE] [STEPS]      (COLORA=PROGRAM; default size the model's own, 8 steps)
set -euo pipefail
model=${1:?MODEL} first=${2:?LORA} second=${3:?LORA} size=${4:-} steps=${5:-8}
root=$(cd "$(dirname "$0")/.." && pwd)
colora=$(realpath "${COLORA:-$root/target/release/colora}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
stacks=("" "$first:0.8" "$second:0.5" "$first:0.4 $second:0.6")
begin=$(date +%s.%N)
for job in 0 1 2 3 4 5 6 7; do
  flags=(); for lora in ${stacks[$((job % 4))]}; do flags+=(--lora "$lora"); done
  "$colora" generate -m "$model" ${size:+--size "$size"} -s "$steps" -S "$job" ${flags[@]+"${flags[@]}"} -q \
    -o "$work/$job.png" "a red apple number $job" > /dev/null
done
single=$(echo "$(date +%s.%N) - $begin" | bc)
for job in 0 1 2 3 4 5 6 7; do
  line=""; for lora in ${stacks[$((job % 4))]}; do line+="--lora $lora "; done
  echo "$line--seed $job --id $job --prompt a red apple number $job"
done > "$work/list.txt"
begin=$(date +%s.%N)
"$colora" batch "$work/list.txt" -m "$model" ${size:+--size "$size"} -s "$steps" -q -o "$work/out" > /dev/null
batch=$(echo "$(date +%s.%N) - $begin" | bc)
grep -o '"stack":\[[^]]*\]' "$work/out/manifest-0.jsonl" | uniq | wc -l | xargs echo "stack changes in the batch:"
echo "8 single calls: $single s; one batch: $batch s"
