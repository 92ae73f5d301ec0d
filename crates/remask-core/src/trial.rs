//! A pass to measure a backend by: what it costs depends on how many rows it has, not on what they say.

use std::sync::Arc;

use crate::backend::{Backend, BackendError, Keys, Pass, Row, Select, StoreId, TokenSet};

/// A pass over the first rows of a canvas of arbitrary tokens, in a store of its own. Every row sees the
/// whole canvas, and the candidates of all of them are wanted.
#[derive(Debug, Clone)]
pub struct Trial {
    store: StoreId,
    rows: Vec<Row>,
    select: Vec<Select>,
    suppressed: [Arc<TokenSet>; 1],
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
        let rows = (0..context).map(|position| Row {
            store,
            token: position * 7919 % vocabulary,
            position,
            slot: position,
            keys,
        });
        let suppressed = [Arc::new(TokenSet::new(backend.head_rows()))];
        let mut trial = Self { store, rows: rows.collect(), select: vec![Select::likeliest(0, 0)], suppressed };
        if count < context
            && let Err(problem) = backend.forward(&trial.pass()).await
        {
            trial.end(backend);
            return Err(problem);
        }
        trial.rows.truncate(count as usize);
        trial.select = (0..count as usize).map(|row| Select::likeliest(row, row)).collect();
        Ok(trial)
    }

    /// The pass.
    #[must_use]
    pub fn pass(&self) -> Pass<'_> {
        Pass { rows: &self.rows, select: &self.select, suppressed: &self.suppressed }
    }

    /// Its rows.
    #[must_use]
    pub fn rows(&self) -> u32 {
        self.rows.len() as u32
    }

    /// Gives its store back.
    pub fn end(self, backend: &mut dyn Backend) {
        backend.release_store(self.store);
    }
}
