#!/usr/bin/env bash
# Makes the pictures of docs/, with the starter model and the LoRAs of the repository:
#   docs/pictures/make.sh [COLORA]
set -euo pipefail
cd "$(dirname "$0")/../.."
colora=$(realpath "${1:-target/release/colora}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export COLORA_LORA_PATH="$PWD/loras"
"$colora" sweep "a red apple" --x lora.flat=0..1:0.25 --y lora.gold=none,0.4,0.8 -m starter --size 96 -s 12 -S 4 \
    -q -o "$work/sweep"
cp "$work/sweep/sweep.png" docs/pictures/sweep.png
