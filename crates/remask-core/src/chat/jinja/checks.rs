//! Tests: what may follow `is`.

use super::arguments::Args;
use super::ast::Operator;
use super::display;
use super::fault::{Outcome, fail};
use super::filters;
use super::operators;
use super::render::Renderer;
use super::value::{Sequence, Value};

/// Names of tests, all of them, for `is test`.
const NAMES: &[&str] = &[
    "!=",
    "<",
    "<=",
    "==",
    ">",
    ">=",
    "boolean",
    "callable",
    "defined",
    "divisibleby",
    "eq",
    "equalto",
    "escaped",
    "even",
    "false",
    "filter",
    "float",
    "ge",
    "greaterthan",
    "gt",
    "in",
    "integer",
    "iterable",
    "le",
    "lessthan",
    "lower",
    "lt",
    "mapping",
    "ne",
    "none",
    "number",
    "odd",
    "sameas",
    "sequence",
    "string",
    "test",
    "true",
    "undefined",
    "upper",
];

impl Renderer<'_> {
    /// Whether `value is name(arguments)`.
    pub(super) fn test(&mut self, name: &str, value: &Value, args: Args) -> Outcome<bool> {
        let meter = self.meter;
        meter.steps(1)?;
        match name {
            "eq" | "equalto" | "==" => return value.equals(&args.only(name, "other")?, meter),
            "ne" | "!=" => return Ok(!value.equals(&args.only(name, "other")?, meter)?),
            "lt" | "lessthan" | "<" | "le" | "<=" | "gt" | "greaterthan" | ">" | "ge" | ">=" => {
                let order = operators::order(value, &args.only(name, "other")?, meter)?;
                return Ok(order.is_some_and(|order| match name {
                    "lt" | "lessthan" | "<" => order.is_lt(),
                    "le" | "<=" => order.is_le(),
                    "gt" | "greaterthan" | ">" => order.is_gt(),
                    _ => order.is_ge(),
                }));
            }
            "in" => return operators::contains(&args.only(name, "seq")?, value, meter),
            "sameas" => return same(value, &args.only(name, "other")?, meter),
            "divisibleby" => {
                let rest = operators::arithmetic(Operator::Remainder, value, &args.only(name, "num")?, meter)?;
                return rest.equals(&Value::Int(0), meter);
            }
            _ => args.none(name)?,
        }
        Ok(match (name, value) {
            ("defined", value) => !matches!(value, Value::Undefined(_)),
            ("undefined", value) => matches!(value, Value::Undefined(_)),
            ("none", value) => matches!(value, Value::None),
            ("true", value) => matches!(value, Value::Bool(true)),
            ("false", value) => matches!(value, Value::Bool(false)),
            ("boolean", value) => matches!(value, Value::Bool(_)),
            ("integer", value) => matches!(value, Value::Int(_)),
            ("float", value) => matches!(value, Value::Float(_)),
            ("number", value) => value.number().is_some(),
            ("string", value) => matches!(value, Value::Text(_)),
            ("mapping", value) => matches!(value, Value::Dict(_)),
            ("iterable", value) => {
                matches!(value, Value::Text(_) | Value::List(_) | Value::Dict(_) | Value::Undefined(_) | Value::Loop(_))
            }
            ("sequence", Value::List(list)) => !matches!(list.kind, Sequence::View | Sequence::Generator),
            ("sequence", value) => matches!(value, Value::Text(_) | Value::Dict(_) | Value::Undefined(_)),
            ("callable", value) => matches!(
                value,
                Value::Function(_) | Value::Macro(_) | Value::Method(_) | Value::Undefined(_) | Value::Loop(_)
            ),
            ("odd" | "even", value) => {
                let rest = operators::arithmetic(Operator::Remainder, value, &Value::Int(2), meter)?;
                rest.equals(&Value::Int(i64::from(name == "odd")), meter)?
            }
            ("lower" | "upper", value) => {
                let text = display::text(value, meter)?;
                meter.steps(text.text.len() / 64)?;
                let cased = text.text.chars().any(|c| c.is_lowercase() || c.is_uppercase());
                let other = |c: char| if name == "lower" { c.is_uppercase() } else { c.is_lowercase() };
                cased && !text.text.chars().any(other)
            }
            // Without automatic escaping nothing is.
            ("escaped", _) => false,
            ("filter", Value::Text(text)) => filters::is_filter(&text.text),
            ("test", Value::Text(text)) => NAMES.contains(&text.text.as_str()),
            ("filter" | "test", _) => false,
            (other, _) => return fail(format!("there is no test '{other}'")),
        })
    }
}

/// Whether two values are one and the same.
fn same(a: &Value, b: &Value, meter: &super::meter::Meter) -> Outcome<bool> {
    Ok(match (a, b) {
        (Value::List(a), Value::List(b)) => std::rc::Rc::ptr_eq(a, b),
        (Value::Dict(a), Value::Dict(b)) => std::rc::Rc::ptr_eq(a, b),
        (a, b) => std::mem::discriminant(a) == std::mem::discriminant(b) && a.equals(b, meter)?,
    })
}
