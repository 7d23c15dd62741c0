//! Where and in which float type a model runs.

use crate::error::{Error, Result};
use crate::hint::Hint;
use candle_core::{DType, Device};
use std::str::FromStr;

/// The device that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DeviceChoice {
    /// The first GPU that this build can use, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// An NVIDIA GPU by number.
    Cuda(usize),
    /// An Apple GPU by number.
    Metal(usize),
}

/// The float type that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DTypeChoice {
    /// 32-bit floats.
    F32,
    /// 32-bit floats whose convolutions round their factors to TF32's 10 bits, on NVIDIA GPUs: what torch calls f32.
    Tf32,
    /// 16-bit floats, IEEE half.
    F16,
    /// 16-bit floats, bfloat.
    Bf16,
}

impl FromStr for DeviceChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad =
            || Error::bad_request("device", text, "expected auto, cpu, cuda, cuda:1 or metal");
        let (name, number) = text.split_once(':').unwrap_or((text, "0"));
        let index = number.parse().map_err(|_| bad())?;
        match name {
            "auto" if text == name => Ok(DeviceChoice::Auto),
            "cpu" if text == name => Ok(DeviceChoice::Cpu),
            "cuda" => Ok(DeviceChoice::Cuda(index)),
            "metal" => Ok(DeviceChoice::Metal(index)),
            _ => Err(bad()),
        }
    }
}

impl FromStr for DTypeChoice {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "f32" => Ok(DTypeChoice::F32),
            "tf32" => Ok(DTypeChoice::Tf32),
            "f16" => Ok(DTypeChoice::F16),
            "bf16" => Ok(DTypeChoice::Bf16),
            _ => Err(Error::bad_request("dtype", text, "expected f32, tf32, f16 or bf16")),
        }
    }
}

impl std::fmt::Display for DeviceChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DeviceChoice::Auto => f.write_str("auto"),
            DeviceChoice::Cpu => f.write_str("cpu"),
            DeviceChoice::Cuda(index) => write!(f, "cuda:{index}"),
            DeviceChoice::Metal(index) => write!(f, "metal:{index}"),
        }
    }
}

impl std::fmt::Display for DTypeChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            DTypeChoice::F32 => "f32",
            DTypeChoice::Tf32 => "tf32",
            DTypeChoice::F16 => "f16",
            DTypeChoice::Bf16 => "bf16",
        })
    }
}

impl DeviceChoice {
    /// Opens the device.
    ///
    /// # Errors
    /// [`Error::Unsupported`] when this build or machine lacks it.
    pub fn open(self) -> Result<Device> {
        match self {
            DeviceChoice::Cpu => Ok(Device::Cpu),
            DeviceChoice::Auto => Ok(DeviceChoice::Cuda(0)
                .open()
                .or_else(|_| DeviceChoice::Metal(0).open())
                .unwrap_or(Device::Cpu)),
            DeviceChoice::Cuda(index) => {
                need(cfg!(feature = "cuda"), "CUDA", "cuda")?;
                open_cuda(index).map_err(|e| absent("CUDA", index, &e))
            }
            DeviceChoice::Metal(index) => {
                need(cfg!(feature = "metal"), "Metal", "metal")?;
                Device::new_metal(index).map_err(|e| absent("Metal", index, &e))
            }
        }
    }
}

#[cfg(feature = "cuda")]
fn open_cuda(index: usize) -> candle_core::Result<Device> {
    crate::kernels::cuda::open(index)
}

/// Says that there is none.
#[cfg(not(feature = "cuda"))]
fn open_cuda(index: usize) -> candle_core::Result<Device> {
    Device::new_cuda(index)
}

fn need(present: bool, what: &str, feature: &'static str) -> Result<()> {
    if present {
        return Ok(());
    }
    Err(Error::unsupported(
        format!("{what} in this build"),
        Hint::any_of([Hint::BuildWith(feature), Hint::set("device", "cpu")]),
    ))
}

fn absent(what: &str, index: usize, error: &candle_core::Error) -> Error {
    // Only the first line: candle appends a backtrace.
    let why = error.to_string().lines().next().unwrap_or_default().to_owned();
    Error::unsupported(format!("{what} device {index} ({why})"), Hint::set("device", "cpu"))
}

impl DTypeChoice {
    /// The type as candle names it.
    pub fn dtype(self) -> DType {
        match self {
            DTypeChoice::F32 | DTypeChoice::Tf32 => DType::F32,
            DTypeChoice::F16 => DType::F16,
            DTypeChoice::Bf16 => DType::BF16,
        }
    }

    /// What runs on `device`: as asked for, else f32 on a CPU and f16 on a GPU.
    ///
    /// # Errors
    /// [`Error::Unsupported`] for f16 on a CPU, and for TF32 on anything but an NVIDIA GPU with cuDNN.
    pub fn resolve(choice: Option<Self>, device: &Device) -> Result<DType> {
        match (choice, device.is_cpu()) {
            (Some(DTypeChoice::Tf32), _) if !(device.is_cuda() && cfg!(feature = "cudnn")) => {
                Err(Error::unsupported(
                    "tf32 without an NVIDIA GPU and a build with the feature `cudnn`",
                    Hint::set_because("dtype", "f32", "it rounds nothing"),
                ))
            }
            (Some(DTypeChoice::F16), true) => Err(Error::unsupported(
                "f16 on the CPU",
                Hint::any_of([
                    Hint::set_because("dtype", "bf16", "half the memory, faster with AVX512-BF16"),
                    Hint::set_because("dtype", "f32", "exact; f16 files are read by both"),
                ]),
            )),
            // On a CPU bf16 concerns the factors of products alone.
            (None | Some(DTypeChoice::F32 | DTypeChoice::Tf32 | DTypeChoice::Bf16), true) => {
                Ok(DType::F32)
            }
            (None, false) => Ok(DType::F16),
            (Some(choice), false) => Ok(choice.dtype()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_parse() {
        assert_eq!("cuda:1".parse::<DeviceChoice>().unwrap(), DeviceChoice::Cuda(1));
        assert_eq!("auto".parse::<DeviceChoice>().unwrap(), DeviceChoice::Auto);
        for bad in ["cpu:1", "cuda:x", "tpu", ""] {
            assert!(bad.parse::<DeviceChoice>().is_err(), "{bad}");
        }
        assert!("fp16".parse::<DTypeChoice>().is_err());
        for name in ["auto", "cpu", "cuda:1", "metal:0"] {
            assert_eq!(name.parse::<DeviceChoice>().unwrap().to_string(), name);
        }
        for name in ["f32", "tf32", "f16", "bf16"] {
            assert_eq!(name.parse::<DTypeChoice>().unwrap().to_string(), name);
        }
        let rounded = DTypeChoice::resolve(Some("tf32".parse().unwrap()), &Device::Cpu);
        assert!(rounded.unwrap_err().to_string().contains("set `dtype` to f32"));
    }

    #[test]
    fn a_build_without_cuda_says_how_to_get_it() {
        if !cfg!(feature = "cuda") {
            let error = DeviceChoice::Cuda(0).open().unwrap_err().to_string();
            assert!(error.contains("the feature `cuda`"), "{error}");
        }
        assert!(DeviceChoice::Auto.open().is_ok());
    }
}
