//! Template text into tokens, with white space around tags as Jinja2 treats it under `trim_blocks` and
//! `lstrip_blocks`, which is how transformers sets it up.

use super::fault::{Fault, Outcome};

/// A token and the line that it starts in, counted from 1.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Token {
    pub line: u32,
    pub kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    /// Text between tags.
    Data(String),
    /// `{{`
    VariableBegin,
    /// `}}`
    VariableEnd,
    /// `{%`
    BlockBegin,
    /// `%}`
    BlockEnd,
    Name(String),
    Text(String),
    Int(i64),
    Float(f64),
    Operator(&'static str),
}

/// Longer ones first: the first that fits is taken.
const OPERATORS: &[&str] = &[
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".",
    ":", "|", ",", ";",
];

/// What Python takes for white space in a text.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1C}'..='\u{1F}').contains(&c)
}

/// The tokens of a template.
pub(super) fn tokens(source: &str) -> Outcome<Vec<Token>> {
    // Jinja2 knows one line end, and takes the last one of a template away.
    let mut source = source.replace("\r\n", "\n").replace('\r', "\n");
    if source.ends_with('\n') {
        source.pop();
    }
    let mut lexer = Lexer { source: &source, at: 0, line: 1, counted: 0, line_starting: true, tokens: Vec::new() };
    while lexer.at < source.len() {
        lexer.data_and_tag()?;
    }
    Ok(lexer.tokens)
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
    line: u32,
    /// Up to where lines are counted.
    counted: usize,
    /// Whether what was read last ended a line.
    line_starting: bool,
    tokens: Vec<Token>,
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn push(&mut self, kind: Kind) {
        self.tokens.push(Token { line: self.line, kind });
    }

    fn broken<T>(&mut self, problem: impl Into<String>) -> Outcome<T> {
        self.advance(0);
        Err(Fault::at(self.line, problem))
    }

    /// Goes on by `bytes`, and counts the lines of what lies behind.
    fn advance(&mut self, bytes: usize) {
        let passed = self.source.get(self.counted..self.at).unwrap_or_default();
        self.line += u32::try_from(passed.matches('\n').count()).unwrap_or(u32::MAX);
        self.counted = self.at;
        self.at += bytes;
    }

    /// Goes over white space, all of it or one line end.
    fn skip_space(&mut self, all: bool) {
        let rest = self.rest();
        let kept = if all { rest.trim_start_matches(is_space) } else { rest.strip_prefix('\n').unwrap_or(rest) };
        let passed = rest.len() - kept.len();
        if passed > 0 {
            self.line_starting = rest.get(..passed).is_some_and(|text| text.ends_with('\n'));
        }
        self.at += passed;
    }

    /// Text up to the next tag, and the tag.
    fn data_and_tag(&mut self) -> Outcome<()> {
        let rest = self.rest();
        let tag = rest.match_indices('{').map(|(at, _)| at).find(|at| {
            let next = rest.as_bytes().get(at + 1);
            matches!(next, Some(b'{' | b'%' | b'#'))
        });
        let Some(tag) = tag else {
            self.advance(0);
            self.push(Kind::Data(rest.to_owned()));
            self.at = self.source.len();
            return Ok(());
        };
        let (data, from) = rest.split_at(tag);
        let sign = from.as_bytes().get(2).filter(|sign| matches!(sign, b'-' | b'+')).copied();
        let variable = from.starts_with("{{");
        self.data(data, sign, !variable);
        self.advance(tag);
        self.advance(2 + usize::from(sign.is_some()));
        self.line_starting = false;
        if from.starts_with("{#") {
            self.comment()
        } else if !variable && self.raw_begins() {
            self.raw()
        } else {
            self.push(if variable { Kind::VariableBegin } else { Kind::BlockBegin });
            self.inside(variable)
        }
    }

    /// Emits the text before a tag, without the white space that the tag takes away.
    fn data(&mut self, data: &str, sign: Option<u8>, block: bool) {
        self.advance(0);
        let mut kept = data;
        if sign == Some(b'-') {
            kept = data.trim_end_matches(is_space);
        } else if sign != Some(b'+') && block {
            let line = data.rfind('\n').map(|at| at + 1);
            let start = line.unwrap_or(0);
            let blank = data.get(start..).is_some_and(|line| line.chars().all(is_space));
            if blank && (line.is_some() || self.line_starting) {
                kept = data.get(..start).unwrap_or_default();
            }
        }
        if !kept.is_empty() {
            self.push(Kind::Data(kept.to_owned()));
        }
    }

    fn comment(&mut self) -> Outcome<()> {
        let Some(end) = self.rest().find("#}") else { return self.broken("a comment has no end: #} is missing") };
        let sign = self.rest().get(..end).and_then(|text| text.chars().last());
        self.advance(end + 2);
        self.close(sign);
        Ok(())
    }

    /// What follows the end of a block or comment, by the sign in it.
    fn close(&mut self, sign: Option<char>) {
        self.line_starting = false;
        match sign {
            Some('-') => self.skip_space(true),
            Some('+') => {}
            _ => self.skip_space(false),
        }
    }

    /// Goes over `raw %}`, if that is what comes.
    fn raw_begins(&mut self) -> bool {
        let Some(rest) = self.rest().trim_start_matches(is_space).strip_prefix("raw") else { return false };
        let rest = rest.trim_start_matches(is_space);
        let (rest, strip) = match (rest.strip_prefix("-%}"), rest.strip_prefix("%}")) {
            (Some(rest), _) => (rest, true),
            (_, Some(rest)) => (rest, false),
            _ => return false,
        };
        self.advance(self.rest().len() - rest.len());
        if strip {
            self.skip_space(true);
        }
        true
    }

    fn raw(&mut self) -> Outcome<()> {
        let rest = self.rest();
        for (at, _) in rest.match_indices("{%") {
            let (data, end) = rest.split_at(at);
            let end = end.get(2..).unwrap_or_default();
            let sign = end.as_bytes().first().filter(|sign| matches!(sign, b'-' | b'+')).copied();
            let end = end.get(usize::from(sign.is_some())..).unwrap_or_default();
            let Some(end) = end.trim_start_matches(is_space).strip_prefix("endraw") else { continue };
            let end = end.trim_start_matches(is_space);
            let close = end.chars().next().filter(|c| matches!(c, '-' | '+'));
            let Some(end) = end.get(usize::from(close.is_some())..).and_then(|end| end.strip_prefix("%}")) else {
                continue;
            };
            self.data(data, sign, true);
            self.advance(rest.len() - end.len());
            self.close(close);
            return Ok(());
        }
        self.broken("a raw block has no end: {% endraw %} is missing")
    }

    /// The tokens of a tag, up to its end.
    fn inside(&mut self, variable: bool) -> Outcome<()> {
        let mut open: Vec<&'static str> = Vec::new();
        loop {
            self.skip_space(true);
            self.advance(0);
            let rest = self.rest();
            if open.is_empty() && self.tag_ends(variable) {
                return Ok(());
            }
            let Some(first) = rest.chars().next() else {
                return self.broken(if variable { "}} is missing" } else { "%} is missing" });
            };
            if first.is_ascii_digit() {
                self.number()?;
            } else if first.is_alphanumeric() || first == '_' {
                let word = |c: char| !(c.is_alphanumeric() || c == '_');
                let name = rest.split(word).next().unwrap_or_default();
                self.push(Kind::Name(name.to_owned()));
                self.advance(name.len());
            } else if first == '"' || first == '\'' {
                self.text(first)?;
            } else if let Some(operator) = OPERATORS.iter().find(|operator| rest.starts_with(**operator)) {
                match *operator {
                    "(" => open.push(")"),
                    "[" => open.push("]"),
                    "{" => open.push("}"),
                    close @ (")" | "]" | "}") if open.pop() != Some(close) => {
                        return self.broken(format!("'{close}' closes nothing"));
                    }
                    _ => {}
                }
                self.push(Kind::Operator(operator));
                self.advance(operator.len());
            } else {
                return self.broken(format!("unexpected character {first:?}"));
            }
        }
    }

    fn tag_ends(&mut self, variable: bool) -> bool {
        let rest = self.rest();
        let close = if variable { "}}" } else { "%}" };
        let sign = rest.chars().next().filter(|c| *c == '-' || (*c == '+' && !variable));
        let length = close.len() + usize::from(sign.is_some());
        if !rest.get(usize::from(sign.is_some())..).is_some_and(|rest| rest.starts_with(close)) {
            return false;
        }
        self.push(if variable { Kind::VariableEnd } else { Kind::BlockEnd });
        self.advance(length);
        if variable {
            self.line_starting = false;
            if sign.is_some() {
                self.skip_space(true);
            }
        } else {
            self.close(sign);
        }
        true
    }

    fn number(&mut self) -> Outcome<()> {
        let rest = self.rest();
        let digits = |text: &str| text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '_').len();
        let after = |at: usize| rest.get(at..).unwrap_or_default();
        let radix = [("0x", 16), ("0X", 16), ("0o", 8), ("0O", 8), ("0b", 2), ("0B", 2)];
        if let Some((_, radix)) = radix.iter().find(|(prefix, _)| rest.starts_with(prefix)) {
            let length = after(2).split(|c: char| !c.is_digit(*radix) && c != '_').next().unwrap_or_default().len();
            let value = i64::from_str_radix(&after(2).get(..length).unwrap_or_default().replace('_', ""), *radix);
            return self.int(value.ok(), 2 + length);
        }
        let mut length = digits(rest);
        let mut float = false;
        let dot = self.at.checked_sub(1).and_then(|at| self.source.as_bytes().get(at)) == Some(&b'.');
        if !dot {
            let fraction = after(length).strip_prefix('.').map_or(0, digits);
            if fraction > 0 {
                length += 1 + fraction;
                float = true;
            }
            if let Some(exponent) = after(length).strip_prefix(['e', 'E']) {
                let sign = usize::from(exponent.starts_with(['+', '-']));
                let power = exponent.get(sign..).map_or(0, digits);
                if power > 0 {
                    length += 1 + sign + power;
                    float = true;
                }
            }
        }
        let text = rest.get(..length).unwrap_or_default().replace('_', "");
        if !float {
            return self.int(text.parse().ok(), length);
        }
        let Ok(value) = text.parse() else { return self.broken(format!("{text} is not a number")) };
        self.push(Kind::Float(value));
        self.advance(length);
        Ok(())
    }

    fn int(&mut self, value: Option<i64>, length: usize) -> Outcome<()> {
        let Some(value) = value else { return self.broken("a whole number does not fit 64 bits") };
        self.push(Kind::Int(value));
        self.advance(length);
        Ok(())
    }

    fn text(&mut self, quote: char) -> Outcome<()> {
        let rest = self.rest();
        let mut escaped = false;
        for (at, c) in rest.char_indices().skip(1) {
            if escaped {
                escaped = false;
            } else if c == '\\' {
                escaped = true;
            } else if c == quote {
                let Some(text) = unescape(rest.get(1..at).unwrap_or_default()) else {
                    return self.broken("a text has an escape sequence that names no character");
                };
                self.push(Kind::Text(text));
                self.advance(at + 1);
                return Ok(());
            }
        }
        self.broken(format!("a text has no end: {quote} is missing"))
    }
}

