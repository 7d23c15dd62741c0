#!/bin/sh
# On the machine with the GPU, from the repository's root:
#   sh benches/gpu/run.sh DIST OUT [PYTHON]
# DIST is what build.sh made, or both carry files unpacked (PYTHON's libraries serve then). Parity first (goldens in f32 within the CPU's limits; f16 and bf16 by PSNR),
# then seconds a picture of random full-size models beside diffusers on the same card, in alternation.
# PYTHON has the packages of training/requirements.txt with CUDA; without it only colora runs.
# Everything goes to OUT as text; one call takes less than ten minutes.
set -eu
dist=$(cd "$1" && pwd)
out=$2
python=${3:-}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/../.."
libraries=$dist/lib
if [ ! -d "$libraries" ] && [ -n "$python" ]; then
    # Only the programs and curand were carried: torch of the same CUDA family brings the other libraries.
    libraries=$("$python" -c '
import glob, sysconfig
print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))'):/usr/local/cuda/lib64:$dist
fi
export LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}"
nvidia-smi > "$out/card.txt" 2>&1 || true
"$dist/colora" doctor > "$out/doctor.txt" 2>&1 || true

COLORA_TEST_DEVICE=cuda COLORA_ROOT="$PWD" "$dist/parity_device" --nocapture > "$out/parity.txt" 2>&1 ||
    echo "parity failed: see $out/parity.txt"

"$dist/colora" generate "a red apple" -S 1 --device cuda -o "$out/apple.png" --force --json > "$out/starter.json"
"$dist/colora" generate "a wizard, flat style" -l wizard -l flat:0.8 -S 1 --device cuda \
    -o "$out/wizard.png" --force --json >> "$out/starter.json"

[ -n "$python" ] || exit 0
picture() { # model, size, steps, dtype
    "$dist/colora" -m "$1" "a red fox in the snow" -N blurry --sampler euler --schedule discrete \
        -s "$3" -g 7.5 --size "$2x$2" -S 1 --device cuda --dtype "$4" --json --force -o "$out/fox.png"
}
for which in sd15 sdxl; do
    model=$out/model-$which
    size=512
    if [ "$which" = sdxl ]; then size=1024; fi
    [ -d "$model" ] || "$python" benches/peers/make_fullsize.py "$model" "$which" > /dev/null 2>&1
    for round in 1 2 3; do
        for dtype in f16 bf16 f32; do
            picture "$model" "$size" 20 "$dtype" >> "$out/$which-colora.json" 2>> "$out/errors.txt" || true
            "$python" benches/peers/diffusers_bench.py "$model" --size "$size" --steps 20 \
                --dtype "$dtype" --device cuda >> "$out/$which-diffusers.json" 2>> "$out/errors.txt" || true
        done
    done
    "$python" benches/peers/diffusers_bench.py "$model" --size "$size" --steps 20 --dtype f16 \
        --device cuda --compile >> "$out/$which-diffusers.json" 2>> "$out/errors.txt" || true
    rm -rf "$model"
done
