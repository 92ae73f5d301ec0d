//! Operators on values, as Python defines them.

use std::cmp::Ordering;

use super::ast::Operator;
use super::display;
use super::fault::{Outcome, fail};
use super::format::percent;
use super::meter::Meter;
use super::value::{List, Number, Sequence, Value};
use crate::chat::marked::MarkedText;

const TOO_LARGE: &str = "a whole number does not fit 64 bits";

fn whole(value: Option<i64>) -> Outcome<Value> {
    value.map_or_else(|| fail(TOO_LARGE), |value| Ok(Value::Int(value)))
}

fn impossible<T>(what: &str, a: &Value, b: &Value) -> Outcome<T> {
    for value in [a, b] {
        if let Value::Undefined(why) = value {
            return fail(why.as_ref());
        }
    }
    fail(format!("{what} does not take {} and {}", a.type_name(), b.type_name()))
}

pub(super) fn arithmetic(operator: Operator, a: &Value, b: &Value, meter: &Meter) -> Outcome<Value> {
    meter.steps(1)?;
    if let (Some(a), Some(b)) = (a.number(), b.number()) {
        return match (a, b) {
            (Number::Int(a), Number::Int(b)) => on_ints(operator, a, b),
            (a, b) => on_floats(operator, a.float(), b.float()),
        };
    }
    match (operator, a, b) {
        (Operator::Add, Value::Text(a), Value::Text(b)) => {
            meter.text(a.weight().saturating_add(b.weight()))?;
            let mut sum = MarkedText::default();
            sum.append(a);
            sum.append(b);
            Ok(Value::text(sum))
        }
        (Operator::Add, Value::List(a), Value::List(b)) if a.kind == b.kind && is_list_or_tuple(a) => {
            meter.items(a.items.len() + b.items.len())?;
            Value::sequence(a.items.iter().chain(&b.items).cloned().collect(), a.kind, meter)
        }
        (Operator::Multiply, Value::Text(_) | Value::List(_), count) => repeated(a, count, meter),
        (Operator::Multiply, count, Value::Text(_) | Value::List(_)) => repeated(b, count, meter),
        (Operator::Remainder, Value::Text(text), b) => percent(text, b, meter),
        _ => {
            let sign = match operator {
                Operator::Add => "+",
                Operator::Subtract => "-",
                Operator::Multiply => "*",
                Operator::Divide => "/",
                Operator::FloorDivide => "//",
                Operator::Remainder => "%",
                Operator::Power => "**",
            };
            impossible(sign, a, b)
        }
    }
}

fn is_list_or_tuple(list: &List) -> bool {
    matches!(list.kind, Sequence::List | Sequence::Tuple)
}

fn repeated(value: &Value, count: &Value, meter: &Meter) -> Outcome<Value> {
    let count = match count {
        Value::Int(count) => usize::try_from(*count).unwrap_or(0),
        Value::Bool(count) => usize::from(*count),
        other => return impossible("*", value, other),
    };
    match value {
        Value::Text(text) => {
            meter.text(text.weight().saturating_mul(count))?;
            let mut all = MarkedText::default();
            for _ in 0..if text.text.is_empty() { 0 } else { count } {
                meter.steps(1)?;
                all.append(text);
            }
            Ok(Value::text(all))
        }
        Value::List(list) if is_list_or_tuple(list) => {
            let length = list.items.len().saturating_mul(count);
            meter.items(length)?;
            let items = list.items.iter().cycle().take(length).cloned().collect();
            Value::sequence(items, list.kind, meter)
        }
        other => impossible("*", other, &Value::Int(0)),
    }
}

fn on_ints(operator: Operator, a: i64, b: i64) -> Outcome<Value> {
    if b == 0 && matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder) {
        return fail("division by zero");
    }
    match operator {
        Operator::Add => whole(a.checked_add(b)),
        Operator::Subtract => whole(a.checked_sub(b)),
        Operator::Multiply => whole(a.checked_mul(b)),
        Operator::Divide => Ok(Value::Float(a as f64 / b as f64)),
        Operator::FloorDivide => {
            let rounds_up = a.checked_rem(b).is_some_and(|rest| rest != 0 && (rest < 0) != (b < 0));
            whole(a.checked_div(b).and_then(|quotient| quotient.checked_sub(i64::from(rounds_up))))
        }
        Operator::Remainder => {
            let rest = a.checked_rem(b).unwrap_or(0);
            whole(if rest != 0 && (rest < 0) != (b < 0) { rest.checked_add(b) } else { Some(rest) })
        }
        Operator::Power => match u32::try_from(b) {
            Ok(b) => whole(a.checked_pow(b)),
            Err(_) if b < 0 => on_floats(operator, a as f64, b as f64),
            Err(_) => whole(match a {
                0 | 1 => Some(a),
                -1 => Some(if b % 2 == 0 { 1 } else { -1 }),
                _ => None,
            }),
        },
    }
}

