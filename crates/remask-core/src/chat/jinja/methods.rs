//! Methods of texts, lists and dictionaries: those of Python's that change nothing, as the sandbox of
//! transformers allows.

use std::sync::Arc;

use super::arguments::{Args, count, flag, int, required, strict_text, text};
use super::fault::{Outcome, fail};
use super::format::{format, pad};
use super::meter::Meter;
use super::strings;
use super::value::{Dict, List, Sequence, Value};
use crate::chat::marked::MarkedText;

const OF_TEXTS: &[&str] = &[
    "capitalize",
    "casefold",
    "center",
    "count",
    "endswith",
    "expandtabs",
    "find",
    "format",
    "index",
    "isalnum",
    "isalpha",
    "isascii",
    "isdecimal",
    "isdigit",
    "islower",
    "isnumeric",
    "isspace",
    "istitle",
    "isupper",
    "join",
    "ljust",
    "lower",
    "lstrip",
    "partition",
    "removeprefix",
    "removesuffix",
    "replace",
    "rfind",
    "rindex",
    "rjust",
    "rpartition",
    "rsplit",
    "rstrip",
    "split",
    "splitlines",
    "startswith",
    "strip",
    "swapcase",
    "title",
    "upper",
    "zfill",
];
const OF_LISTS: &[&str] = &["copy", "count", "index"];
const OF_DICTS: &[&str] = &["copy", "get", "items", "keys", "values"];
/// Methods that change what they belong to, which the sandbox forbids.
const CHANGING: &[&str] =
    &["append", "clear", "extend", "insert", "pop", "popitem", "remove", "reverse", "setdefault", "sort", "update"];

/// The method of a value, where it has one of this name.
pub(super) fn method(value: &Value, name: &Arc<str>) -> Option<Value> {
    let known: &[&[&str]] = match value {
        Value::Text(_) => &[OF_TEXTS],
        Value::List(list) if list.kind == Sequence::List => &[OF_LISTS, CHANGING],
        Value::List(list) if matches!(list.kind, Sequence::Tuple | Sequence::Group) => &[&["count", "index"]],
        Value::Dict(_) => &[OF_DICTS, &["clear", "pop", "popitem", "setdefault", "update"]],
        _ => &[],
    };
    let is_known = known.iter().any(|names| names.contains(&&**name));
    is_known.then(|| Value::Method((value.clone(), name.clone()).into()))
}

/// Calls a method that [`method`] found.
pub(super) fn call(value: &Value, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    meter.steps(1)?;
    match value {
        Value::Text(this) => of_text(this, name, args, meter),
        Value::List(list) => of_list(list, name, args, meter),
        Value::Dict(dict) => of_dict(dict, name, args, meter),
        other => fail(format!("{} has no method '{name}'", other.type_name())),
    }
}

fn forbidden<T>(name: &str) -> Outcome<T> {
    fail(format!("'{name}' changes a value, which templates may not; use a namespace, or + to make a new one"))
}

fn of_list(list: &List, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    match name {
        "copy" => {
            args.none(name)?;
            Value::owned_sequence(list.items.clone(), list.kind, list.user, meter)
        }
        "count" => {
            let item = args.only(name, "value")?;
            let mut count = 0;
            for found in &list.items {
                count += i64::from(found.equals(&item, meter)?);
            }
            Ok(Value::Int(count))
        }
        "index" => {
            let item = args.only(name, "value")?;
            for (at, found) in list.items.iter().enumerate() {
                if found.equals(&item, meter)? {
                    return Ok(place(at));
                }
            }
            fail("index: the list does not have it")
        }
        _ => forbidden(name),
    }
}

fn of_dict(dict: &Dict, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    match name {
        "get" => {
            let [key, default] = args.bind(name, ["key", "default"])?;
            let found = dict.find(&required(key, name, "key")?, meter)?.cloned();
            Ok(found.or(default).unwrap_or(Value::None))
        }
        "copy" => {
            args.none(name)?;
            Value::dict(dict.entries.clone(), dict.user, meter)
        }
        "items" => {
            args.none(name)?;
            items(dict, meter)
        }
        "keys" | "values" => {
            args.none(name)?;
            let part = |(key, value): &(Value, Value)| if name == "keys" { key.clone() } else { value.clone() };
            Value::owned_sequence(dict.entries.iter().map(part).collect(), Sequence::View, dict.user, meter)
        }
        _ => forbidden(name),
    }
}

/// The pairs of keys and values.
pub(super) fn items(dict: &Dict, meter: &Meter) -> Outcome<Value> {
    let pair = |(key, value): &(Value, Value)| {
        Value::owned_sequence(vec![key.clone(), value.clone()], Sequence::Tuple, dict.user, meter)
    };
    let pairs = dict.entries.iter().map(pair).collect::<Outcome<_>>()?;
    Value::owned_sequence(pairs, Sequence::View, dict.user, meter)
}

