#!/bin/sh
# Builds colora with CUDA on a machine without an installed toolkit and without a GPU:
#   sh benches/gpu/build.sh [WORK]
# WORK (default target/cuda) gets the compiler, headers and libraries of the CUDA 13.0 family from Python
# packages, linked into one CUDA_HOME, and `dist/`: the program, the device tests and the libraries (2 GB) to
# carry to the machine with the GPU; `carry.tar.xz` and `carry-curand.tar.xz` hold what a machine with torch of
# the same CUDA family lacks. CUDA_COMPUTE_CAP (default 90) is the card's compute capability.
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
cargo build --release --features cuda,cudnn --target-dir "$work/target"
tests=$(cargo test --release --features cuda,cudnn --target-dir "$work/target" --no-run \
    --test parity_device --message-format=json | grep -o '"executable":"[^"]*parity_device[^"]*"' | cut -d'"' -f4)

rm -rf "$work/dist"
mkdir -p "$work/dist/lib"
cp "$work/target/release/colora" "$work/dist/colora"
cp "$tests" "$work/dist/parity_device"
strip "$work/dist/colora" "$work/dist/parity_device"
# For places where little may be carried at once, 45 MB each: the other machine's torch has the other libraries.
export XZ_OPT=-2
tar -cJf "$work/carry.tar.xz" -C "$work/dist" colora parity_device
tar -cJf "$work/carry-curand.tar.xz" -C "$work/dist/lib" libcurand.so.10
cp -L "$home"/lib64/libcublas.so.13 "$home"/lib64/libcublasLt.so.13 "$home"/lib64/libcurand.so.10 \
    "$home"/lib64/libcudart.so.13 "$home"/lib64/libnvrtc*.so.13* "$home"/lib64/libcudnn*.so.9 \
    "$work/dist/lib/"
echo "$work/dist"
