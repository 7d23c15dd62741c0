//! The words that seed the nodes of a Brownian tree.

/// Words of the pool, as torchsde asks for.
const POOL: usize = 24;

/// The first word of `numpy.random.SeedSequence(entropy, spawn_key=key, pool_size=24)`.
///
/// # Source
/// O'Neill (2015), "Developing a seed_seq Alternative"; numpy, `numpy/random/bit_generator.pyx`.
pub(super) fn first_word(entropy: u64, key: Option<[u64; 2]>) -> u32 {
    let mut hash = Hash(0x43b0_d7e5);
    let entropy = assembled(entropy, key);
    let mut pool = [0u32; POOL];
    for (i, word) in pool.iter_mut().enumerate() {
        *word = hash.mix(entropy.get(i).copied().unwrap_or(0));
    }
    for from in 0..POOL {
        for to in (0..POOL).filter(|to| *to != from) {
            pool[to] = join(pool[to], hash.mix(pool[from]));
        }
    }
    for more in entropy.iter().skip(POOL) {
        for word in &mut pool {
            *word = join(*word, hash.mix(*more));
        }
    }
    let first = 0x8b51_f9dd_u32;
    let value = (pool[0] ^ first).wrapping_mul(first.wrapping_mul(0x58f3_8ded));
    value ^ (value >> 16)
}

/// The words of the entropy, filled up before those of a key.
fn assembled(entropy: u64, key: Option<[u64; 2]>) -> Vec<u32> {
    let mut all = words(entropy);
    if let Some(key) = key {
        all.resize(POOL.max(all.len()), 0);
        all.extend(key.into_iter().flat_map(words));
    }
    all
}

/// The words of a number, low first; one at least.
fn words(number: u64) -> Vec<u32> {
    let (low, high) = (number as u32, (number >> 32) as u32);
    if high == 0 { vec![low] } else { vec![low, high] }
}

/// A multiplier that changes with every word.
struct Hash(u32);

impl Hash {
    fn mix(&mut self, word: u32) -> u32 {
        let word = word ^ self.0;
        self.0 = self.0.wrapping_mul(0x931e_8875);
        let word = word.wrapping_mul(self.0);
        word ^ (word >> 16)
    }
}

fn join(x: u32, y: u32) -> u32 {
    let sum = x.wrapping_mul(0xca01_f9dd).wrapping_sub(y.wrapping_mul(0x4973_f715));
    sum ^ (sum >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_of_seed_zero() {
        // numpy 2.4.6: SeedSequence(0, pool_size=24).generate_state(1).
        assert_eq!(first_word(0, None), 4_025_752_534);
    }
}
