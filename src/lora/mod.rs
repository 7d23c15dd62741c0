//! Floor 3. Adapters: what a user asks for and what their files hold.

pub mod reference;

pub use reference::{Block, BlockFactors, BlockWeights, Layout, LoraRef, StepWindow, Strength};
