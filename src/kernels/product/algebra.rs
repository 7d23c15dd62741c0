//! Products of plain slices, for the algebra of adapters.

use crate::kernels::product::gemm::{Matrix, Target, multiply};

/// target ← target + amount · left · right, on the calling thread.
///
/// `left`: `[rows, inner]`, `right`: `[inner, columns]`, `target`: `[rows, columns]`, all row-major.
///
/// # Panics
/// When a slice is not of the size that the other dimensions say.
pub(crate) fn add_product(
    target: &mut [f32],
    columns: usize,
    left: &[f32],
    right: &[f32],
    amount: f32,
) {
    let rows = target.len().checked_div(columns).unwrap_or(0);
    let inner = right.len().checked_div(columns).unwrap_or(0);
    assert_eq!(target.len(), rows * columns, "size of the target");
    assert_eq!(left.len(), rows * inner, "size of the left factor");
    assert_eq!(right.len(), inner * columns, "size of the right factor");
    if rows == 0 || inner == 0 {
        return;
    }
    let to = Target { pointer: target.as_mut_ptr(), row_stride: columns, accumulate: true };
    let left = Matrix::rows(left, rows, inner, inner);
    let right = Matrix::rows(right, inner, columns, columns);
    // SAFETY: `target` has `rows` rows of `columns` elements and is borrowed mutably until the end.
    #[allow(unsafe_code)]
    unsafe {
        multiply(to, left, right, amount);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_sum_by_hand() {
        let left: Vec<f32> = (0..6).map(|i| i as f32).collect(); // [3, 2]
        let right: Vec<f32> = (0..8).map(|i| 1.0 - i as f32).collect(); // [2, 4]
        let mut target = vec![1.0; 12];
        add_product(&mut target, 4, &left, &right, 0.5);
        for row in 0..3 {
            for column in 0..4 {
                let product: f32 = (0..2).map(|k| left[row * 2 + k] * right[k * 4 + column]).sum();
                assert!((target[row * 4 + column] - 1.0 - 0.5 * product).abs() < 1e-6);
            }
        }
        add_product(&mut [], 0, &[], &[], 1.0);
        add_product(&mut [1.0], 1, &[], &[], 1.0);
    }
}
