//! Settings of guidance beside those of the estimate itself: when it acts, and what else is evaluated for it.

mod interval;
mod pag;
mod sag;

pub use interval::GuidanceInterval;
pub use pag::Pag;
pub use sag::Sag;
