//! Generators, variations of seeds and Brownian paths.

use super::shared::{Records, gap, list, number, numbers, records, seeds, text, values};
use candle_core::Device;
use colora::rng::{BrownianPath, Noise, Philox, Rng, TorchCpu};
use colora::sampling::{ImageSeeds, NoiseRules, NoiseSource, SeededNoise, StepStream};
use colora::size::LatentSize;
use serde_json::Value;

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|value| f64::from(*value)).collect()
}

/// First and last values where a record does not hold all.
fn shown(record: &Value, ours: &[f32]) -> (Vec<f64>, Vec<f64>) {
    match &record["values"] {
        Value::Null => {
            let ends = [&ours[..8], &ours[ours.len() - 8..]].concat();
            let theirs = [numbers(&record["first"]), numbers(&record["last"])].concat();
            (wide(&ends), theirs)
        }
        all => (wide(ours), numbers(all)),
    }
}

#[test]
fn generators_equal_the_tools() {
    for Records { name, values } in records() {
        let mut most = 0.0f64;
        let draws = list(&values["noise"], "mt19937");
        let draws = draws.iter().filter(|record| text(record, "dtype") == "f32");
        for record in draws {
            let mut stream = TorchCpu::new(record["seed"].as_u64().unwrap());
            let drawn = stream.normal(number(record, "n") as usize);
            let (ours, theirs) = shown(record, &drawn);
            most = most.max(gap(&ours, &theirs));
            if record["next_call_4"].is_array() {
                let next = stream.normal(4);
                most = most.max(gap(&wide(&next), &numbers(&record["next_call_4"])));
            }
        }
        for record in list(&values["noise"], "philox_nv") {
            if record["shape"].is_null() {
                continue; // Raw words: a unit test has them.
            }
            let count = numbers(&record["shape"]).iter().product::<f64>() as usize;
            let mut stream = Philox::new(record["seed"].as_u64().unwrap());
            for _ in 0..number(record, "offset") as usize {
                stream.normal(1);
            }
            let (ours, theirs) = shown(record, &stream.normal(count));
            most = most.max(gap(&ours, &theirs));
        }
        println!("{name}: generators within {most:.1e}");
        assert!(most <= 2e-6, "{most:e}");
    }
}

/// A1111's noise of an image: sources, variations, sizes, ENSD; the start and two draws.
#[test]
fn images_equal_those_of_a1111() {
    for Records { name, values: all } in records() {
        let (mut most, mut count) = (0.0f64, 0);
        let of_a1111 = |record: &&Value| text(record, "tool") == "a1111";
        for record in list(&all["noise"], "image_noise").iter().filter(of_a1111) {
            let shape: Vec<usize> =
                numbers(&record["shape"]).into_iter().map(|side| side as usize).collect();
            let seeds = seeds(record);
            let variations = list(record, "subseeds");
            let images: Vec<ImageSeeds> = (0..seeds.len())
                .map(|i| ImageSeeds {
                    seed: seeds[i],
                    variation: variations.get(i).and_then(Value::as_u64).unwrap_or(0),
                })
                .collect();
            let rng: Rng = text(record, "source").parse().unwrap();
            let delta = number(record, "eta_noise_seed_delta") as i64;
            let resized = |key: &str| record[key].as_u64().map(|side| side as usize / 8);
            let resized_from = resized("seed_resize_from_w")
                .zip(resized("seed_resize_from_h"))
                .map(|(width, height)| LatentSize { width, height });
            let rules = NoiseRules {
                rng,
                steps: if delta == 0 {
                    StepStream::GoesOn
                } else {
                    StepStream::Fresh { rng, delta }
                },
                variation: record["subseed_strength"].as_f64().unwrap_or(0.0),
                resized_from,
            };
            let mut noise = SeededNoise::by_rules(rules, &images);
            let start = noise.start((shape[0], shape[1], shape[2]), &Device::Cpu).unwrap();
            let draws = list(record, "draws");
            most = most.max(gap(&values(&start), &numbers(&draws[0])));
            for theirs in &draws[1..] {
                // The first channel of each image.
                let drawn = noise.between(2.0, 1.0, &start).unwrap();
                let ours = values(&drawn.narrow(1, 0, 1).unwrap());
                most = most.max(gap(&ours, &numbers(theirs)));
            }
            count += 1;
        }
        println!("{name}: {count} starts of A1111 within {most:.1e}");
        assert!(count >= 12 && most <= 5e-6, "{count}: {most:e}");
    }
}

#[test]
fn paths_equal_those_of_the_tools() {
    for Records { name, values } in records() {
        let brownian = &values["brownian"];
        let f32_of = |value: f64| f64::from(value as f32);
        let ends = |levels: &[f64]| {
            let least = levels.iter().copied().filter(|s| *s > 0.0).fold(f64::INFINITY, f64::min);
            (f32_of(least), f32_of(levels.iter().copied().fold(0.0, f64::max)))
        };
        let mut most = 0.0f64;
        for record in list(brownian, "tree_seed_42_size_4") {
            let end = |key: &str, other: f64| record[key].as_f64().map_or(other, f32_of);
            let mut path = BrownianPath::new(42, Rng::Cpu, 4, end("t0", 0.0), end("t1", 1.0));
            let ours = path.increment(number(record, "ta"), number(record, "tb"));
            most = most.max(gap(&wide(&ours), &numbers(&record["W"])));
        }
        println!("{name}: increments within {most:.1e}");
        assert!(most <= 5e-6, "{most:e}");
        for record in list(brownian, "comfyui_cpu_tree") {
            let (low, high) = ends(&numbers(&brownian["lists"][text(record, "list")]));
            let seed = record["seed"].as_u64().unwrap();
            let mut path = BrownianPath::new(seed, Rng::Cpu, 16, low, high);
            let (from, to) = (number(record, "from") as f32, number(record, "to") as f32);
            let theirs = numbers(&record["noise"]);
            let ours = wide(&path.between(from, to)[..theirs.len()]);
            most = most.max(gap(&ours, &theirs));
        }
        for record in list(brownian, "a1111_per_image") {
            let levels = numbers(&brownian["lists"][text(record, "list")]);
            let rng: Rng = text(record, "source").parse().unwrap();
            let (low, high) = ends(&levels);
            let path = |seed: u64| BrownianPath::new(seed, rng, 16, low, high);
            let mut paths: Vec<_> = seeds(record).into_iter().map(path).collect();
            for (i, draw) in list(record, "draws").iter().enumerate() {
                let (from, to) = (levels[i] as f32, levels[i + 1] as f32);
                let ours: Vec<f64> =
                    paths.iter_mut().flat_map(|path| wide(&path.between(from, to))).collect();
                most = most.max(gap(&ours, &numbers(draw)));
            }
        }
        println!("{name}: paths within {most:.1e}");
        assert!(most <= 2e-5, "{most:e}");
    }
}
