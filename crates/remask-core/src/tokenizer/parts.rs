//! The parts of a tokenizer.json, checked before the tokenizers crate reads them: it parses nested parts more
//! than once a level, and panics at some values.

use serde::de::DeserializeOwned;
use serde_json::Value;

/// Sequences within sequences are read to this depth.
const MOST_NESTED: usize = 8;
/// So many steps are read.
const MOST_STEPS: usize = 256;

/// A part that holds no other.
pub(super) struct Leaf<'a> {
    /// Its `type`.
    pub(super) kind: &'a str,
    pub(super) value: &'a Value,
    what: &'static str,
}

impl Leaf<'_> {
    /// Hands it to the tokenizers crate.
    ///
    /// # Errors
    /// Where its type is not among `known`, it holds what no such part does, or the crate refuses it.
    pub(super) fn read<T: DeserializeOwned>(&self, known: &[&str]) -> Result<T, String> {
        let Self { kind, value, what } = self;
        if !known.contains(kind) {
            return Err(format!("{what} {kind:?} is not known"));
        }
        let simple = |v: &Value| !v.is_array() && !v.is_object();
        for (key, inner) in value.as_object().into_iter().flatten() {
            let pattern = key == "pattern" && inner.as_object().is_some_and(|p| p.len() == 1 && p.values().all(simple));
            if !simple(inner) && !pattern {
                return Err(format!("{what} {kind}: {key} is no plain value"));
            }
        }
        serde_json::from_value((*value).clone()).map_err(|e| format!("{what} {kind}: {e}"))
    }
}

/// The steps of a part, sequences taken apart. `list` is what a sequence calls its steps.
///
/// # Errors
/// Where a step has no type, or they are nested too deep or too many.
pub(super) fn leaves<'a>(value: &'a Value, what: &'static str, list: &str) -> Result<Vec<Leaf<'a>>, String> {
    let mut leaves = Vec::new();
    // The last is taken first.
    let mut waiting = vec![(value, 0)];
    while let Some((value, depth)) = waiting.pop() {
        if value.is_null() {
            continue;
        }
        let kind =
            value.get("type").and_then(Value::as_str).ok_or_else(|| format!("{what} is no object with a type"))?;
        if kind != "Sequence" {
            leaves.push(Leaf { kind, value, what });
        } else if depth == MOST_NESTED {
            return Err(format!("{what}: sequences more than {MOST_NESTED} deep"));
        } else {
            let steps =
                value.get(list).and_then(Value::as_array).ok_or_else(|| format!("{what} Sequence: no {list}"))?;
            waiting.extend(steps.iter().rev().map(|step| (step, depth + 1)));
        }
        if waiting.len() + leaves.len() > MOST_STEPS {
            return Err(format!("{what}: more than {MOST_STEPS} steps"));
        }
    }
    Ok(leaves)
}
