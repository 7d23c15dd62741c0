//! Whether GPUs may round the factors of f32 products.

use std::cell::Cell;

thread_local! {
    static ROUNDED: Cell<bool> = const { Cell::new(false) };
}

/// While it lives, this thread's convolutions of f32 on NVIDIA GPUs may round their factors to the 10 bits of
/// TF32, those of f16 with the range of f32: several times faster.
#[derive(Debug)]
pub(crate) struct Rounding {
    before: bool,
}

impl Rounding {
    /// Allows it, or forbids it.
    pub(crate) fn new(allowed: bool) -> Self {
        Self { before: ROUNDED.replace(allowed) }
    }

    /// Whether it is allowed here and now.
    #[cfg(feature = "cudnn")]
    pub(crate) fn is_allowed() -> bool {
        ROUNDED.get()
    }
}

impl Drop for Rounding {
    fn drop(&mut self) {
        ROUNDED.set(self.before);
    }
}
