//! A generation under way, whatever its kind: a diffusion model's [`Decoding`](super::Decoding) or an
//! autoregressive model's [`Writing`](super::Writing). It never sees a device, so that any number of them can
//! share passes.

use std::sync::Arc;

use super::report::{Generation, StepReport};
use crate::backend::{Answer, Pass, Row, Select, StoreId, TokenSet};
use crate::error::Result;

/// The rows of the next pass of one generation. Indices in `select` count from the first of `rows` and of
/// `suppressed`.
#[derive(Debug, Clone, Default)]
pub struct Work {
    /// Rows to compute.
    pub rows: Vec<Row>,
    /// Rows that are asked about.
    pub select: Vec<Select>,
    /// The sets of ids that candidates name.
    pub suppressed: Vec<Arc<TokenSet>>,
    /// Rows that full compute would have computed in place of these.
    pub full_rows: usize,
}

/// What a pass that was planned will have cost when its answers are there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Costs {
    rows: u64,
    selected: u64,
    full_rows: u64,
}

impl Costs {
    pub(super) fn of(work: &Work) -> Self {
        Self { rows: work.rows.len() as u64, selected: work.select.len() as u64, full_rows: work.full_rows as u64 }
    }

    /// Books them.
    pub(super) fn add_to(self, done: &mut Generation) {
        done.rows_computed += self.rows;
        done.rows_selected += self.selected;
        done.rows_of_full_compute += self.full_rows;
    }
}

impl Work {
    /// It as a backend takes it.
    #[must_use]
    pub fn pass(&self) -> Pass<'_> {
        Pass { rows: &self.rows, select: &self.select, suppressed: &self.suppressed }
    }
}

/// A text whose keys and values others can take over.
#[derive(Debug, Clone, Copy)]
pub struct Prefix<'a> {
    /// Its tokens as far as they are known.
    pub tokens: &'a [u32],
    /// Of these, from the first on: those whose keys and values are stored.
    pub stored: usize,
}

/// A generation under way, as a state machine: it says which rows the next pass computes and takes in what
/// comes back.
pub trait Generating {
    /// Slots of each store that it needs.
    fn stores(&self) -> Vec<u32>;

    /// Gives it its stores, before the first pass. Called again where the contents of the former ones are lost: it
    /// goes on from its canvas.
    fn begin(&mut self, stores: Vec<StoreId>);

    /// The text as far as it is known and how much of it is stored, where each token's keys and values follow from the
    /// tokens up to it alone; `None` where rows see what is behind them.
    fn prefix(&self) -> Option<Prefix<'_>> {
        None
    }

    /// The keys and values of the first `count` tokens of its [`Prefix`] were put into its store, before its first
    /// pass: it does not compute them.
    fn take_over(&mut self, _count: usize) {}

    /// The rows of the next pass, at most `most` of them where it can do with fewer; `None` when the generation
    /// is over.
    fn next_pass(&mut self, most: usize) -> Option<Work>;

    /// Takes in the answers of the pass that [`next_pass`](Generating::next_pass) asked for, one a selected row,
    /// and decides.
    ///
    /// # Errors
    /// [`BackendError::NotFinite`](crate::BackendError::NotFinite) for logits that are not.
    fn absorb(&mut self, answers: Vec<Answer>) -> Result<StepReport<'_>>;

    /// Whether nothing is left to do.
    fn is_over(&self) -> bool;

    /// Ends the generation where it stands.
    fn abort(&mut self);

    /// The generation as it stands.
    fn finish(self: Box<Self>) -> Generation;
}
