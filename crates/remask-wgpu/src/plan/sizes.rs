//! The sizes of a pass, and which passes share a plan.

/// `Pass` of `shaders/pass.wgsl`.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, bytemuck::Pod, bytemuck::Zeroable)]
pub struct PassSizes {
    /// Rows computed.
    pub rows: u32,
    /// Rows whose candidates are wanted.
    pub selected: u32,
    /// Attention row tiles.
    pub tiles: u32,
    /// Rows whose logits are wanted.
    pub logits: u32,
}

/// Rows that a kernel runs over, by the number that it is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Over {
    /// All rows of the pass.
    Rows = 0,
    /// Those whose candidates are wanted.
    Selected = 1,
    /// Those whose logits are wanted.
    Logits = 2,
}

impl PassSizes {
    /// Sizes that fit this pass and others near it, so that they share one recording: each count up to the next of four
    /// steps an octave. Kernels read the true counts; a workgroup past them ends at once. Tiles are chosen for what is
    /// rounded up though, and of many rows a tile too many can be a turn of all multiprocessors: those get smaller steps.
    /// Few selected rows go up to a power of two: a block has fewer with every step, and these are the counts that
    /// kernels are chosen by. No count goes above `most`, which none is above.
    #[must_use]
    pub fn rounded_up(self, most: u32) -> Self {
        let step = |n: u32| (n.next_power_of_two() / 8).max(1);
        let round = |n: u32| n.next_multiple_of(step(n));
        let rows_step = step(self.rows).min(32.max(step(self.rows) / 8));
        let rows = self.rows.next_multiple_of(rows_step);
        let picked = |n: u32| match n {
            0 => 0,
            1..=64 => n.next_power_of_two(),
            _ => round(n),
        };
        let [rows, selected, tiles, logits] =
            [rows, picked(self.selected), round(self.tiles), picked(self.logits)].map(|n| n.min(most));
        Self { rows, selected, tiles, logits }
    }

    /// How many rows a kernel runs over.
    #[must_use]
    pub fn of(self, over: Over) -> u32 {
        match over {
            Over::Rows => self.rows,
            Over::Selected => self.selected,
            Over::Logits => self.logits,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_round_up_to_few() {
        let rows = |n| PassSizes { rows: n, ..PassSizes::default() }.rounded_up(u32::MAX).rows;
        let selected = |n| PassSizes { selected: n, ..PassSizes::default() }.rounded_up(u32::MAX).selected;
        let count =
            |rounded: &dyn Fn(u32) -> u32| (1..=4096).map(rounded).collect::<std::collections::BTreeSet<_>>().len();
        assert!(count(&rows) <= 8 + 5 * 4 + 8 + 16 + 2 * 32 && count(&selected) <= 7 + 6 * 4);
        for n in 1..=4096 {
            for (rounded, coarse) in [(rows(n), false), (selected(n), n <= 64)] {
                let most = if coarse { 2 * n - 1 } else { (n * 5).div_ceil(4) };
                assert!((n..=most).contains(&rounded), "{n} {rounded}");
            }
            assert!(rows(n) - n < 64, "{n}");
            assert_eq!([rows(rows(n)), selected(selected(n))], [rows(n), selected(n)]);
        }
        assert_eq!(PassSizes::default().rounded_up(9), PassSizes::default());
        // As many rows as a device takes do not become more than it takes.
        for n in [64_512, 64_513, 65_000, 65_535] {
            let sizes = PassSizes { rows: n, selected: n, tiles: n, logits: 0 }.rounded_up(65_535);
            assert!([sizes.rows, sizes.selected, sizes.tiles].iter().all(|r| (n..=65_535).contains(r)), "{sizes:?}");
        }
    }
}
