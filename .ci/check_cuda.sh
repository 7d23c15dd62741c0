#!/usr/bin/env bash
# Type-checks the code for NVIDIA GPUs on a machine without a CUDA toolkit and without a GPU.
# Crates of the CUDA family ask a compiler for its version and for their kernels; a stand-in answers and writes
# empty kernels. Nothing that is made here can run: benches/gpu/build.sh makes a program that does.
set -euo pipefail
cd "$(dirname "$0")/.."
home=$(mktemp -d)
trap 'rm -rf "$home"' EXIT
mkdir -p "$home/bin" "$home/include"
touch "$home/include/cuda.h"
cat > "$home/bin/nvcc" << 'EOF'
#!/bin/sh
case "$*" in
*--version*)
    printf '%s\n' 'nvcc: NVIDIA (R) Cuda compiler driver' stand-in stand-in 'Cuda compilation tools, release 13.0, V13.0.88' stand-in
    exit ;;
*--list-gpu-code*) echo sm_90; exit ;;
esac
out= folder= sources=
while [ $# -gt 0 ]; do
    case "$1" in
    -o | --output-file) out=$2; shift ;;
    --output-directory) folder=$2; shift ;;
    *.cu) sources="$sources $1" ;;
    esac
    shift
done
if [ -n "$out" ]; then : > "$out"; fi
if [ -n "$folder" ]; then for source in $sources; do : > "$folder/$(basename "$source" .cu).ptx"; done; fi
EOF
chmod +x "$home/bin/nvcc"
export PATH="$home/bin:$PATH" CUDA_HOME="$home" CUDA_PATH="$home" CUDA_ROOT="$home" CUDA_COMPUTE_CAP=90
cargo check --release --features cuda,cudnn --all-targets
