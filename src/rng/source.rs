//! Whose generator makes the noise.

use super::philox::{CudaLayout, Philox};
use super::{Noise, TorchCpu};
use crate::error::{Error, Result};

/// Whose generator makes the noise of a seed.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, Hash, Default, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum Rng {
    /// PyTorch's on a CPU: what diffusers and ComfyUI draw from, and A1111 with "CPU".
    #[default]
    Cpu,
    /// A1111's "NV" and stable-diffusion.cpp's `cuda`: PyTorch's on a card large enough for the latents.
    Nv,
    /// PyTorch's on an NVIDIA card of this layout.
    Cuda(CudaLayout),
}

impl Rng {
    /// A stream from its beginning.
    pub fn stream(self, seed: u64) -> Box<dyn Noise + Send> {
        match self {
            Self::Cpu => Box::new(TorchCpu::new(seed)),
            Self::Nv => Box::new(Philox::new(seed)),
            Self::Cuda(layout) => Box::new(Philox::on_card(seed, layout)),
        }
    }
}

impl Rng {
    /// What A1111 calls it in the settings that it writes into pictures.
    pub fn label(self) -> String {
        match self {
            Self::Cpu | Self::Nv => self.to_string().to_uppercase(),
            Self::Cuda(_) => self.to_string(),
        }
    }
}

impl std::fmt::Display for Rng {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Nv => f.write_str("nv"),
            Self::Cuda(CudaLayout { processors, threads }) => {
                write!(f, "cuda:{processors}x{threads}")
            }
        }
    }
}

impl std::str::FromStr for Rng {
    type Err = Error;

    /// `cpu`, `nv` or `cuda:SMSxTHREADS`, in any case: `cuda:28x1536` is a GeForce RTX 3060.
    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            let why = "expected cpu, nv (PyTorch on a large NVIDIA card, A1111's NV) or cuda:SMSxTHREADS \
                (multiprocessors and threads of each, for instance cuda:28x1536)";
            Error::bad_request("rng", text, why)
        };
        let plain = text.trim().to_ascii_lowercase();
        match plain.as_str() {
            "cpu" => return Ok(Self::Cpu),
            "nv" => return Ok(Self::Nv),
            _ => {}
        }
        let sizes = plain.strip_prefix("cuda:").and_then(|sizes| sizes.split_once('x'));
        let (processors, threads) = sizes.ok_or_else(wrong)?;
        let number = |text: &str| text.parse::<usize>().ok();
        match (number(processors), number(threads)) {
            (Some(processors @ 1..=4096), Some(threads @ 256..=65536)) => {
                Ok(Self::Cuda(CudaLayout { processors, threads }))
            }
            _ => Err(wrong()),
        }
    }
}

crate::written::as_text!(Rng);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_and_written() {
        for text in ["cpu", "nv", "cuda:28x1536"] {
            let rng: Rng = text.parse().unwrap();
            assert_eq!(rng.to_string(), text);
            assert_eq!(serde_json::from_value::<Rng>(text.into()).unwrap(), rng);
        }
        assert_eq!("NV".parse::<Rng>().unwrap(), Rng::Nv);
        for text in ["", "gpu", "cuda", "cuda:0x1536", "cuda:28x1", "cuda:28x9999999999"] {
            let error = text.parse::<Rng>().unwrap_err().to_string();
            assert!(error.contains("cuda:28x1536"), "{error}");
        }
    }
}
