//! What a pickle describes, once the [`machine`](super::machine) has followed it.
//!
//! Objects lie in one list and refer to each other by number, so that no nesting, sharing or cycle that a pickle
//! makes up costs more than the instructions that make it: memory is at most a small multiple of the pickle.

use std::borrow::Cow;

use super::globals::Global;

/// A value as it lies on the stack.
#[derive(Debug, Clone, Copy)]
pub(super) enum Value {
    None,
    Flag(bool),
    Int(i64),
    /// A number, bytes or a set: what no tensor is made of.
    Inert,
    /// Number of an object.
    Object(u32),
}

/// What values refer to.
#[derive(Debug)]
pub(super) enum Object<'a> {
    Text(Cow<'a, str>),
    /// An integer of up to 128 bits that is none of 64.
    Long(Box<i128>),
    /// A tuple or a list.
    List(Vec<Value>),
    Dict(Vec<(Value, Value)>),
    Global(Global),
    Storage(Box<Storage>),
    Tensor(Box<Tensor>),
}

/// A storage by its key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Storage {
    pub(super) element: super::types::Element,
    /// A text.
    pub(super) key: Value,
    /// Its elements.
    pub(super) numel: i64,
    /// In old files a storage may be part of another: its first element there, and its number of elements.
    pub(super) view: Option<(i64, i64)>,
}

/// A tensor as a pickle describes it; nothing is checked yet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Tensor {
    /// Elements of a storage.
    Strided {
        /// A storage.
        storage: Value,
        /// Elements of the storage before the first one.
        offset: Value,
        /// A list of numbers.
        sizes: Value,
        /// A list of as many numbers, in elements.
        strides: Value,
        /// Type of the elements, where it is not the storage's.
        element: Option<super::types::Element>,
    },
    /// Another kind of tensor, by its name.
    Other(&'static str),
}

/// What a pickle describes.
#[derive(Debug)]
pub(super) struct Pickle<'a> {
    objects: Vec<Object<'a>>,
    pub(super) root: Value,
    /// Its bytes.
    pub(super) length: usize,
}

impl<'a> Pickle<'a> {
    /// What is there before anything was made.
    pub(super) fn empty() -> Self {
        Self { objects: Vec::new(), root: Value::None, length: 0 }
    }

    /// The object that a value refers to.
    pub(super) fn object(&self, value: Value) -> Option<&Object<'a>> {
        match value {
            Value::Object(number) => self.objects.get(number as usize),
            _ => None,
        }
    }

    /// Every storage that is named, whether a tensor uses it or not.
    pub(super) fn storages(&self) -> impl Iterator<Item = &Storage> {
        self.objects.iter().filter_map(|o| if let Object::Storage(storage) = o { Some(&**storage) } else { None })
    }

    pub(super) fn text(&self, value: Value) -> Option<&str> {
        match self.object(value) {
            Some(Object::Text(text)) => Some(text),
            _ => None,
        }
    }

    pub(super) fn list(&self, value: Value) -> Option<&[Value]> {
        match self.object(value) {
            Some(Object::List(values)) => Some(values),
            _ => None,
        }
    }

    pub(super) fn dict(&self, value: Value) -> Option<&[(Value, Value)]> {
        match self.object(value) {
            Some(Object::Dict(pairs)) => Some(pairs),
            _ => None,
        }
    }

    pub(super) fn tensor(&self, value: Value) -> Option<&Tensor> {
        match self.object(value) {
            Some(Object::Tensor(tensor)) => Some(tensor),
            _ => None,
        }
    }

    /// The value that a dictionary has for a text.
    pub(super) fn get(&self, dict: Value, key: &str) -> Option<Value> {
        // The last one counts, as in Python.
        self.dict(dict)?.iter().rev().find(|(k, _)| self.text(*k) == Some(key)).map(|(_, v)| *v)
    }

    /// What a value is, in a word.
    pub(super) fn kind(&self, value: Value) -> &'static str {
        match value {
            Value::None => "None",
            Value::Flag(_) => "true or false",
            Value::Int(_) => "a number",
            Value::Inert => "a number, bytes or a set",
            Value::Object(_) => match self.object(value) {
                Some(Object::Text(_)) => "a text",
                Some(Object::Long(_)) => "a large number",
                Some(Object::List(_)) => "a list",
                Some(Object::Dict(_)) => "a dictionary",
                Some(Object::Global(_)) => "a name",
                Some(Object::Storage(_)) => "a storage",
                Some(Object::Tensor(_)) => "a tensor",
                None => "nothing",
            },
        }
    }

    /// The object that a value refers to, to be changed.
    pub(super) fn object_mut(&mut self, value: Value) -> Option<&mut Object<'a>> {
        match value {
            Value::Object(number) => self.objects.get_mut(number as usize),
            _ => None,
        }
    }

    /// Takes an object in and gives its value.
    pub(super) fn add(&mut self, object: Object<'a>) -> Value {
        // There are at most as many objects as steps, so that their number fits.
        self.objects.push(object);
        Value::Object((self.objects.len() - 1) as u32)
    }
}
