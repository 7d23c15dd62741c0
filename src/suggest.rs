//! Near matches for mistyped names.
//!
//! Floor 0.

/// Edits that turn `a` into `b`: insert, delete, replace a letter, or swap two neighbours.
///
/// # Source
/// Optimal string alignment distance; case is ignored.
pub(crate) fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (letters(a), letters(b));
    let mut before: Vec<usize> = Vec::new();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut next = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replaced = row[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            next[j] = replaced.min(row[j] + 1).min(next[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                next[j] = next[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut row, next);
    }
    row[b.len()]
}

fn letters(text: &str) -> Vec<char> {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// The names that `name` may have meant, nearest first, at most three.
///
/// A name matches if its edit distance is at most 1 + length / 3, or if one name contains the other.
pub(crate) fn near<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let length = name.chars().count();
    let part = |known: &str| {
        let (a, b) = (name.to_lowercase(), known.to_lowercase());
        a.len().min(b.len()) >= 3 && (a.contains(&b) || b.contains(&a))
    };
    let mut found: Vec<(usize, &str)> = known
        .into_iter()
        // Names of very different length need not be compared letter by letter.
        .filter(|k| part(k) || k.chars().count().abs_diff(length) <= 1 + length / 3)
        .map(|k| (distance(name, k), k))
        .filter(|(edits, k)| *edits <= 1 + length / 3 && *edits < length || part(k))
        .collect();
    found.sort_unstable();
    found.dedup();
    found.into_iter().take(3).map(|(_, k)| k).collect()
}

/// `; did you mean …?` for the names of [`near`]; empty when nothing is near.
pub(crate) fn did_you_mean<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    let found: Vec<String> = near(name, known).iter().map(|k| format!("`{k}`")).collect();
    if found.is_empty() { String::new() } else { format!("; did you mean {}?", found.join(" or ")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (a, b, edits) in [
            ("", "abc", 3),
            ("model", "model", 0),
            ("modle", "model", 1),
            ("Inspct", "inspect", 1),
            ("añb", "anb", 1),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn nearest_come_first() {
        let known = ["starter", "dreamshaper_8", "anything", "started"];
        assert_eq!(near("startr", known), ["starter", "started"]);
        assert_eq!(near("dreamshaper", known), ["dreamshaper_8"]);
        assert!(near("zebra", known).is_empty() && near("", known).is_empty());
        assert_eq!(did_you_mean("anythin", known), "; did you mean `anything`?");
        assert_eq!(did_you_mean("q", known), "");
    }
}