fn place(at: usize) -> Value {
    Value::Int(i64::try_from(at).unwrap_or(i64::MAX))
}

fn of_text(this: &Arc<MarkedText>, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    let made = match name {
        "upper" | "lower" | "casefold" | "title" | "capitalize" | "swapcase" => {
            args.none(name)?;
            match name {
                "upper" => strings::upper(this, meter)?,
                "title" => strings::title(this, meter)?,
                "capitalize" => strings::capitalize(this, meter)?,
                "swapcase" => strings::swapcase(this, meter)?,
                "casefold" => strings::casefold(this, meter)?,
                _ => strings::lower(this, meter)?,
            }
        }
        "strip" | "lstrip" | "rstrip" => {
            let [set] = args.bind(name, ["chars"])?;
            let set = optional_text(set, name)?;
            let ends = [name != "rstrip", name != "lstrip"];
            strings::strip(this, set.as_ref().map(|set| set.text.as_str()), ends, meter)?
        }
        "replace" => {
            let [old, new, most] = args.bind(name, ["old", "new", "count"])?;
            let old = strict_text(required(old, name, "old")?, name)?;
            let new = strict_text(required(new, name, "new")?, name)?;
            let most = usize::try_from(int(most, name, -1)?).ok();
            strings::replace(this, &old, &new, most, meter)?
        }
        "removeprefix" | "removesuffix" => {
            let end = strict_text(args.only(name, "end")?, name)?;
            meter.text(this.text.len())?;
            let kept = if name == "removeprefix" {
                this.text.strip_prefix(&end.text).map(|kept| this.text.len() - kept.len()..this.text.len())
            } else {
                this.text.strip_suffix(&end.text).map(|kept| 0..kept.len())
            };
            this.slice(kept.unwrap_or(0..this.text.len()))
        }
        "center" | "ljust" | "rjust" | "zfill" => return padded(this, name, args, meter),
        "expandtabs" => return expand_tabs(this, args, meter),
        "format" => return format(this, &args, meter),
        "join" => {
            let parts = super::operators::iterate(&args.only(name, "iterable")?, meter)?;
            if let Some(other) = parts.iter().find(|part| !matches!(part, Value::Text(_))) {
                return fail(format!("join takes texts, not {}", other.type_name()));
            }
            super::operators::join(parts.iter(), this, meter)?
        }
        "split" | "rsplit" | "splitlines" | "partition" | "rpartition" => return in_parts(this, name, args, meter),
        "startswith" | "endswith" | "find" | "rfind" | "index" | "rindex" | "count" => {
            return searched(this, name, args, meter);
        }
        _ => {
            args.none(name)?;
            meter.steps(1 + this.text.len() / 64)?;
            return Ok(Value::Bool(is(&this.text, name)));
        }
    };
    Ok(Value::text(made))
}

fn optional_text(value: Option<Value>, of: &str) -> Outcome<Option<Arc<MarkedText>>> {
    match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => strict_text(value, of).map(Some),
    }
}

fn padded(this: &MarkedText, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    let [width, fill] = args.bind(name, ["width", "fillchar"])?;
    let width = count(Some(required(width, name, "width")?), name, 0)?;
    let zero = name == "zfill";
    let fill = text(fill, if zero { "0" } else { " " }, meter)?;
    let mut chars = fill.text.chars();
    let (Some(c), None) = (chars.next(), chars.next()) else {
        return fail(format!("{name} fills with one character, not {}", fill.text.chars().count()));
    };
    let length = this.text.chars().count();
    let lacking = width.saturating_sub(length);
    let fill = (c, fill.has_user());
    if zero && this.text.starts_with(['+', '-']) {
        let digits = pad(&this.slice(1..this.text.len()), fill, [lacking, 0], meter)?;
        let mut out = this.slice(0..1);
        out.append(&digits);
        return Ok(Value::text(out));
    }
    let before = match name {
        "ljust" => 0,
        // Where it does not come out even, Python puts the odd one by the width.
        "center" => lacking / 2 + (lacking & width & 1),
        _ => lacking,
    };
    pad(this, fill, [before, lacking - before], meter).map(Value::text)
}

fn expand_tabs(this: &MarkedText, args: Args, meter: &Meter) -> Outcome<Value> {
    let [size] = args.bind("expandtabs", ["tabsize"])?;
    let size = count(size, "expandtabs", 8)?;
    let mut out = MarkedText::default();
    let mut column = 0_usize;
    for (_, c, user) in this.chars() {
        if c == '\t' {
            let lacking = if size == 0 { 0 } else { size - column % size };
            meter.grow(out.text.len(), lacking)?;
            out.push(&" ".repeat(lacking), user);
            column = column.saturating_add(lacking);
        } else {
            column = if matches!(c, '\n' | '\r') { 0 } else { column + 1 };
            meter.grow(out.text.len(), c.len_utf8())?;
            out.push_char(c, user);
        }
    }
    Ok(Value::text(out))
}

