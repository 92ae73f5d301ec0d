//! What a template computes with: Python's values, as far as templates see them.

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value as Json;

use super::ast::Macro;
use super::fault::{Outcome, fail};
use super::meter::Meter;
use crate::chat::marked::MarkedText;

/// Lists and dictionaries may lie this deep in each other.
const MAX_DEPTH: u32 = 128;
/// From so many entries on a dictionary finds its texts by an index.
const INDEXED: usize = 16;

/// A value. Cloning one is cheap, and none can hold itself: what changes lies in the renderer, under a
/// number.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    /// What is not there, and why.
    Undefined(Rc<str>),
    None,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(Arc<MarkedText>),
    List(Rc<List>),
    Dict(Rc<Dict>),
    /// Its place in the renderer.
    Namespace(usize),
    /// The number of a loop that is running, or was.
    Loop(u64),
    /// The place in the renderer of a `cycler` or `joiner`.
    Turn(usize),
    Function(Function),
    Macro(MacroValue),
    /// A value's method.
    Method(Rc<(Value, Arc<str>)>),
}

/// A macro, and the place of the names that it sees.
#[derive(Debug, Clone)]
pub(crate) struct MacroValue {
    pub(super) of: Arc<Macro>,
    pub(super) scope: usize,
}

/// Functions that every template has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Function {
    Range,
    Dict,
    Namespace,
    Cycler,
    Joiner,
    RaiseException,
    StrftimeNow,
}

/// What Python would call a list's type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sequence {
    List,
    Tuple,
    /// The pair that `groupby` makes, a tuple with names.
    Group,
    /// Keys, values or items of a dictionary.
    View,
    /// What `map`, `select` and their kind give: true even when empty, gone once it was read.
    Generator,
}

/// Items in order.
#[derive(Debug)]
pub(crate) struct List {
    pub items: Vec<Value>,
    pub kind: Sequence,
    /// Whether its brackets came from outside with it.
    pub user: bool,
    depth: u32,
    spent: Cell<bool>,
}

/// Entries in the order in which they came.
#[derive(Debug, Default)]
pub(crate) struct Dict {
    pub entries: Vec<(Value, Value)>,
    /// Whether its brackets came from outside with it.
    pub user: bool,
    depth: u32,
    /// Places of the entries whose keys are texts, where there are many.
    index: HashMap<String, usize>,
}

impl List {
    /// What it holds; a generator gives it once.
    pub(super) fn read(&self) -> &[Value] {
        if self.kind == Sequence::Generator && self.spent.replace(true) { &[] } else { &self.items }
    }
}

