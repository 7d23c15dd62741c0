//! Converts stored bytes to a float type, in parallel for large tensors.

use crate::error::Result;
use candle_core::{DType, Device, Tensor, WithDType};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};
use rayon::prelude::*;
use safetensors::Dtype;

/// Elements that one task converts.
const TASK: usize = 1 << 16;
/// Elements between two conversions: 4 KiB of f32 stay in the first-level cache.
const BLOCK: usize = 1 << 10;

/// All elements as f32; `None` for a type that is not read.
pub(super) fn read(bytes: &[u8], stored: Dtype) -> Option<Vec<f32>> {
    Some(convert(bytes, reader(stored)?))
}

/// Fills `out` from as many elements, on the calling thread; `None` for a type that is not read.
pub(super) fn read_into(bytes: &[u8], stored: Dtype, out: &mut [f32]) -> Option<()> {
    (reader(stored)?.read)(bytes, out);
    Some(())
}

/// A tensor of type `target`; `None` when there is no way from `stored` to `target`.
pub(super) fn tensor(
    bytes: &[u8],
    stored: Dtype,
    shape: &[usize],
    target: DType,
    device: &Device,
) -> Result<Option<Tensor>> {
    // Other floats are copied in parallel; onto a GPU they go straight from the file's pages.
    let copied = matches!(target, DType::F32 | DType::F16 | DType::BF16) && device.is_cpu();
    if same(stored, target) && !copied {
        return Ok(Some(Tensor::from_raw_buffer(bytes, target, shape, device)?));
    }
    let Some(reader) = reader(stored) else { return Ok(None) };
    Ok(Some(match target {
        DType::F32 => Tensor::from_vec(convert::<f32>(bytes, reader), shape, device)?,
        DType::F16 => Tensor::from_vec(convert::<f16>(bytes, reader), shape, device)?,
        DType::BF16 => Tensor::from_vec(convert::<bf16>(bytes, reader), shape, device)?,
        DType::F64 => {
            let values: Vec<f32> = convert(bytes, reader);
            let values: Vec<f64> = values.into_iter().map(f64::from).collect();
            Tensor::from_vec(values, shape, device)?
        }
        _ => return Ok(None),
    }))
}

/// Whether every number of type `stored` is one of type `target`.
pub(super) fn is_exact(stored: Dtype, target: DType) -> bool {
    let eight = matches!(stored, Dtype::F8_E4M3 | Dtype::F8_E5M2);
    let sixteen = matches!(stored, Dtype::F16 | Dtype::BF16);
    match target {
        DType::F32 => eight || sixteen || stored == Dtype::F32,
        DType::F16 | DType::BF16 => eight || same(stored, target),
        _ => false,
    }
}

fn same(stored: Dtype, target: DType) -> bool {
    matches!(
        (stored, target),
        (Dtype::F64, DType::F64)
            | (Dtype::F32, DType::F32)
            | (Dtype::F16, DType::F16)
            | (Dtype::BF16, DType::BF16)
            | (Dtype::F8_E4M3, DType::F8E4M3)
            | (Dtype::U8, DType::U8)
            | (Dtype::I16, DType::I16)
            | (Dtype::I32, DType::I32)
            | (Dtype::U32, DType::U32)
            | (Dtype::I64, DType::I64)
    )
}

/// How elements of one stored type become f32.
#[derive(Clone, Copy)]
struct Reader {
    stored: Dtype,
    /// Bytes of one element.
    size: usize,
    /// Fills the second slice from as many elements of the first.
    read: fn(&[u8], &mut [f32]),
}

fn reader(stored: Dtype) -> Option<Reader> {
    macro_rules! by_value {
        ($type:ty, $convert:expr) => {
            |bytes, out| {
                for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
                    *out = $convert(<$type>::from_le_bytes(*bytes));
                }
            }
        };
    }
    let read: fn(&[u8], &mut [f32]) = match stored {
        Dtype::F32 => by_value!(f32, f32::from),
        Dtype::F64 => by_value!(f64, |v| v as f32),
        Dtype::F16 => crate::kernels::widen,
        Dtype::BF16 => |bytes, out| {
            for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
                *out = f32::from_bits(u32::from(u16::from_le_bytes(*bytes)) << 16);
            }
        },
        Dtype::F8_E4M3 => |bytes, out| {
            let table: [f32; 256] = std::array::from_fn(|bits| e4m3(bits as u8));
            for (&bits, out) in bytes.iter().zip(out) {
                *out = table[usize::from(bits)];
            }
        },
        // E5M2 is the upper half of an f16.
        Dtype::F8_E5M2 => |bytes, out| {
            for (&bits, out) in bytes.iter().zip(out) {
                *out = f16::from_bits(u16::from(bits) << 8).to_f32();
            }
        },
        Dtype::I8 => by_value!(i8, f32::from),
        Dtype::U8 | Dtype::BOOL => by_value!(u8, f32::from),
        Dtype::I16 => by_value!(i16, f32::from),
        Dtype::U16 => by_value!(u16, f32::from),
        Dtype::I32 => by_value!(i32, |v| v as f32),
        Dtype::U32 => by_value!(u32, |v| v as f32),
        Dtype::I64 => by_value!(i64, |v| v as f32),
        Dtype::U64 => by_value!(u64, |v| v as f32),
        _ => return None,
    };
    Some(Reader { stored, size: stored.bitsize() / 8, read })
}

