//! Weight matrices on the CPU, and their product with a few or many rows.
//!
//! A matrix is kept as panels of `WIDTH` output features: within a panel, the weights of one input
//! feature lie together, in the format the checkpoint has them (int8 stays int8). A product runs rows
//! over one panel after the other (`kernel.rs`). Nothing is packed for a call, which is why this
//! beats a general matrix product by most where rows are few.

use bytemuck::Zeroable;
use half::{bf16, f16};
pub use pulp::Arch;
use rayon::prelude::*;
use remask_core::checkpoint::{Encoded, Matrix, WeightFormat};
use remask_core::quantize::BLOCK;
use remask_core::{Error, Result};

use crate::kernel::Run;

/// Output features of a panel: two vectors of AVX-512.
pub(crate) const WIDTH: usize = 32;

/// Rows that share one decoding of a panel where there are too few panels for the threads.
const LEAST_ROWS_A_TASK: usize = 48;

/// A `[rows, cols]` matrix in panels. The last panel is filled up with zeros.
#[derive(Debug)]
pub struct Panels {
    weights: Weights,
    rows: usize,
    cols: usize,
}

/// Weights `[panels, cols, WIDTH]`.
#[derive(Debug)]
pub(crate) enum Weights {
    F32(Vec<f32>),
    F16(Vec<f16>),
    Bf16(Vec<bf16>),
    /// Scales are `[panels, cols / BLOCK, WIDTH]`.
    Q8 {
        quants: Vec<i8>,
        scales: Vec<f16>,
    },
    /// Bytes are `[panels, cols / 2, WIDTH]`: byte j of a block holds its weights j and j + 16.
    Q4 {
        nibbles: Vec<u8>,
        scales: Vec<f16>,
    },
}

