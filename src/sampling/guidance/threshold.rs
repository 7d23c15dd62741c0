//! Dynamic thresholding of high guidance: each channel keeps the range that a lower guidance would give it.

use crate::error::{Error, Result};
use crate::written::{Settings, as_text};
use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

/// Dynamic thresholding of latents, as the extension of that name for A1111 and ComfyUI does it: the guided estimate
/// takes the range that guidance of strength `mimic` has, channel by channel.
///
/// Written `7`, or `7:percentile=0.99`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DynamicThreshold {
    /// The guidance whose range is kept.
    pub mimic: f64,
    /// The part of a channel's numbers that are not cut.
    pub percentile: f64,
}

const FIELD: &str = "dynamic_threshold";

impl std::str::FromStr for DynamicThreshold {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let settings = Settings::read(FIELD, text, &["percentile"])?;
        let percentile = settings.number("percentile", 1.0, 0.5, 1.0)?;
        Ok(Self { mimic: settings.first(0.0, 1000.0)?, percentile })
    }
}

impl std::fmt::Display for DynamicThreshold {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.mimic)?;
        if self.percentile < 1.0 { write!(f, ":percentile={}", self.percentile) } else { Ok(()) }
    }
}

as_text!(DynamicThreshold);

impl DynamicThreshold {
    /// `guided` in the range of `mimicked`, both `[B, C, h, w]`: centred by channel, cut at the larger of the mimicked
    /// range and the percentile, and scaled to the mimicked range.
    pub(super) fn apply(&self, guided: &Tensor, mimicked: &Tensor) -> Result<Tensor> {
        let (batch, channels, height, width) = guided.dims4()?;
        let rows = |x: &Tensor| -> Result<Vec<Vec<f32>>> {
            let x = x.to_dtype(candle_core::DType::F32)?.to_device(&Device::Cpu)?;
            Ok(x.reshape((batch * channels, height * width))?.to_vec2()?)
        };
        let (guided_rows, mimicked_rows) = (rows(guided)?, rows(mimicked)?);
        let mut out = Vec::with_capacity(batch * channels * height * width);
        for (guided, mimicked) in guided_rows.into_iter().zip(mimicked_rows) {
            out.extend(self.channel(guided, &mimicked));
        }
        let out = Tensor::from_vec(out, (batch, channels, height, width), &Device::Cpu)?;
        Ok(out.to_device(guided.device())?.to_dtype(guided.dtype())?)
    }

    fn channel(&self, guided: Vec<f32>, mimicked: &[f32]) -> impl Iterator<Item = f32> {
        let (mean, mimicked_mean) = (mean(&guided), mean(mimicked));
        let range = mimicked.iter().fold(0f32, |most, x| most.max((x - mimicked_mean).abs()));
        let mut sizes: Vec<f32> = guided.iter().map(|x| (x - mean).abs()).collect();
        sizes.sort_by(f32::total_cmp);
        let cut = quantile(&sizes, self.percentile).max(range);
        let scale = if cut > 0.0 { range / cut } else { 1.0 };
        guided.into_iter().map(move |x| (x - mean).clamp(-cut, cut) * scale + mean)
    }
}

fn mean(numbers: &[f32]) -> f32 {
    let sum: f64 = numbers.iter().map(|x| f64::from(*x)).sum();
    (sum / numbers.len().max(1) as f64) as f32
}

/// The quantile of rising numbers, between two of them in proportion, as torch has it.
fn quantile(rising: &[f32], part: f64) -> f32 {
    let Some(last) = rising.len().checked_sub(1) else { return 0.0 };
    let place = part * last as f64;
    let (low, high) = (rising[place.floor() as usize], rising[(place.ceil() as usize).min(last)]);
    low + (high - low) * place.fract() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_takes_the_mimicked_range_around_its_own_mean() {
        let rule: DynamicThreshold = "7".parse().unwrap();
        let tensor =
            |x: [f32; 4]| Tensor::from_vec(x.to_vec(), (1, 1, 2, 2), &Device::Cpu).unwrap();
        let (guided, mimicked) = (tensor([8.0, 0.0, 6.0, 2.0]), tensor([1.0, -1.0, 2.0, -2.0]));
        let out = rule.apply(&guided, &mimicked).unwrap().flatten_all().unwrap();
        // Mean 4, range 4; the mimicked range is 2.
        assert_eq!(out.to_vec1::<f32>().unwrap(), [6.0, 2.0, 5.0, 3.0]);
        // A wider mimicked range leaves it alone.
        let wide = rule.apply(&mimicked, &guided).unwrap().flatten_all().unwrap();
        assert_eq!(wide.to_vec1::<f32>().unwrap(), [1.0, -1.0, 2.0, -2.0]);
    }

    #[test]
    fn a_percentile_cuts_what_sticks_out() {
        let rule: DynamicThreshold = "7:percentile=0.5".parse().unwrap();
        assert_eq!(rule.to_string(), "7:percentile=0.5");
        let out: Vec<f32> = rule.channel(vec![10.0, -10.0, 1.0, -1.0], &[0.5, -0.5]).collect();
        // The median size is 5.5: cut there, and scaled to 0.5.
        assert!((out[0] - 0.5).abs() < 1e-6 && (out[2] - 0.5 / 5.5).abs() < 1e-6, "{out:?}");
        assert!("7:percentile=2".parse::<DynamicThreshold>().is_err());
    }
}
