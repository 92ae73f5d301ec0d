//! Caches as choices of rows: which positions a pass computes, the keys and values of the others being
//! reused as they were last written. All of them approximate: with bidirectional attention every
//! committed token changes the keys and values of all the others.

use std::ops::Range;

use serde::Serialize;

use crate::canvas::{Canvas, Cell};

/// What a pass reuses from the passes before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cache {
    /// Nothing: every pass computes every position.
    #[default]
    None,
    /// Everything before the block (Fast-dLLM, arXiv 2505.22618). Entering a block computes all.
    Prefix,
    /// Everything but the block (Fast-dLLM). Entering a block computes all.
    Dual,
    /// What was decided before the last pass (dKV-Cache, arXiv 2505.15781): a token is computed once
    /// more after it was decided, with its real id, and then kept.
    Delayed {
        /// Every this many steps of a block all positions are computed.
        refresh: u32,
    },
    /// Everything but the block and its neighbourhood (dInfer's vicinity refresh). Entering a block
    /// computes all.
    Vicinity {
        /// Positions before the block that are computed with it.
        before: usize,
        /// Positions behind the block that are computed with it.
        after: usize,
        /// Passes at the start of the text that compute all.
        warm_up: u32,
    },
}

/// Where a generation stands when a pass is planned.
#[derive(Debug, Clone, Copy)]
pub struct Progress<'a> {
    /// The canvas as the pass will see it.
    pub canvas: &'a Canvas,
    /// Positions of the block at work.
    pub block: &'a Range<usize>,
    /// Passes in this block so far.
    pub step: u32,
    /// Passes over the whole text so far.
    pub pass: u32,
}

impl Cache {
    /// Positions that the next pass computes, in order. They include every hole of the block, and
    /// every position the first time that a text is seen.
    #[must_use]
    pub fn positions(self, at: &Progress) -> Vec<usize> {
        let length = at.canvas.len();
        let (start, end) = (at.block.start, at.block.end);
        let entering = at.step == 0;
        match self {
            Self::Prefix if !entering => (start..length).collect(),
            Self::Dual if !entering => (start..end).collect(),
            Self::Delayed { refresh } if at.step > 1 && !at.step.is_multiple_of(refresh.max(1)) => {
                let fresh = |cell: &Cell| match cell {
                    Cell::Given => false,
                    Cell::Hole => true,
                    Cell::Decided { step, .. } => step + 1 == at.pass,
                };
                (0..length).filter(|p| fresh(&at.canvas.cells()[*p])).collect()
            }
            Self::Vicinity { before, after, warm_up } if !entering && at.pass >= warm_up => {
                (start.saturating_sub(before)..end.saturating_add(after).min(length)).collect()
            }
            _ => (0..length).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten positions, two given, block 4..7, one token of it decided by pass 4 and one by pass 5.
    fn canvas() -> Canvas {
        let mut canvas = Canvas::new(&[1, 2], 8, 9);
        for (position, step) in [(2, 0), (3, 1), (4, 4), (6, 5)] {
            canvas.decide(position, 5, step, 1.0);
        }
        canvas
    }

    fn positions(cache: Cache, step: u32) -> Vec<usize> {
        cache.positions(&Progress { canvas: &canvas(), block: &(4..7), step, pass: 6 })
    }

    #[test]
    fn caches_choose_their_rows() {
        let vicinity = |warm_up| Cache::Vicinity { before: 1, after: 9, warm_up };
        assert_eq!(positions(Cache::None, 3), (0..10).collect::<Vec<_>>());
        assert_eq!(positions(Cache::Prefix, 3), (4..10).collect::<Vec<_>>());
        assert_eq!(positions(Cache::Dual, 3), [4, 5, 6]);
        assert_eq!(positions(Cache::Delayed { refresh: 8 }, 3), [5, 6, 7, 8, 9]);
        assert_eq!(positions(vicinity(4), 3), (3..10).collect::<Vec<_>>());
    }

    #[test]
    fn all_is_computed_on_entry_and_refresh() {
        let all: Vec<_> = (0..10).collect();
        let vicinity = Cache::Vicinity { before: 0, after: 0, warm_up: 0 };
        for cache in [Cache::Prefix, Cache::Dual, Cache::Delayed { refresh: 8 }, vicinity] {
            assert_eq!(positions(cache, 0), all, "{cache:?}");
        }
        assert_eq!(positions(Cache::Delayed { refresh: 4 }, 4), all);
        assert_eq!(positions(Cache::Delayed { refresh: 0 }, 3), all);
        assert_eq!(positions(Cache::Vicinity { before: 0, after: 0, warm_up: 9 }, 3), all);
    }
}
