//! Filters of texts and numbers, and the way to all others.

use std::sync::Arc;

use super::arguments::{Args, count, flag, int, required, text};
use super::display::{JsonStyle, Writer};
use super::fault::{Outcome, fail};
use super::format::{pad, percent};
use super::operators;
use super::render::Renderer;
use super::strings;
use super::value::{Number, Sequence, Value};
use crate::chat::marked::MarkedText;

/// Names of filters, all of them, for `is filter`.
const NAMES: &[&str] = &[
    "abs",
    "attr",
    "batch",
    "capitalize",
    "center",
    "count",
    "d",
    "default",
    "dictsort",
    "e",
    "escape",
    "first",
    "float",
    "forceescape",
    "format",
    "from_json",
    "groupby",
    "indent",
    "int",
    "items",
    "join",
    "last",
    "length",
    "list",
    "lower",
    "map",
    "max",
    "min",
    "reject",
    "rejectattr",
    "replace",
    "reverse",
    "round",
    "safe",
    "select",
    "selectattr",
    "slice",
    "sort",
    "string",
    "sum",
    "title",
    "tojson",
    "trim",
    "truncate",
    "unique",
    "upper",
    "urlencode",
    "wordcount",
];

pub(super) fn is_filter(name: &str) -> bool {
    NAMES.contains(&name)
}

