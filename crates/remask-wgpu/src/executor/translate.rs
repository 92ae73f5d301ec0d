//! Checks of a pass, and its translation into the records that kernels read.

use remask_core::{BackendError, Pass, Select, Want};

use super::WgpuBackend;
use crate::activations::Activations;
use crate::kernels::{RowRecord, SelectRecord, attention};
use crate::plan::{PassSizes, tile_rows};

/// The records of a pass.
pub(super) struct Translated {
    pub(super) rows: Vec<RowRecord>,
    /// Rows whose candidates are wanted, in the order of the pass.
    pub(super) select: Vec<SelectRecord>,
    /// Rows whose logits are wanted, in the order of the pass.
    pub(super) select_logits: Vec<SelectRecord>,
    pub(super) tiles: Vec<attention::TileRecord>,
}

impl WgpuBackend {
    /// Refuses passes that name what does not exist, or more than the device takes at a time.
    pub(super) fn check(&self, pass: &Pass) -> Result<(), BackendError> {
        let slots = |store| self.stores.slots(store).map(|s| s.len() as u32);
        pass.check(&self.architecture, slots)?;
        let limits = &self.gpu.profile.limits;
        let most = self.rows_limit() as usize;
        let rows = pass.rows.len().max(pass.select.len());
        if rows > most {
            return Err(BackendError::InvalidPass(format!(
                "{rows} rows; {} computes at most {most} of this model at a time, compute them in several passes",
                self.gpu.profile.name
            )));
        }
        let logits = pass.select.iter().filter(|s| s.want == Want::Logits).count();
        let width = self.architecture.embedding_rows;
        let bytes = u64::from(self.arithmetic.room(logits as u32)) * width as u64 * 4;
        let most = limits.binding.min(limits.buffer);
        if logits > 0 && bytes > most {
            return Err(BackendError::InvalidPass(format!(
                "the logits of {logits} rows, {width} numbers each, take {bytes} bytes; {} holds at most {most} at a \
                 time, ask for fewer rows a pass",
                self.gpu.profile.name
            )));
        }
        Ok(())
    }

    /// Rows that a pass may have on this device.
    pub(super) fn rows_limit(&self) -> u32 {
        let limits = &self.gpu.profile.limits;
        let strips = self.outline.strips(self.arithmetic).unwrap_or(1);
        let fits = Activations::most_rows(limits, &self.architecture, self.arithmetic, strips);
        fits.min(limits.workgroups)
    }

    /// Sizes of a pass but for its tiles, and the sizes of its recording.
    pub(super) fn sizes(&self, pass: &Pass) -> (PassSizes, PassSizes) {
        let logits = pass.select.iter().filter(|s| s.want == Want::Logits).count() as u32;
        let selected = pass.select.len() as u32 - logits;
        let sizes = PassSizes { rows: pass.rows.len() as u32, selected, tiles: 1, logits };
        (sizes, sizes.rounded_up(self.rows_limit()))
    }

    /// The records of a pass that was checked, and whose stores, positions and sets of suppressed ids (which lie at
    /// `sets`) there is room for.
    pub(super) fn translate(&self, pass: &Pass, sets: &[u32], rounded: PassSizes) -> Translated {
        // Every store is there: the check has seen it.
        let start = |store| self.stores.slots(store).map_or(0, |slots| slots.start);
        let row = |row: &remask_core::Row| {
            let start = start(row.store);
            RowRecord {
                token: row.token,
                position: row.position,
                slot: start + row.slot,
                key_start: start + row.keys.start,
                key_end: start + row.keys.end,
                turn: self.turns.of(row.position),
                padding: [0; 2],
            }
        };
        let rows: Vec<_> = pass.rows.iter().map(row).collect();
        let record = |s: &Select| {
            let mut record = SelectRecord {
                row: s.row,
                guide: s.guide.map_or(s.row, |g| g.row),
                guide_scale: s.guide.map_or(0.0, |g| g.scale),
                position: s.position,
                ..SelectRecord::default()
            };
            if let Want::Candidate { temperature, key, suppressed } = s.want {
                (record.temperature, record.key) = (temperature, key.0);
                record.suppressed = sets.get(suppressed as usize).copied().unwrap_or(0);
            }
            record
        };
        let of = |logits| pass.select.iter().filter(move |s| (s.want == Want::Logits) == logits).map(record).collect();
        let store: Vec<_> = pass.rows.iter().map(|r| r.store.0).collect();
        let head_dim = self.architecture.blocks.iter().map(|b| b.attention.head_dim as u32).max().unwrap_or(1);
        let most = tile_rows(self.arithmetic, head_dim, rounded.rows, self.batch_invariant);
        let tiles = attention::tiles(&rows, &store, most);
        Translated { rows, select: of(false), select_logits: of(true), tiles }
    }
}
