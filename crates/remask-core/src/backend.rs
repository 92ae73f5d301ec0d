//! What a device offers: a forward pass over a set of rows and a key/value store.
//!
//! A request owns one or more stores; a store has one slot a position and layer. A [`Pass`] names the
//! rows to compute (each writes its own fresh K/V into its slot), the slots that each row may see,
//! and the rows whose next-token candidates or logits are wanted. Rows name their store, so one pass can
//! carry several requests. Every decoder of this crate is a choice of rows.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde::Serialize;

use crate::architecture::Architecture;
use crate::random::Key;

/// A future of a backend. Backends may be single-threaded (a browser's is), so it is not `Send`.
pub type BackendFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, BackendError>> + 'a>>;

/// Names a key/value store of a backend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreId(pub u32);

/// The slots `start..end` of a row's store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keys {
    /// First slot.
    pub start: u32,
    /// One past the last slot; greater than `start`.
    pub end: u32,
}

/// One row to compute: a token of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The store that is read and whose slot is written.
    pub store: StoreId,
    /// Token id.
    pub token: u32,
    /// Position in the text: the row's rotary angle, or its learned position embedding.
    pub position: u32,
    /// The slot that the row's keys and values are written to.
    pub slot: u32,
    /// Slots that the row attends to, as they are after this pass has written its own. A block with a window
    /// sees of these only the last [`window`](crate::architecture::Attention::window) up to `slot`.
    pub keys: Keys,
}

impl Row {
    /// The token at `position` of a canvas of `length` positions, in the slot of the same number, seeing what
    /// `architecture` lets it see.
    #[must_use]
    pub fn of_canvas(architecture: &Architecture, store: StoreId, position: usize, token: u32, length: usize) -> Self {
        let keys = architecture.visible(position, length);
        let keys = Keys { start: keys.start as u32, end: keys.end as u32 };
        Self { store, token, position: position as u32, slot: position as u32, keys }
    }
}

/// A row of the pass that is asked about the token of some position.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Select {
    /// Index into [`Pass::rows`].
    pub row: u32,
    /// Position of the token that the row predicts: the counter of the noise, with the token id.
    pub position: u32,
    /// Classifier-free guidance: the unconditional twin of the row.
    pub guide: Option<Guide>,
    /// What is wanted of the row.
    pub want: Want,
}

/// What is wanted of a selected row.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Want {
    /// Its candidate, worked out on the device.
    Candidate {
        /// 0 takes the likeliest token; above, Gumbel noise times this is added to the logits.
        temperature: f32,
        /// Key of the noise.
        key: Key,
        /// Index into [`Pass::suppressed`]: the ids that this request never chooses.
        suppressed: u32,
    },
    /// Its logits `[head rows]`, as they are: nothing suppressed, no noise. It moves them off the device.
    Logits,
}

impl Select {
    /// The logits of the row at index `row`, computed for `position`.
    #[must_use]
    pub fn logits(row: usize, position: usize) -> Self {
        Self { row: row as u32, position: position as u32, guide: None, want: Want::Logits }
    }

    /// The likeliest token of the row at index `row`, without noise or guidance, nothing of the pass's first set
    /// of suppressed ids.
    #[must_use]
    pub fn likeliest(row: usize, position: usize) -> Self {
        let want = Want::Candidate { temperature: 0.0, key: Key::default(), suppressed: 0 };
        Self { row: row as u32, position: position as u32, guide: None, want }
    }
}

/// Classifier-free guidance: logits become `u + (scale + 1) * (c - u)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Guide {
    /// Index into [`Pass::rows`] of the row computed without the prompt.
    pub row: u32,
    /// Guidance strength; 0 leaves the conditional logits.
    pub scale: f32,
}

/// The next-token candidate of a row, from logits in float32 without noise and with suppressed ids
/// left out.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Candidate {
    /// Chosen id; among equal logits the lowest id.
    pub token: u32,
    /// Softmax probability of the chosen id.
    pub probability: f32,
    /// Entropy of the row in nats.
    pub entropy: f32,
    /// Probability of the likeliest id minus that of the runner-up.
    pub margin: f32,
}

/// What a pass answers for one selected row.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    /// For [`Want::Candidate`].
    Candidate(Candidate),
    /// For [`Want::Logits`], `[head rows]`.
    Logits(Vec<f32>),
}

impl Answer {
    /// The candidate, where one was asked for.
    #[must_use]
    pub fn candidate(&self) -> Option<Candidate> {
        if let Self::Candidate(candidate) = self { Some(*candidate) } else { None }
    }

