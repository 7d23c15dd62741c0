//! Quantiles of the beta distribution.

/// Terms of the series, which falls at least as 2⁻ᵏ.
const TERMS: usize = 80;

/// The quantile `p` of the beta distribution with both parameters `shape`.
pub(super) fn beta_quantile(p: f64, shape: f64) -> f64 {
    if p > 0.5 {
        return 1.0 - beta_quantile(1.0 - p, shape);
    }
    if p <= 0.0 {
        return 0.0;
    }
    if p == 0.5 {
        return 0.5;
    }
    // The distribution function is symmetric, so that what it is at 1/2 is known.
    let whole = 2.0 * incomplete(0.5, shape);
    let (mut low, mut high) = (0.0, 0.5);
    for _ in 0..80 {
        let middle = f64::midpoint(low, high);
        if incomplete(middle, shape) < p * whole { low = middle } else { high = middle }
    }
    f64::midpoint(low, high)
}

/// ∫ tᵃ⁻¹·(1 − t)ᵃ⁻¹ from 0 to `x` ≤ 1/2: the binomial series, integrated.
fn incomplete(x: f64, a: f64) -> f64 {
    let (mut coefficient, mut power, mut sum) = (1.0, x.powf(a), 0.0);
    for k in 0..TERMS {
        let k = k as f64;
        sum += coefficient * power / (a + k);
        coefficient *= (k + 1.0 - a) / (k + 1.0);
        power *= x;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// scipy 1.17.1, `scipy.stats.beta.ppf(p, 0.6, 0.6)`; the arcsine distribution has a closed form.
    #[test]
    fn quantiles_are_right() {
        for p in [1e-6, 0.1, 0.3, 0.5, 0.8, 1.0] {
            let exact = (std::f64::consts::FRAC_PI_2 * p).sin().powi(2);
            assert!((beta_quantile(p, 0.5) - exact).abs() < 1e-12, "{p}");
        }
        assert_eq!((beta_quantile(0.0, 0.6), beta_quantile(1.0, 0.6)), (0.0, 1.0));
    }
}
