//! The input of a forward pass of a UNet, and the one list of its tensors.

use super::freeu::FreeU;
use super::layers::Layers;
use crate::cancel::Cancel;
use candle_core::{DType, Shape, Tensor};
use std::cell::RefCell;

/// SDXL's conditions beside the text features.
#[derive(Debug, Clone)]
pub struct AddedCondition {
    /// Pooled text, `[B, P]`.
    pub pooled: Tensor,
    /// Sizes and crops in pixels (base) or with the aesthetic score (refiner): `[B, 6]` or `[B, 5]`.
    pub micro: Tensor,
}

/// How much each token of the middle block's first self-attention is looked at by all tokens, the mean over its heads:
/// `[B, h, w]` after an evaluation of a network that has one.
#[derive(Debug, Default)]
pub struct AttentionMap(RefCell<Option<Tensor>>);

impl AttentionMap {
    /// Puts the map of an evaluation in the place of the last one.
    pub(super) fn put(&self, map: Tensor) {
        *self.0.borrow_mut() = Some(map);
    }

    /// The map of the last evaluation, which is given away.
    pub fn take(&self) -> Option<Tensor> {
        self.0.borrow_mut().take()
    }
}

/// The input of a forward pass.
#[derive(Debug, Clone, Copy)]
pub struct UNetInput<'a> {
    /// Latents in variance-preserving scale, `[B, Cin, h, w]`.
    pub latents: &'a Tensor,
    /// Training timesteps, one per sample: `[B]`, f32.
    pub timesteps: &'a Tensor,
    /// Text features, `[B, T, D]`.
    pub context: &'a Tensor,
    /// SDXL's added conditions.
    pub added: Option<&'a AddedCondition>,
    /// Embedded guidance weight of LCM-distilled networks, `[B, time_cond_proj_dim]`.
    pub guidance: Option<&'a Tensor>,
    /// Which part of the tokens of the finest self-attention is merged with others like them; 0 = none.
    pub merge_tokens: f64,
    /// Whether the first levels on the way up are changed.
    pub freeu: Option<FreeU>,
    /// Self-attentions in which every token sees itself alone: perturbed attention guidance.
    pub perturbed: Option<&'a Layers>,
    /// Gets the map of the middle block's attention: self-attention guidance.
    pub attention: Option<&'a AttentionMap>,
    /// The flag that stops the evaluation between two layers with [`Error::Cancelled`](crate::Error::Cancelled).
    pub cancel: Option<&'a Cancel>,
}

/// A [`UNetInput`] that owns (shares) its tensors. A recording of an evaluation is made for its list of tensors, and
/// replayed for others in their places.
#[derive(Debug, Clone)]
pub(crate) struct OwnedInput {
    latents: Tensor,
    timesteps: Tensor,
    context: Tensor,
    added: Option<AddedCondition>,
    guidance: Option<Tensor>,
    tweaks: Tweaks,
}

/// How the network is changed for an evaluation.
#[derive(Debug, Clone, PartialEq)]
struct Tweaks {
    merge_tokens: f64,
    freeu: Option<FreeU>,
    perturbed: Option<Layers>,
}

/// An input without the numbers of its tensors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct InputKind {
    added: bool,
    guidance: bool,
    tweaks: Tweaks,
    tensors: Vec<(Shape, DType)>,
}

impl UNetInput<'_> {
    /// The input with tensors that it shares; nothing stops its evaluation.
    pub(crate) fn owned(&self) -> OwnedInput {
        let Self { latents, timesteps, context, added, guidance, .. } = *self;
        let Self { merge_tokens, freeu, perturbed, attention: _, cancel: _, .. } = *self;
        OwnedInput {
            latents: latents.clone(),
            timesteps: timesteps.clone(),
            context: context.clone(),
            added: added.cloned(),
            guidance: guidance.cloned(),
            tweaks: Tweaks { merge_tokens, freeu, perturbed: perturbed.cloned() },
        }
    }
}

