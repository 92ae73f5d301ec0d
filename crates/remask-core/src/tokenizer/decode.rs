//! From ids back to text: which characters each token stands for.
//!
//! Characters carry the place of the token they come from through every step, so that a text can be given whole,
//! in pieces that joined are the whole, or as it grows. A character whose bytes are spread over several tokens
//! belongs to the last of them.

use serde_json::{Value, json};
use tokenizers::Decoder as _;
use tokenizers::decoders::DecoderWrapper;

use super::bytes::{byte_of_char, byte_of_token, bytes_of_text};
use super::parts;

/// A character and the token that it belongs to.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed {
    pub(super) c: char,
    /// The place of its token: of the last one with bytes of it.
    pub(super) place: usize,
    /// The place of the first one.
    pub(super) from: usize,
}

impl Placed {
    fn new(c: char, place: usize) -> Self {
        Self { c, place, from: place }
    }
}

/// A token to decode.
pub(super) struct Token {
    pub(super) place: usize,
    pub(super) text: String,
    /// Added tokens are written as they are spelt.
    pub(super) added: bool,
}

/// What surrounds tokens that are decoded.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    /// Nothing stands before them.
    pub(super) at_start: bool,
    /// What stands before them is not known: bytes at their start may complete a character there.
    pub(super) open_start: bool,
}

/// Decoded tokens.
#[derive(Default)]
pub(super) struct Decoded {
    pub(super) chars: Vec<Placed>,
    /// So many of the last characters stand for bytes that are the beginning of one.
    pub(super) unfinished: usize,
    /// The place of the token with the first of those bytes.
    pub(super) unfinished_from: Option<usize>,
}

#[derive(Debug)]
enum Step {
    ByteLevel,
    WordPiece { prefix: String, cleanup: bool },
    Metaspace { mark: char, strip: bool },
    Suffix(String),
    Replace { from: Vec<char>, to: Vec<char> },
    Pattern(Box<DecoderWrapper>),
    ByteFallback,
    Fuse,
    Strip { content: char, start: usize, stop: usize },
}

/// The steps of a tokenizer's decoder.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    steps: Vec<Step>,
    /// As a tokenizer.json has them.
    written: Value,
}

impl Decoder {
    /// Reads the `decoder` of a tokenizer.json.
    ///
    /// # Errors
    /// Where a step is unknown or broken.
    pub(super) fn from_json(value: &Value) -> Result<Self, String> {
        let steps = parts::leaves(value, "decoder", "decoders")?.into_iter().map(|leaf| {
            let text = |key: &str| leaf.value.get(key).and_then(Value::as_str);
            let flag = |key: &str| leaf.value.get(key).and_then(Value::as_bool);
            let count = |key: &str| leaf.value.get(key).and_then(Value::as_u64).map_or(0, |n| n.min(1 << 20) as usize);
            let character = |key: &str| text(key).and_then(|t| t.chars().next());
            let lacks = |key: &str| format!("decoder {} without {key}", leaf.kind);
            let needed = |key: &str| text(key).map(str::to_owned).ok_or_else(|| lacks(key));
            Ok(match leaf.kind {
                "ByteLevel" => Step::ByteLevel,
                "ByteFallback" => Step::ByteFallback,
                "Fuse" => Step::Fuse,
                "WordPiece" => Step::WordPiece { prefix: needed("prefix")?, cleanup: flag("cleanup").unwrap_or(true) },
                "BPEDecoder" => Step::Suffix(text("suffix").unwrap_or("</w>").to_owned()),
                "Metaspace" => Step::Metaspace {
                    mark: character("replacement").ok_or_else(|| lacks("replacement"))?,
                    strip: text("prepend_scheme").map_or(flag("add_prefix_space") != Some(false), |s| s != "never"),
                },
                "Strip" => Step::Strip {
                    content: character("content").ok_or_else(|| lacks("content"))?,
                    start: count("start"),
                    stop: count("stop"),
                },
                "Replace" => match leaf.value.get("pattern").and_then(|p| p.get("String")).and_then(Value::as_str) {
                    Some(from) => {
                        Step::Replace { from: from.chars().collect(), to: needed("content")?.chars().collect() }
                    }
                    None => Step::Pattern(Box::new(leaf.read(&["Replace"])?)),
                },
                other => return Err(format!("decoder {other:?} is not known")),
            })
        });
        Ok(Self { steps: steps.collect::<Result<_, String>>()?, written: value.clone() })
    }

