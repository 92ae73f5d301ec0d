//! Weight matrices as backends want them: rows of one storage format, borrowed where the checkpoint
//! already holds that format and converted otherwise.

use std::borrow::Cow;
use std::ops::Range;

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::half_loss::HalfLoss;
use super::{BlockType, Checkpoint, DType, TensorView, WeightFormat};
use crate::error::{Error, Result};
use crate::quantize::{self, BLOCK};
use crate::tensors::{Stored, TensorSpec};

/// A `[rows, cols]` weight of a checkpoint in one of the formats it may be stored in.
#[derive(Debug, Clone, Copy)]
pub struct Matrix<'a> {
    view: TensorView<'a>,
    scales: Option<TensorView<'a>>,
    stored: Stored,
    /// Format in the checkpoint, or the one that holds what the checkpoint has exactly.
    pub format: WeightFormat,
    /// Output features.
    pub rows: usize,
    /// Input features.
    pub cols: usize,
}

/// Rows of a matrix in some format: its [planes](WeightFormat::planes), row by row.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// One for each plane of the format.
    pub planes: Vec<Cow<'a, [u8]>>,
}

impl<'a> Encoded<'a> {
    fn of<const N: usize>(planes: [Cow<'a, [u8]>; N]) -> Self {
        Self { planes: planes.into() }
    }
}

impl<'a> Matrix<'a> {
    /// The matrix that `spec` describes.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing, of another shape or of a type that holds no weights.
    pub fn of(checkpoint: &'a Checkpoint, spec: &TensorSpec) -> Result<Self> {
        let TensorSpec { name, rows, cols, stored, .. } = spec;
        // Blocks run along the inputs, however a family stores floats.
        let blocks = checkpoint.get(name).is_some_and(|v| matches!(v.dtype, DType::I8 | DType::U8));
        if !stored.transposed || blocks {
            let stored = &Stored { transposed: false, ..*stored };
            return Ok(Self { stored: *stored, ..Self::open(checkpoint, name, *rows, *cols)? });
        }
        let matrix = Self::open(checkpoint, name, *cols, *rows)?;
        if matrix.view.blocks.is_some() || matrix.scales.is_some() {
            let problem = "lies in blocks along the wrong side; it must be F32, F16 or BF16".to_owned();
            return Err(Error::tensor(matrix.view.file, name, problem));
        }
        Ok(Self { stored: *stored, rows: *rows, cols: *cols, ..matrix })
    }

    /// The matrix called `name`, which must be `[rows, cols]`.
    ///
    /// # Errors
    /// As [`Matrix::of`].
    pub fn open(checkpoint: &'a Checkpoint, name: &str, rows: usize, cols: usize) -> Result<Self> {
        let stored = Stored::default();
        if let Some(blocks) = checkpoint.get(name).and_then(|v| v.blocks) {
            let view = checkpoint.tensor(name, &[rows, cols])?;
            return Ok(Self { view, scales: None, stored, format: blocks.format(), rows, cols });
        }
        // Two int4 lie in a byte.
        let nibbles = cols.is_multiple_of(BLOCK) && checkpoint.get(name).is_some_and(|v| v.dtype == DType::U8);
        let view = checkpoint.tensor(name, &[rows, if nibbles { cols / 2 } else { cols }])?;
        let (format, scales) = match WeightFormat::stored_as(view.dtype) {
            Some(format) if !format.is_quantized() => (format, None),
            Some(format) if cols.is_multiple_of(BLOCK) => {
                let scales = checkpoint.tensor(&quantize::scale_name(name), &[rows, cols / BLOCK])?;
                if scales.dtype != DType::F16 {
                    let problem = format!("scales are {}, must be F16", scales.dtype);
                    return Err(Error::tensor(scales.file, scales.name, problem));
                }
                (format, Some(scales))
            }
            _ => {
                let problem =
                    format!("is {}; weights must be F32, F16, BF16, F64, or I8 or U8 in blocks of {BLOCK}", view.dtype);
                return Err(Error::tensor(view.file, name, problem));
            }
        };
        Ok(Self { view, scales, stored, format, rows, cols })
    }

    /// Full tensor name.
    #[must_use]
    pub fn name(&self) -> &'a str {
        self.view.name
    }

    /// Bytes that it takes in the checkpoint.
    #[must_use]
    pub fn stored_bytes(&self) -> u64 {
        self.view.len() + self.scales.map_or(0, |s| s.len())
    }

