//! Weight matrices on the CPU, and their product with a few or many rows.
//!
//! A matrix is kept as panels of `WIDTH` output features: within a panel, the weights of one input
//! feature lie together, in the format the checkpoint has them (int8 stays int8, and
//! of a stack of matrices each stays what it is). A product runs rows
//! over one panel after the other (`kernel.rs`). Nothing is packed for a call, which is why this
//! beats a general matrix product by most where rows are few.

pub use pulp::Arch;
use rayon::prelude::*;
use remask_core::Result;
use remask_core::checkpoint::{Matrix, WeightFormat};

use crate::kernel;
use crate::stored::{Rows, Weights};

/// Output features of a panel: two vectors of AVX-512.
pub(crate) const WIDTH: usize = 32;

/// Rows that share one decoding of a panel where there are too few panels for the threads.
const LEAST_ROWS_A_TASK: usize = 48;

/// A `[rows, cols]` matrix in panels, whose last ones may be filled up with zeros.
#[derive(Debug)]
pub struct Panels {
    panels: Vec<Panel>,
    rows: usize,
    cols: usize,
}

/// Up to `WIDTH` rows that are kept alike.
#[derive(Debug)]
struct Panel {
    weights: Weights,
    first: usize,
    rows: usize,
}

/// Matrices that follow each other and are kept alike.
struct Run<'a, 'b> {
    sources: &'b [Matrix<'a>],
    format: WeightFormat,
    first: usize,
    rows: usize,
}

impl Panels {
    /// Stacks matrices of equal width by rows, each in `format` or else as it is stored (float32 where the
    /// format does not fit the width).
    ///
    /// # Errors
    /// [`Error::Tensor`](remask_core::Error::Tensor) where a weight cannot be kept in `format`.
    pub fn stack(sources: &[Matrix], format: Option<WeightFormat>) -> Result<Self> {
        let cols = sources.first().map_or(0, |s| s.cols);
        let kept = |source: &Matrix| -> Result<_> {
            let wanted = format.map_or_else(|| source.kept_as(), Ok)?;
            Ok(if wanted.fits(cols) { wanted } else { WeightFormat::F32 })
        };
        let formats = sources.iter().map(kept).collect::<Result<Vec<_>>>()?;
        let (mut panels, mut start, mut rows) = (Vec::new(), 0, 0);
        for alike in formats.chunk_by(|a, b| a == b) {
            let sources = &sources[start..start + alike.len()];
            let run = Run { sources, format: alike[0], first: rows, rows: sources.iter().map(|s| s.rows).sum() };
            panels.extend(run.panels()?);
            (start, rows) = (start + alike.len(), rows + run.rows);
        }
        Ok(Self { panels, rows, cols })
    }

    /// Output features.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Input features.
    #[must_use]
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// How the weights are kept, each format once.
    #[must_use]
    pub fn formats(&self) -> Vec<WeightFormat> {
        let mut formats = Vec::new();
        for panel in &self.panels {
            let format = panel.weights.format();
            if !formats.contains(&format) {
                formats.push(format);
            }
        }
        formats
    }