    /// The logits, where they were asked for.
    #[must_use]
    pub fn logits(self) -> Option<Vec<f32>> {
        if let Self::Logits(logits) = self { Some(logits) } else { None }
    }
}

/// One forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Pass<'a> {
    /// Rows to compute; those of one store are best kept together.
    pub rows: &'a [Row],
    /// Rows that are asked about, in the order the answers come; none where only keys and values are wanted.
    pub select: &'a [Select],
    /// Sets of ids that are never chosen and take no probability; each candidate names its own.
    pub suppressed: &'a [Arc<TokenSet>],
}

impl Pass<'_> {
    /// Checks that a pass names only what exists and writes nothing twice. `capacity` answers a store's
    /// slots, `None` for an unknown one.
    ///
    /// # Errors
    /// [`BackendError::InvalidPass`] with the first thing that is wrong.
    pub fn check(&self, a: &Architecture, capacity: impl Fn(StoreId) -> Option<u32>) -> Result<(), BackendError> {
        let invalid = |problem: String| Err(BackendError::InvalidPass(problem));
        let (rows, head_rows) = (self.rows.len(), a.embedding_rows);
        if rows == 0 {
            return invalid("no rows; there must be at least 1".to_owned());
        }
        if let Some(set) = self.suppressed.iter().find(|set| set.rows() != head_rows) {
            return invalid(format!("suppressed ids are over {} rows, the head has {head_rows}", set.rows()));
        }
        let positions = a.max_positions.min(a.learned_positions.unwrap_or(usize::MAX));
        let mut written = HashSet::with_capacity(rows);
        for Row { store, token, position, slot, keys } in self.rows {
            let Some(slots) = capacity(*store) else {
                return invalid(format!("store {} does not exist", store.0));
            };
            if *slot >= slots || keys.end > slots || keys.start >= keys.end {
                let range = format!("{}..{}", keys.start, keys.end);
                return invalid(format!("slot {slot} with keys {range} in a store of {slots} slots"));
            }
            if *position as usize >= positions {
                return invalid(format!("position {position}; the model has {positions} positions"));
            }
            if *token as usize >= head_rows {
                return invalid(format!("token {token} of {head_rows} embeddings"));
            }
            if !written.insert((store, slot)) {
                return invalid(format!("slot {slot} of store {} twice", store.0));
            }
        }
        for s in self.select {
            let guide = s.guide.map_or(s.row, |g| g.row);
            if s.row as usize >= rows || guide as usize >= rows {
                return invalid(format!("selected row {} (guide {guide}) of {rows} rows", s.row));
            }
            if let Want::Candidate { suppressed, .. } = s.want
                && suppressed as usize >= self.suppressed.len()
            {
                return invalid(format!("set {suppressed} of {} sets of suppressed ids", self.suppressed.len()));
            }
        }
        Ok(())
    }
}

/// A set of token ids as a bit mask over the rows of the head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenSet {
    words: Vec<u32>,
    rows: usize,
}

impl TokenSet {
    /// The empty set over a head of `rows` rows.
    #[must_use]
    pub fn new(rows: usize) -> Self {
        Self { words: vec![0; rows.div_ceil(32)], rows }
    }

    /// The set of these bits over a head of `rows` rows, id 0 in the lowest bit of the first word. Bits beyond are
    /// dropped, those that are missing are 0.
    #[must_use]
    pub fn of_words(mut words: Vec<u32>, rows: usize) -> Self {
        words.resize(rows.div_ceil(32), 0);
        if let Some(last) = words.last_mut().filter(|_| !rows.is_multiple_of(32)) {
            *last &= u32::MAX >> (32 - rows % 32);
        }
        Self { words, rows }
    }

    /// Adds an id; ids outside the head are not there to be chosen and change nothing.
    pub fn insert(&mut self, id: u32) {
        if (id as usize) < self.rows {
            self.words[id as usize / 32] |= 1 << (id % 32);
        }
    }

    /// Takes an id out.
    pub fn remove(&mut self, id: u32) {
        if let Some(word) = self.words.get_mut(id as usize / 32) {
            *word &= !(1 << (id % 32));
        }
    }

    /// This set without what `others` holds.
    #[must_use]
    pub fn without(&self, others: &Self) -> Self {
        let others = others.words.iter().copied().chain(std::iter::repeat(0));
        Self { words: self.words.iter().zip(others).map(|(own, other)| own & !other).collect(), rows: self.rows }
    }

