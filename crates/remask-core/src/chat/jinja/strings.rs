//! What Python does with texts, on marked ones: whatever comes out has the marks of what went in.

use super::fault::Outcome;
use super::lexer::is_space;
use super::meter::Meter;
use super::value::Value;
use crate::chat::marked::MarkedText;

/// A text with each character replaced by what `change` says of it and of whether it starts a word.
fn changed(
    text: &MarkedText,
    meter: &Meter,
    mut change: impl FnMut(char, usize, &mut dyn FnMut(char)),
) -> Outcome<MarkedText> {
    // One character becomes three at most.
    meter.text(text.text.len().saturating_mul(2))?;
    let mut out = MarkedText::default();
    for (at, c, user) in text.chars() {
        change(c, at, &mut |c| out.push_char(c, user));
    }
    Ok(out)
}

pub(super) fn upper(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    changed(text, meter, |c, _, push| c.to_uppercase().for_each(push))
}

pub(super) fn lower(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    changed(text, meter, |c, at, push| lower_char(&text.text, c, at, push))
}

/// A sigma that ends a word has a form of its own.
fn lower_char(text: &str, c: char, at: usize, push: &mut dyn FnMut(char)) {
    let cased = |c: char| c.is_lowercase() || c.is_uppercase();
    if c == 'Σ' {
        let before = text.get(..at).unwrap_or_default().chars().next_back().is_some_and(cased);
        let after = text.get(at + c.len_utf8()..).unwrap_or_default().chars().next().is_some_and(cased);
        push(if before && !after { 'ς' } else { 'σ' });
    } else {
        c.to_lowercase().for_each(push);
    }
}

fn title_char(c: char, push: &mut dyn FnMut(char)) {
    // Letters for two sounds have a form of which only the first half is big.
    if let Some(titled) = ["Ǆǅǆ", "Ǉǈǉ", "Ǌǋǌ", "Ǳǲǳ"].iter().find(|forms| forms.contains(c)) {
        return titled.chars().skip(1).take(1).for_each(push);
    }
    let mut capitals = c.to_uppercase();
    capitals.next().into_iter().for_each(&mut *push);
    // "ß" begins a word as "Ss".
    capitals.flat_map(char::to_lowercase).for_each(push);
}

/// Python's `capitalize`: the first character big, all others small.
pub(super) fn capitalize(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    changed(text, meter, |c, at, push| if at == 0 { title_char(c, push) } else { lower_char(&text.text, c, at, push) })
}

/// Python's `title`: a letter behind anything but a letter is big, all others small.
pub(super) fn title(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    let mut inside = false;
    changed(text, meter, |c, at, push| {
        if inside {
            lower_char(&text.text, c, at, push)
        } else {
            title_char(c, push)
        }
        inside = c.is_lowercase() || c.is_uppercase();
    })
}

/// Jinja2's filter `title`: words begin behind white space and opening brackets only.
pub(super) fn title_words(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    let mut inside = false;
    let mut start = 0;
    changed(text, meter, |c, at, push| {
        let between = is_space(c) || matches!(c, '-' | '(' | '{' | '[' | '<');
        if inside || between {
            // What is behind a word's first letter is a text of its own.
            let rest = text.text.get(start..).unwrap_or_default();
            lower_char(rest, c, at - start, push);
        } else {
            c.to_uppercase().for_each(push);
            start = at + c.len_utf8();
        }
        inside = !between;
    })
}

/// A text as texts are compared without regard to case.
pub(super) fn casefold(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    changed(text, meter, |c, _, push| match c {
        'ı' => push(c),
        c => c.to_uppercase().flat_map(char::to_lowercase).for_each(push),
    })
}

pub(super) fn swapcase(text: &MarkedText, meter: &Meter) -> Outcome<MarkedText> {
    changed(text, meter, |c, at, push| match c {
        c if c.is_uppercase() => lower_char(&text.text, c, at, push),
        c => c.to_uppercase().for_each(push),
    })
}

/// A text without characters of `set` at its ends; white space where there is no set.
pub(super) fn strip(text: &MarkedText, set: Option<&str>, ends: [bool; 2], meter: &Meter) -> Outcome<MarkedText> {
    let strips = |c: char| set.map_or_else(|| is_space(c), |set| set.contains(c));
    let mut kept = text.text.as_str();
    if ends == [true, true] || ends == [false, true] {
        kept = kept.trim_end_matches(strips);
    }
    let end = kept.len();
    if ends == [true, true] || ends == [true, false] {
        kept = kept.trim_start_matches(strips);
    }
    meter.text(kept.len())?;
    meter.steps(text.text.len().saturating_mul(1 + set.map_or(0, str::len)) / 64)?;
    Ok(text.slice(end - kept.len()..end))
}

/// A text with up to `count` places of `old` replaced.
pub(super) fn replace(
    text: &MarkedText,
    old: &MarkedText,
    new: &MarkedText,
    count: Option<usize>,
    meter: &Meter,
) -> Outcome<MarkedText> {
    let most = count.unwrap_or(usize::MAX);
    meter.steps(text.text.len() / 64)?;
    let mut out = MarkedText::default();
    let mut from = 0;
    for (at, found) in text.text.match_indices(&old.text).take(most) {
        meter.grow(out.text.len(), at - from + new.weight())?;
        out.append_slice(text, from..at);
        out.append(new);
        from = at + found.len();
    }
    meter.grow(out.text.len(), text.text.len() - from)?;
    out.append_slice(text, from..text.text.len());
    Ok(out)
}