fn on_floats(operator: Operator, a: f64, b: f64) -> Outcome<Value> {
    let divides = matches!(operator, Operator::Divide | Operator::FloorDivide | Operator::Remainder);
    if b == 0.0 && divides || a == 0.0 && b < 0.0 && operator == Operator::Power {
        return fail("division by zero");
    }
    let remainder = || {
        let rest = a % b;
        if rest != 0.0 && (rest < 0.0) != (b < 0.0) { rest + b } else { rest }
    };
    Ok(Value::Float(match operator {
        Operator::Add => a + b,
        Operator::Subtract => a - b,
        Operator::Multiply => a * b,
        Operator::Divide => a / b,
        Operator::FloorDivide => ((a - remainder()) / b).round(),
        Operator::Remainder => remainder(),
        Operator::Power => a.powf(b),
    }))
}

/// `-a` or `+a`.
pub(super) fn signed(value: &Value, negative: bool) -> Outcome<Value> {
    match value.number() {
        Some(Number::Int(value)) => whole(if negative { value.checked_neg() } else { Some(value) }),
        Some(Number::Float(value)) => Ok(Value::Float(if negative { -value } else { value })),
        None => impossible(if negative { "-" } else { "+" }, value, value),
    }
}

/// The order of two values; `None` where NaN takes part.
pub(super) fn order(a: &Value, b: &Value, meter: &Meter) -> Outcome<Option<Ordering>> {
    meter.steps(1)?;
    if let (Some(a), Some(b)) = (a.number(), b.number()) {
        return Ok(a.order(b));
    }
    match (a, b) {
        // UTF-8 sorts as the characters' numbers do.
        (Value::Text(a), Value::Text(b)) => {
            meter.steps(a.text.len().min(b.text.len()) / 256)?;
            Ok(Some(a.text.cmp(&b.text)))
        }
        (Value::List(x), Value::List(y)) if x.kind == y.kind && is_list_or_tuple(x) => {
            for (a, b) in x.items.iter().zip(&y.items) {
                if !a.equals(b, meter)? {
                    return order(a, b, meter);
                }
            }
            Ok(Some(x.items.len().cmp(&y.items.len())))
        }
        _ => impossible("a comparison by size", a, b),
    }
}

