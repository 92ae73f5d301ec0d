//! The machine that pickles are read by: it knows the instructions of PyTorch's checkpoints and makes descriptions of
//! what they build. Nothing is ever called: a name of Python stands for a description in [`Global`], and a name that
//! is not in its list ends the reading with an error.

use std::borrow::Cow;
use std::collections::HashMap;

use super::globals::Global;
use super::pickle::{Object, Pickle, Storage, Value};

/// Largest pickle that is read: torch takes about 200 bytes a tensor.
pub(super) const PICKLE_LIMIT: u64 = 64 << 20;
/// Most instructions that are followed, and most values that they copy.
const STEP_LIMIT: usize = 1 << 23;
/// Newest protocol.
const NEWEST: u8 = 5;

/// Why a pickle could not be read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The bytes end before the pickle does.
    CutOff,
    Refused(String),
}

impl From<String> for Fault {
    fn from(problem: String) -> Self {
        Self::Refused(problem)
    }
}

impl From<&str> for Fault {
    fn from(problem: &str) -> Self {
        Self::Refused(problem.to_owned())
    }
}

/// Reads the pickle that `bytes` begin with.
pub(super) fn read(bytes: &[u8]) -> Result<Pickle<'_>, Fault> {
    let mut machine = Machine {
        bytes,
        at: 0,
        steps: 0,
        stack: Vec::new(),
        marks: Vec::new(),
        memo: HashMap::new(),
        made: Pickle::empty(),
    };
    machine.made.root = machine.run()?;
    machine.made.length = machine.at;
    Ok(machine.made)
}

/// A machine at work.
struct Machine<'a> {
    bytes: &'a [u8],
    at: usize,
    steps: usize,
    stack: Vec<Value>,
    /// Heights of the stack that instructions go back to.
    marks: Vec<usize>,
    memo: HashMap<u64, Value>,
    made: Pickle<'a>,
}