    /// The stored bytes of `rows`, in order.
    fn slice(&self, rows: &Range<usize>) -> Result<Cow<'a, [u8]>> {
        if self.stored.transposed {
            return self.columns(rows).map(Cow::Owned);
        }
        let per_row = self.view.len() / self.rows.max(1) as u64;
        let read = |from: usize, to: usize| self.view.read(from as u64 * per_row..to as u64 * per_row);
        let Some(head) = self.stored.paired.filter(|_| !rows.is_empty()) else {
            return read(rows.start, rows.end);
        };
        // Whole heads, whose rows lie in another order.
        let from = rows.start - rows.start % head;
        let heads = read(from, self.rows.min(rows.end.next_multiple_of(head)))?;
        let per_row = per_row as usize;
        let mut ordered = Vec::with_capacity(rows.len() * per_row);
        for row in rows.clone() {
            let (first, i) = (row - row % head, row % head);
            // Row i or i + half is one of pair i.
            let stored = first + i % (head / 2) * 2 + i / (head / 2);
            ordered.extend_from_slice(&heads[(stored - from) * per_row..][..per_row]);
        }
        Ok(Cow::Owned(ordered))
    }

    /// As [`Matrix::slice`], of a matrix that is stored `[cols, rows]`: gathered piece by piece.
    fn columns(&self, rows: &Range<usize>) -> Result<Vec<u8>> {
        let size = self.view.dtype.bitsize() / 8;
        let mut gathered = vec![0; rows.len() * self.cols * size];
        for col in 0..self.cols {
            let from = col as u64 * self.rows as u64;
            let piece =
                self.view.read((from + rows.start as u64) * size as u64..(from + rows.end as u64) * size as u64)?;
            for (row, element) in piece.chunks_exact(size).enumerate() {
                gathered[(row * self.cols + col) * size..][..size].copy_from_slice(element);
            }
        }
        Ok(gathered)
    }

    fn scale_slice(&self, rows: &Range<usize>) -> Result<Cow<'a, [u8]>> {
        let per_row = (self.cols / BLOCK * 2) as u64;
        let read = |scales: TensorView<'a>| scales.read(rows.start as u64 * per_row..rows.end as u64 * per_row);
        self.scales.map_or(Ok(Cow::Borrowed(&[][..])), read)
    }

    /// `rows` of this matrix in `format`, without a copy where the checkpoint holds that format.
    ///
    /// # Errors
    /// [`Error::Tensor`] where `format` cannot hold a weight: bf16 and f32 hold them all; [`Error::Io`] where the
    /// file cannot be read.
    pub fn encode(&self, rows: Range<usize>, format: WeightFormat) -> Result<Encoded<'a>> {
        match self.view.blocks {
            Some(blocks) if blocks.fits_in(format) => {
                let planes = blocks.split(&self.slice(&rows)?, format).into_iter().map(Cow::Owned).collect();
                return Ok(Encoded { planes });
            }
            None if format == self.format && self.view.dtype != DType::F64 => {
                let values = self.slice(&rows)?;
                if self.scales.is_none() {
                    return Ok(Encoded::of([values]));
                }
                return Ok(Encoded::of([values, self.scale_slice(&rows)?]));
            }
            _ => {}
        }
        if !format.can_be_made() {
            let problem = format!(
                "is {}, of which {format} weights cannot be made; load it as it is stored, or as f32, f16, bf16, q8 or q4",
                self.view.type_name()
            );
            return Err(Error::tensor(self.view.file, self.view.name, problem));
        }
        let refused = |v: Option<&f32>| {
            let v = v.copied().unwrap_or(f32::NAN);
            let problem = format!("weight {v} cannot be kept as {format}; load with bf16 or f32 weights instead");
            Error::tensor(self.view.file, self.view.name, problem)
        };
        if format == WeightFormat::F16 && !self.format.is_quantized() && self.view.blocks.is_none() {
            let values = narrow(self.view.dtype, &self.slice(&rows)?).map_err(|v| refused(Some(&v)))?;
            return Ok(Encoded::of([Cow::Owned(values)]));
        }
        let values = self.to_f32(rows)?;
        let (values, scales): (_, Option<Vec<u8>>) = match format {
            WeightFormat::F32 => (bytemuck::cast_slice(&values).to_vec(), None),
            WeightFormat::Bf16 => (values.iter().flat_map(|v| bf16::from_f32(*v).to_le_bytes()).collect(), None),
            WeightFormat::F16 => {
                // NaN and infinities stay what they are, for whoever looks at the logits.
                let lost = |v: &&f32| v.is_finite() && !f16::from_f32(**v).is_finite();
                if let Some(v) = values.iter().find(lost) {
                    return Err(refused(Some(v)));
                }
                (values.iter().flat_map(|v| f16::from_f32(*v).to_le_bytes()).collect(), None)
            }
            _ => {
                let (quants, scales) = if format == WeightFormat::Q8 {
                    let (quants, scales) = quantize::q8(&values);
                    (bytemuck::cast_slice(&quants).to_vec(), scales)
                } else {
                    quantize::q4(&values)
                };
                if let Some(block) = scales.iter().position(|s| !s.is_finite()) {
                    let steps = if format == WeightFormat::Q8 { 127.0 } else { 8.0 };
                    let lost = |v: &&f32| !f16::from_f32(v.abs() / steps).is_finite();
                    return Err(refused(values[block * BLOCK..].iter().find(lost)));
                }
                (quants, Some(bytemuck::cast_slice(&scales).to_vec()))
            }
        };
        Ok(Encoded { planes: [values].into_iter().chain(scales).map(Cow::Owned).collect() })
    }

    /// What would be lost if `rows` were kept as f16, for a matrix that is stored in bf16.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn half_loss(&self, rows: Range<usize>) -> Result<HalfLoss> {
        if self.format == WeightFormat::Bf16 { Ok(HalfLoss::of(&self.slice(&rows)?)) } else { Ok(HalfLoss::default()) }
    }

    /// `rows` of this matrix as float32.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn to_f32(&self, rows: Range<usize>) -> Result<Vec<f32>> {
        let bytes = self.slice(&rows)?;
        Ok(match (self.view.blocks, self.format) {
            (Some(blocks), _) => blocks.dequantize(&bytes),
            (_, format) if format.is_quantized() => format.decode(&[bytes, self.scale_slice(&rows)?]),
            _ => floats(self.view.dtype, &bytes),
        })
    }

    /// The format that holds this matrix exactly in the least room: [`Matrix::format`], but f16 where weights
    /// that no quantised format of ours holds happen to be f16, every one of them. Such weights are all read.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn kept_as(&self) -> Result<WeightFormat> {
        if self.format.is_quantized() || self.view.blocks.is_none() || !WeightFormat::F16.fits(self.cols) {
            return Ok(self.format);
        }
        let rows_at_once = (LOOK as usize / self.cols.max(1)).max(1);
        for start in (0..self.rows).step_by(rows_at_once) {
            let values = self.to_f32(start..self.rows.min(start + rows_at_once))?;
            if values.iter().any(|v| f16::from_f32(*v).to_f32().to_bits() != v.to_bits()) {
                return Ok(self.format);
            }
        }
        Ok(WeightFormat::F16)
    }

    /// The GGUF type of blocks that become other blocks in `format`, where that is not exact.
    #[must_use]
    pub fn requantized(&self, format: WeightFormat) -> Option<BlockType> {
        self.view.blocks.filter(|b| format.is_quantized() && !b.fits_in(format))
    }

    /// The GGUF type of blocks that no quantised format of ours holds, and that are expanded therefore.
    #[must_use]
    pub fn expanded(&self) -> Option<BlockType> {
        self.view.blocks.filter(|b| !b.format().is_quantized())
    }

    /// Squares of what `rows` lose in `format`, and of the weights themselves, summed.
    ///
    /// # Errors
    /// As [`Matrix::encode`].
    pub fn loss(&self, rows: Range<usize>, format: WeightFormat) -> Result<[f64; 2]> {
        let kept = format.decode(&self.encode(rows.clone(), format)?.planes);
        let square = |v: f32| f64::from(v) * f64::from(v);
        let sums = self
            .to_f32(rows)?
            .iter()
            .zip(kept)
            .fold([0.0; 2], |[lost, all], (w, k)| [lost + square(w - k), all + square(*w)]);
        Ok(sums)
    }
}

