//! What a template may use up.

use std::cell::Cell;

use super::fault::{Fault, Outcome};

/// The longest text a template may make, its output included: some ten million tokens.
pub(super) const MAX_TEXT: usize = 32 << 20;
/// The longest list: what Jinja2's sandbox gives a `range`, with room for a split text.
pub(super) const MAX_ITEMS: usize = 1 << 20;

/// Steps and bytes that are left. All that a rendering makes is counted and nothing is given back, so the
/// bytes bound what it holds at any time.
#[derive(Debug)]
pub(crate) struct Meter {
    steps: Cell<u64>,
    bytes: Cell<u64>,
}

impl Meter {
    /// What a conversation of so many messages and bytes may use up.
    ///
    /// The sixty templates of llama.cpp take at most some thousand steps, and some hundred more a message. One
    /// that goes through all messages at each of a thousand is within this, and one that copies the conversation
    /// at each.
    pub(crate) fn for_conversation(messages: usize, bytes: usize) -> Self {
        let (messages, bytes) = (messages as u64, bytes as u64);
        let steps = messages.saturating_mul(20_000).saturating_add(bytes.saturating_mul(16)).saturating_add(1_000_000);
        let copies = bytes.saturating_mul(messages.saturating_add(64)).saturating_add(128 << 20);
        Self { steps: Cell::new(steps), bytes: Cell::new(copies.min(2 << 30)) }
    }

    /// Takes this many steps.
    pub(super) fn steps(&self, steps: usize) -> Outcome<()> {
        let left = self.steps.get().checked_sub(steps as u64);
        let too_many = || Fault::new("takes too many steps; does it loop without an end?");
        self.steps.set(left.ok_or_else(too_many)?);
        Ok(())
    }

    /// Makes a text of this length.
    pub(super) fn text(&self, bytes: usize) -> Outcome<()> {
        self.grow(0, bytes)
    }

    /// Makes a text longer that has `bytes`.
    pub(super) fn grow(&self, bytes: usize, more: usize) -> Outcome<()> {
        let length = bytes.saturating_add(more);
        if length > MAX_TEXT {
            return Err(Fault::new(format!("makes a text of {length} bytes; the most is {MAX_TEXT}")));
        }
        self.bytes(more)
    }

    /// Makes a list of this length.
    pub(super) fn items(&self, items: usize) -> Outcome<()> {
        if items > MAX_ITEMS {
            return Err(Fault::new(format!("makes a list of {items} items; the most is {MAX_ITEMS}")));
        }
        self.bytes(items * size_of::<super::value::Value>())
    }

    /// Takes this many bytes, and the time to write them.
    pub(super) fn bytes(&self, bytes: usize) -> Outcome<()> {
        let left = self.bytes.get().checked_sub(bytes as u64);
        self.bytes.set(left.ok_or_else(|| Fault::new("makes too much text; does it loop without an end?"))?);
        self.steps(1 + bytes / 256)
    }
}