fn in_parts(this: &Arc<MarkedText>, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    if name == "splitlines" {
        let [keep] = args.bind(name, ["keepends"])?;
        return Value::list(strings::lines(this, flag(keep, false), meter)?, meter);
    }
    let from_end = name.starts_with('r');
    if name.ends_with("partition") {
        let separator = strict_text(args.only(name, "sep")?, name)?;
        if separator.text.is_empty() {
            return fail(format!("{name} needs a separator that is not empty"));
        }
        meter.text(this.text.len())?;
        let at = if from_end { this.text.rfind(&separator.text) } else { this.text.find(&separator.text) };
        let (whole, none) = (Value::Text(this.clone()), Value::plain(""));
        let parts = match at {
            Some(at) => {
                let end = at + separator.text.len();
                vec![
                    Value::text(this.slice(0..at)),
                    Value::text(this.slice(at..end)),
                    Value::text(this.slice(end..this.text.len())),
                ]
            }
            None if from_end => vec![none.clone(), none, whole],
            None => vec![whole, none.clone(), none],
        };
        return Value::sequence(parts, Sequence::Tuple, meter);
    }
    let [separator, most] = args.bind(name, ["sep", "maxsplit"])?;
    let most = usize::try_from(int(most, name, -1)?).ok();
    let parts = match optional_text(separator, name)? {
        None => strings::split_words(this, most, from_end, meter)?,
        Some(separator) if separator.text.is_empty() => {
            return fail(format!("{name} needs a separator that is not empty"));
        }
        Some(separator) => strings::split(this, &separator.text, most, from_end, meter)?,
    };
    Value::list(parts, meter)
}

fn searched(this: &MarkedText, name: &str, args: Args, meter: &Meter) -> Outcome<Value> {
    let [part, start, stop] = args.bind(name, ["sub", "start", "end"])?;
    let part = required(part, name, "sub")?;
    let bound = |value: Option<Value>| match value {
        None | Some(Value::None) => Ok(None),
        Some(value) => int(Some(value), name, 0).map(Some),
    };
    let bounds = [bound(start)?, bound(stop)?];
    if name.ends_with("swith") {
        // Several may be tried at once.
        let parts = match &part {
            Value::List(list) if list.kind == Sequence::Tuple => list.items.clone(),
            _ => vec![part],
        };
        let inner = strings::byte_range(&this.text, bounds).and_then(|range| this.text.get(range));
        for part in parts {
            meter.steps(1)?;
            let part = strict_text(part, name)?;
            let fits = |inner: &str| {
                if name == "startswith" { inner.starts_with(&part.text) } else { inner.ends_with(&part.text) }
            };
            if inner.is_some_and(fits) {
                return Ok(Value::Bool(true));
            }
        }
        return Ok(Value::Bool(false));
    }
    let part = strict_text(part, name)?;
    if name == "count" {
        meter.steps(1 + this.text.len() / 32)?;
        let inner = strings::byte_range(&this.text, bounds).and_then(|range| this.text.get(range));
        return Ok(place(inner.map_or(0, |inner| inner.matches(&part.text).count())));
    }
    match strings::find(&this.text, &part.text, bounds, name.starts_with('r'), meter)? {
        Some(at) => Ok(place(at)),
        None if name.ends_with("find") => Ok(Value::Int(-1)),
        None => fail(format!("{name}: the text does not have it")),
    }
}

/// What the methods `is…` say of a text.
fn is(text: &str, name: &str) -> bool {
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    let all = |test: fn(char) -> bool| !text.is_empty() && text.chars().all(test);
    match name {
        "isascii" => text.is_ascii(),
        "isalpha" => all(char::is_alphabetic),
        "isalnum" => all(char::is_alphanumeric),
        "isdigit" | "isdecimal" | "isnumeric" => all(char::is_numeric),
        "isspace" => all(super::lexer::is_space),
        "islower" => text.chars().any(cased) && !text.chars().any(char::is_uppercase),
        "isupper" => text.chars().any(cased) && !text.chars().any(char::is_lowercase),
        // istitle
        _ => {
            let mut inside = false;
            let fits = text.chars().all(|c| {
                let fits = if c.is_uppercase() { !inside } else { inside || !c.is_lowercase() };
                inside = cased(c);
                fits
            });
            fits && text.chars().any(cased)
        }
    }
}