impl Dict {
    /// The value under a text.
    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        if !self.index.is_empty() {
            return self.index.get(key).and_then(|at| self.entries.get(*at)).map(|(_, value)| value);
        }
        let is_key = |(k, _): &&(Value, Value)| matches!(k, Value::Text(text) if text.text == key);
        self.entries.iter().find(is_key).map(|(_, value)| value)
    }

    /// The value under any key.
    pub(super) fn find(&self, key: &Value, meter: &Meter) -> Outcome<Option<&Value>> {
        if let Value::Text(text) = key {
            meter.steps(if self.index.is_empty() { 1 } else { 2 })?;
            return Ok(self.get(&text.text));
        }
        key.check_key()?;
        for (found, value) in &self.entries {
            if found.equals(key, meter)? {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }
}

impl Value {
    pub(super) fn undefined(why: impl AsRef<str>) -> Self {
        Self::Undefined(why.as_ref().into())
    }

    /// Text of the template's own.
    pub(super) fn plain(text: &str) -> Self {
        Self::Text(Arc::new(MarkedText::of(text, false)))
    }

    pub(crate) fn text(text: MarkedText) -> Self {
        Self::Text(Arc::new(text))
    }

    /// A list of this kind.
    ///
    /// # Errors
    /// Where it is too long or too deep.
    pub(super) fn sequence(items: Vec<Self>, kind: Sequence, meter: &Meter) -> Outcome<Self> {
        Self::owned_sequence(items, kind, false, meter)
    }

    pub(super) fn list(items: Vec<Self>, meter: &Meter) -> Outcome<Self> {
        Self::sequence(items, Sequence::List, meter)
    }

    pub(super) fn owned_sequence(items: Vec<Self>, kind: Sequence, user: bool, meter: &Meter) -> Outcome<Self> {
        meter.items(items.len())?;
        let depth = deeper(items.iter())?;
        Ok(Self::List(Rc::new(List { items, kind, user, depth, spent: Cell::new(false) })))
    }

    /// A dictionary; of entries with equal keys the last value stays, in the first one's place.
    ///
    /// # Errors
    /// Where it is too long or too deep, or a key cannot be one.
    pub(crate) fn dict(entries: Vec<(Self, Self)>, user: bool, meter: &Meter) -> Outcome<Self> {
        meter.items(entries.len().saturating_mul(2))?;
        let depth = deeper(entries.iter().flat_map(|(key, value)| [key, value]))?;
        let mut dict = Dict { entries: Vec::with_capacity(entries.len()), user, depth, index: HashMap::new() };
        let indexed = entries.len() >= INDEXED && entries.iter().all(|(key, _)| matches!(key, Self::Text(_)));
        for (key, value) in entries {
            key.check_key()?;
            let at = match &key {
                Self::Text(text) if indexed => dict.index.get(&text.text).copied(),
                _ => {
                    let mut at = None;
                    for (place, (found, _)) in dict.entries.iter().enumerate() {
                        if found.equals(&key, meter)? {
                            at = Some(place);
                            break;
                        }
                    }
                    at
                }
            };
            match at.and_then(|at| dict.entries.get_mut(at)) {
                Some(entry) => entry.1 = value,
                None => {
                    if let (true, Self::Text(text)) = (indexed, &key) {
                        meter.bytes(text.text.len())?;
                        dict.index.insert(text.text.clone(), dict.entries.len());
                    }
                    dict.entries.push((key, value));
                }
            }
        }
        Ok(Self::Dict(Rc::new(dict)))
    }

    /// A value from outside: its texts are marked, keys too.
    ///
    /// # Errors
    /// Where it is too long or too deep.
    pub(crate) fn from_user(json: &Json, meter: &Meter) -> Outcome<Self> {
        Self::from_json(json, true, 0, meter)
    }

    /// A list from outside.
    ///
    /// # Errors
    /// Where it is too long or too deep.
    pub(crate) fn user_list(items: Vec<Self>, meter: &Meter) -> Outcome<Self> {
        Self::owned_sequence(items, Sequence::List, true, meter)
    }

    /// A text from outside.
    pub(crate) fn user_text(text: &str) -> Self {
        Self::text(MarkedText::of(text, true))
    }

    /// A value of the template's own.
    ///
    /// # Errors
    /// Where it is too long or too deep.
    pub(crate) fn from_template(json: &Json, meter: &Meter) -> Outcome<Self> {
        Self::from_json(json, false, 0, meter)
    }

    fn from_json(json: &Json, user: bool, depth: u32, meter: &Meter) -> Outcome<Self> {
        if depth > MAX_DEPTH {
            return fail(TOO_DEEP);
        }
        Ok(match json {
            Json::Null => Self::None,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match number.as_i64() {
                Some(value) => Self::Int(value),
                None => Self::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            Json::String(text) => {
                meter.bytes(text.len())?;
                Self::text(MarkedText::of(text, user))
            }
            Json::Array(items) => {
                let items = items.iter().map(|item| Self::from_json(item, user, depth + 1, meter));
                Self::owned_sequence(items.collect::<Outcome<_>>()?, Sequence::List, user, meter)?
            }
            Json::Object(entries) => {
                let entry = |(key, value): (&String, &Json)| {
                    Ok((Self::text(MarkedText::of(key, user)), Self::from_json(value, user, depth + 1, meter)?))
                };
                Self::dict(entries.iter().map(entry).collect::<Outcome<_>>()?, user, meter)?
            }
        })
    }

    /// What Python takes for true.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Self::Undefined(_) | Self::None => false,
            Self::Bool(value) => *value,
            Self::Int(value) => *value != 0,
            Self::Float(value) => *value != 0.0,
            Self::Text(text) => !text.text.is_empty(),
            Self::List(list) => list.kind == Sequence::Generator || !list.items.is_empty(),
            Self::Dict(dict) => !dict.entries.is_empty(),
            _ => true,
        }
    }

    /// Its type as Python names it.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Undefined(_) => "undefined value",
            Self::None => "None",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Float(_) => "float",
            Self::Text(_) => "text",
            Self::List(list) => match list.kind {
                Sequence::List => "list",
                Sequence::Tuple | Sequence::Group => "tuple",
                Sequence::View => "dict view",
                Sequence::Generator => "generator",
            },
            Self::Dict(_) => "dict",
            Self::Namespace(_) => "namespace",
            Self::Loop(_) => "loop",
            Self::Turn(_) => "cycler",
            Self::Function(_) | Self::Method(_) => "function",
            Self::Macro(_) => "macro",
        }
    }

    /// That it can be a key: Python wants what does not change.
    fn check_key(&self) -> Outcome<()> {
        match self {
            Self::Dict(_) => {}
            Self::List(list) if list.kind == Sequence::List => {}
            _ => return Ok(()),
        }
        fail(format!("{} cannot be a key", self.type_name()))
    }

    /// Whether it is a number, and as what; Python counts booleans.
    pub(super) fn number(&self) -> Option<Number> {
        match self {
            Self::Bool(value) => Some(Number::Int(i64::from(*value))),
            Self::Int(value) => Some(Number::Int(*value)),
            Self::Float(value) => Some(Number::Float(*value)),
            _ => None,
        }
    }

    /// Python's `==`.
    ///
    /// # Errors
    /// Where it takes too many steps.
    pub(super) fn equals(&self, other: &Self, meter: &Meter) -> Outcome<bool> {
        meter.steps(1)?;
        if let (Some(a), Some(b)) = (self.number(), other.number()) {
            return Ok(a.order(b) == Some(std::cmp::Ordering::Equal));
        }
        Ok(match (self, other) {
            (Self::Undefined(_), Self::Undefined(_)) | (Self::None, Self::None) => true,
            (Self::Text(a), Self::Text(b)) => {
                meter.steps(if a.text.len() == b.text.len() { a.text.len() / 256 } else { 0 })?;
                a.text == b.text
            }
            (Self::List(a), Self::List(b)) => {
                let tuple = |list: &List| matches!(list.kind, Sequence::Tuple | Sequence::Group);
                if tuple(a) != tuple(b) || a.items.len() != b.items.len() {
                    return Ok(false);
                }
                for (a, b) in a.items.iter().zip(&b.items) {
                    if !a.equals(b, meter)? {
                        return Ok(false);
                    }
                }
                true
            }
            (Self::Dict(a), Self::Dict(b)) => {
                if a.entries.len() != b.entries.len() {
                    return Ok(false);
                }
                for (key, value) in &a.entries {
                    match b.find(key, meter)? {
                        Some(other) if value.equals(other, meter)? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            (Self::Namespace(a), Self::Namespace(b)) | (Self::Turn(a), Self::Turn(b)) => a == b,
            (Self::Loop(a), Self::Loop(b)) => a == b,
            (Self::Function(a), Self::Function(b)) => a == b,
            (Self::Macro(a), Self::Macro(b)) => Arc::ptr_eq(&a.of, &b.of) && a.scope == b.scope,
            _ => false,
        })
    }
}

/// A number of either kind.
#[derive(Debug, Clone, Copy)]
pub(super) enum Number {
    Int(i64),
    Float(f64),
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Int(value) => value as f64,
            Self::Float(value) => value,
        }
    }

    /// The order of two numbers, none with NaN.
    pub(super) fn order(self, other: Self) -> Option<std::cmp::Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(&b)),
            (a, b) => a.float().partial_cmp(&b.float()),
        }
    }
}

const TOO_DEEP: &str = "lists lie too deep in each other";

fn deeper<'a>(items: impl Iterator<Item = &'a Value>) -> Outcome<u32> {
    let depth = items.map(|item| match item {
        Value::List(list) => list.depth,
        Value::Dict(dict) => dict.depth,
        Value::Method(method) => match &method.0 {
            Value::List(list) => list.depth,
            Value::Dict(dict) => dict.depth,
            _ => 0,
        },
        _ => 0,
    });
    let depth = depth.max().unwrap_or(0) + 1;
    if depth > MAX_DEPTH { fail(TOO_DEEP) } else { Ok(depth) }
}
