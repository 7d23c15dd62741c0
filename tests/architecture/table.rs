//! The size of the house as a table: what CI prints on each run, so that growth is seen before a limit is hit.

use std::collections::BTreeMap;

/// What the files of one folder of `src` amount to.
#[derive(Default)]
struct Folder {
    lines: usize,
    functions: Vec<usize>,
}

/// The length that a share of 95 % of the functions does not exceed (nearest rank), 0 for none.
fn percentile_95(sorted: &[usize]) -> usize {
    let rank = (sorted.len() * 95).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(0)
}

/// Prints lines, functions, and the 95th percentile and maximum of lines a function, for each folder.
#[test]
fn table() {
    let mut folders: BTreeMap<String, Folder> = BTreeMap::new();
    for (name, text) in super::sources() {
        let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
        let sizes = super::functions(&text);
        for row in [folder, "(all)"] {
            let entry = folders.entry(row.to_owned()).or_default();
            entry.lines += text.lines().count();
            entry.functions.extend(sizes.iter().map(|(_, lines)| *lines));
        }
    }
    println!("{:<32} {:>7} {:>9} {:>5} {:>5}", "src/", "lines", "functions", "p95", "max");
    for (name, folder) in &mut folders {
        folder.functions.sort_unstable();
        let longest = folder.functions.last().copied().unwrap_or(0);
        let (count, p95) = (folder.functions.len(), percentile_95(&folder.functions));
        println!("{name:<32} {:>7} {count:>9} {p95:>5} {longest:>5}", folder.lines);
    }
}

#[test]
fn the_percentile_is_the_nearest_rank() {
    let hundred: Vec<usize> = (1..=100).collect();
    assert_eq!(percentile_95(&hundred), 95);
    assert_eq!(percentile_95(&[7]), 7);
    assert_eq!(percentile_95(&[]), 0);
}
