//! Floor 3. Layers: immutable values built from a [`Scope`](crate::weights::Scope).
//!
//! Only [`Linear`] and [`Conv2d`] look inside a [`Weight`](crate::weights::Weight); no layer knows
//! what an adapter is.
//!
//! Letters in shape comments, here and in `models`: B batch, C channels, H W pixels, h w latent
//! cells, N tokens (h·w), T text tokens (77·k), D model width, A heads, K head width, R rank.

mod activation;
mod attention;
mod conv;
mod linear;
mod norm;
mod time;

pub use activation::{geglu, gelu};
pub use attention::{attention, causal_mask};
pub use conv::{Conv2d, Geometry};
pub use linear::Linear;
pub use norm::{GroupNorm, LayerNorm};
pub use time::{TimeMlp, sinusoid};
