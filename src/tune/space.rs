//! LoRAs with ranges in the place of some numbers: `a:0..1`, `a:unet=0..1,text=0..0.5`, `a:1:stop=0.4..1`.
//!
//! A range may stand wherever the grammar of a LoRA takes a number: a weight, a factor of a list of `blocks`, `start`
//! and `stop`. `base`, `in`, `mid` and `out` are factors of all text encoders, and of the blocks of the UNet on the way
//! down, in the middle and on the way up.

use super::search::{Cube, MOST_AXES};
use crate::error::{Error, Result};
use crate::lora::{Layout, LoraRef};
use std::fmt::Write;

/// The factors of groups of blocks, in the order of a list of blocks.
const GROUPS: [&str; 4] = ["base", "in", "mid", "out"];

/// A range that is searched.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// The LoRA and what of it: `ink`, `ink.text`, `ink.mid`.
    pub name: String,
    /// The least value.
    pub low: f64,
    /// The largest.
    pub high: f64,
}

impl Axis {
    /// The least difference that means anything.
    fn step(&self) -> f64 {
        if self.high - self.low < 0.2 { 0.001 } else { 0.01 }
    }

    /// The value at a place between 0 and 1.
    fn value(&self, at: f64) -> f64 {
        let digits = 1.0 / self.step();
        let value = self.low + at.clamp(0.0, 1.0) * (self.high - self.low);
        // Adding zero turns -0 into 0.
        ((value * digits).round() / digits).clamp(self.low, self.high) + 0.0
    }
}

/// A number, or the axis that decides it.
#[derive(Debug, Clone, PartialEq)]
enum Value {
    Fixed(f64),
    Axis(usize),
}

/// A piece of the text of a LoRA.
#[derive(Debug, Clone, PartialEq)]
enum Piece {
    Text(String),
    Axis(usize),
}

/// A LoRA with places for numbers.
#[derive(Debug, Clone, PartialEq)]
struct Template {
    pieces: Vec<Piece>,
    /// Factors of the groups of blocks, when one was given.
    groups: Option<[Value; 4]>,
}

/// The LoRAs of a search.
#[derive(Debug, Clone, PartialEq)]
pub struct Space {
    templates: Vec<Template>,
    axes: Vec<Axis>,
    layout: Layout,
}

impl Space {
    /// Reads LoRAs with ranges; `layout` tells the blocks of the model, and is asked when groups of blocks are named.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for what is no LoRA at both ends of every range, without any range and with too many; what
    /// `layout` gives.
    pub fn read(texts: &[String], layout: &dyn Fn() -> Result<Layout>) -> Result<Self> {
        let mut reader = Reader::default();
        let templates =
            texts.iter().map(|text| reader.template(text)).collect::<Result<Vec<_>>>()?;
        let axes = reader.axes;
        if axes.is_empty() || axes.len() > MOST_AXES {
            let why = match axes.len() {
                0 => "there is no range to search; write one for a weight: NAME:0..1".to_owned(),
                count => format!("{count} ranges; at most {MOST_AXES} can be searched"),
            };
            return Err(Error::bad_request("lora", texts.join(" "), why));
        }
        let grouped = templates.iter().any(|template| template.groups.is_some());
        let layout = if grouped { layout()? } else { Layout::Sd };
        let space = Self { templates, axes, layout };
        space.check()?;
        Ok(space)
    }

    /// The ranges.
    pub fn axes(&self) -> &[Axis] {
        &self.axes
    }

    /// The cube whose points stand for the values of the ranges.
    pub fn cube(&self, seed: u64) -> Cube {
        let step = |axis: &Axis| axis.step() / (axis.high - axis.low);
        Cube { steps: self.axes.iter().map(step).collect(), seed }
    }

    /// The LoRAs at a point of the cube.
    ///
    /// # Errors
    /// [`Error::BadRequest`] for numbers that make no LoRA, which [`read`](Self::read) excludes.
    pub fn stack(&self, point: &[f64]) -> Result<Vec<LoraRef>> {
        let at = |axis: usize| {
            self.axes
                .get(axis)
                .map_or(0.0, |a| a.value(point.get(axis).copied().unwrap_or_default()))
        };
        self.templates.iter().map(|template| template.lora(&at, self.layout)).collect()
    }

    /// The values of the ranges at a point, for people.
    pub fn words(&self, point: &[f64]) -> String {
        let value = |(axis, at): (&Axis, &f64)| format!("{} {}", axis.name, axis.value(*at));
        self.axes.iter().zip(point).map(value).collect::<Vec<_>>().join("  ")
    }

