#!/usr/bin/env bash
# 1,000 jobs on the starter model (64 px, 2 steps), killed by SIGKILL at random moments and resumed until all are made:
# the exact set of pictures, the bytes of an undisturbed run, and one line of the log for each job.
# Usage: benches/batch_1000.sh [JOBS] [KILLS]      (default 1000 and 40; COLORA=PROGRAM; SEED=N for the moments)
set -euo pipefail
jobs=${1:-1000} kills=${2:-40}
RANDOM=${SEED:-1}
root=$(cd "$(dirname "$0")/.." && pwd)
colora=$(realpath "${COLORA:-$root/target/release/colora}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r "$root/loras" "$work/loras"
cd "$work"
awk -v n="$jobs" 'BEGIN { split("|--lora flat:0.8 |--lora gold:0.5 |--lora flat:0.2 --lora gold ", l, "|");
  for (i = 0; i < n; i++) print l[i % 4 + 1] "--prompt a red apple number " i }' > list.txt
# `exec`: the process that is killed is colora itself, not a shell around it.
run() { exec "$colora" batch list.txt -m starter --size 64x64 -s 2 -q -o "$1" > /dev/null; }
begin=$(date +%s.%N)
(run whole)
echo "undisturbed: $(ls whole | grep -c '\.png$') pictures in $(echo "$(date +%s.%N) - $begin" | bc) s"
killed=0
for _ in $(seq "$kills"); do
  (run disturbed) & process=$!
  sleep "$((RANDOM % 3)).$((RANDOM % 900 + 100))"
  if kill -9 "$process" 2> /dev/null; then killed=$((killed + 1)); fi
  wait "$process" 2> /dev/null || true
done
(run disturbed)
echo "killed $killed times"
(cd whole && sha256sum -- *.png) > whole.sums
(cd disturbed && sha256sum -- *.png) > disturbed.sums
cmp whole.sums disturbed.sums && echo "the same names and bytes"
done_lines=$(grep -c '"status":"done"' disturbed/manifest-0.jsonl)
ids=$(grep '"status":"done"' disturbed/manifest-0.jsonl | sed 's/.*"id":"\([^"]*\)".*/\1/' | sort -u | wc -l)
others=$(ls -A disturbed | grep -cv -E '\.png$|^plan\.jsonl?$|^manifest-0\.jsonl$' || true)
echo "log: $done_lines lines say done, of $ids jobs; other files: $others"
test "$ids" = "$(wc -l < whole.sums)" && test "$done_lines" = "$ids" && test "$others" = 0 && echo PASSED
