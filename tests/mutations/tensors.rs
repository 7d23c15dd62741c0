//! Mutations of safetensors that keep the container whole, so that they reach those who read the tensors.

use crate::chance::Chance;
use crate::kinds::Meaning;
use half::{bf16, f16};
use serde_json::{Map, Value, json};

/// A tensor of a file.
#[derive(Clone)]
struct Row {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// A safetensors file taken apart.
pub struct Tensors {
    metadata: Option<Value>,
    rows: Vec<Row>,
}

/// Types of tensors with their bits.
const TYPES: [(&str, usize); 12] = [
    ("F64", 64),
    ("F32", 32),
    ("F16", 16),
    ("BF16", 16),
    ("F8_E4M3", 8),
    ("F8_E5M2", 8),
    ("I64", 64),
    ("I32", 32),
    ("I16", 16),
    ("U16", 16),
    ("U8", 8),
    ("BOOL", 8),
];

impl Tensors {
    pub fn read(bytes: &[u8]) -> Option<Self> {
        let length = u64::from_le_bytes(*bytes.first_chunk()?) as usize;
        let mut header: Map<String, Value> =
            serde_json::from_slice(bytes.get(8..8 + length)?).ok()?;
        let metadata = header.remove("__metadata__");
        let row = |(name, entry): (String, Value)| {
            let numbers = |key: &str| serde_json::from_value::<Vec<usize>>(entry[key].clone()).ok();
            let at = numbers("data_offsets")?;
            let data = bytes.get(8 + length + at[0]..8 + length + at[1])?.to_vec();
            let dtype = entry["dtype"].as_str()?.to_owned();
            Some(Row { name, dtype, shape: numbers("shape")?, data })
        };
        Some(Self { metadata, rows: header.into_iter().map(row).collect::<Option<_>>()? })
    }

    fn write(&self) -> Vec<u8> {
        let mut header = Map::new();
        header.extend(self.metadata.clone().map(|m| ("__metadata__".to_owned(), m)));
        let mut data = Vec::new();
        for Row { name, dtype, shape, data: bytes } in &self.rows {
            let offsets = [data.len(), data.len() + bytes.len()];
            let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": offsets });
            header.insert(name.clone(), entry);
            data.extend(bytes);
        }
        join(&Value::Object(header).to_string(), &data)
    }

    /// Changes one thing; gives the new file, what was changed, and what that means. `is_factor` says of
    /// which tensors colora has to use every number.
    pub fn mutate(
        mut self,
        chance: &mut Chance,
        is_factor: fn(&str) -> bool,
    ) -> (Vec<u8>, String, Meaning) {
        let at = chance.below(self.rows.len());
        let known = is_factor(&self.rows[at].name);
        let nonsense = if known { Meaning::Nonsense } else { Meaning::Anything };
        let name = self.rows[at].name.clone();
        let (what, meaning) = match chance.below(11) {
            0 => {
                let row = &mut self.rows[at];
                let bits = TYPES.iter().find(|(name, _)| *name == row.dtype).map_or(0, |t| t.1);
                let alike: Vec<&str> =
                    TYPES.iter().filter(|t| t.1 == bits && t.0 != row.dtype).map(|t| t.0).collect();
                if let Some(new) = (!alike.is_empty()).then(|| *chance.pick(&alike)) {
                    row.dtype = new.to_owned();
                }
                let whole = row.dtype.starts_with(['I', 'U', 'B']) && row.dtype != "BF16";
                (format!("is {}", row.dtype), if whole { nonsense } else { Meaning::Anything })
            }
            1 | 2 => return self.resized(at, chance, nonsense),
            3 => {
                let dims = [0, 1, 3, 1 << 31, 1 << 62, usize::MAX];
                let shape = &mut self.rows[at].shape;
                let dim = chance.below(shape.len());
                match shape.get_mut(dim) {
                    Some(dim) => *dim = *chance.pick(&dims),
                    None => shape.push(*chance.pick(&dims)),
                }
                (format!("claims the shape {shape:?}"), Meaning::Anything)
            }
            4 => {
                let odd = ["\u{1b}[2J", "\n", "x", ".alpha", "..", "\u{202e}"];
                let odd = *chance.pick(&odd);
                let mut new = name.clone();
                let place = chance.below(new.len());
                let place = (place..=new.len()).find(|p| new.is_char_boundary(*p)).unwrap_or(0);
                new.insert_str(place, odd);
                self.rows[at].name = new;
                (format!("is called with {odd:?} at {place}"), Meaning::Anything)
            }
            5 => {
                self.rows.remove(at);
                ("is removed".to_owned(), nonsense)
            }
            6 => return self.turned(at, chance, known, false),
            7 => return self.turned(at, chance, known, true),
            8 => {
                let texts = ["nan", "-1", "1e39", "{", "", "\u{1b}[31m", "999999999999999999999"];
                let text = *chance.pick(&texts);
                let metadata = self.metadata.get_or_insert_with(|| json!({}));
                if let Some(map) = metadata.as_object_mut() {
                    let keys: Vec<String> = map.keys().cloned().collect();
                    let key = if keys.is_empty() {
                        "ss_network_alpha".into()
                    } else {
                        chance.pick(&keys).clone()
                    };
                    map.insert(key.clone(), text.into());
                }
                (format!("beside metadata {text:?}"), Meaning::Anything)
            }
            9 => return self.twice(at),
            _ => {
                let mut bytes = self.write();
                bytes.extend([7; 8]);
                return (bytes, "8 bytes behind the last tensor".into(), Meaning::Nonsense);
            }
        };
        (self.write(), format!("`{name}` {what}"), meaning)
    }

