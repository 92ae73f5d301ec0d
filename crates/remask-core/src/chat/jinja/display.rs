//! Values as text: Python's `str`, `repr` and `json.dumps`.

use super::fault::{Outcome, fail};
use super::lexer::is_space;
use super::meter::Meter;
use super::value::{Dict, List, Sequence, Value};
use crate::chat::marked::MarkedText;

/// How `json.dumps` is asked to write.
pub(super) struct JsonStyle {
    /// What a level is indented by; `None` for one line.
    pub indent: Option<MarkedText>,
    /// Between items, and between key and value.
    pub separators: [MarkedText; 2],
    pub sort_keys: bool,
    pub ascii: bool,
}

/// Writes a value into a text. Brackets are marked where the list itself came from outside.
pub(super) struct Writer<'m> {
    pub out: MarkedText,
    meter: &'m Meter,
    user: bool,
}

impl<'m> Writer<'m> {
    pub(super) fn new(meter: &'m Meter) -> Self {
        Self { out: MarkedText::default(), meter, user: false }
    }

    fn push(&mut self, text: &str) -> Outcome<()> {
        self.meter.grow(self.out.text.len(), text.len())?;
        self.out.push(text, self.user);
        Ok(())
    }

    fn marked(&mut self, text: &MarkedText) -> Outcome<()> {
        self.owned(text.has_user(), |w| w.push(&text.text))
    }

    fn push_char(&mut self, c: char, user: bool) {
        self.out.push_char(c, user || self.user);
    }

    /// Writes what came from outside as such.
    fn owned(&mut self, user: bool, write: impl FnOnce(&mut Self) -> Outcome<()>) -> Outcome<()> {
        let outer = self.user;
        self.user |= user;
        let written = write(self);
        self.user = outer;
        written
    }

    /// As `str` writes it.
    pub(super) fn text(&mut self, value: &Value) -> Outcome<()> {
        match value {
            Value::Undefined(_) => Ok(()),
            Value::Text(text) => {
                self.meter.grow(self.out.text.len(), text.weight())?;
                self.out.append(text);
                Ok(())
            }
            other => self.repr(other),
        }
    }

    /// As `repr` writes it.
    pub(super) fn repr(&mut self, value: &Value) -> Outcome<()> {
        match value {
            Value::Undefined(_) => self.push("Undefined"),
            Value::None => self.push("None"),
            Value::Bool(value) => self.push(if *value { "True" } else { "False" }),
            Value::Int(value) => self.push(&value.to_string()),
            Value::Float(value) => self.push(&float(*value)),
            Value::Text(text) => self.quoted(text),
            Value::List(list) => self.owned(list.user, |w| w.repr_list(list)),
            Value::Dict(dict) => self.owned(dict.user, |w| w.repr_dict(dict)),
            other => self.push(&format!("<{}>", other.type_name())),
        }
    }

