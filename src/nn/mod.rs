//! Layers: immutable values built from a [`Scope`](crate::weights::Scope).
//!
//! Only this module looks inside a [`Weight`](crate::weights::Weight); layers add low-rank branches to their
//! products without depending on adapters.
//!
//! Letters in shape comments, here and in `models`: B batch, C channels, H W pixels, h w latent
//! cells, N tokens (h·w), T text tokens (77·k), D model width, A heads, K head width, R rank.
//!
//! Floor 3.

mod attend;
mod attention;
mod conv;
mod feature;
mod feed_forward;
mod geometry;
mod linear;
mod norm;
mod packed;
mod plain;
mod stored;
mod time;

pub use attend::Attend;
pub use conv::{Conv2d, ConvFusion};
pub use feature::Feature;
pub use feed_forward::{FeedForward, Mlp};
pub use geometry::Geometry;
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use time::{TimeMlp, sinusoid};