    /// This set and everything that `others` does not hold.
    #[must_use]
    pub fn and_all_but(&self, others: &Self) -> Self {
        let others = others.words.iter().copied().chain(std::iter::repeat(0));
        Self::of_words(self.words.iter().zip(others).map(|(own, other)| own | !other).collect(), self.rows)
    }

    /// Whether every row of the head is in it.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let (words, rest) = (self.rows / 32, self.rows % 32);
        let last = self.words.get(words).is_none_or(|word| *word | u32::MAX << rest == u32::MAX);
        last && self.words.iter().take(words).all(|word| *word == u32::MAX)
    }

    /// Whether the set holds `id`.
    #[must_use]
    pub fn contains(&self, id: u32) -> bool {
        self.words.get(id as usize / 32).is_some_and(|w| w >> (id % 32) & 1 == 1)
    }

    /// Rows of the head this set is over.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The bits, id 0 in the lowest bit of the first word.
    #[must_use]
    pub fn words(&self) -> &[u32] {
        &self.words
    }
}

/// Where and how a backend computes, for reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BackendInfo {
    /// Kind and API, e.g. `wgpu (Vulkan)`.
    pub backend: String,
    /// Device name.
    pub adapter: String,
    /// Format of the weight matrices on the device.
    pub weights: String,
}

/// A model on a device. Methods that touch the device are async because a browser's are.
pub trait Backend {
    /// Where and how this backend computes.
    fn info(&self) -> BackendInfo;

    /// What it decided by itself and a user should know, a sentence each: weights that were converted,
    /// kernels that this device could not use.
    fn notes(&self) -> Vec<String> {
        Vec::new()
    }

    /// Rows that one pass may carry; the scheduler forms passes within it.
    fn most_rows(&self) -> usize {
        8192
    }

    /// Rows of the head: the width of logits and of [`TokenSet`]s.
    fn head_rows(&self) -> usize;

    /// Makes a store of `capacity` slots with undefined contents.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] or [`BackendError::InvalidPass`] (capacity 0 or above the
    /// model's positions).
    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError>;

    /// Gives a store's slots back. Unknown ids are ignored.
    fn release_store(&mut self, store: StoreId);

    /// Copies the keys and values of the first `slots` slots of one store to those of another, before the next pass.
    /// False where it does not: the rows are then computed.
    fn copy_slots(&mut self, _from: StoreId, _to: StoreId, _slots: u32) -> bool {
        false
    }

    /// Computes a pass: writes the rows' K/V and answers one candidate, or the logits, a selected row.
    ///
    /// # Errors
    /// [`BackendError::InvalidPass`] before anything is computed; [`BackendError::NotFinite`],
    /// [`BackendError::DeviceLost`] or [`BackendError::Device`] after, with the stores' contents lost.
    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>>;
}

/// Failures of a device or of what was asked of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BackendError {
    /// No device fits the request.
    #[error("no usable GPU adapter: {0}")]
    NoAdapter(String),
    /// The model needs what this device or backend does not have.
    #[error("{what} cannot run on {adapter}: {why}")]
    Unsupported {
        /// Operation or setting.
        what: String,
        /// Device name.
        adapter: String,
        /// What is missing, with the numbers, and the way round.
        why: String,
    },
    /// Device memory ran out.
    #[error(
        "out of device memory while {action}: {bytes} bytes were asked for; free device memory, shorten the canvas or load smaller weights (--weights q8)"
    )]
    OutOfMemory {
        /// What was being done.
        action: String,
        /// Size of the request.
        bytes: u64,
    },
    /// A pass that names slots, rows or ids that do not exist. Nothing was computed.
    #[error("invalid pass: {0}")]
    InvalidPass(String),
    /// A row's logits hold a NaN or an infinity.
    #[error(
        "the logits of the row at position {position} are not finite: the weights hold NaN or infinite values, or overflowed on this device"
    )]
    NotFinite {
        /// Position of the first such row.
        position: u32,
    },
    /// The device is gone. Build a new backend; requests can be repeated from their canvases.
    #[error("the device was lost ({0}); load the model again to go on")]
    DeviceLost(String),
    /// The device or its driver refused an operation.
    #[error("the device refused to {operation}: {problem}")]
    Device {
        /// What was being done.
        operation: String,
        /// The driver's or validation's words.
        problem: String,
    },
    /// A kernel that the device's driver could not compile, and that none stands in for.
    #[error("the device could not compile kernel {kernel}: {problem}")]
    Kernel {
        /// Name of the specialisation.
        kernel: String,
        /// The driver's or validation's words.
        problem: String,
    },
    /// The checkpoint could not be read while its weights were moved to the device.
    #[error("{0}")]
    Weights(String),
}
