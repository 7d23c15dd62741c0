//! Floor 1. How much was multiplied, for measurements.

use std::sync::atomic::{AtomicU64, Ordering};

/// Floating-point operations since the program began.
static DONE: AtomicU64 = AtomicU64::new(0);

/// Notes a product of so many multiplications and additions, as the plain algorithm has them. Called
/// once a layer, so that it costs nothing.
pub(super) fn add(sizes: &[usize]) {
    let operations = sizes.iter().fold(2u64, |product, size| product.saturating_mul(*size as u64));
    DONE.fetch_add(operations, Ordering::Relaxed);
}

/// Operations of all products until now, by the plain algorithms: a multiplication and an addition are 2.
pub(crate) fn done() -> u64 {
    DONE.load(Ordering::Relaxed)
}