/// Little-endian F32, F16, BF16 or (rounded) F64 bytes as float32; other types give nothing.
fn floats(dtype: DType, bytes: &[u8]) -> Vec<f32> {
    let halves = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        DType::F32 => bytes.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
        DType::F64 => bytes.as_chunks::<8>().0.iter().map(|b| f64::from_le_bytes(*b) as f32).collect(),
        // Where the bytes lie well, a whole slice at a time, with the processor's own conversion.
        DType::F16 => match bytemuck::try_cast_slice::<u8, f16>(bytes) {
            Ok(values) if cfg!(target_endian = "little") => values.to_f32_vec(),
            _ => halves().map(|b| f16::from_le_bytes(*b).to_f32()).collect(),
        },
        DType::BF16 => halves().map(|b| bf16::from_le_bytes(*b).to_f32()).collect(),
        _ => Vec::new(),
    }
}

/// Little-endian F32, F16, BF16 or F64 bytes as f16, a few cache lines at a time: weights by the billion go
/// through here. NaN and infinities stay what they are, for whoever looks at the logits.
///
/// # Errors
/// The first weight that is finite but not as f16.
fn narrow(dtype: DType, bytes: &[u8]) -> Result<Vec<u8>, f32> {
    const STEP: usize = 1024;
    let size = dtype.bitsize() / 8;
    let (mut wide, mut halves) = ([0f32; STEP], [f16::ZERO; STEP]);
    let mut narrowed = Vec::with_capacity(bytes.len() / size * 2);
    for bytes in bytes.chunks(STEP * size) {
        let count = bytes.len() / size;
        let (wide, halves) = (&mut wide[..count], &mut halves[..count]);
        match dtype {
            // bf16 is the upper half of a float32.
            DType::BF16 => wide
                .iter_mut()
                .zip(bytes.as_chunks::<2>().0)
                .for_each(|(w, b)| *w = f32::from_bits(u32::from(u16::from_le_bytes(*b)) << 16)),
            _ => wide.copy_from_slice(&floats(dtype, bytes)),
        }
        // From 65520 on the nearest f16 is infinite.
        let lost = |v: &f32| (v.abs() >= 65520.0) & v.is_finite();
        if wide.iter().fold(false, |any, v| any | lost(v)) {
            return Err(wide.iter().copied().find(lost).unwrap_or(f32::NAN));
        }
        halves.convert_from_f32_slice(wide);
        if cfg!(target_endian = "little") {
            narrowed.extend_from_slice(bytemuck::cast_slice(halves));
        } else {
            narrowed.extend(halves.iter().flat_map(|h| h.to_le_bytes()));
        }
    }
    Ok(narrowed)
}