/// Parts of a text as values.
fn parts(
    text: &MarkedText,
    ranges: impl Iterator<Item = std::ops::Range<usize>>,
    meter: &Meter,
) -> Outcome<Vec<Value>> {
    let mut items = Vec::new();
    for range in ranges {
        // A part takes memory besides its bytes.
        meter.text(range.len())?;
        meter.bytes(128)?;
        items.push(Value::text(text.slice(range)));
    }
    meter.items(items.len())?;
    Ok(items)
}

/// `split` and `rsplit` at a separator.
pub(super) fn split(
    text: &MarkedText,
    separator: &str,
    most: Option<usize>,
    from_end: bool,
    meter: &Meter,
) -> Outcome<Vec<Value>> {
    meter.steps(text.text.len() / 64)?;
    let most = most.map_or(usize::MAX, |most| most.saturating_add(1));
    let start = |part: &str| part.as_ptr().addr() - text.text.as_ptr().addr();
    let range = |part: &str| start(part)..start(part) + part.len();
    if from_end {
        let mut items = parts(text, text.text.rsplitn(most, separator).map(range), meter)?;
        items.reverse();
        return Ok(items);
    }
    parts(text, text.text.splitn(most, separator).map(range), meter)
}

/// `split` and `rsplit` at white space.
pub(super) fn split_words(
    text: &MarkedText,
    most: Option<usize>,
    from_end: bool,
    meter: &Meter,
) -> Outcome<Vec<Value>> {
    meter.steps(text.text.len() / 64)?;
    let most = most.unwrap_or(usize::MAX);
    let source = text.text.as_str();
    let mut ranges = Vec::new();
    let (mut start, mut end) = (0, source.len());
    loop {
        let rest = source.get(start..end).unwrap_or_default();
        let rest = if from_end { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if from_end {
            end = start + rest.len();
        } else {
            start = end - rest.len();
        }
        if rest.is_empty() {
            break;
        }
        let cut = if ranges.len() == most {
            None
        } else if from_end {
            rest.char_indices().rev().find(|(_, c)| is_space(*c)).map(|(at, c)| at + c.len_utf8())
        } else {
            rest.find(is_space)
        };
        let (word, rest) = match (cut, from_end) {
            (None, _) => (start..end, start..start),
            (Some(cut), true) => (start + cut..end, start..start + cut),
            (Some(cut), false) => (start..start + cut, start + cut..end),
        };
        ranges.push(word);
        (start, end) = (rest.start, rest.end);
        meter.items(ranges.len().min(1))?;
    }
    if from_end {
        ranges.reverse();
    }
    parts(text, ranges.into_iter(), meter)
}

/// The lines of a text, with their ends or without.
pub(super) fn lines(text: &MarkedText, keep_ends: bool, meter: &Meter) -> Outcome<Vec<Value>> {
    meter.steps(text.text.len() / 64)?;
    let is_end = |c: char| {
        matches!(c, '\n' | '\r' | '\u{B}' | '\u{C}' | '\u{1C}'..='\u{1E}' | '\u{85}' | '\u{2028}' | '\u{2029}')
    };
    let source = text.text.as_str();
    let mut start = 0;
    let ranges = std::iter::from_fn(|| {
        let rest = source.get(start..).filter(|rest| !rest.is_empty())?;
        let (line, end) = match rest.char_indices().find(|(_, c)| is_end(*c)) {
            Some((at, '\r')) if rest.get(at..).is_some_and(|end| end.starts_with("\r\n")) => (at, at + 2),
            Some((at, c)) => (at, at + c.len_utf8()),
            None => (rest.len(), rest.len()),
        };
        let range = start..start + if keep_ends { end } else { line };
        start += end;
        Some(range)
    });
    parts(text, ranges, meter)
}

/// The place of a part among a text's characters `start..stop`, the first one or the last.
pub(super) fn find(
    text: &str,
    part: &str,
    bounds: [Option<i64>; 2],
    last: bool,
    meter: &Meter,
) -> Outcome<Option<usize>> {
    meter.steps(1 + text.len() / 32)?;
    let Some(range) = byte_range(text, bounds) else { return Ok(None) };
    let inner = text.get(range.clone()).unwrap_or_default();
    let at = if last { inner.rfind(part) } else { inner.find(part) };
    Ok(at.map(|at| text.get(..range.start + at).unwrap_or_default().chars().count()))
}

/// The bytes of the characters `start..stop`, counted as slices count; `None` where they start behind the
/// end of the text or of themselves.
pub(super) fn byte_range(text: &str, [start, stop]: [Option<i64>; 2]) -> Option<std::ops::Range<usize>> {
    if start.is_none() && stop.is_none() {
        return Some(0..text.len());
    }
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let place = |place: i64| if place < 0 { place.saturating_add(length).max(0) } else { place };
    let (start, stop) = (place(start.unwrap_or(0)), place(stop.unwrap_or(length)).min(length));
    if start > stop {
        return None;
    }
    let byte = |place: i64| {
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        text.char_indices().nth(place).map_or(text.len(), |(at, _)| at)
    };
    Some(byte(start)..byte(stop))
}
