//! Choosing several of a list, in every order.

/// The ways to choose `count` things of different kinds, in the order of their places.
pub(super) struct Permutations {
    /// The kind of each thing: of one kind at most one is chosen.
    kinds: Vec<usize>,
    count: usize,
    picked: Vec<usize>,
    begun: bool,
}

impl Permutations {
    pub(super) fn new(kinds: Vec<usize>, count: usize) -> Self {
        Self { kinds, count, picked: Vec::new(), begun: false }
    }

    /// The first place from `from` on that can be picked beside those that are.
    fn free(&self, from: usize) -> Option<usize> {
        let taken =
            |place: usize| self.picked.iter().any(|other| self.kinds[*other] == self.kinds[place]);
        (from..self.kinds.len()).find(|place| !taken(*place))
    }
}

impl Iterator for Permutations {
    type Item = Vec<usize>;

    fn next(&mut self) -> Option<Vec<usize>> {
        let mut from = 0;
        if std::mem::replace(&mut self.begun, true) {
            from = self.picked.pop()? + 1;
        }
        while self.picked.len() < self.count {
            match self.free(from) {
                Some(place) => {
                    self.picked.push(place);
                    from = 0;
                }
                None => from = self.picked.pop()? + 1,
            }
        }
        Some(self.picked.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_comes_once() {
        let found = |kinds: &[usize], count| -> Vec<Vec<usize>> {
            Permutations::new(kinds.to_vec(), count).collect()
        };
        assert_eq!(found(&[0, 1, 2], 2), [[0, 1], [0, 2], [1, 0], [1, 2], [2, 0], [2, 1]]);
        assert_eq!(found(&[0, 0, 1], 2), [[0, 2], [1, 2], [2, 0], [2, 1]]);
        assert_eq!(found(&[0, 1], 0), [[0; 0]]);
        assert!(found(&[0, 1], 3).is_empty() && found(&[], 1).is_empty());
        assert_eq!(found(&[0, 1, 2, 3], 4).len(), 24);
    }
}
