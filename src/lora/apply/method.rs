//! How several adapters become one change.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};

/// How the adapters of a stack are put together.
///
/// As text: the name, and numbers behind a colon where there are any.
///
/// # Examples
/// ```
/// use colora::lora::Method;
/// let method: Method = "ties:density=0.3".parse().unwrap();
/// assert_eq!(method, Method::Ties { density: 0.3 });
/// assert_eq!(method.to_string(), "ties:density=0.3");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Method {
    /// Every adapter on the pristine base, their changes added: exact, and free of order.
    #[default]
    Sum,
    /// One adapter after another, each on what those before it made (ComfyUI, A1111).
    Sequential,
    /// The sum, cut down to `rank` by singular values.
    Svd {
        /// Rank of what remains.
        rank: usize,
    },
    /// Only the largest entries, only those that agree on a sign, averaged (TIES).
    Ties {
        /// Share of the entries that is kept, 0 to 1.
        density: f32,
    },
    /// Random entries, enlarged so that the mean stays (DARE).
    Dare {
        /// Share of the entries that is kept, 0 to 1.
        density: f32,
        /// Seed of the choice.
        seed: u64,
    },
    /// DARE's choice, then TIES' election.
    DareTies {
        /// Share of the entries that is kept, 0 to 1.
        density: f32,
        /// Seed of the choice.
        seed: u64,
    },
    /// One adapter at a time, changing every `period` steps (LoRA Switch).
    Switch {
        /// Steps before the next adapter's turn.
        period: usize,
    },
    /// Every adapter alone in every step, their guided predictions averaged (LoRA Composite).
    Composite,
}

/// Share of the entries that are kept by default, as in the TIES paper's and PEFT's examples.
const DENSITY: f32 = 0.5;
/// Default rank of `svd`.
const RANK: usize = 32;

impl Method {
    /// Names as in flags and files.
    pub const NAMES: [&str; 9] =
        ["sum", "sequential", "cat", "svd", "ties", "dare", "dare-ties", "switch", "composite"];

    /// The name as in flags and files.
    pub fn name(self) -> &'static str {
        match self {
            Method::Sum => "sum",
            Method::Sequential => "sequential",
            Method::Svd { .. } => "svd",
            Method::Ties { .. } => "ties",
            Method::Dare { .. } => "dare",
            Method::DareTies { .. } => "dare-ties",
            Method::Switch { .. } => "switch",
            Method::Composite => "composite",
        }
    }

    /// Whether adapters change weights by themselves, one network for each.
    pub fn is_apart(self) -> bool {
        matches!(self, Method::Switch { .. } | Method::Composite)
    }

    /// Whether the order of the adapters changes the result.
    pub fn is_ordered(self) -> bool {
        matches!(self, Method::Sequential | Method::Switch { .. })
    }

    /// The mix of several tasks (adapter, weight, change at full strength) of one weight.
    pub(in crate::lora) fn mix(
        &self,
        site: &str,
        mut tasks: Vec<(usize, f32, Vec<f32>)>,
    ) -> Vec<f32> {
        match *self {
            Method::Ties { density } => {
                for (_, _, task) in &mut tasks {
                    trim(task, density);
                }
                elect(&tasks)
            }
            Method::Dare { density, seed } => {
                drop_out(site, &mut tasks, density, seed);
                weighted(&tasks)
            }
            Method::DareTies { density, seed } => {
                drop_out(site, &mut tasks, density, seed);
                elect(&tasks)
            }
            _ => weighted(&tasks),
        }
    }
}

/// Numbers that a method may take.
#[derive(Debug, Default)]
struct Numbers {
    density: Option<f32>,
    seed: Option<u64>,
    rank: Option<usize>,
    period: Option<usize>,
}

impl Numbers {
    fn read(text: &str) -> Result<Self> {
        let mut numbers = Numbers::default();
        for piece in text.split(',').filter(|piece| !piece.is_empty()) {
            let refuse = |why: &str| Error::bad_request("lora_method", piece, why);
            let (key, value) = piece
                .split_once('=')
                .ok_or_else(|| refuse("expected KEY=NUMBER, for instance density=0.5"))?;
            let whole = || value.parse::<u64>().map_err(|_| refuse("expected a whole number"));
            match key.trim() {
                "density" => {
                    let density = value.parse().map_err(|_| refuse("expected a number"))?;
                    if !(density > 0.0 && density <= 1.0) {
                        return Err(refuse("expected more than 0, at most 1"));
                    }
                    numbers.density = Some(density);
                }
                "seed" => numbers.seed = Some(whole()?),
                "rank" => {
                    numbers.rank =
                        Some(positive(whole()?).ok_or_else(|| refuse("expected at least 1"))?);
                }
                "period" => {
                    numbers.period =
                        Some(positive(whole()?).ok_or_else(|| refuse("expected at least 1"))?);
                }
                _ => return Err(refuse("expected density, seed, rank or period")),
            }
        }
        Ok(numbers)
    }
}

fn positive(number: u64) -> Option<usize> {
    usize::try_from(number).ok().filter(|n| *n > 0)
}

impl std::str::FromStr for Method {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (name, numbers) = text.split_once(':').unwrap_or((text, ""));
        let given = Numbers::read(numbers)?;
        let density = given.density.unwrap_or(DENSITY);
        let seed = given.seed.unwrap_or(0);
        Ok(match name.trim() {
            // Factors side by side are the sum itself.
            "sum" | "cat" => Method::Sum,
            "sequential" => Method::Sequential,
            "svd" => Method::Svd { rank: given.rank.unwrap_or(RANK) },
            "ties" => Method::Ties { density },
            "dare" => Method::Dare { density, seed },
            "dare-ties" => Method::DareTies { density, seed },
            "switch" => Method::Switch { period: given.period.unwrap_or(1) },
            "composite" => Method::Composite,
            name => {
                let near = crate::suggest::did_you_mean(name, Self::NAMES);
                let why = format!("expected one of {}{near}", Self::NAMES.join(", "));
                return Err(Error::bad_request("lora_method", name, why));
            }
        })
    }
}

