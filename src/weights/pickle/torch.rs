//! How torch describes tensors inside a pickle.

use super::heap::{Heap, Object, Value};
use super::symbols::Symbol;
use crate::error::{Error, Result};
use crate::weights::file::{Contents, Entry, TensorInfo, dense_strides};
use safetensors::Dtype;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Most dimensions of a tensor; torch itself allows 64.
const MAX_RANK: usize = 16;
/// A tensor that repeats its storage (stride 0) may be this large, in bytes, or as large as that.
const MAX_REPEATED: usize = 16 << 20;
/// How deep tensors may be nested in dictionaries and lists.
const MAX_DEPTH: usize = 6;
/// Most containers and tensors that are looked at.
const MAX_VISITS: usize = 1 << 20;
/// Names under which training programs keep the weights beside other things.
const WRAPPERS: [&str; 3] = ["state_dict", "lora", "module"];

/// Some bytes of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Region {
    pub(super) start: usize,
    pub(super) len: usize,
}

impl Region {
    /// The bytes of this region; `None` when it reaches beyond the file.
    pub(super) fn of(self, file: &[u8]) -> Option<&[u8]> {
        file.get(self.start..self.start.checked_add(self.len)?)
    }
}

/// A storage: what several tensors may share.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage<'a> {
    /// Type of the elements; `None` when it counts bytes.
    dtype: Option<Dtype>,
    key: Key<'a>,
    /// Number of elements.
    len: usize,
    /// First element, for a view of another storage (torch before 0.4).
    start: usize,
}

/// The name of a storage in its file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Key<'a> {
    Text(&'a str),
    Number(i64),
}

impl std::fmt::Display for Key<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Key::Text(text) => f.write_str(text),
            Key::Number(number) => number.fmt(f),
        }
    }
}

impl<'a> Key<'a> {
    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Str(text) => Some(Key::Text(text)),
            Value::Int(number) => Some(Key::Number(number)),
            _ => None,
        }
    }
}

impl<'a> Storage<'a> {
    /// From the persistent id `("storage", type, key, device, length[, view])`.
    pub(super) fn from_id(heap: &Heap<'a>, id: &[Value<'a>]) -> Result<Self, &'static str> {
        let (kind, key, len, view) = match id {
            [Value::Str("storage"), kind, key, _, len] => (kind, key, len, Value::None),
            [Value::Str("storage"), kind, key, _, len, view] => (kind, key, len, *view),
            _ => return Err("an unknown kind of storage id"),
        };
        let Value::Symbol(Symbol::Storage(dtype)) = *kind else {
            return Err("the type of a storage is none");
        };
        let key = Key::from_value(*key).ok_or("the key of a storage is no text")?;
        let len = size(*len).ok_or("the length of a storage is no number")?;
        let start = match (view, heap.items(view)) {
            (Value::None, _) => 0,
            (_, Some([_, start, _])) => size(*start).ok_or("a view begins nowhere")?,
            _ => return Err("the view of a storage is none"),
        };
        Ok(Self { dtype, key, len, start })
    }

    fn element_size(&self) -> usize {
        self.dtype.map_or(1, |dtype| dtype.bitsize() / 8)
    }
}

/// A tensor: a window onto a storage.
#[derive(Debug)]
pub(super) struct TensorData<'a> {
    storage: Storage<'a>,
    dtype: Dtype,
    /// First element.
    offset: usize,
    shape: Vec<usize>,
    strides: Vec<usize>,
}

impl<'a> TensorData<'a> {
    /// From the arguments of torch's `_rebuild_tensor…`.
    pub(super) fn from_arguments(
        heap: &Heap<'a>,
        symbol: Symbol,
        arguments: &[Value<'a>],
    ) -> Result<Self, &'static str> {
        let [storage, offset, shape, strides, rest @ ..] = arguments else {
            return Err("a tensor lacks its arguments");
        };
        let Some(Object::Storage(storage)) = heap.object(*storage) else {
            return Err("a tensor's storage is none");
        };
        let dtype = match (symbol, rest) {
            (Symbol::TensorOfBytes, [_, _, Value::Symbol(Symbol::Dtype(dtype)), ..]) => *dtype,
            (Symbol::Tensor, _) => storage.dtype.ok_or("a tensor has no element type")?,
            _ => return Err("a tensor's element type is none"),
        };
        let sizes = |list: Value<'a>| -> Result<Vec<usize>, &'static str> {
            let items = heap.items(list).filter(|items| items.len() <= MAX_RANK);
            let items = items.ok_or("a tensor's shape is none")?;
            let sizes: Option<_> = items.iter().map(|&item| size(item)).collect();
            sizes.ok_or("a tensor's shape or stride is no number")
        };
        let (shape, strides) = (sizes(*shape)?, sizes(*strides)?);
        if shape.len() != strides.len() {
            return Err("a tensor has more dimensions than strides, or fewer");
        }
        let offset = size(*offset).ok_or("a tensor begins nowhere")?;
        Ok(Self { storage: *storage, dtype, offset, shape, strides })
    }

