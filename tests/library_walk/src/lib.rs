//! The walk is in `tests/walk.rs`.
