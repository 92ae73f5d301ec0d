//! Python's two ways to fill texts in: `'%s' % value` and `'{}'.format(value)`.

use std::str::Chars;

use super::arguments::Args;
use super::display::{self, Writer};
use super::fault::{Outcome, fail};
use super::meter::Meter;
use super::operators;
use super::value::{Number, Sequence, Value};
use crate::chat::marked::MarkedText;

/// How a value is to be written.
#[derive(Debug, Default, Clone)]
struct Spec {
    fill: Option<char>,
    /// `<`, `>`, `^` or `=`.
    align: Option<char>,
    /// `+` or a space: what stands before what is not negative.
    sign: Option<char>,
    alternate: bool,
    width: usize,
    /// What stands between thousands.
    grouping: Option<char>,
    precision: Option<usize>,
    kind: Option<char>,
    /// Whether it came from outside, and so what it fills with.
    user: bool,
}

/// `text % value`
pub(super) fn percent(text: &MarkedText, value: &Value, meter: &Meter) -> Outcome<Value> {
    let items: Vec<Value> = match value {
        Value::List(list) if list.kind == Sequence::Tuple => list.items.clone(),
        other => vec![other.clone()],
    };
    let mut items = items.into_iter();
    let mut out = MarkedText::default();
    let mut rest = 0;
    let mut by_name = matches!(value, Value::Dict(_));
    while let Some(at) = text.text.get(rest..).and_then(|t| t.find('%')).map(|at| rest + at) {
        append(&mut out, text, rest..at, meter)?;
        let after = text.text.get(at + 1..).unwrap_or_default();
        let mut chars = after.chars();
        let mut name = None;
        if let Some(inner) = after.strip_prefix('(') {
            let Some((key, behind)) = inner.split_once(')') else { return fail("a format has no ) after its name") };
            name = Some(key);
            chars = behind.chars();
        }
        let mut spec = Spec::default();
        let mut next = || match items.next() {
            Some(item) => Ok(item),
            None => fail("there are fewer values than the format has places"),
        };
        let Some(kind) = percent_spec(&mut chars, &mut spec, &mut next)? else {
            return fail("a format ends in the middle of a place");
        };
        rest = text.text.len() - chars.as_str().len();
        if kind == '%' {
            append(&mut out, &MarkedText::of("%", false), 0..1, meter)?;
            continue;
        }
        let item = match name {
            Some(key) => {
                by_name = true;
                let found = operators::item(value, &Value::plain(key), meter)?;
                found.map_or_else(|| fail(format!("the values have no '{key}'")), Ok)?
            }
            None => next()?,
        };
        let part = percent_item(kind, &item, &spec, meter)?;
        append(&mut out, &part, 0..part.text.len(), meter)?;
    }
    append(&mut out, text, rest..text.text.len(), meter)?;
    if items.next().is_some() && !by_name {
        return fail("there are more values than the format has places");
    }
    Ok(Value::text(out))
}

/// The flags, width and precision of a place, and the letter that ends it.
fn percent_spec(
    chars: &mut Chars,
    spec: &mut Spec,
    next: &mut impl FnMut() -> Outcome<Value>,
) -> Outcome<Option<char>> {
    let mut precision = false;
    for c in chars.by_ref() {
        match c {
            '0' if spec.width == 0 && !precision => spec.fill = Some('0'),
            '-' => spec.align = Some('<'),
            '+' => spec.sign = Some('+'),
            ' ' => spec.sign = spec.sign.or(Some(' ')),
            '#' => spec.alternate = true,
            '.' => {
                precision = true;
                spec.precision = Some(0);
            }
            '*' => {
                let width = super::arguments::count(Some(next()?), "a format's width", 0)?;
                if precision { spec.precision = Some(width) } else { spec.width = width }
            }
            'l' | 'h' | 'L' => {}
            c => match c.to_digit(10) {
                Some(digit) => {
                    let number = if precision { spec.precision.get_or_insert(0) } else { &mut spec.width };
                    *number = number.saturating_mul(10).saturating_add(digit as usize);
                }
                None => return Ok(Some(c)),
            },
        }
    }
    Ok(None)
}