    /// Row `row` of the matrix as float32: an embedding. Zeros where there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> Vec<f32> {
        let after = self.panels.partition_point(|p| p.first <= row);
        let panel = after.checked_sub(1).and_then(|i| self.panels.get(i)).filter(|p| row - p.first < p.rows);
        panel.map_or_else(|| vec![0.0; self.cols], |p| p.weights.row(row - p.first))
    }

    /// `x [m, cols]` times the transposed matrix: `[m, rows]`, on all threads of the pool.
    ///
    /// # Panics
    /// Where `x` is not `[m, cols]`.
    #[must_use]
    pub fn product(&self, x: &[f32], m: usize) -> Vec<f32> {
        self.product_and_bias(x, m, None)
    }

    /// As [`Panels::product`], with `bias [rows]` added.
    ///
    /// # Panics
    /// Where `x` is not `[m, cols]`.
    #[must_use]
    pub fn product_and_bias(&self, x: &[f32], m: usize, bias: Option<&[f32]>) -> Vec<f32> {
        self.product_by(Arch::new(), x, m, bias)
    }

    /// As [`Panels::product_and_bias`], by one of the [`vector_levels`] rather than the best of them.
    ///
    /// # Panics
    /// Where `x` is not `[m, cols]`.
    #[must_use]
    pub fn product_by(&self, arch: Arch, x: &[f32], m: usize, bias: Option<&[f32]>) -> Vec<f32> {
        assert_eq!(x.len(), m * self.cols, "{m} rows of {} features", self.cols);
        let arch = usable(arch);
        let mut out = vec![0f32; m * self.rows];
        let panels = self.panels.len();
        // A few tasks a thread even out what else the cores are doing.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(panels.max(1));
        let rows_a_task = m.div_ceil(wanted).max(LEAST_ROWS_A_TASK).min(m.max(1));
        let chunks = m.div_ceil(rows_a_task);
        let target = Columns::of(&mut out, self.rows);
        (0..panels * chunks).into_par_iter().for_each_init(Vec::new, |sums, task| {
            let (panel, first) = (&self.panels[task / chunks], task % chunks * rows_a_task);
            let count = rows_a_task.min(m - first);
            sums.clear();
            let mut begun = [0f32; WIDTH];
            if let Some(bias) = bias.and_then(|b| b.get(panel.first..panel.first + panel.rows)) {
                begun[..panel.rows].copy_from_slice(bias);
            }
            sums.resize(count, begun);
            let x = &x[first * self.cols..(first + count) * self.cols];
            arch.dispatch(kernel::Run { weights: &panel.weights, cols: self.cols, x, sums });
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: no other task has this panel and this range of rows.
                unsafe { target.write(first + r, panel.first, &sums[..panel.rows]) };
            }
        });
        out
    }
}

/// Every kind of vector instructions that the kernel knows and this processor has, no vectors first.
#[must_use]
pub fn vector_levels() -> Vec<Arch> {
    let mut levels = vec![Arch::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        levels.extend(pulp::x86::V3::try_new().map(|level| usable(Arch::V3(level))));
        levels.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    #[cfg(target_arch = "aarch64")]
    levels.extend(pulp::aarch64::Neon::try_new().map(Arch::Neon));
    levels
}

/// `arch` where the kernel can use it. AVX2 without the conversion of f16 is no processor's, but a
/// virtual machine may hide what it likes.
fn usable(arch: Arch) -> Arch {
    #[cfg(target_arch = "x86_64")]
    if matches!(arch, Arch::V3(_)) && !std::arch::is_x86_feature_detected!("f16c") {
        return Arch::Scalar;
    }
    arch
}

/// A `[rows, stride]` matrix that tasks write disjoint pieces of.
#[derive(Clone, Copy)]
pub(crate) struct Columns {
    out: *mut f32,
    rows: usize,
    stride: usize,
}

// SAFETY: tasks only write through it, each its own elements, while the owner of the memory waits for them.
unsafe impl Sync for Columns {}

impl Columns {
    /// The matrix in `out`, rows of `stride` elements. It must not be used once `out` is gone.
    pub(crate) fn of(out: &mut [f32], stride: usize) -> Self {
        Self { out: out.as_mut_ptr(), rows: out.len() / stride.max(1), stride }
    }

    /// Writes `values` to `row` from `column` on.
    ///
    /// # Safety
    /// No other thread may write these elements, and the memory must still be there.
    pub(crate) unsafe fn write(&self, row: usize, column: usize, values: &[f32]) {
        assert!(row < self.rows && column + values.len() <= self.stride);
        // SAFETY: inside the matrix by the line above; nobody else writes here by the caller's word.
        unsafe {
            let to = self.out.add(row * self.stride + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}

impl Run<'_, '_> {
    /// The panels, made by all threads of the pool.
    fn panels(&self) -> Result<Vec<Panel>> {
        let panel = |i: usize| {
            let wanted = i * WIDTH..self.rows.min((i + 1) * WIDTH);
            let mut planes = vec![Vec::new(); self.format.planes().len()];
            let mut start = 0;
            for source in self.sources {
                let (from, to) = (wanted.start.max(start), wanted.end.min(start + source.rows));
                if from < to {
                    let encoded = source.encode(from - start..to - start, self.format)?;
                    planes.iter_mut().zip(&encoded.planes).for_each(|(to, plane)| to.extend_from_slice(plane));
                }
                start += source.rows;
            }
            let weights = Rows { planes: &planes, rows: wanted.len() }.panel(self.format);
            Ok(Panel { weights, first: self.first + wanted.start, rows: wanted.len() })
        };
        (0..self.rows.div_ceil(WIDTH)).into_par_iter().map(panel).collect()
    }
}