    /// Refuses ranges with an end that cannot work, alone or with the ends of the others of its LoRA.
    fn check(&self) -> Result<()> {
        for template in &self.templates {
            let own: Vec<usize> = (0..self.axes.len()).filter(|axis| template.has(*axis)).collect();
            // All combinations of the ends of a few ranges; of many, each end with the others at their lower and at
            // their upper ends.
            let patterns: Vec<u64> = if own.len() <= 8 {
                (0..1 << own.len()).collect()
            } else {
                (0..own.len()).flat_map(|i| [1 << i, !(1 << i)]).collect()
            };
            for pattern in patterns {
                let at = |axis: usize| {
                    let place = own.iter().position(|own| *own == axis).unwrap_or(0);
                    let axis = &self.axes[axis];
                    if pattern >> place & 1 == 1 { axis.high } else { axis.low }
                };
                template.lora(&at, self.layout)?;
            }
        }
        Ok(())
    }
}

impl Template {
    fn has(&self, axis: usize) -> bool {
        let grouped = self.groups.iter().flatten().any(|value| *value == Value::Axis(axis));
        grouped || self.pieces.contains(&Piece::Axis(axis))
    }

    /// The LoRA with the numbers that `at` gives for the axes.
    fn lora(&self, at: &dyn Fn(usize) -> f64, layout: Layout) -> Result<LoraRef> {
        let mut text = String::new();
        for piece in &self.pieces {
            match piece {
                Piece::Text(piece) => text.push_str(piece),
                // Writing to a text does not fail.
                Piece::Axis(axis) => drop(write!(text, "{}", at(*axis))),
            }
        }
        if let Some(groups) = &self.groups {
            let [base, down, middle, up] = groups.clone().map(|value| match value {
                Value::Fixed(value) => value,
                Value::Axis(axis) => at(axis),
            });
            let side = layout.side();
            let blocks = std::iter::once(base)
                .chain(std::iter::repeat_n(down, side))
                .chain([middle])
                .chain(std::iter::repeat_n(up, side));
            let blocks: Vec<String> = blocks.map(|factor| factor.to_string()).collect();
            text = format!("{text}:blocks={}", blocks.join(","));
        }
        LoraRef::parse_flag(&text)
    }
}

/// Reads texts, and collects their ranges.
#[derive(Debug, Default)]
struct Reader {
    axes: Vec<Axis>,
}

impl Reader {
    fn template(&mut self, text: &str) -> Result<Template> {
        let (name, specs) = split(text);
        let short = name.rsplit(['/', '\\']).next().unwrap_or(name);
        let mut template = Template { pieces: vec![Piece::Text(name.to_owned())], groups: None };
        for spec in specs {
            let mut rest = Vec::new();
            let mut key = "";
            let mut number = 0;
            for item in spec.split(',') {
                let (own, value) = item.split_once('=').map_or(("", item), |(k, v)| (k.trim(), v));
                number = if own.is_empty() { number + 1 } else { 0 };
                key = if own.is_empty() { key } else { own };
                let what = match (key, number) {
                    ("" | "weight" | "w", 0 | 1) => short.to_owned(),
                    ("blocks" | "lbw" | "", place) => format!("{short}.blocks{place}"),
                    (key, _) => format!("{short}.{key}"),
                };
                let range = range(value).filter(|_| !["steps", "step"].contains(&key));
                let range = range.map(|ends| self.axis(what, ends, text)).transpose()?;
                if let Some(group) = GROUPS.iter().position(|group| *group == own) {
                    let value = match range {
                        Some(axis) => Value::Axis(axis),
                        None => Value::Fixed(factor(value, text)?),
                    };
                    let groups = template.groups.get_or_insert([const { Value::Fixed(1.0) }; 4]);
                    groups[group] = value;
                    continue;
                }
                let head = item[..item.len() - value.len()].to_owned();
                rest.push((head, range.map_or(Piece::Text(value.to_owned()), Piece::Axis)));
            }
            for (place, (head, value)) in rest.into_iter().enumerate() {
                let between = if place == 0 { ":" } else { "," };
                template.pieces.extend([Piece::Text(format!("{between}{head}")), value]);
            }
        }
        Ok(template)
    }

    /// A new axis; its ends are in order.
    fn axis(&mut self, name: String, (low, high): (f64, f64), text: &str) -> Result<usize> {
        let fine = low.is_finite() && high.is_finite() && low < high;
        if !fine {
            let why = format!(
                "the range {low}..{high} needs a lower end that is less than its upper one"
            );
            return Err(Error::bad_request("lora", text, why));
        }
        let same = self.axes.iter().filter(|axis| axis.name == name).count();
        let name = if same > 0 { format!("{name}#{}", same + 1) } else { name };
        self.axes.push(Axis { name, low, high });
        Ok(self.axes.len() - 1)
    }
}

fn factor(value: &str, text: &str) -> Result<f64> {
    let wrong = || {
        let why = format!(
            "`{value}`: expected a factor of these blocks, a number or a range such as 0..1"
        );
        Error::bad_request("lora", text, why)
    };
    value.trim().parse::<f64>().ok().filter(|value| value.is_finite()).ok_or_else(wrong)
}

/// The ends of `A..B`.
fn range(text: &str) -> Option<(f64, f64)> {
    let (low, high) = text.trim().split_once("..")?;
    Some((low.trim().parse().ok()?, high.trim().parse().ok()?))
}

