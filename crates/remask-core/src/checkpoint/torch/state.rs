//! The weights among what a pickle describes: where the state_dict is, and where each of its tensors lies.

use std::collections::HashMap;
use std::ops::Range;

use super::pickle::{Pickle, Storage, Tensor, Value};
use super::types::Element;
use super::{Found, Place};
use crate::error::{Error, Result};

/// Keys under which a checkpoint keeps its state_dict, likeliest first.
const NESTS: &[&str] =
    &["state_dict", "model_state_dict", "model", "module", "net", "network", "weights", "params", "ema"];
/// How deep it may lie.
const MOST_NESTED: usize = 4;
/// Most tensors of one file.
const TENSOR_LIMIT: usize = 1 << 20;
/// What wrappers of modules put before every name.
const WRAPPERS: &[&str] = &["module.", "_orig_mod."];

/// Where a storage's bytes lie in the file, by its key; `None` where it is not there.
pub(super) type Locate<'a> = &'a mut dyn FnMut(&str) -> Result<Option<Range<u64>>, String>;

/// The tensors of the state_dict in `pickle`, from `file` of `size` bytes.
pub(super) fn tensors(file: &str, size: u64, pickle: &Pickle<'_>, locate: Locate<'_>) -> Result<Vec<Found>> {
    let broken = |problem| Error::Checkpoint { file: file.to_owned(), problem };
    let state = state_dict(pickle, pickle.root, 0).map_err(broken)?;
    let mut places = Places { pickle, size, locate, storages: HashMap::new() };
    let mut found = Vec::new();
    for (key, value) in pickle.dict(state).unwrap_or_default() {
        let (Some(name), Some(tensor)) = (pickle.text(*key), pickle.tensor(*value)) else { continue };
        if found.len() == TENSOR_LIMIT {
            return Err(broken(format!("holds more than {TENSOR_LIMIT} tensors")));
        }
        let place = places.place(tensor).map_err(|problem| Error::tensor(file, name, problem))?;
        found.push(Found { name: name.to_owned(), place });
    }
    for wrapper in WRAPPERS {
        if found.iter().all(|f| f.name.starts_with(wrapper)) {
            found.iter_mut().for_each(|f| f.name = f.name.split_off(wrapper.len()));
        }
    }
    Ok(found)
}

/// The dictionary of tensors in `value`.
fn state_dict(pickle: &Pickle<'_>, value: Value, depth: usize) -> Result<Value, String> {
    let advice = "expected a state_dict of tensors by name; save model.state_dict()";
    let Some(pairs) = pickle.dict(value) else {
        return Err(format!("holds {}; {advice}", pickle.kind(value)));
    };
    let holds_tensors = |value: Value| {
        let mut values = pickle.dict(value).unwrap_or_default().iter();
        values.any(|(key, value)| pickle.text(*key).is_some() && pickle.tensor(*value).is_some())
    };
    if depth < MOST_NESTED {
        for nest in NESTS {
            let inner = pickle.get(value, nest).filter(|inner| pickle.dict(*inner).is_some());
            if let Some(inner) = inner.and_then(|inner| state_dict(pickle, inner, depth + 1).ok()) {
                return Ok(inner);
            }
        }
    }
    if holds_tensors(value) {
        return Ok(value);
    }
    // Under a key of its own, where there is only one.
    let nested: Vec<_> = pairs.iter().filter(|(_, v)| holds_tensors(*v)).take(9).collect();
    match nested[..] {
        [(_, inner)] => Ok(*inner),
        _ => {
            let keys = if nested.is_empty() { pairs.iter().take(9).collect() } else { nested };
            let keys: Vec<_> = keys.iter().filter_map(|(key, _)| pickle.text(*key)).collect();
            Err(format!("holds no tensors by name but the keys {keys:?}; {advice}"))
        }
    }
}

/// Places tensors.
struct Places<'a, 'p> {
    pickle: &'a Pickle<'p>,
    /// Bytes of the file.
    size: u64,
    locate: Locate<'a>,
    /// Where storages lie that were looked up, by key.
    storages: HashMap<&'a str, Range<u64>>,
}

