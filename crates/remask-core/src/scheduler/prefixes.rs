//! Keys and values that stand for the beginning of more than one text. Where a row sees nothing behind itself, its
//! keys and values follow from the tokens up to it, so that a text that begins like another one takes them over in
//! place of computing them.

use crate::backend::{Backend, StoreId};

/// Tokens that two texts must have in common: for fewer, copying is not worth its while.
pub(super) const LEAST: usize = 16;

/// A store whose generation has ended.
struct Kept {
    tokens: Vec<u32>,
    store: StoreId,
    slots: usize,
}

/// Stores that are kept after their generations, the one that was used longest ago first.
#[derive(Default)]
pub(super) struct Prefixes {
    kept: Vec<Kept>,
}

/// Tokens that two texts begin with in common.
pub(super) fn common(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Prefixes {
    /// Slots of the stores that are kept.
    pub(super) fn slots(&self) -> usize {
        self.kept.iter().map(|kept| kept.slots).sum()
    }

    /// The store that holds most of the beginning of `tokens`, and how many of them.
    pub(super) fn find(&mut self, tokens: &[u32]) -> Option<(StoreId, usize)> {
        let found = self.kept.iter().enumerate().map(|(at, kept)| (common(&kept.tokens, tokens), at)).max()?;
        let (count, at) = found;
        if count < LEAST {
            return None;
        }
        let kept = self.kept.remove(at);
        let store = kept.store;
        self.kept.push(kept);
        Some((store, count))
    }

    /// Keeps a store that holds the keys and values of `tokens`, in place of those that hold less of the same text.
    pub(super) fn keep(&mut self, tokens: Vec<u32>, store: StoreId, slots: usize, backend: &mut dyn Backend) {
        self.kept.retain(|kept| {
            let less = common(&kept.tokens, &tokens) == kept.tokens.len();
            if less {
                backend.release_store(kept.store);
            }
            !less
        });
        self.kept.push(Kept { tokens, store, slots });
    }

    /// Gives back the stores that were used longest ago until at most `slots` are kept.
    pub(super) fn shrink(&mut self, slots: usize, backend: &mut dyn Backend) {
        while self.slots() > slots {
            backend.release_store(self.kept.remove(0).store);
        }
    }

    /// Forgets all of them; they are given back where there is a backend.
    pub(super) fn clear(&mut self, backend: Option<&mut dyn Backend>) {
        let kept = std::mem::take(&mut self.kept);
        if let Some(backend) = backend {
            kept.into_iter().for_each(|kept| backend.release_store(kept.store));
        }
    }
}
