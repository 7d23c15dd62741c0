#!/bin/sh
# Trains the larger starter model (256 px, about 90 M parameters) on one large GPU, in one call:
#   sh training/gpu.sh DATA OUT [MINUTES]
# DATA holds the two unpacked npm packages (README.md). OUT gets the model in shards under 16 MiB each,
# and with it the state to resume from, split likewise. Needs the packages of requirements.txt.
set -eu
data=$1
out=$2
minutes=${3:-60}
here=$(dirname "$0")
work=${WORK:-$out/work}
mkdir -p "$work"

# Put the state of an earlier call together again.
if [ ! -f "$work/large.state.pt" ] && [ -f "$out/state/part-aa" ]; then
    cat "$out"/state/part-* | tar -x -C "$work"
fi

[ -f "$work/data.npz" ] || python "$here/data.py" --size 256 --out "$work/data.npz" \
    --pictures "$data/lobehub-fluent-emoji-3d/assets" --labels "$data/emojibase-data/en/data.json"
[ -d "$work/vae" ] || python "$here/train_vae.py" --data "$work/data.npz" --out "$work/vae" \
    --widths 64 128 192 256 --crop 128 --batch 32 --rate 4e-4 --minutes $((minutes / 3))
python "$here/train_unet.py" --data "$work/data.npz" --vae "$work/vae" --out "$work/large" \
    --preset large --batch 128 --rate 3e-4 --copies 8 --minutes $((minutes / 2))
python "$here/train_vae.py" --data "$work/data.npz" --out "$work/large.vae" \
    --decoder-only --crop 128 --batch 32 --rate 2e-4 --minutes $((minutes / 6))
python "$here/export.py" --model "$work/large" --vae "$work/large.vae" --card "$here/card.md" \
    --out "$out/model" --size 256
python "$here/sheet.py" "$out/model" "$out/sheet.png"

rm -rf "$out/state"
mkdir -p "$out/state"
tar -c -C "$work" vae large.vae large.state.pt | split -b 15m - "$out/state/part-"