    fn repr_list(&mut self, list: &List) -> Outcome<()> {
        let (open, close) = match list.kind {
            Sequence::Generator => return self.push("<generator>"),
            Sequence::Tuple | Sequence::Group => ("(", if list.items.len() == 1 { ",)" } else { ")" }),
            Sequence::View => ("dict_view([", "])"),
            Sequence::List => ("[", "]"),
        };
        self.push(open)?;
        for (at, item) in list.items.iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" })?;
            self.repr(item)?;
        }
        self.push(close)
    }

    fn repr_dict(&mut self, dict: &Dict) -> Outcome<()> {
        self.push("{")?;
        for (at, (key, value)) in dict.entries.iter().enumerate() {
            self.push(if at > 0 { ", " } else { "" })?;
            self.repr(key)?;
            self.push(": ")?;
            self.repr(value)?;
        }
        self.push("}")
    }

    fn quoted(&mut self, text: &MarkedText) -> Outcome<()> {
        let quote = if text.text.contains('\'') && !text.text.contains('"') { "\"" } else { "'" };
        self.meter.grow(self.out.text.len(), text.text.len())?;
        self.push(quote)?;
        for (_, c, user) in text.chars() {
            match c {
                '\\' => self.escape("\\\\", user)?,
                '\n' => self.escape("\\n", user)?,
                '\r' => self.escape("\\r", user)?,
                '\t' => self.escape("\\t", user)?,
                c if quote.starts_with(c) => self.escape(&format!("\\{c}"), user)?,
                c if is_printable(c) => self.push_char(c, user),
                c => {
                    let code = u32::from(c);
                    let escape = match code {
                        0..0x100 => format!("\\x{code:02x}"),
                        0x100..0x1_0000 => format!("\\u{code:04x}"),
                        _ => format!("\\U{code:08x}"),
                    };
                    self.escape(&escape, user)?;
                }
            }
        }
        self.push(quote)
    }

    fn escape(&mut self, escape: &str, user: bool) -> Outcome<()> {
        self.owned(user, |w| w.push(escape))
    }

    /// As `json.dumps` writes it.
    pub(super) fn json(&mut self, value: &Value, style: &JsonStyle, level: usize) -> Outcome<()> {
        match value {
            Value::None => self.push("null"),
            Value::Bool(value) => self.push(if *value { "true" } else { "false" }),
            Value::Int(value) => self.push(&value.to_string()),
            Value::Float(value) => self.push(&json_float(*value)),
            Value::Text(text) => self.json_text(text, style.ascii),
            Value::List(list) if !matches!(list.kind, Sequence::View | Sequence::Generator) => {
                self.owned(list.user, |w| {
                    w.push("[")?;
                    for (at, item) in list.items.iter().enumerate() {
                        w.json_separator(style, level + 1, at)?;
                        w.json(item, style, level + 1)?;
                    }
                    w.json_end(style, level, list.items.is_empty())?;
                    w.push("]")
                })
            }
            Value::Dict(dict) => self.owned(dict.user, |w| w.json_dict(dict, style, level)),
            other => fail(format!("tojson: {} cannot be written as JSON", other.type_name())),
        }
    }

    fn json_dict(&mut self, dict: &Dict, style: &JsonStyle, level: usize) -> Outcome<()> {
        let mut entries: Vec<&(Value, Value)> = dict.entries.iter().collect();
        if style.sort_keys {
            self.meter.steps(entries.len().saturating_mul(entries.len().max(1).ilog2() as usize + 1))?;
            let text = |entry: &(Value, Value)| match &entry.0 {
                Value::Text(text) => text.text.clone(),
                _ => String::new(),
            };
            entries.sort_by_cached_key(|entry| text(entry));
        }
        self.push("{")?;
        for (at, (key, value)) in entries.iter().enumerate() {
            self.json_separator(style, level + 1, at)?;
            match key {
                Value::Text(text) => self.json_text(text, style.ascii)?,
                Value::None | Value::Bool(_) | Value::Int(_) | Value::Float(_) => {
                    self.push("\"")?;
                    self.json(key, style, level)?;
                    self.push("\"")?;
                }
                other => return fail(format!("tojson: {} cannot be a key", other.type_name())),
            }
            let [_, between] = &style.separators;
            self.marked(between)?;
            self.json(value, style, level + 1)?;
        }
        self.json_end(style, level, dict.entries.is_empty())?;
        self.push("}")
    }

    fn json_separator(&mut self, style: &JsonStyle, level: usize, at: usize) -> Outcome<()> {
        let [between, _] = &style.separators;
        if at > 0 {
            self.marked(between)?;
        }
        match &style.indent {
            Some(indent) => self.json_line(indent, level),
            None => Ok(()),
        }
    }

    fn json_end(&mut self, style: &JsonStyle, level: usize, empty: bool) -> Outcome<()> {
        match &style.indent {
            Some(indent) if !empty => self.json_line(indent, level),
            _ => Ok(()),
        }
    }

    fn json_line(&mut self, indent: &MarkedText, level: usize) -> Outcome<()> {
        self.push("\n")?;
        for _ in 0..level {
            self.marked(indent)?;
        }
        Ok(())
    }

    fn json_text(&mut self, text: &MarkedText, ascii: bool) -> Outcome<()> {
        self.meter.grow(self.out.text.len(), text.text.len())?;
        self.push("\"")?;
        for (_, c, user) in text.chars() {
            match c {
                '"' => self.escape("\\\"", user)?,
                '\\' => self.escape("\\\\", user)?,
                '\n' => self.escape("\\n", user)?,
                '\r' => self.escape("\\r", user)?,
                '\t' => self.escape("\\t", user)?,
                '\u{8}' => self.escape("\\b", user)?,
                '\u{C}' => self.escape("\\f", user)?,
                c if c < ' ' || (ascii && !c.is_ascii()) => {
                    for half in c.encode_utf16(&mut [0; 2]) {
                        self.escape(&format!("\\u{half:04x}"), user)?;
                    }
                }
                c => self.push_char(c, user),
            }
        }
        self.push("\"")
    }
}