impl Panels {
    /// Stacks matrices of equal width by rows, in `format` or else as they are stored (float32 where
    /// they differ, or where the format does not fit the width).
    ///
    /// # Errors
    /// [`Error::Tensor`] where a weight cannot be kept in `format`.
    pub fn stack(sources: &[Matrix], format: Option<WeightFormat>) -> Result<Self> {
        let cols = sources.first().map_or(0, |s| s.cols);
        let rows = sources.iter().map(|s| s.rows).sum();
        let stored = sources.first().map_or(WeightFormat::F32, |s| s.format);
        let same = sources.iter().all(|s| s.format == stored);
        let wanted = format.unwrap_or(if same { stored } else { WeightFormat::F32 });
        let format = if wanted.fits(cols) { wanted } else { WeightFormat::F32 };
        let fill = Fill { sources, format, rows, cols };
        let weights = match format {
            WeightFormat::F32 => Weights::F32(fill.values(f32::from_le_bytes)?),
            WeightFormat::F16 => Weights::F16(fill.values(f16::from_le_bytes)?),
            WeightFormat::Bf16 => Weights::Bf16(fill.values(bf16::from_le_bytes)?),
            WeightFormat::Q8 => Weights::Q8 { quants: fill.values(i8::from_le_bytes)?, scales: fill.scales()? },
            WeightFormat::Q4 => Weights::Q4 { nibbles: fill.nibbles()?, scales: fill.scales()? },
        };
        Ok(Self { weights, rows, cols })
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

    /// How the weights are kept.
    #[must_use]
    pub fn format(&self) -> WeightFormat {
        match self.weights {
            Weights::F32(_) => WeightFormat::F32,
            Weights::F16(_) => WeightFormat::F16,
            Weights::Bf16(_) => WeightFormat::Bf16,
            Weights::Q8 { .. } => WeightFormat::Q8,
            Weights::Q4 { .. } => WeightFormat::Q4,
        }
    }

    /// Row `row` of the matrix as float32: an embedding. Zeros where there is no such row.
    #[must_use]
    pub fn row(&self, row: usize) -> Vec<f32> {
        let (panel, lane) = (row / WIDTH, row % WIDTH);
        let of = |k: usize| (panel * self.cols + k) * WIDTH + lane;
        let scale = |scales: &[f16], k: usize| {
            scales.get((panel * (self.cols / BLOCK) + k / BLOCK) * WIDTH + lane).map_or(0.0, |s| s.to_f32())
        };
        let value = |k: usize| match &self.weights {
            Weights::F32(w) => w.get(of(k)).copied().unwrap_or(0.0),
            Weights::F16(w) => w.get(of(k)).map_or(0.0, |v| v.to_f32()),
            Weights::Bf16(w) => w.get(of(k)).map_or(0.0, |v| v.to_f32()),
            Weights::Q8 { quants, scales } => f32::from(quants.get(of(k)).copied().unwrap_or(0)) * scale(scales, k),
            Weights::Q4 { nibbles, scales } => {
                let byte = panel * (self.cols / 2) + k / BLOCK * (BLOCK / 2) + k % (BLOCK / 2);
                let pair = nibbles.get(byte * WIDTH + lane).copied().unwrap_or(0x88);
                let nibble = if k % BLOCK < BLOCK / 2 { pair & 15 } else { pair >> 4 };
                (f32::from(nibble) - 8.0) * scale(scales, k)
            }
        };
        (0..self.cols).map(value).collect()
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
        let panels = self.rows.div_ceil(WIDTH);
        // A few tasks a thread even out what else the cores are doing.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(panels.max(1));
        let rows_a_task = m.div_ceil(wanted).max(LEAST_ROWS_A_TASK).min(m.max(1));
        let chunks = m.div_ceil(rows_a_task);
        let target = Columns::of(&mut out, self.rows);
        (0..panels * chunks).into_par_iter().for_each_init(Vec::new, |sums, task| {
            let (panel, first) = (task / chunks, task % chunks * rows_a_task);
            let count = rows_a_task.min(m - first);
            sums.clear();
            let width = WIDTH.min(self.rows - panel * WIDTH);
            let mut begun = [0f32; WIDTH];
            if let Some(bias) = bias.and_then(|b| b.get(panel * WIDTH..panel * WIDTH + width)) {
                begun[..width].copy_from_slice(bias);
            }
            sums.resize(count, begun);
            let x = &x[first * self.cols..(first + count) * self.cols];
            arch.dispatch(Run { weights: &self.weights, panel, cols: self.cols, x, sums });
            for (r, sums) in sums.iter().enumerate() {
                // SAFETY: no other task has this panel and this range of rows.
                unsafe { target.write(first + r, panel * WIDTH, &sums[..width]) };
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

/// Matrices on their way into panels.
struct Fill<'a> {
    sources: &'a [Matrix<'a>],
    format: WeightFormat,
    rows: usize,
    cols: usize,
}

impl Fill<'_> {
    /// The weights themselves.
    fn values<T: Zeroable + Copy + Send, const BYTES: usize>(&self, read: fn([u8; BYTES]) -> T) -> Result<Vec<T>> {
        self.panels(self.cols, |encoded| &encoded.values, read)
    }

    /// Pairs of int4.
    fn nibbles(&self) -> Result<Vec<u8>> {
        self.panels(self.cols / 2, |encoded| &encoded.values, u8::from_le_bytes)
    }

    /// One scale a block of weights.
    fn scales(&self) -> Result<Vec<f16>> {
        self.panels(self.cols / BLOCK, |encoded| encoded.scales.as_deref().unwrap_or(&[]), f16::from_le_bytes)
    }

    /// Panels `[panels, columns, WIDTH]` of what `part` gives of each row, `columns` elements.
    fn panels<T: Zeroable + Copy + Send, const BYTES: usize>(
        &self,
        columns: usize,
        part: for<'e> fn(&'e Encoded<'e>) -> &'e [u8],
        read: fn([u8; BYTES]) -> T,
    ) -> Result<Vec<T>> {
        let mut out = vec![T::zeroed(); self.rows.div_ceil(WIDTH) * columns * WIDTH];
        out.par_chunks_exact_mut((columns * WIDTH).max(1)).enumerate().try_for_each(|(panel, out)| {
            let wanted = panel * WIDTH..self.rows.min((panel + 1) * WIDTH);
            let mut start = 0;
            for source in self.sources {
                let (from, to) = (wanted.start.max(start), wanted.end.min(start + source.rows));
                if from < to {
                    let encoded = source.encode(from - start..to - start, self.format)?;
                    let (elements, _) = part(&encoded).as_chunks::<BYTES>();
                    for (row, elements) in (from..to).zip(elements.chunks_exact(columns.max(1))) {
                        for (k, element) in elements.iter().enumerate() {
                            out[k * WIDTH + row % WIDTH] = read(*element);
                        }
                    }
                }
                start += source.rows;
            }
            Ok::<(), Error>(())
        })?;
        Ok(out)
    }
}
