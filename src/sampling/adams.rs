//! Coefficients of Adams and Bashforth's methods.

/// The coefficients of the last `known` slopes, newest first, for steps of one length; four at most.
pub(super) fn adams(known: usize) -> &'static [f64] {
    const FOUR: [&[f64]; 4] = [
        &[1.0],
        &[1.5, -0.5],
        &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
        &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
    ];
    FOUR[known.clamp(1, 4) - 1]
}

/// The coefficients for a step of length `h` after steps of `lengths`, newest first; three count at most.
///
/// # Source
/// ComfyUI's `sample_ipndm_v`, whose coefficients from the third order on are not those of the exact integral.
pub(super) fn adams_uneven(h: f64, lengths: &[f64]) -> Vec<f64> {
    let Some(&h_1) = lengths.first() else { return vec![1.0] };
    let mut found = vec![f64::midpoint(2.0, h / h_1), -h / h_1 / 2.0];
    let Some(&h_2) = lengths.get(1) else { return found };
    let part = h * (h + h_1);
    let third = (1.0 - h / (3.0 * (h + h_1)) * part / (h_1 * (h_1 + h_2))) / 2.0;
    found[0] += third;
    found[1] -= (1.0 + h_1 / h_2) * third;
    found.push(third * h_1 / h_2);
    let Some(&h_3) = lengths.get(2) else { return found };
    let whole = h + h_1 + h_2;
    let mean =
        (1.0 - h / (3.0 * (h + h_1))) / 2.0 + (1.0 - h / (2.0 * (h + h_1))) * h / (6.0 * whole);
    let fourth = mean * (part * whole) / (h_1 * (h_1 + h_2) * (h_1 + h_2 + h_3));
    let ratio = h_1 * (h_1 + h_2) / (h_2 * (h_2 + h_3));
    found[0] += fourth;
    found[1] -= (1.0 + h_1 / h_2 + ratio) * fourth;
    found[2] += (h_1 / h_2 + ratio * (1.0 + h_2 / h_3)) * fourth;
    found.push(-fourth * ratio * h_1 / h_2);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coefficients_add_up_to_one() {
        for known in 1..=4 {
            assert!((adams(known).iter().sum::<f64>() - 1.0).abs() < 1e-12);
        }
        for lengths in [&[][..], &[-2.0], &[-2.0, -3.0]] {
            let sum: f64 = adams_uneven(-1.0, lengths).iter().sum();
            assert!((sum - 1.0).abs() < 1e-12, "{lengths:?}: {sum}");
        }
    }
}