    /// One side longer, shorter or gone, with its data.
    fn resized(
        mut self,
        at: usize,
        chance: &mut Chance,
        nonsense: Meaning,
    ) -> (Vec<u8>, String, Meaning) {
        let row = &mut self.rows[at];
        let old = row.shape.clone();
        let dim = chance.below(old.len());
        if let Some(side) = row.shape.get_mut(dim) {
            *side = *chance.pick(&[0, *side + 1, *side * 2, side.saturating_sub(1)]);
        }
        let bits = TYPES.iter().find(|(name, _)| *name == row.dtype).map_or(8, |t| t.1);
        let size = row.shape.iter().product::<usize>() * bits / 8;
        let kept = row.data.clone();
        row.data =
            kept.iter().copied().cycle().take(if kept.is_empty() { 0 } else { size }).collect();
        let what = format!("`{}` {old:?} became {:?}", row.name, row.shape);
        let meaning = if row.shape == old { Meaning::Anything } else { nonsense };
        (self.write(), what, meaning)
    }

    /// One number negative, or not finite.
    fn turned(
        mut self,
        at: usize,
        chance: &mut Chance,
        known: bool,
        broken: bool,
    ) -> (Vec<u8>, String, Meaning) {
        let row = &mut self.rows[at];
        let width = match row.dtype.as_str() {
            "F32" => 4,
            "F16" | "BF16" => 2,
            _ => return (self.write(), "nothing".into(), Meaning::Anything),
        };
        let count = row.data.len() / width;
        let place = chance.below(count) * width;
        if count == 0 {
            return (self.write(), "nothing".into(), Meaning::Anything);
        }
        let number = &mut row.data[place..place + width];
        let old = match row.dtype.as_str() {
            "F32" => f32::from_le_bytes([number[0], number[1], number[2], number[3]]),
            "F16" => f16::from_le_bytes([number[0], number[1]]).to_f32(),
            _ => bf16::from_le_bytes([number[0], number[1]]).to_f32(),
        };
        if broken {
            number.fill(0xff);
        } else {
            number[width - 1] ^= 0x80;
        }
        let changed = known && (broken || old != 0.0);
        let what = format!(
            "`{}` number {} {}",
            row.name,
            place / width,
            if broken { "is NaN" } else { "is negative" }
        );
        let meaning = match (changed, broken) {
            (true, true) => Meaning::Nonsense,
            (true, false) => Meaning::Changed,
            _ => Meaning::Anything,
        };
        (self.write(), what, meaning)
    }

    /// The header names a tensor twice.
    fn twice(self, at: usize) -> (Vec<u8>, String, Meaning) {
        let bytes = self.write();
        let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
        let header = String::from_utf8(bytes[8..8 + length].to_vec()).unwrap();
        let Row { name, dtype, shape, .. } = &self.rows[at];
        let entry = json!({ "dtype": dtype, "shape": shape, "data_offsets": [0, 0] });
        let header = format!("{{{}:{entry},{}", json!(name), &header.trim_start()[1..]);
        (join(&header, &bytes[8 + length..]), format!("`{name}` twice"), Meaning::Nonsense)
    }
}

fn join(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), data].concat()
}