    /// Tokens are bytes in GPT-2's alphabet.
    ///
    /// # Errors
    /// None.
    pub(super) fn byte_level() -> Result<Self, String> {
        let written = json!({"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
        Self::from_json(&written)
    }

    /// As a tokenizer.json has it.
    pub(super) fn to_json(&self) -> &Value {
        &self.written
    }

    /// Whether the characters of tokens are the same whatever follows, but for unfinished ones. Where not, a text
    /// is not known before its end.
    pub(super) fn grows(&self) -> bool {
        let mut fused = false;
        self.steps.iter().all(|step| {
            fused |= matches!(step, Step::Fuse | Step::ByteLevel);
            match step {
                Step::Suffix(_) => false,
                Step::Strip { stop, start, .. } => *stop == 0 && (*start == 0 || fused),
                Step::Replace { from, .. } => !fused || from.len() == 1,
                Step::Pattern(_) => !fused,
                Step::ByteFallback => !fused,
                _ => true,
            }
        })
    }

    /// Whether a text is the bytes of its tokens one after another: no step looks at more than one token, but for spaces
    /// that a text begins with.
    pub(super) fn is_bytewise(&self) -> bool {
        let (mut fused, mut bytes) = (false, false);
        self.steps.iter().all(|step| {
            let alone = match step {
                Step::ByteLevel | Step::ByteFallback => !fused && !std::mem::replace(&mut bytes, true),
                Step::WordPiece { cleanup, .. } => !cleanup && !fused && !bytes,
                Step::Metaspace { .. } | Step::Pattern(_) => !fused && !bytes,
                Step::Replace { from, .. } => !bytes && (!fused || from.len() == 1),
                Step::Strip { content, start, stop } => *stop == 0 && (*start == 0 || (fused && *content == ' ')),
                Step::Suffix(_) => false,
                Step::Fuse => true,
            };
            fused |= matches!(step, Step::Fuse | Step::ByteLevel);
            alone
        })
    }

    /// The bytes of a token by itself, where texts [are bytes](Decoder::is_bytewise); `None` where it has none.
    pub(super) fn bytes(&self, text: String, added: bool, at_start: bool) -> Option<Vec<u8>> {
        let has = |wanted: fn(&Step) -> bool| self.steps.iter().any(wanted);
        if has(|step| matches!(step, Step::ByteLevel)) {
            // What comes before that step is text still.
            let before = self.steps.iter().take_while(|step| !matches!(step, Step::ByteLevel));
            let run = Self::run(before, text, added, at_start)?;
            return Some(run.level_bytes().map(|(byte, _)| byte).collect());
        }
        if has(|step| matches!(step, Step::ByteFallback))
            && let Some(byte) = byte_of_token(&text).filter(|byte| !byte.is_ascii())
        {
            return Some(vec![byte]);
        }
        if self.steps.is_empty() && !at_start {
            return Some(format!(" {text}").into_bytes());
        }
        let run = Self::run(self.steps.iter(), text, added, at_start)?;
        Some(run.chars.iter().map(|p| p.c).collect::<String>().into_bytes())
    }

    /// One token after these steps.
    fn run<'a>(steps: impl Iterator<Item = &'a Step>, text: String, added: bool, at_start: bool) -> Option<Run> {
        let chars = text.chars().map(|c| Placed::new(c, 0)).collect();
        let edges = Edges { at_start, open_start: false };
        let runs = vec![Run { place: 0, added, chars }];
        let mut state = State { fused: false, runs, end: Decoded::default(), edges };
        for step in steps {
            state.apply(step).ok()?;
        }
        state.runs.pop()
    }

    /// Decodes tokens.
    ///
    /// # Errors
    /// Where a step of the tokenizers crate fails.
    pub(super) fn decode(&self, tokens: Vec<Token>, edges: Edges) -> Result<Decoded, String> {
        if self.steps.is_empty() {
            // Nothing says how words are joined.
            let spaced = |(n, t): (usize, Token)| {
                let space = (n > 0 || !edges.at_start).then_some(Placed::new(' ', t.place));
                space.into_iter().chain(t.text.chars().map(|c| Placed::new(c, t.place)).collect::<Vec<_>>())
            };
            return Ok(Decoded {
                chars: tokens.into_iter().enumerate().flat_map(spaced).collect(),
                ..Decoded::default()
            });
        }
        let mut state = State { fused: false, runs: Vec::with_capacity(tokens.len()), end: Decoded::default(), edges };
        for token in tokens {
            let chars = token.text.chars().map(|c| Placed::new(c, token.place)).collect();
            state.runs.push(Run { place: token.place, added: token.added, chars });
        }
        for step in &self.steps {
            state.apply(step)?;
        }
        let chars = state.runs.into_iter().flat_map(|run| run.chars).collect();
        Ok(Decoded { chars, ..state.end })
    }
}

/// Characters that a step sees as one text.
struct Run {
    /// The token it comes from; the last one where they are several.
    place: usize,
    added: bool,
    chars: Vec<Placed>,
}

impl Run {
    /// Its bytes in GPT-2's alphabet, and their places.
    fn level_bytes(&self) -> impl Iterator<Item = (u8, usize)> {
        let text: String = self.chars.iter().map(|p| p.c).collect();
        let bytes = bytes_of_text(&text);
        // An added token is text, but one that was taken from the vocabulary may be bytes too.
        let literal = bytes.is_none_or(|b| self.added && std::str::from_utf8(&b).is_err());
        self.chars.iter().flat_map(move |p| {
            let mut buffer = [0; 4];
            let byte = byte_of_char(p.c).filter(|_| !literal);
            let bytes = byte.map_or_else(|| p.c.encode_utf8(&mut buffer).as_bytes().to_vec(), |byte| vec![byte]);
            bytes.into_iter().map(|byte| (byte, p.place))
        })
    }
}

struct State {
    runs: Vec<Run>,
    /// Whether what was several tokens is one run.
    fused: bool,
    end: Decoded,
    edges: Edges,
}

impl State {
    fn apply(&mut self, step: &Step) -> Result<(), String> {
        let at_start = self.edges.at_start;
        let last = self.runs.len().saturating_sub(1);
        match step {
            Step::ByteLevel => self.byte_level(),
            Step::ByteFallback => self.byte_fallback(),
            Step::Fuse => {
                let place = self.runs.last().map_or(0, |run| run.place);
                let chars = self.runs.drain(..).flat_map(|run| run.chars).collect();
                self.runs.push(Run { place, added: false, chars });
                self.fused = true;
            }
            Step::WordPiece { prefix, cleanup } => {
                let prefix: Vec<char> = prefix.chars().collect();
                for (n, run) in self.runs.iter_mut().enumerate() {
                    if n > 0 || !at_start {
                        if run.chars.iter().map(|p| p.c).take(prefix.len()).eq(prefix.iter().copied()) {
                            run.chars.drain(..prefix.len());
                        } else {
                            run.chars.insert(0, Placed::new(' ', run.place));
                        }
                    }
                    if *cleanup {
                        for (from, to) in WORD_PIECE_CLEANUP {
                            replace(&mut run.chars, &chars(from), &chars(to));
                        }
                    }
                }
            }
            Step::Metaspace { mark, strip } => {
                for (n, run) in self.runs.iter_mut().enumerate() {
                    let strip = *strip && n == 0 && at_start;
                    run.chars.retain(|p| !(strip && p.c == *mark));
                    run.chars.iter_mut().filter(|p| p.c == *mark).for_each(|p| p.c = ' ');
                }
            }
            Step::Suffix(suffix) => {
                let suffix = chars(suffix);
                for (n, run) in self.runs.iter_mut().enumerate() {
                    let to: &[char] = if n == last { &[] } else { &[' '] };
                    replace(&mut run.chars, &suffix, to);
                }
            }
            Step::Replace { from, to } => self.runs.iter_mut().for_each(|run| replace(&mut run.chars, from, to)),
            Step::Pattern(decoder) => {
                for run in &mut self.runs {
                    let text = run.chars.iter().map(|p| p.c).collect();
                    let text = decoder.decode_chain(vec![text]).map_err(|e| e.to_string())?.concat();
                    run.chars = text.chars().map(|c| Placed::new(c, run.place)).collect();
                }
            }
            Step::Strip { content, start, stop } => {
                for run in &mut self.runs {
                    let is = |p: &&Placed| p.c == *content;
                    let head =
                        if self.fused && !at_start { 0 } else { run.chars.iter().take(*start).take_while(is).count() };
                    let tail = run.chars.iter().rev().take(*stop).take_while(is).count();
                    run.chars.truncate(run.chars.len().saturating_sub(tail).max(head));
                    run.chars.drain(..head);
                }
            }
        }
        Ok(())
    }