impl Checkpoint {
    /// The vector that `spec` describes, as float32.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing, of another length or holds no floats; [`Error::Io`] where the file
    /// cannot be read.
    pub fn vector(&self, spec: &TensorSpec) -> Result<Vec<f32>> {
        let mut values = self.check_vector(&spec.name, spec.cols)?.to_f32()?;
        if let Some(head) = spec.stored.paired {
            let halves = |(i, _): (usize, &f32)| {
                let (first, at) = (i - i % head, i % head);
                values[first + at % (head / 2) * 2 + at / (head / 2)]
            };
            values = values.iter().enumerate().map(halves).collect();
        }
        if spec.stored.plus_one {
            values.iter_mut().for_each(|v| *v += 1.0);
        }
        Ok(values)
    }

    /// The vector called `name`, before its elements are read.
    ///
    /// # Errors
    /// [`Error::Tensor`] where it is missing, of another length or holds no floats.
    pub fn check_vector(&self, name: &str, len: usize) -> Result<TensorView<'_>> {
        let view = self.tensor(name, &[len])?;
        view.check_floats()?;
        Ok(view)
    }
}

/// Bytes that are looked at at a time, a multiple of every element's.
const LOOK: u64 = 1 << 20;

impl TensorView<'_> {
    fn check_floats(&self) -> Result<()> {
        if !matches!(self.dtype, DType::F32 | DType::F16 | DType::BF16 | DType::F64) {
            let problem = format!("is {}; expected F32, F16, BF16 or F64", self.type_name());
            return Err(Error::tensor(self.file, self.name, problem));
        }
        Ok(())
    }

    /// The elements as float32.
    ///
    /// # Errors
    /// [`Error::Tensor`] where they are no F32, F16, BF16 or F64; [`Error::Io`] where the file cannot be read.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        self.check_floats()?;
        Ok(floats(self.dtype, &self.bytes()?))
    }

    /// Whether a float tensor holds a NaN or an infinity; false for other types.
    ///
    /// # Errors
    /// [`Error::Io`] where the file cannot be read.
    pub fn has_non_finite(&self) -> Result<bool> {
        let step = self.blocks.map_or(LOOK, |blocks| (LOOK >> 8) * blocks.bytes() as u64);
        for start in (0..self.len()).step_by(step as usize) {
            let bytes = self.read(start..self.len().min(start + step))?;
            let values = self.blocks.map_or_else(|| floats(self.dtype, &bytes), |blocks| blocks.dequantize(&bytes));
            if values.iter().any(|v| !v.is_finite()) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