/// OCP 8-bit floating point, E4M3: bias 7, no infinities, one NaN per sign.
fn e4m3(bits: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(bits >> 3 & 15), f32::from(bits & 7));
    let magnitude = match (exponent, bits & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2f32.powi(-9),
        _ => (1.0 + mantissa / 8.0) * 2f32.powi(exponent - 7),
    };
    if bits & 0x80 == 0 { magnitude } else { -magnitude }
}

fn copy_bits(bytes: &[u8], bits: &mut [u16]) {
    for (bytes, bits) in bytes.as_chunks().0.iter().zip(bits) {
        *bits = u16::from_le_bytes(*bytes);
    }
}

/// A float type that can be asked for.
trait Target: WithDType + Default {
    /// The stored type that needs no conversion.
    const STORED: Dtype;

    /// Copies stored elements of this very type.
    fn copy(bytes: &[u8], out: &mut [Self]);

    /// Rounds f32 to this type.
    fn round(values: &[f32], out: &mut [Self]);
}

impl Target for f32 {
    const STORED: Dtype = Dtype::F32;

    fn copy(bytes: &[u8], out: &mut [Self]) {
        for (bytes, out) in bytes.as_chunks().0.iter().zip(out) {
            *out = f32::from_le_bytes(*bytes);
        }
    }

    fn round(values: &[f32], out: &mut [Self]) {
        out.copy_from_slice(values);
    }
}

macro_rules! half_target {
    ($type:ty, $stored:expr) => {
        impl Target for $type {
            const STORED: Dtype = $stored;

            fn copy(bytes: &[u8], out: &mut [Self]) {
                copy_bits(bytes, out.reinterpret_cast_mut());
            }

            fn round(values: &[f32], out: &mut [Self]) {
                out.convert_from_f32_slice(values);
            }
        }
    };
}

half_target!(f16, Dtype::F16);
half_target!(bf16, Dtype::BF16);

fn convert<T: Target>(bytes: &[u8], reader: Reader) -> Vec<T> {
    let mut out = vec![T::default(); bytes.len() / reader.size];
    let task = |bytes: &[u8], out: &mut [T]| {
        if reader.stored == T::STORED {
            return T::copy(bytes, out);
        }
        let mut values = [0f32; BLOCK];
        for (bytes, out) in bytes.chunks(BLOCK * reader.size).zip(out.chunks_mut(BLOCK)) {
            let values = &mut values[..out.len()];
            (reader.read)(bytes, values);
            T::round(values, out);
        }
    };
    if out.len() <= TASK {
        task(bytes, &mut out);
    } else {
        let tasks = bytes.par_chunks(TASK * reader.size).zip(out.par_chunks_mut(TASK));
        tasks.for_each(|(bytes, out)| task(bytes, out));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fp8_follows_the_standard() {
        // Largest, smallest normal and smallest subnormal numbers of the OCP tables.
        let values = read(&[0x7e, 0x08, 0x81, 0xff], Dtype::F8_E4M3).unwrap();
        assert_eq!(values[..3], [448.0, 2f32.powi(-6), -(2f32.powi(-9))]);
        assert!(values[3].is_nan());
        let values = read(&[0x7b, 0x01, 0xfc], Dtype::F8_E5M2).unwrap();
        assert_eq!(values, [57344.0, 2f32.powi(-16), f32::NEG_INFINITY]);
    }

    #[test]
    fn large_and_small_tensors_convert_alike() {
        let values: Vec<f32> = (0..TASK * 2 + 1029).map(|i| i as f32 * 0.37 - 9e3).collect();
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let halves = convert::<f16>(&bytes, reader(Dtype::F32).unwrap());
        assert_eq!(halves.len(), values.len());
        let one_by_one: Vec<f16> = values.iter().map(|&v| f16::from_f32(v)).collect();
        assert_eq!(halves, one_by_one);
        let bytes: Vec<u8> = halves.iter().flat_map(|v| v.to_le_bytes()).collect();
        let back = read(&bytes, Dtype::F16).unwrap();
        let one_by_one: Vec<f32> = halves.iter().map(|h| h.to_f32()).collect();
        assert_eq!(back, one_by_one);
        let same = tensor(&bytes, Dtype::F16, &[back.len()], DType::F16, &Device::Cpu);
        assert_eq!(same.unwrap().unwrap().to_vec1::<f16>().unwrap(), halves);
    }

    #[test]
    fn integers_convert_by_value() {
        assert_eq!(read(&[0xfe, 0xff, 3, 0], Dtype::I16).unwrap(), [-2.0, 3.0]);
        assert_eq!(read(&[1, 0], Dtype::BOOL).unwrap(), [1.0, 0.0]);
        assert!(read(&[0; 8], Dtype::C64).is_none());
    }
}