impl Renderer<'_> {
    /// `value | name(arguments)`
    pub(super) fn filter(&mut self, name: &str, value: Value, args: Args) -> Outcome<Value> {
        self.meter.steps(1)?;
        match name {
            "default" | "d" => default(value, args),
            "attr" => {
                let name = text(Some(args.only("attr", "name")?), "", self.meter)?;
                let found = self.own_attribute(&value, &name.text.as_str().into())?;
                Ok(found.unwrap_or_else(|| super::evaluate::missing(&value, &name.text)))
            }
            "abs" | "int" | "float" | "round" => number(name, value, args),
            "tojson" => self.tojson(&value, args),
            "from_json" => self.parse_json(value, args),
            "capitalize" | "center" | "e" | "escape" | "forceescape" | "format" | "indent" | "lower" | "replace"
            | "safe" | "string" | "title" | "trim" | "truncate" | "upper" | "urlencode" | "wordcount" => {
                let this = text(Some(value), "", self.meter)?;
                self.text_filter(name, this, args)
            }
            other => self.list_filter(other, value, args),
        }
    }

    fn text_filter(&mut self, name: &str, this: Arc<MarkedText>, args: Args) -> Outcome<Value> {
        let meter = self.meter;
        let made = match name {
            "string" | "safe" => {
                args.none(name)?;
                return Ok(Value::Text(this));
            }
            "upper" | "lower" | "title" | "capitalize" => {
                args.none(name)?;
                match name {
                    "upper" => strings::upper(&this, meter)?,
                    "lower" => strings::lower(&this, meter)?,
                    "title" => strings::title_words(&this, meter)?,
                    _ => strings::capitalize(&this, meter)?,
                }
            }
            "trim" => {
                let [set] = args.bind(name, ["chars"])?;
                let set = set.filter(|set| !matches!(set, Value::None));
                let set = set.map(|set| text(Some(set), "", meter)).transpose()?;
                strings::strip(&this, set.as_ref().map(|set| set.text.as_str()), [true, true], meter)?
            }
            "replace" => {
                let [old, new, most] = args.bind(name, ["old", "new", "count"])?;
                let old = text(Some(required(old, name, "old")?), "", meter)?;
                let new = text(Some(required(new, name, "new")?), "", meter)?;
                let most = usize::try_from(int(most, name, -1)?).ok();
                strings::replace(&this, &old, &new, most, meter)?
            }
            "center" => {
                let [width] = args.bind(name, ["width"])?;
                let width = count(width, name, 80)?;
                let lacking = width.saturating_sub(this.text.chars().count());
                let before = lacking / 2 + (lacking & width & 1);
                pad(&this, (' ', false), [before, lacking - before], meter)?
            }
            "format" => {
                if !args.named.is_empty() && args.positional.is_empty() {
                    let entries = args.named.into_iter().map(|(key, value)| (Value::plain(&key), value)).collect();
                    return percent(&this, &Value::dict(entries, false, meter)?, meter);
                }
                return percent(&this, &Value::sequence(args.positional, Sequence::Tuple, meter)?, meter);
            }
            "wordcount" => {
                args.none(name)?;
                meter.steps(this.text.len() / 32)?;
                let words = this.text.split(|c: char| !(c.is_alphanumeric() || c == '_'));
                return Ok(length(words.filter(|word| !word.is_empty()).count()));
            }
            "indent" => self.indent(&this, args)?,
            "truncate" => self.truncate(&this, args)?,
            "urlencode" => {
                args.none(name)?;
                self.escaped(&this, |c, push| {
                    if c.is_ascii_alphanumeric() || "_.-~/".contains(c) {
                        push(c.encode_utf8(&mut [0; 4]));
                    } else {
                        c.encode_utf8(&mut [0; 4]).bytes().for_each(|byte| push(&format!("%{byte:02X}")));
                    }
                })?
            }
            // e, escape, forceescape
            _ => {
                args.none(name)?;
                self.escaped(&this, |c, push| match c {
                    '&' => push("&amp;"),
                    '<' => push("&lt;"),
                    '>' => push("&gt;"),
                    '"' => push("&#34;"),
                    '\'' => push("&#39;"),
                    c => push(c.encode_utf8(&mut [0; 4])),
                })?
            }
        };
        Ok(Value::text(made))
    }

    fn escaped(&self, this: &MarkedText, escape: impl Fn(char, &mut dyn FnMut(&str))) -> Outcome<MarkedText> {
        let mut out = MarkedText::default();
        for (_, c, user) in this.chars() {
            self.meter.grow(out.text.len(), 12)?;
            escape(c, &mut |text| out.push(text, user));
        }
        Ok(out)
    }

    fn indent(&self, this: &MarkedText, args: Args) -> Outcome<MarkedText> {
        let [width, first, blank] = args.bind("indent", ["width", "first", "blank"])?;
        let indent = match width {
            Some(Value::Text(text)) => text,
            width => {
                let width = count(width, "indent", 4)?;
                self.meter.text(width)?;
                Arc::new(MarkedText::of(&" ".repeat(width), false))
            }
        };
        let (first, blank) = (flag(first, false), flag(blank, false));
        let mut out = MarkedText::default();
        // A line end at the end is not a line of its own in Python's `splitlines`: Jinja2 adds one more.
        let mut whole = MarkedText::default();
        whole.append(this);
        whole.push("\n", false);
        for (at, line) in strings::lines(&whole, false, self.meter)?.into_iter().enumerate() {
            let Value::Text(line) = line else { continue };
            self.meter.grow(out.text.len(), 1 + indent.weight() + line.weight())?;
            if at > 0 {
                out.push("\n", false);
            }
            if if at == 0 { first } else { blank || !line.text.is_empty() } {
                out.append(&indent);
            }
            out.append(&line);
        }
        Ok(out)
    }

    fn truncate(&self, this: &MarkedText, args: Args) -> Outcome<MarkedText> {
        let [most, kill, end, leeway] = args.bind("truncate", ["length", "killwords", "end", "leeway"])?;
        let (most, leeway) = (count(most, "truncate", 255)?, count(leeway, "truncate", 5)?);
        let end = text(end, "...", self.meter)?;
        let kept = most.checked_sub(end.text.chars().count());
        let Some(kept) = kept else { return fail("truncate: the length is less than that of the end") };
        self.meter.text(this.text.len().saturating_add(end.text.len()))?;
        if this.text.chars().count() <= most.saturating_add(leeway) {
            return Ok(this.clone());
        }
        let mut cut = this.text.char_indices().nth(kept).map_or(this.text.len(), |(at, _)| at);
        if !flag(kill, false) {
            cut = this.text.get(..cut).and_then(|text| text.rfind(' ')).unwrap_or(cut);
        }
        let mut out = this.slice(0..cut);
        out.append(&end);
        Ok(out)
    }

    /// `json.dumps` with what transformers lets a template choose.
    fn tojson(&mut self, value: &Value, args: Args) -> Outcome<Value> {
        let meter = self.meter;
        let [ascii, indent, separators, sort_keys] =
            args.bind("tojson", ["ensure_ascii", "indent", "separators", "sort_keys"])?;
        let indent = match indent {
            None | Some(Value::None) => None,
            Some(Value::Text(text)) => Some((*text).clone()),
            Some(width) => {
                let width = count(Some(width), "tojson", 0)?;
                meter.text(width)?;
                Some(MarkedText::of(&" ".repeat(width), false))
            }
        };
        let separators = match separators {
            None | Some(Value::None) => {
                [MarkedText::of(if indent.is_some() { "," } else { ", " }, false), MarkedText::of(": ", false)]
            }
            Some(pair) => match operators::iterate(&pair, meter)?.as_slice() {
                [Value::Text(item), Value::Text(key)] => [(**item).clone(), (**key).clone()],
                _ => return fail("tojson: separators are two texts"),
            },
        };
        let style = JsonStyle { indent, separators, sort_keys: flag(sort_keys, false), ascii: flag(ascii, false) };
        let mut writer = Writer::new(meter);
        writer.json(value, &style, 0)?;
        Ok(Value::text(writer.out))
    }

    /// The value that a text means as JSON. llama.cpp has this filter, transformers does not.
    fn parse_json(&mut self, value: Value, args: Args) -> Outcome<Value> {
        args.none("from_json")?;
        let text = super::arguments::strict_text(value, "from_json")?;
        self.meter.text(text.text.len())?;
        match serde_json::from_str(&text.text) {
            Ok(json) if text.has_user() => Value::from_user(&json, self.meter),
            Ok(json) => Value::from_template(&json, self.meter),
            Err(error) => fail(format!("from_json: not valid JSON: {error}")),
        }
    }
}