impl std::fmt::Display for Method {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = self.name();
        match self {
            Method::Svd { rank } => write!(f, "{name}:rank={rank}"),
            Method::Ties { density } => write!(f, "{name}:density={density}"),
            Method::Dare { density, seed } | Method::DareTies { density, seed } => {
                write!(f, "{name}:density={density},seed={seed}")
            }
            Method::Switch { period } => write!(f, "{name}:period={period}"),
            Method::Sum | Method::Sequential | Method::Composite => f.write_str(name),
        }
    }
}

impl TryFrom<String> for Method {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Method> for String {
    fn from(method: Method) -> Self {
        method.to_string()
    }
}

fn weighted(tasks: &[(usize, f32, Vec<f32>)]) -> Vec<f32> {
    let mut out = vec![0.0; tasks.first().map_or(0, |(_, _, task)| task.len())];
    for (_, weight, task) in tasks {
        crate::lora::delta::add(&mut out, task, *weight);
    }
    out
}

/// Keeps the ⌊density · n⌋ entries of largest magnitude.
fn trim(task: &mut [f32], density: f32) {
    let keep = (f64::from(density) * task.len() as f64).floor() as usize;
    if keep >= task.len() {
        return;
    }
    let mut order: Vec<u32> = (0..task.len() as u32).collect();
    let size = |i: &u32| task[*i as usize].abs();
    if keep > 0 {
        order.select_nth_unstable_by(keep - 1, |a, b| size(b).total_cmp(&size(a)).then(a.cmp(b)));
    }
    for i in &order[keep..] {
        task[*i as usize] = 0.0;
    }
}

/// The mean of the entries whose sign is that of the sum.
///
/// # Source
/// Yadav et al. (2023), TIES-Merging; PEFT 0.21 (`ties`, sign by total, unweighted election).
fn elect(tasks: &[(usize, f32, Vec<f32>)]) -> Vec<f32> {
    let len = tasks.first().map_or(0, |(_, _, task)| task.len());
    (0..len)
        .map(|i| {
            let total: f32 = tasks.iter().map(|(_, _, task)| task[i]).sum();
            let positive = total >= 0.0;
            let agreeing = tasks.iter().filter(|(_, _, t)| t[i] != 0.0 && (t[i] > 0.0) == positive);
            let (mut sum, mut count) = (0.0, 0u32);
            for (_, weight, task) in agreeing {
                sum += weight * task[i];
                count += 1;
            }
            sum / count.max(1) as f32
        })
        .collect()
}

/// Keeps each entry with probability `density`, divided by it.
///
/// # Source
/// Yu et al. (2023), DARE. The choice is a function of seed, weight, adapter and entry alone, so that it
/// depends on neither threads nor order of work.
fn drop_out(site: &str, tasks: &mut [(usize, f32, Vec<f32>)], density: f32, seed: u64) {
    // FNV-1a.
    let key = site.bytes().fold(0xcbf2_9ce4_8422_2325u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    for (adapter, _, task) in tasks {
        let stream = mixed(key ^ mixed(seed ^ mixed(*adapter as u64)));
        for (i, value) in task.iter_mut().enumerate() {
            let uniform = (mixed(stream ^ i as u64) >> 40) as f32 / (1u64 << 24) as f32;
            *value = if uniform < density { *value / density } else { 0.0 };
        }
    }
}

/// The finaliser of SplitMix64 (Steele et al., 2014).
fn mixed(value: u64) -> u64 {
    let value = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_by_hand() {
        let tasks = vec![(0, 1.0, vec![1.0, -4.0, 3.0, 0.5]), (1, 0.5, vec![-2.0, -1.0, 4.0, 0.1])];
        let mixed = Method::Ties { density: 0.5 }.mix("a", tasks);
        // Kept: [0, -4, 3, 0] and [-2, 0, 4, 0]; signs -, -, +, +.
        assert_eq!(mixed, [-1.0, -4.0, 2.5, 0.0]);
    }

    #[test]
    fn dare_keeps_the_mean_and_depends_on_nothing_else() {
        let method = Method::Dare { density: 0.25, seed: 7 };
        let tasks = || vec![(3, 1.0, vec![1.0; 40_000])];
        let mixed = method.mix("a", tasks());
        let mean = mixed.iter().sum::<f32>() / 40_000.0;
        assert!((mean - 1.0).abs() < 0.05, "{mean}");
        assert!(mixed.iter().all(|v| *v == 0.0 || *v == 4.0));
        assert_eq!(mixed, method.mix("a", tasks()));
        assert_ne!(mixed, method.mix("b", tasks()));
        assert_ne!(mixed, Method::Dare { density: 0.25, seed: 8 }.mix("a", tasks()));
        let whole = Method::Dare { density: 1.0, seed: 7 }.mix("a", tasks());
        assert_eq!(whole, vec![1.0; 40_000]);
    }

    #[test]
    fn names_and_numbers() {
        for name in Method::NAMES {
            let method: Method = name.parse().unwrap();
            assert!(method.name() == name || name == "cat");
            assert_eq!(method.to_string().parse::<Method>().unwrap(), method);
        }
        for bad in ["tie", "ties:density=0", "ties:density=nan", "svd:rank=0", "ties:x=1", "ties:3"]
        {
            assert!(bad.parse::<Method>().is_err(), "{bad}");
        }
        assert_eq!("svd:rank=8".parse::<Method>().unwrap(), Method::Svd { rank: 8 });
    }
}