/// The name and the specifications behind it, as the grammar of a LoRA has them when each range is a number.
fn split(text: &str) -> (&str, Vec<&str>) {
    let (mut name, mut specs) = (text, Vec::new());
    while let Some((rest, last)) = name.rsplit_once(':') {
        let item = |item: &str| {
            let (key, value) = item.split_once('=').map_or(("", item), |(key, value)| (key, value));
            let between = if item.contains('=') { "=" } else { "" };
            let plain = range(value).filter(|_| !["steps", "step"].contains(&key.trim()));
            plain.map_or(item.to_owned(), |(low, _)| format!("{key}{between}{low}"))
        };
        let plain = last.split(',').map(item).collect::<Vec<_>>().join(",");
        // An error is that of a specification; a name would be read as one.
        if LoraRef::parse_flag(&format!("x:{plain}")).is_ok_and(|lora| lora.name != "x") {
            break;
        }
        specs.push(last);
        name = rest;
    }
    specs.reverse();
    (name, specs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn space(texts: &[&str]) -> Result<Space> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Space::read(&texts, &|| Ok(Layout::Sdxl))
    }

    fn shown(space: &Space, point: &[f64]) -> Vec<String> {
        space.stack(point).unwrap().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn ranges_stand_where_numbers_do() {
        let space = space(&[
            "styles/ink:0..1",
            "fox:unet=-0.5..0.5,text=0.3:steps=0..0.6",
            "c:/x:1:start=0..0.3:stop=0.5..1",
            "gold:0.4",
        ])
        .unwrap();
        let names: Vec<&str> = space.axes().iter().map(|axis| axis.name.as_str()).collect();
        assert_eq!(names, ["ink", "fox.unet", "x.start", "x.stop"]);
        assert_eq!(
            shown(&space, &[0.333, 0.0, 1.0, 0.5]),
            [
                "styles/ink:0.33",
                "fox:unet=-0.5,text=0.3:steps=0..0.6",
                "c:/x:1:steps=0.3..0.75",
                "gold:0.4"
            ]
        );
        assert_eq!(
            space.words(&[0.333, 0.5, 1.0, 0.5]),
            "ink 0.33  fox.unet 0  x.start 0.3  x.stop 0.75"
        );
        let steps = space.cube(1).steps;
        assert!((steps[0] - 0.01).abs() < 1e-12 && (steps[2] - 0.01 / 0.3).abs() < 1e-12);
    }

    #[test]
    fn blocks_and_groups_of_blocks() {
        let list = "ink:0.8:1,0..1,0,0,0,0,0,0,0,0,0,0.5..2";
        let blocks = space(&[list]).unwrap();
        let names: Vec<&str> = blocks.axes().iter().map(|axis| axis.name.as_str()).collect();
        assert_eq!(names, ["ink.blocks2", "ink.blocks12"]);
        assert_eq!(shown(&blocks, &[0.5, 0.0]), ["ink:0.8:blocks=1,0.5,0,0,0,0,0,0,0,0,0,0.5"]);
        let groups = space(&["ink:0..1:mid=0..2,out=0.5"]).unwrap();
        assert_eq!(groups.axes()[1].name, "ink.mid");
        let ones = ["1"; 10].join(",");
        let halves = ["0.5"; 9].join(",");
        assert_eq!(shown(&groups, &[1.0, 0.25]), [format!("ink:1:blocks={ones},0.5,{halves}")]);
    }

    #[test]
    fn mistakes_are_explained() {
        for (text, part) in [
            ("ink:0.5", "no range"),
            ("ink:1..0", "lower end"),
            ("ink:0..1000", "at most 100"),
            ("ink:0..1:0..1", "several weights"),
            ("ink:0..1:start=0..0.5:stop=0.3..1", "no step lies"),
            ("ink:blocks=0..1,1,1", "26 or 17"),
            ("ink:wieght=0..1", "did you mean `weight`"),
            ("ink:0..1:mid=x", "a factor"),
            (":0..1", "name of a LoRA"),
            ("ink:inf..1", "lower end"),
            ("ink:0..1:blocks=MIDD:mid=0..1", "twice"),
        ] {
            let message = space(&[text]).unwrap_err().to_string();
            assert!(message.contains(part), "{text}: {message}");
        }
        let many: Vec<String> = (0..40).map(|n| format!("x{n}:0..1")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert!(space(&many).unwrap_err().to_string().contains("40 ranges"));
    }

    #[test]
    fn values_stay_in_their_range_and_short() {
        let axis = Axis { name: "x".into(), low: -0.333, high: 0.9 };
        for (at, value) in [(0.0, "-0.33"), (1.0, "0.9"), (0.27, "0"), (0.5, "0.28")] {
            assert_eq!(axis.value(at).to_string(), value);
        }
        let narrow = Axis { name: "x".into(), low: 0.1, high: 0.2 };
        assert_eq!(narrow.value(0.123), 0.112);
    }
}
