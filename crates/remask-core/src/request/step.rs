//! A step as an event for those who watch a canvas being filled.

use std::ops::Range;

use serde::Serialize;

use super::answer::TokenText;
use crate::decode::{Scored, StepReport};
use crate::tokenizer::TextTokenizer;

/// What a step did, with positions that count from the answer's first hole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepEvent {
    /// Passes before this one.
    pub step: u32,
    /// The block at work, first position and one past the last.
    pub block: [usize; 2],
    /// Positions at the answer's beginning that are decided and will not change.
    pub prefix: usize,
    /// What was committed, by position.
    pub committed: Vec<StepToken>,
    /// What the model would put into the block's other holes.
    pub provisional: Vec<StepToken>,
    /// Decided tokens that were replaced.
    pub revised: Vec<StepToken>,
    /// Positions that were decided and are holes again.
    pub remasked: Vec<usize>,
    /// Positions behind the answer's end that were filled with padding.
    pub padded: Vec<usize>,
    /// Rows that the pass computed.
    pub rows: usize,
}

/// A token at its position.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct StepToken {
    /// Its position.
    pub pos: usize,
    /// The token.
    #[serde(flatten)]
    pub token: TokenText,
    /// Its probability.
    pub p: f32,
    /// Entropy of the row in nats, of what is provisional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entropy: Option<f32>,
    /// Passes that the position took part in so far, of what is provisional.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub depth: Option<u32>,
}

impl StepEvent {
    /// The event of a step whose answer is in the positions `span`.
    #[must_use]
    pub fn of(report: &StepReport<'_>, span: &Range<usize>, tokenizer: Option<&TextTokenizer>) -> Self {
        let place = |position: usize| position.saturating_sub(span.start);
        let inside = |position: &usize| span.contains(position);
        let plain = |s: &Scored| StepToken {
            pos: place(s.position),
            token: TokenText::of(s.candidate.token, tokenizer),
            p: s.candidate.probability,
            entropy: None,
            depth: None,
        };
        let sorted = |tokens: &mut dyn Iterator<Item = StepToken>| {
            let mut tokens: Vec<_> = tokens.collect();
            tokens.sort_by_key(|token| token.pos);
            tokens
        };
        let is_committed = |s: &Scored| report.committed.iter().any(|other| other.position == s.position);
        let provisional = |s: &Scored| StepToken {
            entropy: Some(s.candidate.entropy),
            depth: report.so_far.depth.get(s.position).copied(),
            ..plain(s)
        };
        let of = |all: &[Scored]| sorted(&mut all.iter().filter(|s| inside(&s.position)).map(plain));
        let open = report.candidates.iter().filter(|s| inside(&s.position) && !is_committed(s));
        let places = |all: &[usize]| all.iter().filter(|p| inside(p)).map(|p| place(*p)).collect();
        Self {
            step: report.step,
            block: [place(report.block.start), place(report.block.end.min(span.end))],
            prefix: report.settled.clamp(span.start, span.end) - span.start,
            committed: of(report.committed),
            provisional: sorted(&mut open.map(provisional)),
            revised: of(report.revised),
            remasked: places(report.remasked),
            padded: places(report.padded),
            rows: report.computed.len(),
        }
    }
}
