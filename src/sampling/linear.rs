//! Small systems of linear equations.

/// x with `rows`·x = `right`: Gauss's elimination with pivots; `None` where there is no one solution.
pub(super) fn solve(mut rows: Vec<Vec<f64>>, mut right: Vec<f64>) -> Option<Vec<f64>> {
    let n = right.len();
    for column in 0..n {
        let size = |row: &usize| rows[*row][column].abs();
        let pivot = (column..n).max_by(|a, b| size(a).total_cmp(&size(b)))?;
        rows.swap(column, pivot);
        right.swap(column, pivot);
        let top = rows[column].clone();
        if top[column] == 0.0 || !top[column].is_finite() {
            return None;
        }
        for row in column + 1..n {
            let factor = rows[row][column] / top[column];
            rows[row].iter_mut().zip(&top).for_each(|(value, above)| *value -= factor * above);
            right[row] -= factor * right[column];
        }
    }
    for row in (0..n).rev() {
        let known: f64 = (row + 1..n).map(|column| rows[row][column] * right[column]).sum();
        right[row] = (right[row] - known) / rows[row][row];
    }
    Some(right)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systems_are_solved() {
        let rows = vec![vec![0.0, 1.0, 2.0], vec![3.0, 1.0, 1.0], vec![1.0, -1.0, 4.0]];
        let found = solve(rows, vec![8.0, 8.0, 11.0]).unwrap();
        let gap: f64 = found.iter().zip([1.0, 2.0, 3.0]).map(|(a, b)| (a - b).abs()).sum();
        assert!(gap < 1e-12, "{found:?}");
        assert!(solve(vec![vec![1.0, 2.0], vec![2.0, 4.0]], vec![1.0, 2.0]).is_none());
    }
}
