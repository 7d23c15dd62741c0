//! Weights that stay in blocks on a device and are unpacked where they are used.

use crate::error::Result;
use crate::kernels::Quantisation;
use candle_core::quantized::{GgmlDType, QStorage, QTensor};
use candle_core::{DType, Device, Tensor};
use rayon::prelude::*;
use std::borrow::Cow;
use std::sync::{Arc, Weak};

/// A weight in blocks, in memory of a device. Cloning shares.
#[derive(Debug, Clone)]
pub struct BlockTensor(Arc<QTensor>);

impl BlockTensor {
    /// `values`: those of a weight of `shape` `[O, I, ..]`, row-major, the inputs filling blocks.
    pub(crate) fn new(
        kind: Quantisation,
        shape: &[usize],
        values: &[f32],
        device: &Device,
    ) -> Result<Self> {
        let kept = match kind {
            Quantisation::Q8_0 => GgmlDType::Q8_0,
            Quantisation::Q4_0 => GgmlDType::Q4_0,
        };
        let blocks = blocks_of(kind, shape, values);
        let storage = QStorage::from_data(Cow::Owned(blocks), device, kept)?;
        let [outputs, inputs] = [0, 1].map(|i| shape.get(i).copied().unwrap_or(1));
        let taps = shape.get(2..).unwrap_or_default();
        let order = [&[outputs], taps, &[inputs]].concat();
        Ok(Self(Arc::new(QTensor::new(storage, order)?)))
    }

    /// The numbers, in the order in which plain layers read them: `[O, I]` or `[O, kh, kw, I]`.
    ///
    /// # Errors
    /// Errors of the device.
    pub fn unpacked(&self, dtype: DType) -> Result<Tensor> {
        let device = self.0.device();
        Ok(match dtype {
            DType::F16 => self.0.dequantize_f16(&device)?,
            _ => self.0.dequantize(&device)?.to_dtype(dtype)?,
        })
    }

    /// Bytes that it takes.
    pub fn bytes(&self) -> usize {
        self.0.storage_size_in_bytes()
    }

    pub(super) fn note(&self) -> BlockNote {
        BlockNote(Arc::downgrade(&self.0))
    }
}

/// A weak reference to a weight in blocks, valid as long as the weight is in use.
#[derive(Debug)]
pub(super) struct BlockNote(Weak<QTensor>);

impl BlockNote {
    pub(super) fn get(&self) -> Option<BlockTensor> {
        self.0.upgrade().map(BlockTensor)
    }
}

/// The blocks of a weight of `shape` `[O, I, ..]`, output by output, tap by tap, as ggml stores them.
pub(crate) fn blocks_of(kind: Quantisation, shape: &[usize], values: &[f32]) -> Vec<u8> {
    let area: usize = shape.iter().skip(2).product();
    let filter: usize = shape.iter().skip(1).product();
    let filters = values.par_chunks(filter.max(1)).map(|filter| {
        if area == 1 {
            return kind.encode(filter);
        }
        let taps = (0..area).flat_map(|tap| filter.iter().skip(tap).step_by(area).copied());
        kind.encode(&taps.collect::<Vec<f32>>())
    });
    filters.collect::<Vec<_>>().concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back_in_the_order_of_layers() {
        let shape = [2, 64, 3, 3];
        let count = shape.iter().product::<usize>();
        let value = |i: usize| ((i * 37 % 101) as f32 - 50.0) / 50.0;
        let values: Vec<f32> = (0..count).map(value).collect();
        let (eight, four) = (Quantisation::Q8_0, Quantisation::Q4_0);
        for (kind, worst) in [(eight, 1.0 / 254.0 + 1e-3), (four, 1.0 / 8.0 + 1e-2)] {
            let blocks = BlockTensor::new(kind, &shape, &values, &Device::Cpu).unwrap();
            assert_eq!(blocks.bytes(), count / 32 * kind.block_bytes());
            assert_eq!(blocks.note().get().unwrap().bytes(), blocks.bytes());
            for dtype in [DType::F32, DType::F16, DType::BF16] {
                let unpacked = blocks.unpacked(dtype).unwrap();
                assert_eq!((unpacked.dims(), unpacked.dtype()), (&[2, 3, 3, 64][..], dtype));
                let plain = Tensor::from_slice(&values, &shape[..], &Device::Cpu).unwrap();
                let plain = plain.permute((0, 2, 3, 1)).unwrap();
                let unpacked = unpacked.to_dtype(DType::F32).unwrap();
                let error = (plain - unpacked).unwrap().abs().unwrap().flatten_all().unwrap();
                let error = error.max(0).unwrap().to_scalar::<f32>().unwrap();
                assert!(error <= worst + 4e-3, "{kind:?} {dtype:?}: {error}");
            }
        }
    }
}