/// A value as `str` writes it.
pub(super) fn text(value: &Value, meter: &Meter) -> Outcome<MarkedText> {
    let mut writer = Writer::new(meter);
    writer.text(value)?;
    Ok(writer.out)
}

/// What Python prints as it is: all but controls, separators other than the space, and what has no
/// character.
fn is_printable(c: char) -> bool {
    if c == ' ' || c.is_ascii_graphic() {
        return true;
    }
    // Behind a letter the standard library escapes just these.
    !is_space(c) && !c.is_control() && !format!("a{c}").escape_debug().to_string().contains("\\u{")
}

/// A number as `repr` writes it: the shortest digits that mean it.
pub(super) fn float(value: f64) -> String {
    if value.is_nan() {
        return "nan".to_owned();
    }
    if value.is_infinite() {
        return if value > 0.0 { "inf" } else { "-inf" }.to_owned();
    }
    let scientific = format!("{value:e}");
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if (-4..16).contains(&exponent) {
        let digits = value.to_string();
        return if digits.contains('.') { digits } else { format!("{digits}.0") };
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{mantissa}e{sign}{:02}", exponent.abs())
}

fn json_float(value: f64) -> String {
    match value {
        value if value.is_nan() => "NaN".to_owned(),
        value if value.is_infinite() => if value > 0.0 { "Infinity" } else { "-Infinity" }.to_owned(),
        value => float(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_as_python_writes_them() {
        let cases = [
            (1.0, "1.0"),
            (0.1, "0.1"),
            (-0.0, "-0.0"),
            (1e16, "1e+16"),
            (123_456_789_012_345_680.0, "1.2345678901234568e+17"),
            (9_999_999_999_999_998.0, "9999999999999998.0"),
            (0.0001, "0.0001"),
            (0.00001, "1e-05"),
            (1.5e-7, "1.5e-07"),
            (1e100, "1e+100"),
            (f64::NEG_INFINITY, "-inf"),
        ];
        for (value, text) in cases {
            assert_eq!(float(value), text);
        }
    }

    #[test]
    fn texts_as_python_quotes_them() {
        let meter = Meter::for_conversation(1, 0);
        let quoted = |text: &str| {
            let mut writer = Writer::new(&meter);
            writer.repr(&Value::plain(text)).unwrap();
            writer.out.text
        };
        assert_eq!(quoted("a'b"), "\"a'b\"");
        assert_eq!(quoted("a'b\""), "'a\\'b\"'");
        assert_eq!(quoted("ä\n\u{7f}\u{a0}\u{200b}\u{301}\u{e000}\u{fdd0}\u{1F600}\\"), {
            "'ä\\n\\x7f\\xa0\\u200b\u{301}\\ue000\\ufdd0\u{1F600}\\\\'"
        });
    }
}