impl<'a> Machine<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Fault> {
        let end = self.at.checked_add(count).ok_or(Fault::CutOff)?;
        let found = self.bytes.get(self.at..end).ok_or(Fault::CutOff)?;
        self.at = end;
        Ok(found)
    }

    /// A little-endian number of `N` bytes.
    fn number<const N: usize>(&mut self) -> Result<u64, Fault> {
        let mut number = [0; 8];
        number[..N].copy_from_slice(self.take(N)?);
        Ok(u64::from_le_bytes(number))
    }

    /// `N` bytes of length, and as many bytes as they say.
    fn counted<const N: usize>(&mut self) -> Result<&'a [u8], Fault> {
        let count = self.number::<N>()?;
        self.take(usize::try_from(count).map_err(|_| Fault::CutOff)?)
    }

    /// Up to the end of the line.
    fn line(&mut self) -> Result<&'a str, Fault> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let end = rest.iter().position(|b| *b == b'\n').ok_or(Fault::CutOff)?;
        let line = self.take(end)?;
        self.at += 1;
        text(line)
    }

    /// Counts what is done, so that it ends.
    fn spend(&mut self, steps: usize) -> Result<(), Fault> {
        self.steps = self.steps.saturating_add(steps);
        if self.steps > STEP_LIMIT {
            return Err(format!("the pickle has more than {STEP_LIMIT} instructions, which no checkpoint needs").into());
        }
        Ok(())
    }

    fn pop(&mut self) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("the pickle takes more than it made; it is broken, download it again".into());
        }
        self.stack.pop().ok_or(Fault::CutOff)
    }

    fn top(&self) -> Result<Value, Fault> {
        let floor = self.marks.last().copied().unwrap_or(0);
        let made = self.stack.get(floor..).and_then(<[Value]>::last);
        made.copied().ok_or_else(|| "the pickle uses what it did not make; it is broken, download it again".into())
    }

    /// What lies above the last mark, which goes.
    fn pop_to_mark(&mut self) -> Result<Vec<Value>, Fault> {
        let mark = self.marks.pop().ok_or("the pickle goes back to a mark that it did not set; it is broken")?;
        if mark > self.stack.len() {
            return Err("the pickle's stack is broken".into());
        }
        Ok(self.stack.split_off(mark))
    }

    fn push(&mut self, value: Value) {
        self.stack.push(value);
    }

    fn make(&mut self, object: Object<'a>) {
        let value = self.made.add(object);
        self.push(value);
    }

    fn make_list(&mut self, count: usize) -> Result<(), Fault> {
        let mut values = vec![Value::None; count];
        for value in values.iter_mut().rev() {
            *value = self.pop()?;
        }
        self.make(Object::List(values));
        Ok(())
    }

    fn make_global(&mut self, module: &str, name: &str) -> Result<(), Fault> {
        let global = Global::find(module, name).ok_or_else(|| refused(module, name))?;
        self.make(Object::Global(global));
        Ok(())
    }

    fn remember(&mut self, index: u64) -> Result<(), Fault> {
        let top = self.top()?;
        self.memo.insert(index, top);
        Ok(())
    }

    fn recall(&mut self, index: u64) -> Result<(), Fault> {
        let found = self.memo.get(&index).copied();
        let found =
            found.ok_or_else(|| format!("the pickle recalls {index}, which it did not remember; it is broken"))?;
        self.push(found);
        Ok(())
    }

    /// Adds to the list on top.
    fn extend(&mut self, more: Vec<Value>) -> Result<(), Fault> {
        match self.top()? {
            // A set.
            Value::Inert => Ok(()),
            list => match self.made.object_mut(list) {
                Some(Object::List(values)) => {
                    values.extend(more);
                    Ok(())
                }
                _ => Err(format!("the pickle adds elements to {}", self.made.kind(list)).into()),
            },
        }
    }

    /// Adds keys and values in turn to the dictionary on top.
    fn extend_dict(&mut self, more: &[Value]) -> Result<(), Fault> {
        let (pairs, []) = more.as_chunks::<2>() else { return Err("the pickle has a key without a value".into()) };
        let dict = self.top()?;
        match self.made.object_mut(dict) {
            Some(Object::Dict(dict)) => {
                dict.extend(pairs.iter().map(|[key, value]| (*key, *value)));
                Ok(())
            }
            _ => Err(format!("the pickle adds keys to {}", self.made.kind(dict)).into()),
        }
    }

    /// What the callable on the stack gives for the arguments above it.
    fn reduce(&mut self) -> Result<(), Fault> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let Some(Object::Global(global)) = self.made.object(callable) else {
            return Err(format!("the pickle calls {}; refused", self.made.kind(callable)).into());
        };
        let global = *global;
        let count = self.made.list(arguments).ok_or("the pickle calls something without a list of arguments")?.len();
        self.spend(count)?;
        if let (Global::OrderedDict, Some(items)) = (global, self.made.list(arguments).and_then(|a| a.first())) {
            // As Python 2 wrote it, with a list of pairs.
            let items = self.made.list(*items).ok_or("an OrderedDict of something else than pairs")?;
            let pair = |item: &Value| match self.made.list(*item) {
                Some([key, value]) => Some((*key, *value)),
                _ => None,
            };
            let count = items.len();
            let pairs = items.iter().map(pair).collect::<Option<Vec<_>>>();
            let pairs = pairs.ok_or("an OrderedDict of something else than pairs")?;
            self.spend(count)?;
            self.make(Object::Dict(pairs));
            return Ok(());
        }
        let value = global.call(&mut self.made, arguments).map_err(|problem| format!("{global}: {problem}"))?;
        self.push(value);
        Ok(())
    }

    /// Gives the object on the stack the state above it. What PyTorch's checkpoints have needs none of it: the
    /// metadata of a state_dict.
    fn build(&mut self) -> Result<(), Fault> {
        self.pop()?;
        let object = self.top()?;
        match (object, self.made.object(object)) {
            (Value::Inert, _) | (_, Some(Object::Dict(_))) => Ok(()),
            _ => Err(format!("the pickle sets the state of {}; refused", self.made.kind(object)).into()),
        }
    }

    /// `("storage", class, key, place, elements)`, in old files with a view.
    fn persistent(&mut self) -> Result<(), Fault> {
        let id = self.pop()?;
        let parts = self.made.list(id).unwrap_or_default();
        let unknown = || "the pickle refers to something outside that is no storage";
        let [kind, class, key, _, numel, rest @ ..] = parts else { return Err(unknown().into()) };
        if self.made.text(*kind) != Some("storage") {
            let kind = self.made.text(*kind).unwrap_or("something");
            return Err(format!("{}: a {kind}; save the state_dict of the model instead", unknown()).into());
        }
        let Some(Object::Global(Global::Storage(element))) = self.made.object(*class) else {
            return Err(format!("a storage whose class is {}", self.made.kind(*class)).into());
        };
        if self.made.text(*key).is_none() {
            return Err(format!("a storage whose key is {}", self.made.kind(*key)).into());
        }
        let Value::Int(numel) = *numel else {
            return Err(format!("a storage with {} for its size", self.made.kind(*numel)).into());
        };
        let view = match rest {
            [] | [Value::None] => None,
            [view] => match self.made.list(*view) {
                Some([_, Value::Int(offset), Value::Int(size)]) => Some((*offset, *size)),
                _ => return Err("a view of a storage that is no (key, offset, size)".into()),
            },
            _ => return Err(unknown().into()),
        };
        let storage = Storage { element: *element, key: *key, numel, view };
        self.make(Object::Storage(Box::new(storage)));
        Ok(())
    }

    /// An integer in text, as protocol 1 has it.
    fn text_number(&mut self) -> Result<(), Fault> {
        let line = self.line()?;
        let digits = line.strip_suffix('L').unwrap_or(line);
        match (line, digits.parse::<i128>()) {
            ("00", _) => self.push(Value::Flag(false)),
            ("01", _) => self.push(Value::Flag(true)),
            (_, Ok(number)) => self.push_integer(number),
            (_, Err(_)) if digits.bytes().all(|b| b.is_ascii_digit() || b == b'-') => self.push(Value::Inert),
            _ => return Err(format!("the pickle has {line:?} for a number").into()),
        }
        Ok(())
    }

    fn push_integer(&mut self, number: i128) {
        match i64::try_from(number) {
            Ok(number) => self.push(Value::Int(number)),
            Err(_) => self.make(Object::Long(Box::new(number))),
        }
    }

    /// An integer of any number of bytes, little-endian with its sign.
    fn long(&mut self, bytes: &[u8]) {
        if bytes.len() > 16 {
            return self.push(Value::Inert);
        }
        let negative = bytes.last().is_some_and(|b| b & 0x80 != 0);
        let mut number = [if negative { 0xFF } else { 0 }; 16];
        number[..bytes.len()].copy_from_slice(bytes);
        self.push_integer(i128::from_le_bytes(number));
    }

    /// Follows the instructions up to the last one. Numbers are those of Python's `pickletools`.
    fn run(&mut self) -> Result<Value, Fault> {
        loop {
            self.spend(1)?;
            let [instruction] = *self.take(1)? else { return Err(Fault::CutOff) };
            match instruction {
                b'.' => return self.pop(),
                0x80 => {
                    let protocol = self.number::<1>()?;
                    if protocol > u64::from(NEWEST) {
                        return Err(format!("a pickle of protocol {protocol}; up to {NEWEST} are known").into());
                    }
                }
                // FRAME says how far a reader could read at once.
                0x95 => drop(self.take(8)?),
                b'(' => self.marks.push(self.stack.len()),
                b'0' => match self.marks.last() {
                    Some(mark) if *mark == self.stack.len() => drop(self.marks.pop()),
                    _ => drop(self.pop()?),
                },
                b'1' => drop(self.pop_to_mark()?),
                b'2' => {
                    let top = self.top()?;
                    self.push(top);
                }

                b'N' => self.push(Value::None),
                0x88 => self.push(Value::Flag(true)),
                0x89 => self.push(Value::Flag(false)),
                b'J' => {
                    let number = self.number::<4>()?;
                    self.push(Value::Int(i64::from(number as u32 as i32)));
                }
                b'K' => {
                    let number = self.number::<1>()?;
                    self.push(Value::Int(number as i64));
                }
                b'M' => {
                    let number = self.number::<2>()?;
                    self.push(Value::Int(number as i64));
                }
                0x8A => {
                    let bytes = self.counted::<1>()?;
                    self.long(bytes);
                }
                0x8B => {
                    let bytes = self.counted::<4>()?;
                    self.long(bytes);
                }
                b'I' | b'L' => self.text_number()?,
                b'F' => {
                    self.line()?;
                    self.push(Value::Inert);
                }
                b'G' => {
                    self.take(8)?;
                    self.push(Value::Inert);
                }

                b'X' | b'T' => self.text::<4>()?,
                0x8C | b'U' => self.text::<1>()?,
                0x8D => self.text::<8>()?,
                b'B' => self.inert::<4>()?,
                b'C' => self.inert::<1>()?,
                0x8E | 0x96 => self.inert::<8>()?,
                0x8F => self.push(Value::Inert),

                b')' => self.make_list(0)?,
                0x85 => self.make_list(1)?,
                0x86 => self.make_list(2)?,
                0x87 => self.make_list(3)?,
                b't' | b'l' => {
                    let values = self.pop_to_mark()?;
                    self.make(Object::List(values));
                }
                b']' => self.make(Object::List(Vec::new())),
                b'}' => self.make(Object::Dict(Vec::new())),
                b'd' => {
                    let values = self.pop_to_mark()?;
                    self.make(Object::Dict(Vec::new()));
                    self.extend_dict(&values)?;
                }
                b'a' => {
                    let value = self.pop()?;
                    self.extend(vec![value])?;
                }
                b'e' | 0x90 => {
                    let values = self.pop_to_mark()?;
                    self.extend(values)?;
                }
                b's' => {
                    let (value, key) = (self.pop()?, self.pop()?);
                    self.extend_dict(&[key, value])?;
                }
                b'u' => {
                    let values = self.pop_to_mark()?;
                    self.extend_dict(&values)?;
                }
                0x91 => {
                    self.pop_to_mark()?;
                    self.push(Value::Inert);
                }

                b'q' => {
                    let index = self.number::<1>()?;
                    self.remember(index)?;
                }
                b'r' => {
                    let index = self.number::<4>()?;
                    self.remember(index)?;
                }
                b'p' => {
                    let index = self.line_number()?;
                    self.remember(index)?;
                }
                0x94 => self.remember(self.memo.len() as u64)?,
                b'h' => {
                    let index = self.number::<1>()?;
                    self.recall(index)?;
                }
                b'j' => {
                    let index = self.number::<4>()?;
                    self.recall(index)?;
                }
                b'g' => {
                    let index = self.line_number()?;
                    self.recall(index)?;
                }

                b'c' => {
                    let (module, name) = (self.line()?, self.line()?);
                    self.make_global(module, name)?;
                }
                0x93 => {
                    let (name, module) = (self.pop()?, self.pop()?);
                    let of = |value| self.made.text(value).map(str::to_owned).ok_or("a name that is no text");
                    let (module, name) = (of(module)?, of(name)?);
                    self.make_global(&module, &name)?;
                }
                // NEWOBJ makes an object of a class as a call of it does.
                b'R' | 0x81 => self.reduce()?,
                b'b' => self.build()?,
                b'Q' => self.persistent()?,
                // INST makes an object of a class by its name.
                b'i' => {
                    let (module, name) = (self.line()?, self.line()?);
                    return Err(refused(module, name).into());
                }
                other => {
                    return Err(format!(
                        "the pickle has instruction {other:#04x}, which no checkpoint of PyTorch has; broken, or refused"
                    )
                    .into());
                }
            }
        }
    }

    fn text<const N: usize>(&mut self) -> Result<(), Fault> {
        let text = text(self.counted::<N>()?)?;
        self.make(Object::Text(Cow::Borrowed(text)));
        Ok(())
    }

    fn inert<const N: usize>(&mut self) -> Result<(), Fault> {
        self.counted::<N>()?;
        self.push(Value::Inert);
        Ok(())
    }

    fn line_number(&mut self) -> Result<u64, Fault> {
        let line = self.line()?;
        line.parse().map_err(|_| format!("the pickle has {line:?} for the place of a value").into())
    }
}

fn text(bytes: &[u8]) -> Result<&str, Fault> {
    std::str::from_utf8(bytes).map_err(|_| "the pickle has a text that is not UTF-8".into())
}

/// What is said about a name that is not in the list.
fn refused(module: &str, name: &str) -> String {
    let short = |text: &str| text.chars().take(100).collect::<String>();
    let (module, name) = (short(module), short(name));
    let why = if module.starts_with("torch") || module.starts_with("transformers") {
        "a saved module or training state instead of weights? Save model.state_dict(), best as safetensors"
    } else {
        "a pickle can run any program when Python opens it; get the model as safetensors, or from someone you trust"
    };
    format!("its pickle uses {module}.{name}, which is not what weights are made of, and is refused ({why})")
}
