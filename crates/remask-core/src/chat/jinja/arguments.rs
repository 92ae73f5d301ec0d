//! Arguments of a call.

use std::sync::Arc;

use super::display;
use super::fault::{Outcome, fail};
use super::meter::Meter;
use super::value::Value;
use crate::chat::marked::MarkedText;

/// The values that a call was given.
#[derive(Debug, Default)]
pub(super) struct Args {
    pub positional: Vec<Value>,
    pub named: Vec<(Arc<str>, Value)>,
}

impl Args {
    /// The values of the parameters that `of` has under these names, in their order.
    ///
    /// # Errors
    /// Where there are more arguments, or others, or one is given twice.
    pub(super) fn bind<const N: usize>(self, of: &str, names: [&str; N]) -> Outcome<[Option<Value>; N]> {
        let given = self.positional.len();
        if given > N {
            return fail(format!("{of} takes {N} arguments at most, not {given}"));
        }
        let mut values = [const { None }; N];
        for (slot, value) in values.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            match names.iter().zip(&mut values).find(|(known, _)| **known == &*name) {
                Some((_, slot @ None)) => *slot = Some(value),
                Some(_) => return fail(format!("{of} is given its argument '{name}' twice")),
                None => return fail(format!("{of} has no argument '{name}'")),
            }
        }
        Ok(values)
    }

    /// The value of the only parameter, which has to be given.
    pub(super) fn only(self, of: &str, name: &str) -> Outcome<Value> {
        let [value] = self.bind(of, [name])?;
        required(value, of, name)
    }

    /// That there are none.
    pub(super) fn none(self, of: &str) -> Outcome<()> {
        self.bind::<0>(of, []).map(|_| ())
    }
}

/// An argument that has to be given.
pub(super) fn required(value: Option<Value>, of: &str, name: &str) -> Outcome<Value> {
    value.map_or_else(|| fail(format!("{of} needs its argument '{name}'")), Ok)
}

/// A whole number, or `default` where there is none.
pub(super) fn int(value: Option<Value>, of: &str, default: i64) -> Outcome<i64> {
    match value {
        None | Some(Value::None) => Ok(default),
        Some(Value::Int(value)) => Ok(value),
        Some(Value::Bool(value)) => Ok(i64::from(value)),
        Some(Value::Undefined(why)) => fail(why.as_ref()),
        Some(other) => fail(format!("{of} takes a whole number, not {}", other.type_name())),
    }
}

/// A length; below zero counts as none.
pub(super) fn count(value: Option<Value>, of: &str, default: usize) -> Outcome<usize> {
    let default = i64::try_from(default).unwrap_or(i64::MAX);
    Ok(usize::try_from(int(value, of, default)?).unwrap_or(0))
}

/// A yes or no.
pub(super) fn flag(value: Option<Value>, default: bool) -> bool {
    value.map_or(default, |value| value.is_true())
}

/// A text; what is none becomes one.
pub(super) fn text(value: Option<Value>, default: &str, meter: &Meter) -> Outcome<Arc<MarkedText>> {
    match value {
        None => Ok(Arc::new(MarkedText::of(default, false))),
        Some(Value::Text(text)) => Ok(text),
        Some(other) => display::text(&other, meter).map(Arc::new),
    }
}

/// A text, and nothing else.
pub(super) fn strict_text(value: Value, of: &str) -> Outcome<Arc<MarkedText>> {
    match value {
        Value::Text(text) => Ok(text),
        Value::Undefined(why) => fail(why.as_ref()),
        other => fail(format!("{of} takes a text, not {}", other.type_name())),
    }
}
