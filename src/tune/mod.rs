//! Weights of LoRAs found by choosing between two pictures, or by a program that scores them.
//!
//! [`search`] decides which points to compare and which is the best.
//!
//! Floor 7.

pub mod search;