    /// The place in the file, checked against the storage's region.
    fn entry(&self, region: Region) -> Result<Entry, String> {
        let storage_bytes = self.storage.len.checked_mul(self.storage.element_size());
        let storage_bytes = storage_bytes.ok_or("a storage is too large")?;
        if storage_bytes > region.len {
            return Err(format!(
                "truncated: the storage {} needs {storage_bytes} bytes, has {}",
                self.storage.key, region.len
            ));
        }
        let element = self.dtype.bitsize() / 8;
        let (elements, reach) = self.extent().ok_or("a tensor's size overflows")?;
        let first = self.storage.start.checked_add(self.offset).ok_or("an offset overflows")?;
        let end = first.checked_add(reach).and_then(|end| end.checked_mul(element));
        if elements > 0 && end.is_none_or(|end| end > storage_bytes) {
            return Err(format!("a tensor reaches beyond its storage {}", self.storage.key));
        }
        let bytes = elements.checked_mul(element).ok_or("a tensor's size overflows")?;
        if bytes > storage_bytes.max(MAX_REPEATED) {
            return Err(format!("a tensor repeats its storage {} too often", self.storage.key));
        }
        let offset = if elements > 0 { region.start + first * element } else { region.start };
        let dense = self.strides == dense_strides(&self.shape) || elements <= 1;
        Ok(Entry {
            info: TensorInfo { dtype: self.dtype, shape: self.shape.clone(), blocks: None },
            offset,
            strides: (!dense).then(|| self.strides.clone()),
        })
    }

    /// Number of elements, and how far the last one lies behind the first, in elements.
    fn extent(&self) -> Option<(usize, usize)> {
        let elements = self.shape.iter().try_fold(1usize, |n, &dim| n.checked_mul(dim))?;
        if elements == 0 {
            return Some((0, 0));
        }
        let reach =
            self.shape.iter().zip(&self.strides).try_fold(1usize, |reach, (&dim, &stride)| {
                reach.checked_add((dim - 1).checked_mul(stride)?)
            })?;
        Some((elements, reach))
    }
}

fn size(value: Value<'_>) -> Option<usize> {
    match value {
        Value::Int(number) => usize::try_from(number).ok(),
        _ => None,
    }
}

/// The table of contents of the pickled value `root`.
pub(super) fn contents<'a>(
    heap: &Heap<'a>,
    root: Value<'a>,
    path: &Path,
    locate: impl Fn(Key<'a>) -> Result<Region>,
) -> Result<Contents> {
    let wrapped = WRAPPERS.iter().find_map(|name| {
        heap.entry(root, name).filter(|&inner| matches!(heap.object(inner), Some(Object::Dict(_))))
    });
    let mut entries = BTreeMap::new();
    for (name, tensor) in tensors(heap, wrapped.unwrap_or(root))? {
        let entry = tensor
            .entry(locate(tensor.storage.key)?)
            .map_err(|why| Error::corrupt(path, format!("`{}`: {why}", name.escape_debug())))?;
        entries.insert(name, entry);
    }
    Ok(Contents { entries, metadata: BTreeMap::new() })
}

/// All tensors below `root`; names of nested ones are joined by dots, list items are counted.
fn tensors<'h, 'a>(
    heap: &'h Heap<'a>,
    root: Value<'a>,
) -> Result<Vec<(String, &'h TensorData<'a>)>> {
    let mut found = Vec::new();
    let mut open = vec![(String::new(), root, 0)];
    let mut visits = 0usize;
    while let Some((prefix, value, depth)) = open.pop() {
        visits += 1;
        if visits > MAX_VISITS {
            let allowed = MAX_VISITS as u64;
            return Err(Error::Limit { what: "objects of a pickle", allowed, asked: allowed + 1 });
        }
        let inside = |key: &dyn std::fmt::Display| {
            if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") }
        };
        // Only what can hold tensors is followed.
        let follow = |value: &Value<'a>| heap.object(*value).is_some() && depth < MAX_DEPTH;
        match heap.object(value) {
            Some(Object::Tensor(tensor)) => found.push((prefix, tensor)),
            Some(Object::Dict(entries)) => {
                for (key, value) in entries.iter().filter(|(_, value)| follow(value)) {
                    if let Some(key) = Key::from_value(*key) {
                        open.push((inside(&key), *value, depth + 1));
                    }
                }
            }
            Some(Object::List(items) | Object::Tuple(items)) => {
                for (i, value) in items.iter().enumerate().filter(|(_, value)| follow(value)) {
                    open.push((inside(&i), *value, depth + 1));
                }
            }
            Some(Object::Storage(_)) | None => {}
        }
    }
    Ok(found)
}

/// Where the storages of an older torch file lie: each a count of elements, then the elements.
///
/// `at`: where they begin. `list`: their keys in order, a value of `keys`. `heap`: the main
/// pickle's objects, which know the element types.
pub(super) fn legacy_regions(
    bytes: &[u8],
    mut at: usize,
    (keys, list): (&Heap<'_>, Value<'_>),
    heap: &Heap<'_>,
    path: &Path,
) -> Result<HashMap<String, Region>> {
    let mut sizes = HashMap::new();
    for object in &heap.objects {
        if let Object::Storage(storage) = object {
            sizes.insert(storage.key.to_string(), storage.element_size());
        }
    }
    let mut regions = HashMap::new();
    for &key in keys_of(keys, list) {
        let Some(key) = Key::from_value(key) else { continue };
        let key = key.to_string();
        let Some(&size) = sizes.get(&key) else {
            return Err(Error::corrupt(path, "damaged torch file: a storage belongs to no tensor"));
        };
        let count = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>());
        let start = at.saturating_add(8);
        let region = count
            .and_then(|count| usize::try_from(u64::from_le_bytes(*count)).ok()?.checked_mul(size))
            .map(|len| Region { start, len })
            .filter(|region| region.of(bytes).is_some());
        let Some(region) = region else {
            let why = format!("truncated: the storage {key} has no end; fetch the file again");
            return Err(Error::corrupt(path, why));
        };
        at = region.start + region.len;
        regions.insert(key, region);
    }
    Ok(regions)
}

fn keys_of<'h, 'a>(heap: &'h Heap<'a>, list: Value<'a>) -> &'h [Value<'a>] {
    heap.items(list).unwrap_or_default()
}
