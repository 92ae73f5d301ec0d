//! Weight matrices on the CPU, and their product with a few or many rows.
//!
//! A matrix is kept as panels of `WIDTH` output features: within a panel, the weights of one input
//! feature lie together, in the format the checkpoint has them (int8 stays int8). A product takes a
//! panel a `DEPTH` of input features at a time: decodes them to float32 once, in cache, and runs
//! every row over them. Decoding costs as much as one row does, which is why this beats a general
//! matrix product by most where rows are few: that one packs its operands anew for each call.

use bytemuck::Zeroable;
use half::{bf16, f16};
pub use pulp::Arch;
use pulp::{Simd, WithSimd};
use rayon::prelude::*;
use remask_core::checkpoint::{Encoded, Matrix, WeightFormat};
use remask_core::quantize::BLOCK;
use remask_core::{Error, Result};

/// Output features of a panel: two vectors of AVX-512.
const WIDTH: usize = 32;

/// Input features that are decoded at a time: `DEPTH` x `WIDTH` float32 are 16 KiB, which leaves
/// room for the rows in a first-level cache.
const DEPTH: usize = 128;

/// Most rows that one run over a panel takes: with two vectors each they fill AVX-512's 32 registers.
const MOST_ROWS: usize = 12;

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
enum Weights {
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
        self.product_by(Arch::new(), x, m)
    }

    /// As [`Panels::product`], by one of the [`vector_levels`] rather than the best of them.
    ///
    /// # Panics
    /// Where `x` is not `[m, cols]`.
    #[must_use]
    pub fn product_by(&self, arch: Arch, x: &[f32], m: usize) -> Vec<f32> {
        assert_eq!(x.len(), m * self.cols, "{m} rows of {} features", self.cols);
        let mut out = vec![0f32; m * self.rows];
        let panels = self.rows.div_ceil(WIDTH);
        // A few tasks a thread even out what else the cores are doing.
        let wanted = (4 * rayon::current_num_threads()).div_ceil(panels.max(1));
        let rows_a_task = m.div_ceil(wanted).max(LEAST_ROWS_A_TASK).min(m.max(1));
        let chunks = m.div_ceil(rows_a_task);
        let target = Columns { out: out.as_mut_ptr(), rows: m, stride: self.rows };
        (0..panels * chunks).into_par_iter().for_each_init(Vec::new, |sums, task| {
            let (panel, first) = (task / chunks, task % chunks * rows_a_task);
            let count = rows_a_task.min(m - first);
            sums.clear();
            sums.resize(count, [0f32; WIDTH]);
            let x = &x[first * self.cols..(first + count) * self.cols];
            arch.dispatch(Run { weights: &self.weights, panel, cols: self.cols, x, sums });
            let width = WIDTH.min(self.rows - panel * WIDTH);
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
        levels.extend(pulp::x86::V3::try_new().map(Arch::V3));
        levels.extend(pulp::x86::V4::try_new().map(Arch::V4));
    }
    #[cfg(target_arch = "aarch64")]
    levels.extend(pulp::aarch64::Neon::try_new().map(Arch::Neon));
    levels
}

/// A `[rows, stride]` matrix that tasks write disjoint pieces of.
#[derive(Clone, Copy)]
struct Columns {
    out: *mut f32,
    rows: usize,
    stride: usize,
}

// SAFETY: tasks only write through it, each its own elements (see `Panels::product`), while the owner
// of the memory waits for them.
unsafe impl Sync for Columns {}

impl Columns {
    /// Writes `values` to `row` from `column` on.
    ///
    /// # Safety
    /// No other thread may write these elements, and the memory must still be there.
    unsafe fn write(&self, row: usize, column: usize, values: &[f32]) {
        assert!(row < self.rows && column + values.len() <= self.stride);
        // SAFETY: inside the matrix by the line above; nobody else writes here by the caller's word.
        unsafe {
            let to = self.out.add(row * self.stride + column);
            std::ptr::copy_nonoverlapping(values.as_ptr(), to, values.len());
        }
    }
}

/// Some rows over one panel.
struct Run<'a> {
    weights: &'a Weights,
    panel: usize,
    cols: usize,
    x: &'a [f32],
    sums: &'a mut [[f32; WIDTH]],
}