/// `item in container`
pub(super) fn contains(container: &Value, item: &Value, meter: &Meter) -> Outcome<bool> {
    match (container, item) {
        (Value::Undefined(_), _) => Ok(false),
        (Value::Text(text), Value::Text(part)) => {
            meter.steps(1 + text.text.len() / 64)?;
            Ok(text.text.contains(&part.text))
        }
        (Value::List(list), _) => {
            for found in list.read() {
                if found.equals(item, meter)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        (Value::Dict(dict), _) => Ok(dict.find(item, meter)?.is_some()),
        _ => impossible("'in'", item, container),
    }
}

/// `container[key]`; `None` where there is no such item.
pub(super) fn item(container: &Value, key: &Value, meter: &Meter) -> Outcome<Option<Value>> {
    let place = |length: usize| match key {
        Value::Int(at) if *at < 0 => usize::try_from(at.unsigned_abs()).ok().and_then(|back| length.checked_sub(back)),
        Value::Int(at) => usize::try_from(*at).ok(),
        Value::Bool(at) => Some(usize::from(*at)),
        _ => None,
    };
    match container {
        Value::Undefined(why) => fail(why.as_ref()),
        Value::Dict(dict) => match key {
            Value::Dict(_) => Ok(None),
            Value::List(list) if list.kind == Sequence::List => Ok(None),
            _ => Ok(dict.find(key, meter)?.cloned()),
        },
        Value::List(list) if !matches!(list.kind, Sequence::Generator | Sequence::View) => {
            Ok(place(list.items.len()).and_then(|at| list.items.get(at)).cloned())
        }
        Value::Text(text) => {
            meter.steps(1 + text.text.len() / 64)?;
            let Some(at) = place(text.text.chars().count()) else { return Ok(None) };
            let found = text.text.char_indices().nth(at);
            Ok(found.map(|(start, c)| Value::text(text.slice(start..start + c.len_utf8()))))
        }
        _ => Ok(None),
    }
}

/// `container[start:stop:step]`
pub(super) fn slice(container: &Value, parts: [Option<Value>; 3], meter: &Meter) -> Outcome<Value> {
    let mut numbers = [None; 3];
    for (number, part) in numbers.iter_mut().zip(&parts) {
        *number = match part {
            None | Some(Value::None) => None,
            Some(Value::Int(value)) => Some(*value),
            Some(Value::Bool(value)) => Some(i64::from(*value)),
            Some(Value::Undefined(why)) => return fail(why.as_ref()),
            Some(other) => return fail(format!("a slice takes whole numbers, not {}", other.type_name())),
        };
    }
    match container {
        Value::Undefined(why) => fail(why.as_ref()),
        Value::Text(text) => {
            meter.text(text.text.len())?;
            let places = places(text.text.chars().count(), numbers)?;
            let starts: Vec<usize> = text.text.char_indices().map(|(at, _)| at).chain([text.text.len()]).collect();
            let at = |place: usize| starts.get(place).copied().unwrap_or(text.text.len());
            if let (Some(first), Some(last), 1) = (places.clone().next(), places.clone().last(), places.step) {
                return Ok(Value::text(text.slice(at(first)..at(last + 1))));
            }
            let mut out = MarkedText::default();
            for place in places {
                out.append_slice(text, at(place)..at(place + 1));
            }
            Ok(Value::text(out))
        }
        Value::List(list) if is_list_or_tuple(list) => {
            let places = places(list.items.len(), numbers)?;
            let items = places.filter_map(|at| list.items.get(at)).cloned().collect();
            Value::owned_sequence(items, list.kind, list.user, meter)
        }
        // As Jinja2 does with what has no slices.
        other => Ok(Value::undefined(format!("{} has no slices", other.type_name()))),
    }
}

#[derive(Clone)]
struct Places {
    next: i64,
    stop: i64,
    step: i64,
}

impl Iterator for Places {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let ended = if self.step > 0 { self.next >= self.stop } else { self.next <= self.stop };
        let place = usize::try_from(self.next).ok().filter(|_| !ended)?;
        self.next = self.next.saturating_add(self.step);
        Some(place)
    }
}

/// The places that a slice of something so long takes.
fn places(length: usize, [start, stop, step]: [Option<i64>; 3]) -> Outcome<Places> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let step = step.unwrap_or(1);
    if step == 0 {
        return fail("a slice's step is zero");
    }
    let (low, high) = if step > 0 { (0, length) } else { (-1, length - 1) };
    let bound = |place: i64| if place < 0 { place.saturating_add(length).max(low) } else { place.min(high) };
    let (first, last) = if step > 0 { (low, high) } else { (high, low) };
    Ok(Places { next: start.map_or(first, bound), stop: stop.map_or(last, bound), step })
}

/// What a loop or a filter goes through.
pub(super) fn iterate(value: &Value, meter: &Meter) -> Outcome<Vec<Value>> {
    let items: Vec<Value> = match value {
        Value::Undefined(_) => Vec::new(),
        Value::List(list) => {
            meter.items(list.items.len())?;
            list.read().to_vec()
        }
        Value::Dict(dict) => {
            meter.items(dict.entries.len())?;
            dict.entries.iter().map(|(key, _)| key.clone()).collect()
        }
        Value::Text(text) => {
            let count = text.text.chars().count();
            meter.items(count)?;
            // Each is a text of its own.
            meter.bytes(count.saturating_mul(size_of::<MarkedText>() * 2))?;
            text.chars().map(|(_, c, user)| Value::text(MarkedText::of(c.encode_utf8(&mut [0; 4]), user))).collect()
        }
        other => return fail(format!("{} has no items to go through", other.type_name())),
    };
    Ok(items)
}

/// Texts joined to one.
pub(super) fn join<'a>(
    parts: impl Iterator<Item = &'a Value>,
    separator: &MarkedText,
    meter: &Meter,
) -> Outcome<MarkedText> {
    let mut writer = display::Writer::new(meter);
    for (at, part) in parts.enumerate() {
        if at > 0 {
            meter.grow(writer.out.text.len(), separator.weight())?;
            writer.out.append(separator);
        }
        writer.text(part)?;
    }
    Ok(writer.out)
}
