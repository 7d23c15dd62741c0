//! How much the value at one point of the unit cube says of that at another.

/// A point of the unit cube.
pub type Point = Vec<f64>;

/// The Matérn covariance of smoothness 5/2 with a length for each axis.
///
/// # Source
/// Rasmussen and Williams (2006), Gaussian Processes for Machine Learning, equation 4.17.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Kernel {
    /// The variance of the value at a point.
    pub(super) variance: f64,
    /// Along each axis, the distance over which values change.
    pub(super) lengths: Vec<f64>,
}

impl Kernel {
    /// The covariance of the values at two points.
    pub(super) fn between(&self, a: &[f64], b: &[f64]) -> f64 {
        let axes = a.iter().zip(b).zip(&self.lengths);
        let square: f64 = axes.map(|((a, b), length)| ((a - b) / length).powi(2)).sum();
        let distance = (5.0 * square).sqrt();
        self.variance * (1.0 + distance + distance * distance / 3.0) * (-distance).exp()
    }
}

/// What of a function something was observed of.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Functional {
    /// Its value at a point.
    Value(Point),
    /// Its value at the first point less that at the second.
    Difference(Point, Point),
}

impl Functional {
    /// The covariance with the value at `point`.
    pub(super) fn with_point(&self, point: &[f64], kernel: &Kernel) -> f64 {
        match self {
            Functional::Value(own) => kernel.between(own, point),
            Functional::Difference(first, second) => {
                kernel.between(first, point) - kernel.between(second, point)
            }
        }
    }

    /// The covariance with `other`.
    pub(super) fn with(&self, other: &Self, kernel: &Kernel) -> f64 {
        match other {
            Functional::Value(point) => self.with_point(point, kernel),
            Functional::Difference(first, second) => {
                self.with_point(first, kernel) - self.with_point(second, kernel)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_linear() {
        let kernel = Kernel { variance: 2.0, lengths: vec![0.3, 0.8] };
        let (a, b, c) = (vec![0.1, 0.9], vec![0.4, 0.2], vec![0.7, 0.7]);
        let near = |x: f64, y: f64| assert!((x - y).abs() < 1e-14, "{x} {y}");
        near(kernel.between(&a, &a), 2.0);
        near(kernel.between(&a, &b), kernel.between(&b, &a));
        let difference = Functional::Difference(a.clone(), b.clone());
        near(difference.with(&difference, &kernel), 4.0 - 2.0 * kernel.between(&a, &b));
        let value = Functional::Value(c.clone());
        near(difference.with(&value, &kernel), value.with(&difference, &kernel));
        near(difference.with_point(&c, &kernel), kernel.between(&a, &c) - kernel.between(&b, &c));
        // By hand: distance r = 1, √5 r: 1 + 2.23607 + 5/3, times e^-2.23607.
        let line = Kernel { variance: 1.0, lengths: vec![1.0] };
        assert!((line.between(&[0.0], &[1.0]) - 0.523_994).abs() < 1e-6);
    }
}
