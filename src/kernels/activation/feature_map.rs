//! An activation on the CPU, channels last.

use crate::error::{Error, Result};
use crate::kernels::memory::arena::Buffer;
use crate::kernels::slice;
use crate::room;
use candle_core::{Device, Storage, Tensor};
use rayon::prelude::*;
use std::sync::Arc;

/// Feature maps `[B, H, W, C]` in f32, or tokens `[B, N, C]` as one column of N pixels. Cloning shares.
#[derive(Debug, Clone)]
pub(crate) struct FeatureMap {
    data: Arc<Buffer>,
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) channels: usize,
}

impl FeatureMap {
    /// Room for a map, filled by `fill`, which writes every element.
    ///
    /// # Errors
    /// [`Error::Memory`].
    pub(in crate::kernels) fn filled(
        shape: (usize, usize, usize, usize),
        fill: impl FnOnce(&mut [f32]),
    ) -> Result<Self> {
        Self::try_filled(shape, |out| {
            fill(out);
            Ok(())
        })
    }

    /// As [`filled`](Self::filled) by work that may fail.
    ///
    /// # Errors
    /// [`Error::Memory`], and what `fill` gives.
    pub(in crate::kernels) fn try_filled(
        (batch, height, width, channels): (usize, usize, usize, usize),
        fill: impl FnOnce(&mut [f32]) -> Result<()>,
    ) -> Result<Self> {
        let mut data = Buffer::new(batch * height * width * channels)?;
        fill(data.floats_mut())?;
        Ok(Self { data: Arc::new(data), batch, height, width, channels })
    }

    /// `[B·H·W, C]`, row-major.
    pub(in crate::kernels) fn values(&self) -> &[f32] {
        self.data.floats()
    }

    /// Pixels of one sample.
    pub(crate) fn pixels(&self) -> usize {
        self.height * self.width
    }

    /// The same pixels in another arrangement of the same number.
    pub(crate) fn arranged(&self, height: usize, width: usize) -> Self {
        assert_eq!(height * width, self.pixels(), "pixels of a map");
        Self { height, width, ..self.clone() }
    }

    /// From a tensor `[B, C, H, W]`.
    pub(crate) fn from_image(x: &Tensor) -> Result<Self> {
        let (batch, channels, height, width) = x.dims4()?;
        let x = x.contiguous()?;
        read(&x, |x| {
            let area = height * width;
            Self::filled((batch, height, width, channels), |out| {
                let rows = out.par_chunks_mut((width * channels).max(1));
                rows.enumerate().for_each(|(row, out)| {
                    let (b, y) = (row / height, row % height);
                    for c in 0..channels {
                        let line = &x[(b * channels + c) * area + y * width..][..width];
                        for (out, value) in out.chunks_exact_mut(channels).zip(line) {
                            out[c] = *value;
                        }
                    }
                });
            })
        })?
    }

    /// As a tensor `[B, C, H, W]`.
    pub(crate) fn to_image(&self) -> Result<Tensor> {
        let Self { batch, height, width, channels, .. } = *self;
        let (area, values) = (self.pixels(), self.values());
        let mut out = room::zeros(values.len(), "feature maps")?;
        out.par_chunks_mut(area.max(1)).enumerate().for_each(|(plane, out)| {
            let (b, c) = (plane / channels, plane % channels);
            let pixels = values[b * area * channels..].chunks_exact(channels);
            for (out, pixel) in out.iter_mut().zip(pixels) {
                *out = pixel[c];
            }
        });
        Ok(Tensor::from_vec(out, (batch, channels, height, width), &Device::Cpu)?)
    }

    /// From a tensor `[.., C]`: all leading dimensions but the first become pixels.
    pub(crate) fn from_tokens(x: &Tensor) -> Result<Self> {
        let dims = x.dims();
        let channels = dims.last().copied().unwrap_or(1);
        let batch = if dims.len() > 2 { dims[0] } else { 1 };
        let pixels = x.elem_count() / (batch * channels).max(1);
        read(&x.contiguous()?, |x| {
            Self::filled((batch, pixels, 1, channels), |out| out.copy_from_slice(x))
        })?
    }

    /// As a tensor `[B, H·W, C]`.
    pub(crate) fn to_tokens(&self) -> Result<Tensor> {
        let shape = (self.batch, self.pixels(), self.channels);
        let mut out = room::reserve(self.values().len(), "feature maps")?;
        out.extend_from_slice(self.values());
        Ok(Tensor::from_vec(out, shape, &Device::Cpu)?)
    }

    /// Element by element: `f` of each value.
    pub(crate) fn mapped(&self, f: impl Fn(f32) -> f32 + Sync) -> Result<Self> {
        let shape = (self.batch, self.height, self.width, self.channels);
        Self::filled(shape, |out| {
            out.par_chunks_mut(CHUNK).zip(self.values().par_chunks(CHUNK)).for_each(|(out, x)| {
                for (out, x) in out.iter_mut().zip(x) {
                    *out = f(*x);
                }
            });
        })
    }

    /// Every channel times its factor.
    pub(crate) fn scaled(&self, factors: &[f32]) -> Result<Self> {
        assert_eq!(factors.len(), self.channels, "a factor a channel");
        let shape = (self.batch, self.height, self.width, self.channels);
        Self::filled(shape, |out| {
            let chunk = (CHUNK / self.channels.max(1)).max(1) * self.channels.max(1);
            out.par_chunks_mut(chunk).zip(self.values().par_chunks(chunk)).for_each(|(out, x)| {
                for ((out, x), factor) in out.iter_mut().zip(x).zip(factors.iter().cycle()) {
                    *out = factor * x;
                }
            });
        })
    }

    /// The sum of two maps of the same shape.
    pub(crate) fn add(&self, other: &Self) -> Result<Self> {
        assert_eq!(self.values().len(), other.values().len(), "sizes of a sum of maps");
        let shape = (self.batch, self.height, self.width, self.channels);
        Self::filled(shape, |out| {
            let parts = self.values().par_chunks(CHUNK).zip(other.values().par_chunks(CHUNK));
            out.par_chunks_mut(CHUNK).zip(parts).for_each(|(out, (a, b))| {
                for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
                    *out = a + b;
                }
            });
        })
    }

    /// One map whose channels are those of all `parts`, which agree in everything else.
    pub(crate) fn joined(parts: &[Self]) -> Result<Self> {
        let [first, rest @ ..] = parts else { unreachable!("a joint of no maps") };
        if rest.is_empty() {
            return Ok(first.clone());
        }
        let channels: usize = parts.iter().map(|part| part.channels).sum();
        Self::filled((first.batch, first.height, first.width, channels), |out| {
            out.par_chunks_mut(channels).enumerate().for_each(|(pixel, out)| {
                let mut at = 0;
                for part in parts {
                    let x = &part.values()[pixel * part.channels..][..part.channels];
                    out[at..at + part.channels].copy_from_slice(x);
                    at += part.channels;
                }
            });
        })
    }
}

/// Elements of one task.
const CHUNK: usize = 1 << 14;

/// What `f` makes of the elements of a contiguous f32 tensor on the CPU.
pub(in crate::kernels) fn read<T>(x: &Tensor, f: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        Storage::Cpu(storage) => Ok(f(slice(storage, layout)?)),
        _ => Err(Error::Internal("a tensor on the CPU was expected".into())),
    }
}
