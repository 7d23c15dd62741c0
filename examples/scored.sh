#!/bin/sh
# Weights of two LoRAs by a program's scores. This one takes the picture's bytes as its score, which are many where
# there is much to see; put a model that scores beauty, or likeness, in its place.
#
#     examples/scored.sh                       in full
#     examples/scored.sh --size 64x64 -s 2     quick and rough
#
# COLORA is the program, OUT the folder. Prints the stack as flags.
set -eu
cd "$(dirname "$0")/.."
colora=${COLORA:-colora} out=${OUT:-scored}
"$colora" tune "a red apple" --lora flat:0..1.5 --lora gold:0..1 --score "sh -c 'wc -c < \"\$0\"' {}" \
    --most 10 --sure 1 -o "$out" "$@"
scores=$(grep -c '"event":"score"' "$out/tune.jsonl")
test "$scores" -eq 10 || { echo "$scores scores of 10" >&2; exit 1; }
