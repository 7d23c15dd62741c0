//! The standard normal distribution, also far out in its tails.

use std::f64::consts::{FRAC_1_SQRT_2, PI};

/// Below this the distribution function is smaller than the smallest number.
const TAIL: f64 = -25.0;

/// The density at `x`.
pub(super) fn density(x: f64) -> f64 {
    log_density(x).exp()
}

fn log_density(x: f64) -> f64 {
    -0.5 * x * x - 0.5 * (2.0 * PI).ln()
}

/// The probability of a value below `x`.
pub(super) fn cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * FRAC_1_SQRT_2)
}

/// The logarithm of [`cdf`].
pub(super) fn log_cdf(x: f64) -> f64 {
    if x > TAIL {
        return cdf(x).ln();
    }
    // The asymptotic series; its next term is below 1e-7 here.
    let square = x * x;
    log_density(x) - (-x).ln() + (1.0 - 1.0 / square + 3.0 / (square * square)).ln()
}

/// Density over distribution function: the slope of [`log_cdf`].
pub(super) fn log_cdf_slope(x: f64) -> f64 {
    (log_density(x) - log_cdf(x)).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values of mpmath 1.3 with 30 digits: `log(ncdf(x))`.
    #[test]
    fn tails_are_finite_and_right() {
        for (x, expected) in [
            (0.0, -std::f64::consts::LN_2),
            (3.0, -0.001_350_809_964_748_202_6),
            (-5.0, -15.064_998_393_988_727),
            (-24.0, -292.098_721_003_207_8),
            (-26.0, -342.178_508_929_927_8),
            (-60.0, -1_805.013_560_681_367_2),
        ] {
            let found = log_cdf(x);
            assert!((found - expected).abs() < 1e-7 * (1.0 + expected.abs()), "{x}: {found}");
        }
    }

    #[test]
    fn the_slope_is_one() {
        for x in [-40.0, -24.999, -3.0, 0.0, 2.5] {
            let step = 1e-5;
            let slope = (log_cdf(x + step) - log_cdf(x - step)) / (2.0 * step);
            assert!((slope - log_cdf_slope(x)).abs() < 1e-4 * (1.0 + slope.abs()), "{x}");
        }
        assert!((cdf(1.0) - 0.841_344_746_068_542_9).abs() < 1e-14);
        assert!((density(0.5) - 0.352_065_326_764_299_5).abs() < 1e-14);
    }
}