/// A text as Python's "unicode-escape" codec reads it; `None` where an escape is broken. Halves of a
/// surrogate pair are joined, which Python would refuse to print.
fn unescape(text: &str) -> Option<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let mut chars = from.chars();
        chars.next();
        let escape = chars.next()?;
        rest = chars.as_str();
        let simple = match escape {
            '\n' => None,
            '\\' | '\'' | '"' => Some(escape),
            'a' => Some('\u{7}'),
            'b' => Some('\u{8}'),
            'f' => Some('\u{C}'),
            'n' => Some('\n'),
            'r' => Some('\r'),
            't' => Some('\t'),
            'v' => Some('\u{B}'),
            'x' | 'u' | 'U' => {
                let digits = match escape {
                    'x' => 2,
                    'u' => 4,
                    _ => 8,
                };
                let mut code = hex(&mut rest, digits)?;
                if (0xD800..0xDC00).contains(&code) {
                    rest = rest.strip_prefix("\\u")?;
                    let low = hex(&mut rest, 4)?.checked_sub(0xDC00).filter(|low| *low < 0x400)?;
                    code = 0x10000 + ((code - 0xD800) << 10) + low;
                }
                Some(char::from_u32(code)?)
            }
            '0'..='7' => {
                let from = from.get(1..)?;
                let length = from.bytes().take(3).take_while(|b| (b'0'..=b'7').contains(b)).count();
                rest = from.get(length..)?;
                Some(char::from_u32(u32::from_str_radix(from.get(..length)?, 8).ok()?)?)
            }
            'N' => return None,
            other => {
                out.push('\\');
                Some(other)
            }
        };
        out.extend(simple);
    }
    out.push_str(rest);
    Some(out)
}

