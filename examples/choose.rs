//! Finds the best of many by answers to "which of these two is better", without any picture.
//!
//!     cargo run --release --example choose
//!
//! Somebody likes the weights 0.7 and 0.2 best, and answers wrong when both are nearly as good. Prints what is found
//! after each answer, and ends with an error when that is far off.

#![allow(clippy::print_stdout)]

use colora::tune::search::{Cube, Duel, Duels, Verdict};

/// How much somebody likes a point.
fn liking(point: &[f64]) -> f64 {
    let far = (point[0] - 0.7).powi(2) + (point[1] - 0.2).powi(2);
    (-4.0 * far).exp()
}

fn main() -> colora::Result<()> {
    let mut search = Duels::new(Cube::new(2, 1));
    let mut found = vec![0.0, 0.0];
    for number in 1..=20 {
        let duel: Duel = search.next()?;
        let ahead = liking(&duel.first) - liking(&duel.second);
        let verdict = match ahead {
            ahead if ahead.abs() < 0.03 => Verdict::Equal,
            ahead if ahead > 0.0 => Verdict::First,
            _ => Verdict::Second,
        };
        search.judge(duel, verdict);
        let best = search.best(0.75)?;
        println!("{number:2}: {:.2?}, {:3.0} % sure", best.point, 100.0 * best.sure);
        found = best.point;
    }
    assert!(liking(&found) > 0.9, "{found:?} is far from the best");
    Ok(())
}
