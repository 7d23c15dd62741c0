#!/bin/sh
# Every picture that {alternatives} and __wildcards__ stand for. The same file gives the same pictures under the same
# names, here and on every machine.
#
#     examples/wildcards.sh                    in full
#     examples/wildcards.sh --size 64x64 -s 2  quick and rough
#
# COLORA is the program, OUT the folder. Prints the number of pictures.
set -eu
cd "$(dirname "$0")/.."
colora=${COLORA:-colora} out=${OUT:-wildcards}
"$colora" batch prompts/dynamic.txt --expand all -o "$out" -q "$@" > /dev/null
jobs=$(wc -l < "$out/plan.jsonl")
made=$(find "$out" -name '*.png' | wc -l)
test "$made" -eq "$jobs" || { echo "$made pictures of $jobs jobs" >&2; exit 1; }
test "$jobs" -gt "$(grep -c '^[^#]' prompts/dynamic.txt)" || { echo "nothing was expanded" >&2; exit 1; }
echo "$made"
