//! Compiles the kernels of NVIDIA GPUs to PTX, for builds with `cuda` alone.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/kernels/cuda");
    let out = std::path::PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let kernels = ["src/kernels/cuda/attention.cu", "src/kernels/cuda/fused.cu"];
    let builder = cudaforge::KernelBuilder::new().source_files(kernels);
    let builder = builder.watch(["src/kernels/cuda/numbers.cuh"]);
    builder.arg("-std=c++17").arg("-O3").build_ptx()?.write(out.join("ptx.rs"))?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=build.rs");
}