    /// Every token is bytes in GPT-2's alphabet.
    fn byte_level(&mut self) {
        let mut bytes = Vec::new();
        for run in self.runs.drain(..) {
            bytes.extend(run.level_bytes());
        }
        let edges = self.edges;
        let decoded = text_of(&bytes, edges.open_start, true, false);
        self.fused = true;
        let place = bytes.last().map_or(0, |(_, place)| *place);
        self.runs.push(Run { place, added: false, chars: decoded.chars });
        self.end = Decoded { chars: Vec::new(), ..decoded };
    }

    /// Tokens such as `<0x0A>` are bytes. Those that are no part of a character are one U+FFFD each, as
    /// SentencePiece writes them; the tokenizers crate would give up whole rows of bytes for one.
    fn byte_fallback(&mut self) {
        let runs = std::mem::take(&mut self.runs);
        let (mut bytes, mut first) = (Vec::new(), true);
        let flush = |bytes: &mut Vec<(u8, usize)>, out: &mut Vec<Run>, at_end: bool, first: bool| {
            let Some((_, place)) = bytes.last().copied() else { return Decoded::default() };
            let decoded = text_of(bytes, self.edges.open_start && first, at_end, true);
            bytes.clear();
            out.push(Run { place, added: false, chars: decoded.chars });
            Decoded { chars: Vec::new(), ..decoded }
        };
        let mut out = Vec::with_capacity(runs.len());
        for run in runs {
            let token: String = run.chars.iter().take(7).map(|p| p.c).collect();
            if let Some(byte) = byte_of_token(&token) {
                bytes.push((byte, run.place));
                continue;
            }
            flush(&mut bytes, &mut out, false, first);
            first = false;
            out.push(run);
        }
        self.end = flush(&mut bytes, &mut out, true, first);
        self.runs = out;
    }
}

/// Bytes as text. An invalid sequence is one U+FFFD, or one `each` byte. Where `open_start`, bytes at the start that
/// continue a character are left out; what is unfinished `at_end` is counted.
fn text_of(bytes: &[(u8, usize)], open_start: bool, at_end: bool, each: bool) -> Decoded {
    let skipped = if open_start { bytes.iter().take(3).take_while(|(b, _)| b & 0xC0 == 0x80).count() } else { 0 };
    let bytes = bytes.get(skipped..).unwrap_or_default();
    let (plain, places): (Vec<u8>, Vec<usize>) = bytes.iter().copied().unzip();
    let place = |at: usize| places.get(at).copied().unwrap_or_default();
    let mut decoded = Decoded::default();
    let mut at = 0;
    for chunk in plain.utf8_chunks() {
        for c in chunk.valid().chars() {
            let from = place(at);
            at += c.len_utf8();
            decoded.chars.push(Placed { c, place: place(at - 1), from });
        }
        let invalid = chunk.invalid();
        if invalid.is_empty() {
            continue;
        }
        let from = at;
        at += invalid.len();
        let marks = if each { invalid.len() } else { 1 };
        let ends = |n: usize| if each { (from + n, from + n) } else { (from, at - 1) };
        let marked =
            |n: usize| Placed { c: char::REPLACEMENT_CHARACTER, place: place(ends(n).1), from: place(ends(n).0) };
        decoded.chars.extend((0..marks).map(marked));
        let unfinished = std::str::from_utf8(invalid).is_err_and(|e| e.error_len().is_none());
        if at_end && at == plain.len() && unfinished {
            decoded.unfinished = marks;
            decoded.unfinished_from = Some(place(from));
        }
    }
    decoded
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

/// Replaces a text in a run; what it becomes belongs to the token of its last character.
fn replace(run: &mut Vec<Placed>, from: &[char], to: &[char]) {
    let Some((first, rest)) = from.split_first() else { return };
    if !run.iter().any(|p| p.c == *first) {
        return;
    }
    let mut out = Vec::with_capacity(run.len());
    let mut left = run.as_slice();
    while let Some((head, tail)) = left.split_first() {
        let found = head.c == *first && tail.len() >= rest.len() && tail.iter().zip(rest).all(|(a, b)| a.c == *b);
        if found {
            let place = tail.get(..rest.len()).and_then(<[Placed]>::last).unwrap_or(head).place;
            out.extend(to.iter().map(|c| Placed { c: *c, place, from: head.from }));
            left = tail.get(rest.len()..).unwrap_or_default();
        } else {
            out.push(*head);
            left = tail;
        }
    }
    *run = out;
}

/// What transformers' `clean_up_tokenization_spaces` replaces, in its order.
const CLEANUP: &[(&str, &str)] = &[
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// What the tokenizers crate's WordPiece decoder replaces, in its order.
const WORD_PIECE_CLEANUP: &[(&str, &str)] = &[
    (" .", "."),
    (" ?", "?"),
    (" !", "!"),
    (" ,", ","),
    (" ' ", "'"),
    (" n't", "n't"),
    (" 'm", "'m"),
    (" do not", " don't"),
    (" 's", "'s"),
    (" 've", "'ve"),
    (" 're", "'re"),
];

/// Does what transformers' `clean_up_tokenization_spaces` does.
pub(super) fn clean_up(text: &mut Vec<Placed>) {
    for (from, to) in CLEANUP {
        replace(text, &chars(from), &chars(to));
    }
}

/// Whether cleaning up may look at a character: what lies on both sides of one that it does not look at is cleaned
/// up apart.
pub(super) fn is_cleaned(c: char) -> bool {
    CLEANUP.iter().any(|(from, _)| from.contains(c))
}