fn percent_item(kind: char, item: &Value, spec: &Spec, meter: &Meter) -> Outcome<MarkedText> {
    let mut spec = spec.clone();
    let left = spec.align == Some('<');
    if left {
        spec.fill = None;
    }
    spec.align = Some(if left { '<' } else { '>' });
    match kind {
        's' | 'r' | 'a' => {
            spec.fill = None;
            let mut writer = Writer::new(meter);
            if kind == 's' {
                writer.text(item)?
            } else {
                writer.repr(item)?
            }
            padded(clipped(writer.out, spec.precision), &spec, meter)
        }
        'c' => match item {
            Value::Int(code) => {
                let c = u32::try_from(*code).ok().and_then(char::from_u32);
                let Some(c) = c else { return fail("%c takes a character's number") };
                // Any character can be asked for by its number.
                padded(MarkedText::of(c.encode_utf8(&mut [0; 4]), true), &spec, meter)
            }
            other => padded(display::text(other, meter)?, &spec, meter),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'f' | 'F' | 'e' | 'E' | 'g' | 'G' => {
            let Some(number) = item.number() else {
                return fail(format!("%{kind} takes a number, not {}", item.type_name()));
            };
            let kind = if matches!(kind, 'i' | 'u') { 'd' } else { kind };
            let number = match number {
                Number::Float(value) if matches!(kind, 'd' | 'x' | 'X' | 'o') => Number::Int(value as i64),
                other => other,
            };
            if spec.fill == Some('0') {
                spec.align = Some('=');
            }
            spec.kind = Some(kind);
            numeric(number, &spec, meter)
        }
        other => fail(format!("a format has no place of kind '{other}'")),
    }
}

/// `text.format(…)`
pub(super) fn format(text: &MarkedText, args: &Args, meter: &Meter) -> Outcome<Value> {
    let mut out = MarkedText::default();
    let mut automatic = 0;
    format_into(&mut out, text, args, &mut automatic, meter)?;
    Ok(Value::text(out))
}

fn format_into(
    out: &mut MarkedText,
    text: &MarkedText,
    args: &Args,
    automatic: &mut usize,
    meter: &Meter,
) -> Outcome<()> {
    let source = text.text.as_str();
    let mut rest = 0;
    while let Some(at) = source.get(rest..).and_then(|t| t.find(['{', '}'])).map(|at| rest + at) {
        append(out, text, rest..at, meter)?;
        let from = source.get(at..).unwrap_or_default();
        if from.starts_with("{{") || from.starts_with("}}") {
            append(out, text, at..at + 1, meter)?;
            rest = at + 2;
            continue;
        }
        let inner = from.get(1..).unwrap_or_default();
        let end = if from.starts_with('{') { closing(inner) } else { None };
        let Some(end) = end else { return fail("a format has a single brace") };
        rest = at + 1 + end + 1;
        let field = inner.get(..end).unwrap_or_default();
        let (field, spec) = field.split_once(':').unwrap_or((field, ""));
        let (name, conversion) = field.split_once('!').map_or((field, None), |(name, c)| (name, Some(c)));
        let value = field_value(name, args, automatic, meter)?;
        // A width may be a place of its own.
        let mut filled = MarkedText::of(spec, text.has_user());
        if spec.contains('{') {
            if spec.matches('{').count() > 4 {
                return fail("a format nests too deep");
            }
            filled = MarkedText::default();
            format_into(&mut filled, &MarkedText::of(spec, text.has_user()), args, automatic, meter)?;
        }
        let mut spec = parse_spec(&filled.text)?;
        spec.user = filled.has_user();
        let part = format_item(&value, conversion, &spec, meter)?;
        append(out, &part, 0..part.text.len(), meter)?;
    }
    append(out, text, rest..source.len(), meter)
}

/// Where the brace that is open closes.
fn closing(inner: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, c) in inner.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => match depth.checked_sub(1) {
                Some(less) => depth = less,
                None => return Some(at),
            },
            _ => {}
        }
    }
    None
}

fn field_value(name: &str, args: &Args, automatic: &mut usize, meter: &Meter) -> Outcome<Value> {
    let first = name.split(['.', '[']).next().unwrap_or_default();
    let place = if first.is_empty() {
        *automatic += 1;
        Some(*automatic - 1)
    } else {
        first.parse().ok()
    };
    let value = match place {
        Some(place) => args.positional.get(place),
        None => args.named.iter().find(|(known, _)| &**known == first).map(|(_, value)| value),
    };
    let Some(mut value) = value.cloned() else { return fail(format!("format has no value for '{{{name}}}'")) };
    let mut path = name.get(first.len()..).unwrap_or_default();
    while !path.is_empty() {
        let key = if let Some(attribute) = path.strip_prefix('.') {
            let key = attribute.split(['.', '[']).next().unwrap_or_default();
            path = attribute.get(key.len()..).unwrap_or_default();
            Value::plain(key)
        } else {
            let inner = path.strip_prefix('[').and_then(|inner| inner.split_once(']'));
            let Some((key, behind)) = inner else { return fail("a format has no ] after a key") };
            path = behind;
            key.parse().map_or_else(|_| Value::plain(key), Value::Int)
        };
        let found = operators::item(&value, &key, meter)?;
        value = found.map_or_else(|| fail(format!("format finds nothing at '{{{name}}}'")), Ok)?;
    }
    Ok(value)
}