/// Decoded weights, where vectors never straddle a cache line.
#[repr(align(64))]
struct Decoded([f32; DEPTH * WIDTH]);

impl WithSimd for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Run { weights, panel, cols, x, sums } = self;
        let mut decoded = Decoded([0.0; DEPTH * WIDTH]);
        // Two vectors a row, their sums and one broadcast value must fit the registers: 32 of AVX-512
        // and NEON, 16 of AVX2.
        let most = if S::F32_LANES == 8 { MOST_ROWS / 2 } else { MOST_ROWS };
        let tiles = sums.len().div_ceil(most);
        for start in (0..cols).step_by(DEPTH) {
            let depth = DEPTH.min(cols - start);
            let weights = weights.decode(simd, panel * cols + start, depth, &mut decoded.0);
            let mut first = 0;
            for tile in 0..tiles {
                // Tiles as even as can be: twelve rows and a lone one take as long as twice twelve.
                let count = sums.len() / tiles + usize::from(tile < sums.len() % tiles);
                let part = Tile { x: &x[first * cols + start..], stride: cols, depth, weights };
                part.run(simd, &mut sums[first..first + count]);
                first += count;
            }
        }
    }
}

impl Weights {
    /// `depth` input features of a panel from feature `at` (counted over all panels) on, as float32.
    #[inline(always)]
    fn decode<'a, S: Simd>(&'a self, simd: S, at: usize, depth: usize, to: &'a mut [f32]) -> &'a [f32] {
        let range = at * WIDTH..(at + depth) * WIDTH;
        let to = &mut to[..depth * WIDTH];
        match self {
            Self::F32(w) => return &w[range],
            Self::F16(w) => to.iter_mut().zip(&w[range]).for_each(|(to, w)| *to = widen(*w)),
            Self::Bf16(w) => to.iter_mut().zip(&w[range]).for_each(|(to, w)| {
                *to = f32::from_bits(u32::from(w.to_bits()) << 16);
            }),
            Self::Q8 { quants, scales } => {
                // Two plain loops, which compilers turn into vectors; in one they stay scalar.
                to.iter_mut().zip(&quants[range]).for_each(|(to, q)| *to = f32::from(*q));
                rescale(simd, to, &scales[at / BLOCK * WIDTH..]);
            }
            Self::Q4 { nibbles, scales } => {
                let bytes = &nibbles[range.start / 2..range.end / 2];
                let half = BLOCK / 2 * WIDTH;
                for (to, bytes) in to.chunks_exact_mut(2 * half).zip(bytes.chunks_exact(half)) {
                    let (low, high) = to.split_at_mut(half);
                    low.iter_mut().zip(bytes).for_each(|(to, b)| *to = f32::from((b & 15) as i8 - 8));
                    high.iter_mut().zip(bytes).for_each(|(to, b)| *to = f32::from((b >> 4) as i8 - 8));
                }
                rescale(simd, to, &scales[at / BLOCK * WIDTH..]);
            }
        }
        to
    }
}

/// An f16 as float32, exactly. The library's is a call for every eight numbers; this one compilers turn
/// into vectors of whatever width they have.
#[inline(always)]
fn widen(half: f16) -> f32 {
    /// Exponents are biased by 15 in f16 and by 127 in float32.
    const BIAS: u32 = 112 << 23;
    let bits = u32::from(half.to_bits());
    let (sign, rest) = ((bits & 0x8000) << 16, (bits & 0x7FFF) << 13);
    let normal = rest + BIAS;
    // Without an exponent: as the fraction of a number whose leading one is then taken away.
    let small = (f32::from_bits(rest + BIAS + (1 << 23)) - f32::from_bits(BIAS + (1 << 23))).to_bits();
    let magnitude = match bits & 0x7C00 {
        0 => small,
        0x7C00 => normal + BIAS,
        _ => normal,
    };
    f32::from_bits(sign | magnitude)
}