fn hex(rest: &mut &str, digits: usize) -> Option<u32> {
    let text = rest.get(..digits).filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()))?;
    *rest = rest.get(digits..)?;
    u32::from_str_radix(text, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(source: &str) -> String {
        let text = |token: Token| match token.kind {
            Kind::Data(text) | Kind::Text(text) => Some(text),
            _ => None,
        };
        tokens(source).unwrap().into_iter().filter_map(text).collect::<Vec<_>>().join("|")
    }

    #[test]
    fn white_space_around_tags() {
        assert_eq!(data("a\n  {% x %}\nb"), "a\n|b");
        assert_eq!(data("a\n  {{ x }}\nb"), "a\n  |\nb");
        assert_eq!(data("a \n {%- x -%} \n b"), "a|b");
        assert_eq!(data("a \n {%+ x +%}\nb"), "a \n |\nb");
        assert_eq!(data("  {# c #}\n  {% x %}  b\r\n"), "  b");
        assert_eq!(data("b\n\n"), "b\n");
        assert_eq!(data("{% raw %}\n {{ x }} {% endraw %}\n y"), "\n {{ x }} | y");
    }

    #[test]
    fn texts_numbers_and_lines() {
        assert_eq!(data(r#"{{ 'a\n\x41\u00e4\101\q\'' ~ "}}" }}"#), "a\nAäA\\q'|}}");
        let kinds: Vec<Kind> = tokens("{{ 1_0 2.5 1e3 0xFF a.1 }}").unwrap().into_iter().map(|t| t.kind).collect();
        let dot = Kind::Operator(".");
        let name = Kind::Name("a".to_owned());
        let numbers = [Kind::Int(10), Kind::Float(2.5), Kind::Float(1000.0), Kind::Int(255), name, dot, Kind::Int(1)];
        assert_eq!(kinds.get(1..8), Some(&numbers[..]));
        let last = tokens("a\n{% x %}\n\n{{\ny }}").unwrap();
        assert_eq!(last.get(last.len() - 2).map(|t| t.line), Some(5));
        for broken in ["{{ 'a }}", "{{ ( }}", "{% x", "{# x", "{% raw %}x", "{{ ) }}", "{{ ` }}", "{{ '\\x4' }}"] {
            assert!(tokens(broken).is_err(), "{broken}");
        }
    }
}
