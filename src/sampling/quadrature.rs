//! Integrals of the polynomials behind multistep samplers.

/// Nodes and weights of Gauss and Legendre's rule with 8 points on −1..1, the positive half.
const NODES: [(f64, f64); 4] = [
    (0.183_434_642_495_649_8, 0.362_683_783_378_362),
    (0.525_532_409_916_329, 0.313_706_645_877_887_3),
    (0.796_666_477_413_626_7, 0.222_381_034_453_374_48),
    (0.960_289_856_497_536_3, 0.101_228_536_290_376_26),
];
/// How many pieces an interval is cut into.
const PIECES: usize = 16;

/// ∫ f from `from` to `to`; exact for polynomials up to degree 15.
pub(super) fn integral(from: f64, to: f64, f: impl Fn(f64) -> f64) -> f64 {
    let half = (to - from) / (2.0 * PIECES as f64);
    let piece = |i: usize| {
        let middle = from + half * (2 * i + 1) as f64;
        let pair = |(node, weight): (f64, f64)| {
            weight * (f(middle - half * node) + f(middle + half * node))
        };
        half * NODES.into_iter().map(pair).sum::<f64>()
    };
    (0..PIECES).map(piece).sum()
}

/// The polynomial that is 1 at `nodes[j]` and 0 at the others, at `t`.
pub(super) fn lagrange(nodes: &[f64], j: usize, t: f64) -> f64 {
    let factor = |(k, node): (usize, &f64)| {
        if k == j { 1.0 } else { (t - node) / (nodes[j] - node) }
    };
    nodes.iter().enumerate().map(factor).product()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integrals_are_exact() {
        assert!((integral(3.0, 0.0, |t| t.powi(3)) + 81.0 / 4.0).abs() < 1e-12);
        assert!((integral(0.0, 2.0, f64::exp) - (2f64.exp() - 1.0)).abs() < 1e-13);
        let nodes = [2.0, 1.0, 0.5];
        let sum: f64 = (0..3).map(|j| lagrange(&nodes, j, 0.3)).sum();
        assert!((sum - 1.0).abs() < 1e-12);
        assert_eq!((lagrange(&nodes, 1, 1.0), lagrange(&nodes, 1, 2.0)), (1.0, 0.0));
    }
}