/// Multiplies decoded blocks `[blocks * BLOCK, WIDTH]` with their scales `[blocks, WIDTH]`.
#[inline(always)]
fn rescale<S: Simd>(simd: S, to: &mut [f32], scales: &[f16]) {
    let mut block = [0f32; WIDTH];
    for (to, scales) in to.chunks_mut(BLOCK * WIDTH).zip(scales.as_chunks::<WIDTH>().0) {
        block.iter_mut().zip(scales).for_each(|(to, scale)| *to = widen(*scale));
        let (block, _) = S::as_simd_f32s(&block);
        for feature in to.chunks_exact_mut(WIDTH) {
            let (feature, _) = S::as_mut_simd_f32s(feature);
            feature.iter_mut().zip(block).for_each(|(v, s)| *v = simd.mul_f32s(*v, *s));
        }
    }
}

/// Up to `MOST_ROWS` rows, which start `stride` apart in `x`, over decoded weights `[depth, WIDTH]`.
#[derive(Clone, Copy)]
struct Tile<'a> {
    x: &'a [f32],
    stride: usize,
    depth: usize,
    weights: &'a [f32],
}

impl Tile<'_> {
    /// Adds the products to `sums`, one element a row.
    #[inline(always)]
    fn run<S: Simd>(self, simd: S, sums: &mut [[f32; WIDTH]]) {
        match sums.len() {
            1 => self.rows::<S, 1>(simd, sums),
            2 => self.rows::<S, 2>(simd, sums),
            3 => self.rows::<S, 3>(simd, sums),
            4 => self.rows::<S, 4>(simd, sums),
            5 => self.rows::<S, 5>(simd, sums),
            6 => self.rows::<S, 6>(simd, sums),
            7 => self.rows::<S, 7>(simd, sums),
            8 => self.rows::<S, 8>(simd, sums),
            9 => self.rows::<S, 9>(simd, sums),
            10 => self.rows::<S, 10>(simd, sums),
            11 => self.rows::<S, 11>(simd, sums),
            _ => self.rows::<S, MOST_ROWS>(simd, sums),
        }
    }

    #[inline(always)]
    fn rows<S: Simd, const ROWS: usize>(self, simd: S, sums: &mut [[f32; WIDTH]]) {
        let sums = &mut sums[..ROWS];
        let x: [&[f32]; ROWS] = std::array::from_fn(|r| &self.x[r * self.stride..][..self.depth]);
        for column in (0..WIDTH).step_by(2 * S::F32_LANES) {
            let columns = column..column + 2 * S::F32_LANES;
            let mut kept = [[S::f32s::zeroed(); 2]; ROWS];
            for (kept, sums) in kept.iter_mut().zip(sums.iter()) {
                kept.copy_from_slice(S::as_simd_f32s(&sums[columns.clone()]).0);
            }
            for (k, weights) in self.weights.chunks_exact(WIDTH).take(self.depth).enumerate() {
                let (weights, _) = S::as_simd_f32s(&weights[columns.clone()]);
                let (a, b) = (weights[0], weights[1]);
                for r in 0..ROWS {
                    // SAFETY: k is below depth by `take`, and every slice of x is depth long.
                    let v = simd.splat_f32s(unsafe { *x[r].get_unchecked(k) });
                    kept[r][0] = simd.mul_add_e_f32s(v, a, kept[r][0]);
                    kept[r][1] = simd.mul_add_e_f32s(v, b, kept[r][1]);
                }
            }
            for (kept, sums) in kept.iter().zip(sums.iter_mut()) {
                S::as_mut_simd_f32s(&mut sums[columns.clone()]).0.copy_from_slice(kept);
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_f16_is_widened_exactly() {
        for bits in 0..=u16::MAX {
            let half = f16::from_bits(bits);
            let (ours, exact) = (widen(half), half.to_f32());
            assert!(ours.to_bits() == exact.to_bits() || ours.is_nan() && exact.is_nan(), "{bits:#06x}: {ours}");
        }
    }
}
