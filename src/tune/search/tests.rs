//! Searches on functions whose best point is known, with answers that are wrong now and then.

use super::points::Random;
use super::*;

/// A smooth function with one summit near a random point and a lower one elsewhere, between 0 and 1.
struct Taste {
    summit: Point,
    widths: Vec<f64>,
    second: Point,
}

impl Taste {
    fn new(axes: usize, seed: u64) -> Self {
        let mut random = Random::new(seed, 77);
        let inside = |at: f64| 0.1 + 0.8 * at;
        let summit = random.uniform(axes).into_iter().map(inside).collect();
        let second = random.uniform(axes).into_iter().map(inside).collect();
        // Some axes matter more than others, and no summit is a needle.
        let grown = (axes as f64).sqrt();
        let widths = random.uniform(axes).into_iter().map(|u| grown * (0.25 + 0.5 * u)).collect();
        Self { summit, widths, second }
    }

    fn at(&self, point: &[f64]) -> f64 {
        let bump = |middle: &[f64]| {
            let axes = point.iter().zip(middle).zip(&self.widths);
            (-axes.map(|((a, b), width)| ((a - b) / width).powi(2)).sum::<f64>()).exp()
        };
        bump(&self.summit).max(0.6 * bump(&self.second))
    }

    /// Somebody's answer: the better one, but for noise that lets a tenth of a difference pass unseen.
    fn answer(&self, duel: &Duel, random: &mut Random) -> Verdict {
        let ahead = self.at(&duel.first) - self.at(&duel.second) + 0.1 * random.normal(1)[0];
        if ahead > 0.0 { Verdict::First } else { Verdict::Second }
    }
}

