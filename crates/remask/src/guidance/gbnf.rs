//! llama.cpp's notation of grammars, which vLLM takes too, in Lark's.
//!
//! A rule is `name ::= …`, of literals, classes of characters, other rules and groups of these, each as often as a sign
//! behind it says; the rule `root` is the whole text.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::iter::Peekable;
use std::str::Chars;

/// Whether a text has a rule of this notation.
pub(super) fn is_gbnf(text: &str) -> bool {
    text.lines().any(|line| {
        let name = line.trim_start().trim_start_matches(|c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_');
        name.len() < line.trim_start().len() && name.trim_start().starts_with("::=")
    })
}

/// The grammar in Lark's notation.
pub(super) fn to_lark(text: &str) -> Result<String, String> {
    let signs = signs(text)?;
    let is_rule = |at: usize| matches!(signs.get(at..at + 2), Some([Sign::Name(_), Sign::Is]));
    let mut names = HashMap::new();
    for at in (0..signs.len()).filter(|at| is_rule(*at)) {
        if let Some(Sign::Name(name)) = signs.get(at) {
            let lark = if name == "root" { "start".to_owned() } else { format!("rule_{}", names.len()) };
            if names.insert(name.as_str(), lark).is_some() {
                return Err(format!("rule {name} twice"));
            }
        }
    }
    if !names.contains_key("root") {
        return Err("there is no rule root".to_owned());
    }
    let mut lark = String::new();
    // Whether something stands before that a sign of repetition can belong to.
    let mut repeatable = false;
    let mut open = 0usize;
    for (at, sign) in signs.iter().enumerate() {
        if is_rule(at) && open > 0 {
            return Err("a bracket is not closed".to_owned());
        }
        let before = std::mem::replace(&mut repeatable, false);
        match sign {
            Sign::Name(name) => {
                let known = names.get(name.as_str()).ok_or_else(|| format!("there is no rule {name}"))?;
                let end = if is_rule(at) { "\n" } else { " " };
                let _ = write!(lark, "{end}{known}");
                repeatable = !is_rule(at);
            }
            Sign::Is if at > 0 && is_rule(at - 1) => lark.push(':'),
            Sign::Is => return Err("::= without a name before it".to_owned()),
            _ if at == 0 => return Err("it does not begin with a rule".to_owned()),
            Sign::Terminal(terminal) => {
                let _ = write!(lark, " {terminal}");
                repeatable = true;
            }
            Sign::Or => lark.push_str(" |"),
            Sign::Open => {
                open += 1;
                lark.push_str(" (");
            }
            Sign::Close => {
                open = open.checked_sub(1).ok_or("a bracket is closed that was not opened")?;
                lark.push(')');
                repeatable = true;
            }
            Sign::Times(times) if before => lark.push_str(times),
            Sign::Times(times) => return Err(format!("{times} behind nothing")),
        }
    }
    if open > 0 {
        return Err("a bracket is not closed".to_owned());
    }
    Ok(lark)
}

enum Sign {
    Name(String),
    Is,
    /// A literal or a class of characters, as Lark has it.
    Terminal(String),
    Or,
    Open,
    Close,
    Times(String),
}

fn signs(text: &str) -> Result<Vec<Sign>, String> {
    let mut signs = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        signs.push(match c {
            c if c.is_whitespace() => continue,
            '#' => {
                while chars.next_if(|c| *c != '\n').is_some() {}
                continue;
            }
            '|' => Sign::Or,
            '(' => Sign::Open,
            ')' => Sign::Close,
            '*' | '+' | '?' => Sign::Times(c.to_string()),
            '{' => Sign::Times(times(&mut chars)?),
            '.' => Sign::Terminal("/(?s:.)/".to_owned()),
            '"' => Sign::Terminal(literal(&mut chars)?),
            '[' => Sign::Terminal(class(&mut chars)?),
            ':' if chars.next() == Some(':') && chars.next() == Some('=') => Sign::Is,
            c if is_of_name(c) => {
                let mut name = c.to_string();
                while let Some(c) = chars.next_if(|c| is_of_name(*c)) {
                    name.push(c);
                }
                Sign::Name(name)
            }
            other => return Err(format!("{other:?} where none can be")),
        });
    }
    Ok(signs)
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '-' || c == '_'
}

fn times(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let inside: String = chars.by_ref().take_while(|c| *c != '}').filter(|c| !c.is_whitespace()).collect();
    let count = |count: &str| count.parse::<u32>().map_err(|_| format!("{{{inside}}} is no number of times"));
    match inside.split_once(',') {
        None => count(&inside).map(|n| format!("{{{n}}}")),
        Some((least, "")) => count(least).map(|least| format!("{{{least},}}")),
        Some((least, most)) => {
            Ok(format!("{{{},{}}}", count(if least.is_empty() { "0" } else { least })?, count(most)?))
        }
    }
}

