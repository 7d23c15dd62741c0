#!/bin/sh
# On the machine with the GPU, from the repository's root:
#   sh benches/gpu/run.sh DIST OUT PYTHON PART...
# DIST is what build.sh made, or its carry file unpacked (the libraries of PYTHON's torch serve then); PYTHON has
# torch with CUDA, diffusers and transformers. Everything goes to OUT as text. Parts:
#   parity        every operator beside the CPU's; goldens in f32 within the CPU's limits, f16 and bf16 by PSNR
#   pictures      the starter model, with and without LoRAs
#   sd15, sdxl    random models of full size beside diffusers on the same card, in alternation
#   compile-sd15, compile-sdxl    diffusers with torch.compile (minutes)
#   compose       4 LoRAs of rank 16 and a LoCon of rank 64 into the weights, beside diffusers and PEFT
#   profile       what every kernel of a picture takes (needs ncu)
set -eu
dist=$(cd "$1" && pwd)
out=$2
python=$3
shift 3
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/../.."
libraries=$dist/lib
if [ ! -e "$libraries/libcublas.so.13" ]; then
    libraries=$("$python" -c '
import glob, sysconfig
print(":".join(glob.glob(sysconfig.get_paths()["purelib"] + "/nvidia/*/lib")))'):/usr/local/cuda/lib64
fi
models=${MODELS:-$out/models}
nvidia-smi > "$out/card.txt" 2>&1 || true

colora() { LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}" "$dist/colora" "$@"; }

tests() { # program, arguments
    program=$1
    shift
    LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}" COLORA_TEST_DEVICE=cuda COLORA_ROOT="$PWD" \
        CARGO_MANIFEST_DIR="$PWD" "$dist/$program" --nocapture --test-threads 1 "$@" > "$out/$program.txt" 2>&1 ||
        echo "$program failed: see $program.txt"
}

model() { # sd15 or sdxl
    [ -d "$models/$1" ] || "$python" benches/peers/make_fullsize.py "$models/$1" "$1" > "$out/make.txt" 2>&1
    size=512
    if [ "$1" = sdxl ]; then size=1024; fi
}

ours() { # model, dtype
    colora bench -m "$models/$1" --size "$size" --steps 20 --repeat 3 --device cuda --dtype "$2" --json \
        >> "$out/$1.json" 2>> "$out/errors.txt" || echo "colora $1 $2 failed: see errors.txt"
}

theirs() { # model, dtype, arguments
    of=$1 dtype=$2
    shift 2
    "$python" benches/peers/diffusers_bench.py "$models/$of" --size "$size" --steps 20 --repeat 3 \
        --device cuda --dtype "$dtype" "$@" >> "$out/$of.json" 2>> "$out/errors.txt" ||
        echo "diffusers $of $dtype failed: see errors.txt"
}

for part in "$@"; do
    case $part in
    parity)
        tests unit_tests nn::plain
        tests parity_device
        ;;
    pictures)
        colora generate "a red apple" -S 1 --device cuda -o "$out/apple.png" --force --json > "$out/starter.json" || true
        colora generate "a wizard, flat style" -l wizard -l flat:0.8 -S 1 --device cuda -o "$out/wizard.png" \
            --force --json >> "$out/starter.json" || true
        ;;
    sd15 | sdxl)
        model "$part"
        for dtype in ${DTYPES:-f16 bf16 f32 tf32}; do
            ours "$part" "$dtype"
            if [ "$dtype" != tf32 ]; then theirs "$part" "$dtype"; fi # torch's f32 is that
        done
        ;;
    compile-*)
        model "${part#compile-}"
        theirs "${part#compile-}" f16 --compile
        ;;
    compose)
        model sd15
        [ -d "$models/loras" ] || "$python" benches/peers/make_loras.py "$models/sd15" "$models/loras" > "$out/make.txt" 2>&1
        for case in 2 4; do
            LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}" COLORA_BENCH_MODEL=$models/sd15 \
                COLORA_BENCH_LORAS=$models/loras COLORA_BENCH_DEVICE=cuda COLORA_BENCH_CASE=$case \
                "$dist/compose" --bench >> "$out/compose.json" 2>> "$out/errors.txt" || echo "compose failed: see errors.txt"
        done
        "$python" benches/peers/diffusers_lora_bench.py "$models/sd15" "$models/loras" cuda \
            >> "$out/compose.json" 2>> "$out/errors.txt" || echo "diffusers_lora_bench failed: see errors.txt"
        cat "$out/compose.json"
        ;;
    profile)
        model sd15
        LD_LIBRARY_PATH="$libraries:${LD_LIBRARY_PATH:-}" ncu --clock-control none --csv --page raw \
            --metrics gpu__time_duration.sum "$dist/colora" bench -m "$models/sd15" --size 512 --steps 2 \
            --device cuda --dtype f16 --json > "$out/profile.csv" 2> "$out/profile.txt" || echo "no profile"
        ;;
    esac
done
"$python" benches/gpu/table.py "$out"