/// How far the point that is found lies below the summit, after each of `counts` answers.
fn regrets(axes: usize, seed: u64, strategy: Strategy, counts: &[usize]) -> Vec<f64> {
    let taste = Taste::new(axes, seed);
    let mut noise = Random::new(seed, 99);
    let mut search = Duels::new(Cube::new(axes, seed)).with_strategy(strategy);
    let mut found = Vec::new();
    for count in 1..=counts.last().copied().unwrap_or(0) {
        let duel = search.next().unwrap();
        let verdict = taste.answer(&duel, &mut noise);
        search.judge(duel, verdict);
        if counts.contains(&count) {
            let best = search.best(0.6).unwrap();
            found.push(taste.at(&taste.summit) - taste.at(&best.point));
        }
    }
    found
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// Student's t of the differences of pairs.
fn paired_t(a: &[f64], b: &[f64]) -> f64 {
    let differences: Vec<f64> = a.iter().zip(b).map(|(a, b)| a - b).collect();
    let middle = mean(&differences);
    let square = differences.iter().map(|d| (d - middle).powi(2)).sum::<f64>();
    let count = differences.len() as f64;
    middle / (square / (count - 1.0) / count).sqrt()
}

/// What somebody finds without a model: the better one stays, and another random point is held against it.
fn without_model(axes: usize, seed: u64, counts: &[usize]) -> Vec<f64> {
    let taste = Taste::new(axes, seed);
    let (mut noise, mut random) = (Random::new(seed, 99), Random::new(seed, 5));
    let mut best = random.uniform(axes);
    let mut found = Vec::new();
    for count in 1..=counts.last().copied().unwrap_or(0) {
        let duel = Duel { first: best, second: random.uniform(axes) };
        let verdict = taste.answer(&duel, &mut noise);
        best = if verdict == Verdict::First { duel.first } else { duel.second };
        if counts.contains(&count) {
            found.push(taste.at(&taste.summit) - taste.at(&best));
        }
    }
    found
}

/// The regret falls with the answers, and is smaller than without a model, and than with pairs that are chosen at
/// random and give the same model as many answers: paired over 64 tastes, t above 2.5 (one in a hundred by chance).
#[test]
fn pairs_that_are_chosen_find_the_summit_sooner() {
    for (axes, counts) in [(2, [4, 20]), (4, [6, 20])] {
        let seeds = 0..64;
        let runs = |strategy| -> Vec<Vec<f64>> {
            seeds.clone().map(|seed| regrets(axes, seed, strategy, &counts)).collect()
        };
        let (ours, random) = (runs(Strategy::BestOfTwo), runs(Strategy::Random));
        let alone: Vec<Vec<f64>> =
            seeds.clone().map(|seed| without_model(axes, seed, &counts)).collect();
        let at =
            |runs: &[Vec<f64>], place: usize| runs.iter().map(|run| run[place]).collect::<Vec<_>>();
        let (early, late) = (at(&ours, 0), at(&ours, 1));
        let (chance, alone) = (at(&random, 1), at(&alone, 1));
        let means = [&early, &late, &chance, &alone].map(|values| mean(values));
        let t = [paired_t(&chance, &late), paired_t(&alone, &late)];
        println!("{axes} axes: early, late, at random, without a model {means:.3?}, t {t:.2?}");
        assert!(means[1] < 0.6 * means[0] && means[1] < 0.12, "{axes}: it falls");
        assert!(t[1] > 2.5, "{axes}: t = {t:?}");
        // In many axes random pairs teach the model nearly as much.
        assert!(t[0] > if axes == 2 { 2.5 } else { -0.5 }, "{axes}: t = {t:?}");
    }
}

/// The table of BENCHMARKS: `cargo test --release --lib tune::search::tests::table -- --ignored --nocapture`.
#[test]
#[ignore = "a table of measurements"]
fn table() {
    let counts = [5, 10, 15, 20, 30];
    let print = |axes: usize, name: &str, runs: Vec<Vec<f64>>| {
        let row = (0..counts.len()).map(|place| {
            let all: Vec<f64> = runs.iter().map(|run| run[place]).collect();
            let error = mean(&all) / paired_t(&all, &vec![0.0; all.len()]);
            format!("{:.3} ± {error:.3}", mean(&all))
        });
        println!("| {axes} | {name} | {} |", row.collect::<Vec<_>>().join(" | "));
    };
    // Others than those that the priors were chosen on.
    let seeds = 5000..5096;
    for axes in [1, 2, 4, 8] {
        for strategy in [Strategy::BestOfTwo, Strategy::Thompson, Strategy::Random] {
            let runs = seeds.clone().map(|seed| regrets(axes, seed, strategy, &counts));
            print(axes, &format!("{strategy:?}"), runs.collect());
        }
        let runs = seeds.clone().map(|seed| without_model(axes, seed, &counts));
        print(axes, "without a model", runs.collect());
    }
}

#[test]
fn the_same_answers_ask_the_same_questions() {
    let run = || {
        let taste = Taste::new(3, 5);
        let mut search = Duels::new(Cube::new(3, 9));
        let mut noise = Random::new(1, 1);
        let mut asked = Vec::new();
        for _ in 0..5 {
            let duel = search.next().unwrap();
            assert_ne!(duel.first, duel.second);
            let verdict = taste.answer(&duel, &mut noise);
            asked.push(duel.clone());
            search.judge(duel, verdict);
        }
        (asked, search.best(0.6).unwrap())
    };
    assert_eq!(run(), run());
}

#[test]
fn certainty_comes_with_answers_and_a_clear_taste() {
    let taste = Taste::new(1, 3);
    let mut search = Duels::new(Cube::new(1, 3));
    let mut sure = Vec::new();
    for _ in 0..25 {
        let duel = search.next().unwrap();
        let ahead = taste.at(&duel.first) - taste.at(&duel.second);
        let verdict = match ahead {
            ahead if ahead.abs() < 0.02 => Verdict::Equal,
            ahead if ahead > 0.0 => Verdict::First,
            _ => Verdict::Second,
        };
        search.judge(duel, verdict);
        sure.push(search.best(0.75).unwrap().sure);
    }
    println!("{sure:.2?}");
    assert!(sure[0] < 0.5 && sure[24] > 0.8);
}

#[test]
fn points_lie_on_the_steps_and_skipped_pairs_do_not_come_back() {
    let cube = Cube { steps: vec![0.25, 0.01], seed: 4 };
    let mut search = Duels::new(cube);
    search.judge(search.next().unwrap(), Verdict::First);
    for _ in 0..6 {
        let duel = search.next().unwrap();
        for point in [&duel.first, &duel.second] {
            assert!((point[0] * 4.0).fract() == 0.0, "{point:?}");
            assert!(((point[1] * 100.0).round() - point[1] * 100.0).abs() < 1e-9);
        }
        search.skip(duel.clone());
        let next = search.next().unwrap();
        let turned = Duel { first: duel.second.clone(), second: duel.first.clone() };
        assert!(next != duel && next != turned);
    }
}

/// Scores with noise: the best mean comes near the summit, nearer than the best of as many evenly spread points.
#[test]
fn scores_find_the_summit() {
    let (mut ours, mut spread) = (Vec::new(), Vec::new());
    for seed in 0..16 {
        let taste = Taste::new(2, seed);
        let mut noise = Random::new(seed, 3);
        let mut search = Scores::new(Cube::new(2, seed));
        for _ in 0..18 {
            let point = search.next().unwrap();
            let score = 40.0 * taste.at(&point) + 0.5 * noise.normal(1)[0] - 1000.0;
            search.score(point, score);
        }
        let best = search.best(0.1).unwrap();
        ours.push(taste.at(&taste.summit) - taste.at(&best.point));
        let points = super::points::spread(&[0.0, 0.0], 0, 18);
        let top = points.iter().map(|point| taste.at(point)).fold(0.0, f64::max);
        spread.push(taste.at(&taste.summit) - top);
    }
    println!("{:.4}, evenly spread {:.4}", mean(&ours), mean(&spread));
    assert!(mean(&ours) < 0.02 && mean(&ours) < 0.5 * mean(&spread));
}

#[test]
fn a_search_without_a_choice_ends_well() {
    let one = Cube { steps: vec![1.0], seed: 1 };
    let mut search = Duels::new(one.clone());
    for _ in 0..4 {
        search.judge(search.next().unwrap(), Verdict::Equal);
        search.best(0.6).unwrap();
    }
    let mut scores = Scores::new(one);
    for _ in 0..6 {
        scores.score(scores.next().unwrap(), 1.0);
    }
    scores.best(0.1).unwrap();
}
