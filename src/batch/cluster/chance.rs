//! Numbers that differ between workers. Pictures never depend on them.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};

/// A number that nobody else has.
pub(super) fn token() -> u64 {
    // The keys of a `RandomState` come from the system, and each has others.
    let mut hash = RandomState::new().build_hasher();
    hash.write_u32(std::process::id());
    hash.finish()
}

/// A share from 0 to 1.
pub(super) fn share() -> f64 {
    (token() >> 11) as f64 / (1_u64 << 53) as f64
}

/// A number below `end`; 0 when that is 0.
pub(super) fn below(end: usize) -> usize {
    token() as usize % end.max(1)
}
