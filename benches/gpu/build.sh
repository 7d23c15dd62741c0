#!/bin/sh
# Builds colora with CUDA on a machine without an installed toolkit and without a GPU:
#   sh benches/gpu/build.sh [WORK]
# WORK (default target/cuda) gets the compiler, headers and libraries of the CUDA 13.0 family from Python
# packages, linked into one CUDA_HOME, and `dist/`: the program, the device tests and the libraries (2 GB) to
# carry to the machine with the GPU; `carry.tar.xz` (40 MB) is enough for one with torch of the same CUDA family.
# CUDA_COMPUTE_CAP (default 90) is the card's compute capability.
# The first build compiles all of candle's kernels: about 10 CPU-minutes.
set -eu
cd "$(dirname "$0")/../.."
work=$(mkdir -p "${1:-target/cuda}" && cd "${1:-target/cuda}" && pwd)
home=$work/home

if [ ! -x "$work/venv/bin/python" ]; then
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet \
        nvidia-cuda-nvcc==13.0.88 nvidia-cuda-crt==13.0.88 nvidia-nvvm==13.0.88 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cccl==13.0.85 nvidia-cuda-nvrtc==13.0.88 \
        nvidia-nvjitlink==13.0.88 nvidia-cublas==13.1.0.3 nvidia-curand==10.4.0.35 \
        'nvidia-cudnn-cu13==9.28.*'
fi
packages=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')/nvidia

# One CUDA_HOME of links; every library also under its plain name.
mkdir -p "$home/lib64/stubs"
for folder in bin include nvvm; do ln -sfn "$packages/cu13/$folder" "$home/$folder"; done
ln -sfn lib64 "$home/lib"
for library in "$packages"/cu13/lib/lib* "$packages"/cudnn/lib/lib*; do
    [ -e "$library" ] || continue
    name=$(basename "$library")
    ln -sfn "$library" "$home/lib64/$name"
    case $name in *.so.*) ln -sfn "$library" "$home/lib64/${name%%.so.*}.so" ;; esac
done
for headers in "$packages"/cudnn/include/*.h; do
    [ -e "$headers" ] && mkdir -p "$work/include" && ln -sfn "$headers" "$work/include/"
done

# The driver belongs to the other machine; here a library with the same names is enough to link.
cargo fetch --quiet
sources=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -path '*cudarc-*/src/driver/sys/*' -name '*.rs')
{
    # shellcheck disable=SC2086
    cat $sources | grep -o 'fn cu[A-Z][A-Za-z0-9_]*' | sort -u | sed 's/^fn \(.*\)$/int \1(void) { return 999; }/'
} > "$work/stub.c"
gcc -shared -fPIC -Wl,-soname,libcuda.so.1 -o "$home/lib64/stubs/libcuda.so" "$work/stub.c"

export CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" CUDNN_LIB="$home/lib64"
export PATH="$home/bin:$PATH" LIBRARY_PATH="$home/lib64:$home/lib64/stubs" CPATH="$work/include"
export CUDA_COMPUTE_CAP="${CUDA_COMPUTE_CAP:-90}" NVCC_CCBIN="${NVCC_CCBIN:-g++}"
export CUDAFORGE_THREADS="${CUDAFORGE_THREADS:-2}"
export RUSTFLAGS="-L native=$home/lib64 -L native=$home/lib64/stubs"
flags="--release --features cuda,cudnn --target-dir $work/target"
made=$work/made.json
# shellcheck disable=SC2086
cargo build $flags
# shellcheck disable=SC2086
cargo test $flags --no-run --lib --test parity_device --message-format=json > "$made"
# shellcheck disable=SC2086
cargo bench --features cuda,cudnn --target-dir "$work/target" --no-run --bench compose --message-format=json >> "$made"

rm -rf "$work/dist"
mkdir -p "$work/dist/lib"
cp "$work/target/release/colora" "$work/dist/colora"
made() { grep -o "\"executable\":\"[^\"]*/$1-[^\"]*\"" "$made" | tail -n 1 | cut -d'"' -f4; }
cp "$(made colora)" "$work/dist/unit_tests"
cp "$(made parity_device)" "$work/dist/parity_device"
cp "$(made compose)" "$work/dist/compose"
strip "$work"/dist/colora "$work"/dist/unit_tests "$work"/dist/parity_device "$work"/dist/compose
# The programs have most of their bytes in common.
tar -C "$work/dist" -c colora unit_tests parity_device compose |
    xz -T2 --lzma2=preset=2,dict=384MiB > "$work/carry.tar.xz"
cp -L "$home"/lib64/libcublas.so.13 "$home"/lib64/libcublasLt.so.13 "$home"/lib64/libcurand.so.10 \
    "$home"/lib64/libcudart.so.13 "$home"/lib64/libnvrtc*.so.13* "$home"/lib64/libcudnn*.so.9 \
    "$work/dist/lib/"
echo "$work/dist"