/// A length as a value.
pub(super) fn length(length: usize) -> Value {
    Value::Int(i64::try_from(length).unwrap_or(i64::MAX))
}

fn default(value: Value, args: Args) -> Outcome<Value> {
    let [default, boolean] = args.bind("default", ["default_value", "boolean"])?;
    let missing = matches!(value, Value::Undefined(_)) || (flag(boolean, false) && !value.is_true());
    Ok(if missing { default.unwrap_or_else(|| Value::plain("")) } else { value })
}

fn number(name: &str, value: Value, args: Args) -> Outcome<Value> {
    if let Value::Undefined(why) = &value {
        return fail(why.as_ref());
    }
    match name {
        "abs" => {
            args.none(name)?;
            match value.number() {
                Some(Number::Int(value)) => {
                    value.checked_abs().map_or_else(|| fail("abs: does not fit 64 bits"), |value| Ok(Value::Int(value)))
                }
                Some(Number::Float(value)) => Ok(Value::Float(value.abs())),
                None => fail(format!("abs takes a number, not {}", value.type_name())),
            }
        }
        "int" => {
            let [default, base] = args.bind(name, ["default", "base"])?;
            let base = int(base, name, 10)?;
            Ok(to_int(&value, base).map_or_else(|| default.unwrap_or(Value::Int(0)), Value::Int))
        }
        "float" => {
            let [default] = args.bind(name, ["default"])?;
            let number = match &value {
                Value::Text(text) => to_float(&text.text),
                other => other.number().map(Number::float),
            };
            Ok(number.map_or_else(|| default.unwrap_or(Value::Float(0.0)), Value::Float))
        }
        _ => round(value, args),
    }
}

fn to_float(text: &str) -> Option<f64> {
    text.trim_matches(super::lexer::is_space).replace('_', "").parse().ok()
}

fn to_int(value: &Value, base: i64) -> Option<i64> {
    let from_float = |value: f64| (value.is_finite() && value.abs() < 9.2e18).then_some(value as i64);
    match value {
        Value::Text(text) => {
            let digits = text.text.trim_matches(super::lexer::is_space).replace('_', "").to_lowercase();
            let prefix = match base {
                16 => "0x",
                8 => "0o",
                2 => "0b",
                _ => "",
            };
            let (sign, digits) = digits.strip_prefix('-').map_or(("", digits.as_str()), |digits| ("-", digits));
            let digits = digits.strip_prefix(prefix).unwrap_or(digits);
            let base = u32::try_from(base).ok().filter(|base| (2..=36).contains(base))?;
            let whole = i64::from_str_radix(&format!("{sign}{digits}"), base).ok();
            whole.or_else(|| to_float(&text.text).and_then(from_float))
        }
        other => match other.number()? {
            Number::Int(value) => Some(value),
            Number::Float(value) => from_float(value),
        },
    }
}

fn round(value: Value, args: Args) -> Outcome<Value> {
    let [precision, method] = args.bind("round", ["precision", "method"])?;
    let precision = i32::try_from(int(precision, "round", 0)?).unwrap_or(i32::MAX);
    let method = match method {
        Some(Value::Text(text)) => text.text.clone(),
        _ => "common".to_owned(),
    };
    let Some(number) = value.number() else { return fail(format!("round takes a number, not {}", value.type_name())) };
    let scaled = |round: fn(f64) -> f64| {
        let scale = 10_f64.powi(precision);
        Value::Float(round(number.float() * scale) / scale)
    };
    Ok(match (method.as_str(), number) {
        ("common", Number::Int(value)) if precision >= 0 => Value::Int(value),
        // The decimal digits of a float are exact, and Python rounds by them.
        ("common", Number::Float(value)) if (0..=300).contains(&precision) => {
            let digits = usize::try_from(precision).unwrap_or(0);
            Value::Float(format!("{value:.digits$}").parse().unwrap_or(value))
        }
        ("common", _) => scaled(f64::round_ties_even),
        ("ceil", _) => scaled(f64::ceil),
        ("floor", _) => scaled(f64::floor),
        _ => return fail("round: the method is common, ceil or floor"),
    })
}

/// What a list filter goes through, and how long it is.
pub(super) fn counted(value: &Value, meter: &super::meter::Meter) -> Outcome<usize> {
    match value {
        Value::Undefined(_) => Ok(0),
        Value::Text(text) => {
            meter.steps(text.text.len() / 64)?;
            Ok(text.text.chars().count())
        }
        Value::List(list) if list.kind != Sequence::Generator => Ok(list.items.len()),
        Value::Dict(dict) => Ok(dict.entries.len()),
        other => fail(format!("{} has no length", other.type_name())),
    }
}

/// A value as a filter compares it: the case of texts does not matter unless it is asked for.
pub(super) fn comparable(value: &Value, case_sensitive: bool, meter: &super::meter::Meter) -> Outcome<Value> {
    match value {
        Value::Text(text) if !case_sensitive => strings::lower(text, meter).map(Value::text),
        other => Ok(other.clone()),
    }
}
