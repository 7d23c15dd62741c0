#!/bin/sh
# Subjects by styles: a row for each line of prompts/subjects.txt, a column for each LoRA, as one labelled grid and as
# a page to look through.
#
#     examples/styles.sh                       in full
#     examples/styles.sh --size 64x64 -s 2     quick and rough
#
# COLORA is the program, OUT the folder. Prints the grid's file.
set -eu
cd "$(dirname "$0")/.."
colora=${COLORA:-colora} out=${OUT:-styles}
"$colora" sweep --x "lora=none,flat,gold" --y "prompt=@prompts/subjects.txt" -S 1 -o "$out" -q "$@" > /dev/null
test -s "$out/sweep.png" && test -s "$out/sweep.html"
cells=$(grep -c '^[^#]' prompts/subjects.txt)
made=$(find "$out" -name '*.png' ! -name 'sweep*.png' | wc -l)
test "$made" -eq $((3 * cells)) || { echo "$made cells of $((3 * cells))" >&2; exit 1; }
echo "$out/sweep.png"
