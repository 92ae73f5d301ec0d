//! Functions, and what loops, cyclers and joiners can do.

use std::sync::Arc;

use super::arguments::{Args, int, required, text};
use super::fault::{Fault, Outcome, fail};
use super::operators;
use super::render::{Renderer, Turn};
use super::value::{Function, Value};
use crate::chat::marked::MarkedText;

/// The longest `range` that Jinja2's sandbox allows.
const MAX_RANGE: i64 = 100_000;

/// The function that every template has under this name.
pub(super) fn global(name: &str) -> Option<Function> {
    Some(match name {
        "range" => Function::Range,
        "dict" => Function::Dict,
        "namespace" => Function::Namespace,
        "cycler" => Function::Cycler,
        "joiner" => Function::Joiner,
        "raise_exception" => Function::RaiseException,
        "strftime_now" => Function::StrftimeNow,
        _ => return None,
    })
}

impl Renderer<'_> {
    pub(super) fn call_function(&mut self, function: Function, args: Args) -> Outcome<Value> {
        match function {
            Function::Range => self.range(args),
            Function::Dict => {
                let entries = self.dict_entries("dict", args)?;
                Value::dict(entries, false, self.meter)
            }
            Function::Namespace => {
                let entries = self.dict_entries("namespace", args)?;
                let at = self.namespaces.len();
                self.meter.bytes(64)?;
                self.namespaces.push(Vec::new());
                for (key, value) in entries {
                    let Value::Text(key) = key else { return fail("a namespace takes texts as names") };
                    self.set_in_namespace(at, &key.text.as_str().into(), value)?;
                }
                Ok(Value::Namespace(at))
            }
            Function::Cycler => {
                if args.positional.is_empty() {
                    return fail("cycler needs items");
                }
                self.turn(args.positional, false)
            }
            Function::Joiner => {
                let [separator] = args.bind("joiner", ["sep"])?;
                self.turn(vec![separator.unwrap_or_else(|| Value::plain(", "))], true)
            }
            Function::RaiseException => {
                let words = text(Some(args.only("raise_exception", "message")?), "", self.meter)?;
                Err(Fault::Refused(words.text.clone()))
            }
            Function::StrftimeNow => {
                let format = text(Some(args.only("strftime_now", "format")?), "", self.meter)?;
                self.meter.text(format.text.len().saturating_mul(16))?;
                let written = super::strftime::strftime(&format.text, (self.now)());
                self.meter.text(written.len())?;
                Ok(Value::text(MarkedText::of(&written, format.has_user())))
            }
        }
    }

    fn range(&mut self, args: Args) -> Outcome<Value> {
        let [first, second, step] = args.bind("range", ["start", "stop", "step"])?;
        let first = int(Some(required(first, "range", "stop")?), "range", 0)?;
        let (start, stop) = match second {
            Some(stop) => (first, int(Some(stop), "range", 0)?),
            None => (0, first),
        };
        let step = int(step, "range", 1)?;
        if step == 0 {
            return fail("range: the step is zero");
        }
        let span = i128::from(stop) - i128::from(start);
        let length = (span * i128::from(step.signum()) + i128::from(step.unsigned_abs()) - 1)
            .max(0)
            .checked_div(i128::from(step.unsigned_abs()))
            .unwrap_or(0);
        if length > i128::from(MAX_RANGE) {
            return fail(format!("range: {length} numbers; the most is {MAX_RANGE}"));
        }
        let length = i64::try_from(length).unwrap_or(0);
        self.meter.items(usize::try_from(length).unwrap_or(0))?;
        let numbers = (0..length).filter_map(|at| at.checked_mul(step)?.checked_add(start)).map(Value::Int).collect();
        Value::list(numbers, self.meter)
    }

    /// The entries of `dict(mapping, **named)`.
    fn dict_entries(&mut self, of: &str, args: Args) -> Outcome<Vec<(Value, Value)>> {
        if args.positional.len() > 1 {
            return fail(format!("{of} takes one mapping, and names"));
        }
        let mut entries = Vec::new();
        match args.positional.first() {
            None => {}
            Some(Value::Dict(dict)) => {
                self.meter.items(dict.entries.len())?;
                entries.extend(dict.entries.iter().cloned());
            }
            Some(pairs) => {
                for pair in operators::iterate(pairs, self.meter)? {
                    match operators::iterate(&pair, self.meter)?.as_slice() {
                        [key, value] => entries.push((key.clone(), value.clone())),
                        _ => return fail(format!("{of} takes a mapping or pairs")),
                    }
                }
            }
        }
        entries.extend(args.named.into_iter().map(|(name, value)| (Value::plain(&name), value)));
        Ok(entries)
    }

    fn turn(&mut self, items: Vec<Value>, joins: bool) -> Outcome<Value> {
        self.meter.items(items.len() + 1)?;
        self.turns.push(Turn { items, at: 0, joins });
        Ok(Value::Turn(self.turns.len() - 1))
    }

    pub(super) fn turn_attribute(&self, value: &Value, at: usize, name: &Arc<str>) -> Option<Value> {
        let turn = self.turns.get(at).filter(|turn| !turn.joins)?;
        match &**name {
            "current" => turn.items.get(turn.at).cloned(),
            "next" | "reset" => Some(Value::Method((value.clone(), name.clone()).into())),
            _ => None,
        }
    }

    pub(super) fn turn_method(&mut self, at: usize, name: &str, args: Args) -> Outcome<Value> {
        args.none(name)?;
        let Some(turn) = self.turns.get_mut(at) else { return Ok(Value::None) };
        if turn.joins {
            turn.at += 1;
            let first = turn.at == 1;
            return Ok(turn.items.first().filter(|_| !first).cloned().unwrap_or_else(|| Value::plain("")));
        }
        match name {
            "next" => {
                let item = turn.items.get(turn.at).cloned();
                turn.at = (turn.at + 1) % turn.items.len().max(1);
                Ok(item.unwrap_or(Value::None))
            }
            "reset" => {
                turn.at = 0;
                Ok(Value::None)
            }
            _ => fail("a cycler cannot be called; call its 'next'"),
        }
    }

    pub(super) fn loop_attribute(&self, serial: u64, name: &Arc<str>) -> Outcome<Option<Value>> {
        let Some(running) = self.loops.iter().rfind(|running| running.serial == serial) else { return Ok(None) };
        let number = |value: usize| Some(Value::Int(i64::try_from(value).unwrap_or(i64::MAX)));
        let (at, length) = (running.at, running.items.len());
        let neighbour = |at: Option<usize>, why: &str| {
            Some(at.and_then(|at| running.items.get(at)).cloned().unwrap_or_else(|| Value::undefined(why)))
        };
        Ok(match &**name {
            "index" => number(at + 1),
            "index0" => number(at),
            "revindex" => number(length - at.min(length)),
            "revindex0" => number((length - at.min(length)).saturating_sub(1)),
            "first" => Some(Value::Bool(at == 0)),
            "last" => Some(Value::Bool(at + 1 == length)),
            "length" => number(length),
            "depth" => number(running.level + 1),
            "depth0" => number(running.level),
            "previtem" => neighbour(at.checked_sub(1), "there is no previous item"),
            "nextitem" => neighbour(Some(at + 1), "there is no next item"),
            "cycle" | "changed" => Some(Value::Method((Value::Loop(serial), name.clone()).into())),
            _ => None,
        })
    }

    pub(super) fn loop_method(&mut self, serial: u64, name: &str, args: Args) -> Outcome<Value> {
        let meter = self.meter;
        let Some(running) = self.loops.iter_mut().rfind(|running| running.serial == serial) else {
            return fail("the loop has ended");
        };
        if name == "cycle" {
            let turn = running.at.checked_rem(args.positional.len());
            let item = turn.and_then(|turn| args.positional.get(turn)).cloned();
            return item.map_or_else(|| fail("cycle needs items"), Ok);
        }
        let same = match &running.changed {
            Some(before) if before.len() == args.positional.len() => {
                let mut same = true;
                for (a, b) in before.iter().zip(&args.positional) {
                    same &= a.equals(b, meter)?;
                }
                same
            }
            _ => false,
        };
        running.changed = Some(args.positional);
        Ok(Value::Bool(!same))
    }
}