impl OwnedInput {
    /// The input that a forward pass takes.
    pub(crate) fn borrowed(&self) -> UNetInput<'_> {
        let Self { latents, timesteps, context, added, guidance, tweaks } = self;
        let Tweaks { merge_tokens, freeu, perturbed } = tweaks;
        UNetInput {
            latents,
            timesteps,
            context,
            added: added.as_ref(),
            guidance: guidance.as_ref(),
            merge_tokens: *merge_tokens,
            freeu: *freeu,
            perturbed: perturbed.as_ref(),
            attention: None,
            cancel: None,
        }
    }

    /// The input with `other(tensor)` in the place of each tensor; `None` where `other` has none for it. This is the
    /// list of all tensors: it has no `..`, so the compiler asks for a new one here.
    fn map(&self, other: &mut dyn FnMut(&Tensor) -> Option<Tensor>) -> Option<Self> {
        let Self { latents, timesteps, context, added, guidance, tweaks } = self;
        Some(Self {
            latents: other(latents)?,
            timesteps: other(timesteps)?,
            context: other(context)?,
            added: match added {
                Some(AddedCondition { pooled, micro }) => {
                    Some(AddedCondition { pooled: other(pooled)?, micro: other(micro)? })
                }
                None => None,
            },
            guidance: match guidance {
                Some(guidance) => Some(other(guidance)?),
                None => None,
            },
            tweaks: tweaks.clone(),
        })
    }

    /// All tensors that are there.
    pub(crate) fn tensors(&self) -> Vec<Tensor> {
        let mut tensors = Vec::new();
        self.map(&mut |tensor| {
            tensors.push(tensor.clone());
            Some(tensor.clone())
        });
        tensors
    }

    /// Returns the input with other tensors, in the order of [`tensors`](Self::tensors); `None` when there are not as
    /// many.
    pub(crate) fn with_tensors(&self, tensors: &[Tensor]) -> Option<Self> {
        let mut left = tensors.iter();
        let other = self.map(&mut |_| left.next().cloned())?;
        left.next().is_none().then_some(other)
    }

    /// What inputs must have in common to be served by one recording.
    pub(crate) fn kind(&self) -> InputKind {
        let kind = |tensor: &Tensor| (tensor.shape().clone(), tensor.dtype());
        InputKind {
            added: self.added.is_some(),
            guidance: self.guidance.is_some(),
            tweaks: self.tweaks.clone(),
            tensors: self.tensors().iter().map(kind).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    fn number(value: f32) -> Tensor {
        Tensor::new(&[value], &Device::Cpu).unwrap()
    }

    fn input(added: bool, guidance: bool) -> OwnedInput {
        OwnedInput {
            latents: number(1.0),
            timesteps: number(2.0),
            context: number(3.0),
            added: added.then(|| AddedCondition { pooled: number(4.0), micro: number(5.0) }),
            guidance: guidance.then(|| number(6.0)),
            tweaks: Tweaks { merge_tokens: 0.25, freeu: None, perturbed: None },
        }
    }

    fn values(input: &OwnedInput) -> Vec<f32> {
        let value = |tensor: &Tensor| tensor.to_vec1::<f32>().unwrap()[0];
        input.tensors().iter().map(value).collect()
    }

    #[test]
    fn every_tensor_is_listed_and_replaced() {
        for (added, guidance, expected) in [
            (true, true, vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]),
            (false, true, vec![1.0, 2.0, 3.0, 6.0]),
            (true, false, vec![1.0, 2.0, 3.0, 4.0, 5.0]),
            (false, false, vec![1.0, 2.0, 3.0]),
        ] {
            let input = input(added, guidance);
            assert_eq!(values(&input), expected);
            let others: Vec<Tensor> = expected.iter().map(|value| number(-value)).collect();
            let other = input.with_tensors(&others).unwrap();
            assert_eq!(values(&other), expected.iter().map(|value| -value).collect::<Vec<_>>());
            assert_eq!(values(&other.borrowed().owned()), values(&other));
            assert!(input.with_tensors(&others[1..]).is_none());
            assert!(input.with_tensors(&[others, vec![number(0.0)]].concat()).is_none());
            assert_eq!(input.kind(), other.kind());
        }
    }

    /// Two inputs with as many tensors of the same shapes are not alike when they are others.
    #[test]
    fn what_is_there_tells_inputs_apart() {
        let whole = input(true, true);
        assert_ne!(input(true, false).kind(), input(false, true).kind());
        for other in [
            Tweaks { merge_tokens: 0.5, ..whole.tweaks.clone() },
            Tweaks { freeu: "v2".parse().ok(), ..whole.tweaks.clone() },
            Tweaks { perturbed: Some(Layers::mid()), ..whole.tweaks.clone() },
        ] {
            assert_ne!(OwnedInput { tweaks: other, ..whole.clone() }.kind(), whole.kind());
        }
        let two = Tensor::cat(&[&number(1.0), &number(1.0)], 0).unwrap();
        assert_ne!(OwnedInput { latents: two, ..whole.clone() }.kind(), whole.kind());
    }
}