impl<'a> Places<'a, '_> {
    /// Where the storage's own elements lie.
    fn storage(&mut self, storage: &Storage) -> Result<Range<u64>, String> {
        let key = self.pickle.text(storage.key).unwrap_or_default();
        let stored = match self.storages.get(key) {
            Some(range) => range.clone(),
            None => {
                let missing = || format!("its storage {key:?} is not in the file");
                let range = (self.locate)(key)?.ok_or_else(missing)?;
                self.storages.insert(key, range.clone());
                range
            }
        };
        let bytes = |elements: i64| u64::try_from(elements).ok()?.checked_mul(storage.element.size);
        let whole = bytes(storage.numel).and_then(|length| stored.start.checked_add(length));
        let whole = whole.filter(|end| *end <= stored.end).map(|end| stored.start..end);
        let whole = whole.ok_or_else(|| {
            let (held, numel) = (stored.end - stored.start, storage.numel);
            format!("its storage {key:?} claims {numel} {} elements but has {held} bytes", storage.element.name)
        })?;
        let Some((offset, elements)) = storage.view else { return Ok(whole) };
        let start = bytes(offset).and_then(|o| whole.start.checked_add(o));
        let end = start.zip(bytes(elements)).and_then(|(start, length)| start.checked_add(length));
        let view = start.zip(end).filter(|(_, end)| *end <= whole.end);
        view.map(|(start, end)| start..end).ok_or_else(|| {
            format!("its view of {elements} elements at {offset} leaves storage {key:?} of {} elements", storage.numel)
        })
    }

    fn place(&mut self, tensor: &Tensor) -> Result<Result<Place, String>, String> {
        let &Tensor::Strided { storage, offset, sizes, strides, element } = tensor else {
            let Tensor::Other(kind) = tensor else { return Err("is no tensor".to_owned()) };
            return Ok(Err(format!("is a {kind} tensor, which this build does not read; save it as a plain one")));
        };
        let Some(super::pickle::Object::Storage(storage)) = self.pickle.object(storage) else {
            return Err("has no storage".to_owned());
        };
        let Element { name, size, dtype } = element.unwrap_or(storage.element);
        let stored = self.storage(storage)?;
        let Value::Int(offset) = offset else {
            return Err(format!("begins at {}", self.pickle.kind(offset)));
        };
        let (sizes, strides) = (self.numbers("size", sizes)?, self.numbers("stride", strides)?);
        let place = || strided(&stored, u64::try_from(offset).ok()?, size, &sizes, &strides);
        let (bytes, strides) = place().ok_or_else(|| {
            let bytes = stored.end - stored.start;
            format!("its size {sizes:?} with strides {strides:?} from {offset} leaves its storage of {bytes} bytes")
        })?;
        let elements = sizes.iter().try_fold(1u64, |n, s| n.checked_mul(*s));
        if elements.and_then(|n| n.checked_mul(size)).is_none_or(|n| n > self.size) {
            let problem = format!("its size {sizes:?} repeats a few elements to more than the file has");
            return Err(format!("{problem}; save it with .contiguous()"));
        }
        let shape = sizes.iter().map(|s| usize::try_from(*s)).collect::<Result<Vec<_>, _>>();
        let shape = shape.map_err(|_| format!("its size {sizes:?} is too large for this machine"))?;
        Ok(match dtype {
            Some(dtype) => Ok(Place { dtype, shape, bytes, strides }),
            None => Err(format!("is of PyTorch's type {name}, which this build does not read; convert it to float32")),
        })
    }

    /// Numbers that are not negative.
    fn numbers(&self, what: &str, list: Value) -> Result<Vec<u64>, String> {
        let number = |value: &Value| match value {
            Value::Int(n) => u64::try_from(*n).map_err(|_| format!("has a {what} of {n}")),
            other => Err(format!("has {} in its {what}", self.pickle.kind(*other))),
        };
        self.pickle.list(list).unwrap_or_default().iter().map(number).collect()
    }
}

/// The bytes from a tensor's first element to its last, and its strides in elements unless its elements lie in order;
/// `None` where it leaves `stored`.
fn strided(
    stored: &Range<u64>,
    offset: u64,
    element: u64,
    sizes: &[u64],
    strides: &[u64],
) -> Option<(Range<u64>, Option<Vec<u64>>)> {
    let start = stored.start.checked_add(offset.checked_mul(element)?)?;
    if sizes.contains(&0) {
        return Some((stored.start..stored.start, None));
    }
    let reach =
        sizes.iter().zip(strides).try_fold(0u64, |n, (size, stride)| n.checked_add((size - 1).checked_mul(*stride)?));
    let end = start.checked_add(reach?.checked_add(1)?.checked_mul(element)?).filter(|end| *end <= stored.end)?;
    let mut in_order = 1u64;
    let mut contiguous = true;
    for (size, stride) in sizes.iter().zip(strides).rev() {
        contiguous &= *size == 1 || *stride == in_order;
        in_order = in_order.saturating_mul(*size);
    }
    Some((start..end, (!contiguous).then(|| strides.to_vec())))
}
