//! How torch describes tensors inside a pickle.

use super::heap::{Heap, Object, Value};
use super::storage::{Key, Region, Storage, TensorData};
use super::symbols::Symbol;
use crate::error::{Error, Result};
use crate::weights::contents::{Contents, Entry, TensorInfo, dense_strides};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

/// Most dimensions of a tensor; torch itself allows 64.
const MAX_RANK: usize = 16;
/// A tensor that repeats its storage (stride 0) may be this large, in bytes, or as large as that.
const MAX_REPEATED: usize = 16 << 20;
/// How deep tensors may be nested in dictionaries and lists.
const MAX_DEPTH: usize = 6;
/// Most containers, entries of containers and tensors that are looked at.
const MAX_VISITS: usize = 1 << 21;
/// Most bytes of all names; a pickle can repeat a long key with one byte.
const MAX_NAMES: usize = 64 << 20;
/// Longest name of a storage; torch counts them.
const MAX_KEY: usize = 256;
/// How many times the bytes of the file all tensors together may claim: some share a storage, or repeat
/// parts of one. Small files may claim [`MAX_SHARED`].
const MAX_SHARES: usize = 4;
const MAX_SHARED: usize = 256 << 20;
/// Names under which training programs keep the weights beside other things.
const WRAPPERS: [&str; 3] = ["state_dict", "lora", "module"];

impl<'a> Key<'a> {
    fn from_value(value: Value<'a>) -> Option<Self> {
        match value {
            Value::Str(text) => Some(Key::Text(text)),
            Value::Int(number) => Some(Key::Number(number)),
            _ => None,
        }
    }

    /// As [`from_value`](Self::from_value) for a storage: it is looked up for each of its tensors.
    fn of_storage(value: Value<'a>) -> Option<Self> {
        let short = |key: &Key<'_>| !matches!(key, Key::Text(text) if text.len() > MAX_KEY);
        Self::from_value(value).filter(short)
    }
}

impl<'a> Storage<'a> {
    /// Reads the persistent id `("storage", type, key, device, length[, view])`.
    pub(super) fn from_id(heap: &Heap<'a>, id: &[Value<'a>]) -> Result<Self, &'static str> {
        let (kind, key, len, view) = match id {
            [Value::Str("storage"), kind, key, _, len] => (kind, key, len, Value::None),
            [Value::Str("storage"), kind, key, _, len, view] => (kind, key, len, *view),
            _ => return Err("an unknown kind of storage id"),
        };
        let Value::Symbol(Symbol::Storage(dtype)) = *kind else {
            return Err("the type of a storage is none");
        };
        let key = Key::of_storage(*key).ok_or("the key of a storage is no short text")?;
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

impl<'a> TensorData<'a> {
    /// Reads the arguments of torch's `_rebuild_tensor…`.
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

    /// Number of dimensions.
    pub(super) fn rank(&self) -> usize {
        self.shape.len()
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
///
/// `file`: bytes of the whole file.
pub(super) fn contents<'a>(
    heap: &Heap<'a>,
    root: Value<'a>,
    (path, file): (&Path, usize),
    locate: impl Fn(Key<'a>) -> Result<Region>,
) -> Result<Contents> {
    let wrapped = WRAPPERS.iter().find_map(|name| {
        heap.entry(root, name).filter(|&inner| matches!(heap.object(inner), Some(Object::Dict(_))))
    });
    let wrapped = wrapped.or_else(|| heap.only_inner(root));
    let mut entries = BTreeMap::new();
    let allowed = file.saturating_mul(MAX_SHARES).max(MAX_SHARED) as u64;
    let mut asked = 0u64;
    for (name, tensor) in tensors(heap, wrapped.unwrap_or(root))? {
        let entry = tensor
            .entry(locate(tensor.storage.key)?)
            .map_err(|why| Error::corrupt(path, format!("`{}`: {why}", name.escape_debug())))?;
        asked = asked.saturating_add(entry.info.bytes() as u64);
        if asked > allowed {
            let what = "bytes of tensors that share storages";
            return Err(Error::Limit { what, allowed, asked });
        }
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
    let mut budget = Budget::default();
    while let Some((prefix, value, depth)) = open.pop() {
        budget.visit(1)?;
        let mut inside = |key: &dyn std::fmt::Display| {
            let name = if prefix.is_empty() { key.to_string() } else { format!("{prefix}.{key}") };
            budget.name(&name).map(|()| name)
        };
        // Only what can hold tensors is followed.
        let follow = |value: &Value<'a>| heap.object(*value).is_some() && depth < MAX_DEPTH;
        match heap.object(value) {
            Some(Object::Tensor(tensor)) => found.push((prefix, tensor)),
            Some(Object::Dict(entries)) => {
                for (key, value) in entries.iter().filter(|(_, value)| follow(value)) {
                    if let Some(key) = Key::from_value(*key) {
                        open.push((inside(&key)?, *value, depth + 1));
                    }
                }
                budget.visit(entries.len())?;
            }
            Some(Object::List(items) | Object::Tuple(items)) => {
                for (i, value) in items.iter().enumerate().filter(|(_, value)| follow(value)) {
                    open.push((inside(&i)?, *value, depth + 1));
                }
                budget.visit(items.len())?;
            }
            Some(Object::Storage(_)) | None => {}
        }
    }
    Ok(found)
}

/// The objects that were visited on the way to all tensors.
#[derive(Debug, Default)]
struct Budget {
    visits: usize,
    names: usize,
}

impl Budget {
    fn visit(&mut self, entries: usize) -> Result<()> {
        self.visits = self.visits.saturating_add(entries);
        limit("objects of a pickle", MAX_VISITS, self.visits)
    }

    fn name(&mut self, name: &str) -> Result<()> {
        self.names = self.names.saturating_add(name.len());
        limit("bytes of names in a pickle", MAX_NAMES, self.names)
    }
}

fn limit(what: &'static str, allowed: usize, asked: usize) -> Result<()> {
    let (allowed, asked) = (allowed as u64, asked as u64);
    if asked > allowed { Err(Error::Limit { what, allowed, asked }) } else { Ok(()) }
}

/// Where the storages of an older torch file lie: each a count of elements, then the elements.
///
/// `at`: where they begin. `list`: their keys in order, a value of `keys`. `heap`: the main
/// pickle's objects, which hold the element types.
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
        let Some(key) = Key::of_storage(key) else { continue };
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