fn parse_spec(text: &str) -> Outcome<Spec> {
    let mut spec = Spec::default();
    let mut chars = text.chars().peekable();
    let mut ahead = text.chars();
    let (first, second) = (ahead.next(), ahead.next());
    let is_align = |c: Option<char>| c.filter(|c| matches!(c, '<' | '>' | '^' | '='));
    if let Some(align) = is_align(second) {
        (spec.fill, spec.align) = (first, Some(align));
        chars.next();
        chars.next();
    } else if let Some(align) = is_align(first) {
        spec.align = Some(align);
        chars.next();
    }
    spec.sign = chars.next_if(|c| matches!(c, '+' | '-' | ' '));
    spec.alternate = chars.next_if_eq(&'#').is_some();
    if chars.next_if_eq(&'0').is_some() && spec.align.is_none() {
        (spec.fill, spec.align) = (Some('0'), Some('='));
    }
    let number = |chars: &mut std::iter::Peekable<Chars>| {
        let mut value: Option<usize> = None;
        while let Some(digit) = chars.peek().and_then(|c| c.to_digit(10)) {
            value = Some(value.unwrap_or(0).saturating_mul(10).saturating_add(digit as usize));
            chars.next();
        }
        value
    };
    spec.width = number(&mut chars).unwrap_or(0);
    spec.grouping = chars.next_if(|c| matches!(c, ',' | '_'));
    if chars.next_if_eq(&'.').is_some() {
        spec.precision = number(&mut chars);
    }
    spec.kind = chars.next();
    if chars.next().is_some() || spec.kind.is_some_and(|kind| !"sdfFeEgGxXob%n".contains(kind)) {
        return fail(format!("'{text}' is no format"));
    }
    Ok(spec)
}

fn format_item(value: &Value, conversion: Option<&str>, spec: &Spec, meter: &Meter) -> Outcome<MarkedText> {
    let mut writer = Writer::new(meter);
    match conversion {
        Some("r" | "a") => writer.repr(value)?,
        Some("s") => writer.text(value)?,
        Some(other) => return fail(format!("'!{other}' is no conversion")),
        None => match value.number() {
            // Python writes a boolean as a number only where it is asked for one.
            Some(number) if !matches!(value, Value::Bool(_)) || spec.kind.is_some_and(|kind| kind != 's') => {
                let mut spec = spec.clone();
                spec.align = spec.align.or(Some('>'));
                return numeric(number, &spec, meter);
            }
            _ => writer.text(value)?,
        },
    }
    if spec.kind.is_some_and(|kind| kind != 's') || spec.align == Some('=') {
        return fail(format!("{} is not written as a number", value.type_name()));
    }
    padded(clipped(writer.out, spec.precision), spec, meter)
}