fn literal(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut text = String::new();
    loop {
        match chars.next().ok_or("a literal without its end")? {
            '"' => return Ok(serde_json::Value::from(text).to_string()),
            '\\' => text.push(escaped(chars)?),
            c => text.push(c),
        }
    }
}

/// A class as a regular expression that names every character by its number.
fn class(chars: &mut Peekable<Chars<'_>>) -> Result<String, String> {
    let mut regex = String::from("/[");
    if chars.next_if_eq(&'^').is_some() {
        regex.push('^');
    }
    let one = |c: char, chars: &mut Peekable<Chars<'_>>| if c == '\\' { escaped(chars) } else { Ok(c) };
    let mut any = false;
    loop {
        let first = match chars.next().ok_or("a class of characters without its end")? {
            ']' if any => break,
            ']' => return Err("an empty class of characters".to_owned()),
            c => one(c, chars)?,
        };
        any = true;
        let _ = write!(regex, "\\x{{{:X}}}", u32::from(first));
        let mut ahead = chars.clone();
        if ahead.next() == Some('-') && ahead.next().is_some_and(|c| c != ']') {
            chars.next();
            let c = chars.next().ok_or("a class of characters without its end")?;
            let last = one(c, chars)?;
            if last < first {
                return Err(format!("{first:?} to {last:?} in a class of characters"));
            }
            let _ = write!(regex, "-\\x{{{:X}}}", u32::from(last));
        }
    }
    regex.push_str("]/");
    Ok(regex)
}

fn escaped(chars: &mut Peekable<Chars<'_>>) -> Result<char, String> {
    let kind = chars.next();
    let mut digits = |count: usize| {
        let digits: String = chars.by_ref().take(count).collect();
        let number = u32::from_str_radix(&digits, 16).ok().filter(|_| digits.len() == count);
        number.and_then(char::from_u32).ok_or_else(|| format!("\\ and {digits:?}, which is no character's number"))
    };
    match kind {
        Some('n') => Ok('\n'),
        Some('r') => Ok('\r'),
        Some('t') => Ok('\t'),
        Some('x') => digits(2),
        Some('u') => digits(4),
        Some('U') => digits(8),
        Some(c @ ('\\' | '"' | '[' | ']' | '-' | '^' | '/' | '\'')) => Ok(c),
        other => Err(format!("\\ and {other:?}, which means nothing")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grammars_of_llama_cpp_are_larks() {
        let text = r##"
            # A list of numbers, or a word.
            root  ::= "[" ws number ("," ws number)* "]" | word{2,3} | name-2?
            number ::= "-"? [0-9]+ ("." [0-9]{1,})?
            word ::= [^"\\\x00-\x1F\]-]{,4} "\"\u00e4\n" # to the end
            name-2 ::= . |
                ""
            ws ::= [ \t\n-]*
        "##;
        assert!(is_gbnf(text));
        let lark = to_lark(text).unwrap();
        let lines: Vec<_> = lark.trim().lines().collect();
        assert_eq!(lines[0], r#"start: "[" rule_4 rule_1 ( "," rule_4 rule_1)* "]" | rule_2{2,3} | rule_3?"#);
        assert_eq!(lines[1], r#"rule_1: "-"? /[\x{30}-\x{39}]/+ ( "." /[\x{30}-\x{39}]/{1,})?"#);
        assert_eq!(lines[2], r#"rule_2: /[^\x{22}\x{5C}\x{0}-\x{1F}\x{5D}\x{2D}]/{0,4} "\"ä\n""#);
        assert_eq!(lines[3], r#"rule_3: /(?s:.)/ | """#);
        assert_eq!(lines[4], r#"rule_4: /[\x{20}\x{9}\x{A}\x{2D}]/*"#);
        assert!(!is_gbnf("start: \"::=\"") && !is_gbnf("::= a"));
    }

    #[test]
    fn mistakes_are_said() {
        for (text, words) in [
            ("a ::= \"b\"", "no rule root"),
            ("root ::= b", "no rule b"),
            ("root ::= \"a\"\nroot ::= \"b\"", "twice"),
            ("root ::= (\"a\"", "not closed"),
            ("root ::= (\"a\"\na ::= \"b\")", "not closed"),
            ("root ::= \"a\")", "not opened"),
            ("root ::= * \"a\"", "behind nothing"),
            ("root ::= \"a", "without its end"),
            ("root ::= [a", "without its end"),
            ("root ::= []", "empty class"),
            ("root ::= [z-a]", "'z' to 'a'"),
            ("root ::= \"\\q\"", "means nothing"),
            ("root ::= \"\\u12\"", "no character"),
            ("root ::= \"a\"{x}", "number of times"),
            ("root ::= \"a\" $", "'$'"),
            ("\"a\" root ::= \"b\"", "begin with a rule"),
        ] {
            let problem = to_lark(text).unwrap_err();
            assert!(problem.contains(words), "{text}: {problem}");
        }
    }
}
