#!/bin/sh
# The pictures of a list, each once: a second run has nothing left to draw.
#
#     examples/gallery.sh                      in full
#     examples/gallery.sh --size 64x64 -s 2    quick and rough
#
# COLORA is the program, OUT the folder. Prints the number of pictures.
set -eu
cd "$(dirname "$0")/.."
colora=${COLORA:-colora} out=${OUT:-gallery-pictures}
"$colora" batch prompts/gallery.txt -o "$out" -q "$@" > /dev/null
again=$("$colora" batch prompts/gallery.txt -o "$out" -q "$@" | wc -l)
made=$(find "$out" -name '*.png' | wc -l)
jobs=$(wc -l < "$out/plan.jsonl")
test "$again" -eq 0 || { echo "the second run drew $again pictures" >&2; exit 1; }
test "$made" -eq "$jobs" || { echo "$made pictures of $jobs jobs" >&2; exit 1; }
echo "$made"