/// A number with its sign, digits and padding.
fn numeric(number: Number, spec: &Spec, meter: &Meter) -> Outcome<MarkedText> {
    let precision = spec.precision.unwrap_or(6);
    if precision > 1000 {
        return fail("a format asks for more than 1000 digits");
    }
    let kind = spec.kind.unwrap_or(match number {
        Number::Int(_) => 'd',
        // As 'g', but one can see that it is a float.
        Number::Float(_) => 'r',
    });
    let negative = match number {
        Number::Int(value) => value < 0,
        Number::Float(value) => value.is_sign_negative() && !value.is_nan(),
    };
    let (mut prefix, size) = ("", number.float().abs());
    let mut digits = match (kind, number) {
        ('d' | 'n', Number::Int(value)) => value.unsigned_abs().to_string(),
        ('x' | 'X' | 'o' | 'b', Number::Int(value)) => {
            let value = value.unsigned_abs();
            let (named, text) = match kind {
                'x' => ("0x", format!("{value:x}")),
                'X' => ("0X", format!("{value:X}")),
                'o' => ("0o", format!("{value:o}")),
                _ => ("0b", format!("{value:b}")),
            };
            prefix = if spec.alternate { named } else { "" };
            text
        }
        ('d' | 'x' | 'X' | 'o' | 'b', _) => return fail(format!("'{kind}' takes a whole number, not a float")),
        _ if !size.is_finite() => display::float(size),
        ('f' | 'F', _) => format!("{size:.precision$}"),
        ('%', _) => format!("{:.precision$}%", size * 100.0),
        ('e' | 'E', _) => exponent(&format!("{size:.precision$e}")),
        ('r', _) if spec.precision.is_none() => display::float(size),
        ('r', _) => match general(size, precision) {
            digits if digits.contains(['.', 'e']) => digits,
            digits => format!("{digits}.0"),
        },
        _ => general(size, precision),
    };
    if matches!(kind, 'E' | 'G' | 'F') {
        digits = digits.to_uppercase();
    }
    if let Some(between) = spec.grouping {
        digits = grouped(&digits, between);
    }
    let sign = match spec.sign {
        _ if negative => "-",
        Some('+') => "+",
        Some(' ') => " ",
        _ => "",
    };
    if spec.align == Some('=') {
        let lacking = spec.width.saturating_sub(sign.len() + prefix.len() + digits.chars().count());
        meter.text(lacking)?;
        let fill = String::from_iter(std::iter::repeat_n(spec.fill.unwrap_or(' '), lacking));
        return Ok(MarkedText::of(&format!("{sign}{prefix}{fill}{digits}"), spec.user));
    }
    padded(MarkedText::of(&format!("{sign}{prefix}{digits}"), false), spec, meter)
}

/// Rust's exponent as Python writes it: with a sign and two digits.
fn exponent(text: &str) -> String {
    let (mantissa, exponent) = text.split_once('e').unwrap_or((text, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

/// The kind 'g': so many digits that count, without zeros at their end.
fn general(size: f64, precision: usize) -> String {
    let precision = precision.max(1);
    let scientific = format!("{size:.*e}", precision - 1);
    let power: i64 = scientific.split_once('e').and_then(|(_, power)| power.parse().ok()).unwrap_or(0);
    let trimmed = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text.to_owned(),
    };
    match usize::try_from(precision as i64 - 1 - power) {
        Ok(decimals) if power >= -4 => trimmed(&format!("{size:.decimals$}")),
        _ => {
            let (mantissa, power) = scientific.split_once('e').unwrap_or((&scientific, "0"));
            exponent(&format!("{}e{power}", trimmed(mantissa)))
        }
    }
}

fn grouped(digits: &str, between: char) -> String {
    let whole = digits.find(|c: char| !c.is_ascii_hexdigit()).unwrap_or(digits.len());
    let (whole, rest) = digits.split_at(whole);
    let mut out = String::new();
    for (at, c) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at) % 3 == 0 {
            out.push(between);
        }
        out.push(c);
    }
    out + rest
}

fn clipped(text: MarkedText, precision: Option<usize>) -> MarkedText {
    match precision.and_then(|most| text.text.char_indices().nth(most)) {
        Some((end, _)) => text.slice(0..end),
        None => text,
    }
}

fn padded(text: MarkedText, spec: &Spec, meter: &Meter) -> Outcome<MarkedText> {
    let lacking = spec.width.saturating_sub(text.text.chars().count());
    let before = match spec.align {
        Some('>') => lacking,
        Some('^') => lacking / 2,
        _ => 0,
    };
    pad(&text, (spec.fill.unwrap_or(' '), spec.user), [before, lacking - before], meter)
}

/// A text with so many characters before and after it; `fill` says which, and whether from outside.
pub(super) fn pad(
    text: &MarkedText,
    fill: (char, bool),
    [before, after]: [usize; 2],
    meter: &Meter,
) -> Outcome<MarkedText> {
    let lacking = before.saturating_add(after).saturating_mul(fill.0.len_utf8());
    meter.text(text.text.len().saturating_add(lacking))?;
    let mut out = MarkedText::default();
    out.push(&String::from_iter(std::iter::repeat_n(fill.0, before)), fill.1);
    out.append(text);
    out.push(&String::from_iter(std::iter::repeat_n(fill.0, after)), fill.1);
    Ok(out)
}

fn append(out: &mut MarkedText, text: &MarkedText, range: std::ops::Range<usize>, meter: &Meter) -> Outcome<()> {
    meter.grow(out.text.len(), range.len())?;
    out.append_slice(text, range);
    Ok(())
}
