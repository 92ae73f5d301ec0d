//! A pass to measure a backend by: what it costs depends on how many rows it has, not on what they say.

use std::sync::Arc;

use crate::backend::{Backend, BackendError, Keys, Row, Select, StoreId, TokenSet, Want};
use crate::decode::Work;
use crate::scheduler::forward;

/// A pass over the first rows of a canvas of arbitrary tokens, in a store of its own. Every row sees the
/// whole canvas, and the candidates of all of them are wanted.
#[derive(Debug, Clone)]
pub struct Trial {
    store: StoreId,
    work: Work,
}

impl Trial {
    /// `count` rows of a canvas of `context` positions, 1 <= count <= context, the others of which are computed
    /// now. Token ids stay below `vocabulary`.
    ///
    /// # Errors
    /// As [`Backend::create_store`] and [`Backend::forward`].
    pub async fn new(
        backend: &mut dyn Backend,
        vocabulary: u32,
        count: u32,
        context: u32,
    ) -> Result<Self, BackendError> {
        let store = backend.create_store(context)?;
        let keys = Keys { start: 0, end: context };
        let row = |position| Row { store, token: position * 7919 % vocabulary, position, slot: position, keys };
        let suppressed = vec![Arc::new(TokenSet::new(backend.head_rows()))];
        let work = Work { rows: (0..context).map(row).collect(), suppressed, ..Work::default() };
        let mut trial = Self { store, work };
        if count < context
            && let Err(problem) = forward(backend, &trial.work).await
        {
            trial.end(backend);
            return Err(problem);
        }
        trial.work.rows.truncate(count as usize);
        trial.work.select = (0..count as usize).map(|row| Select::likeliest(row, row)).collect();
        Ok(trial)
    }

    /// The pass.
    #[must_use]
    pub fn work(&self) -> &Work {
        &self.work
    }

    /// The pass, asking for the logits of every row in place of candidates.
    #[must_use]
    pub fn logits(&self) -> Work {
        let select = self.work.select.iter().map(|s| Select { want: Want::Logits, ..*s }).collect();
        Work { rows: self.work.rows.clone(), select, ..Work::default() }
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.work.rows.len() as u32
    }

    /// Gives its store back.
    pub fn end(self, backend: &mut dyn Backend) {
        backend.release_store(self.store);
    }
}
