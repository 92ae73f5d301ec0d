//! Test data: reproducible, asymmetric, and never zero by accident.

use remask_core::Checkpoint;
use remask_core::checkpoint::{BlockType, Bytes, Matrix, WeightFormat};
use remask_core::random::{Key, threefry};
use remask_wgpu::kernels::padded;

use crate::cases::norm::filled_up;

/// `count` numbers uniform in ±`scale`, a different sequence for every `seed`.
#[must_use]
pub fn uniform(seed: u32, count: usize, scale: f32) -> Vec<f32> {
    let number = |i: usize| f64::from(threefry(Key([seed, 0x5EED]), [i as u32, 0])[0]) / f64::from(u32::MAX);
    (0..count).map(|i| (number(i) * 2.0 - 1.0) as f32 * scale).collect()
}

/// The numbers as float64.
#[must_use]
pub fn widen(values: &[f32]) -> Vec<f64> {
    values.iter().copied().map(f64::from).collect()
}

/// The numbers as f16 holds them.
#[must_use]
pub fn rounded(values: &[f32]) -> Vec<f32> {
    values.iter().map(|v| half::f16::from_f32(*v).to_f32()).collect()
}

/// A checkpoint of one float32 tensor called "w" of `[rows, cols]`.
///
/// # Panics
/// Never: the container is well formed.
#[must_use]
pub fn checkpoint_of(values: &[f32], rows: usize, cols: usize) -> Checkpoint {
    let header =
        format!(r#"{{"w":{{"dtype":"F32","shape":[{rows},{cols}],"data_offsets":[0,{}]}}}}"#, values.len() * 4);
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(bytemuck::cast_slice(values));
    Checkpoint::from_bytes("test", Bytes::Owned(file)).expect("a well-formed container")
}

/// A `[rows, cols]` matrix in a checkpoint, called "w", that is to be kept in a format: the reference for kernels that
/// read it.
pub struct Weights {
    /// The checkpoint.
    pub checkpoint: Checkpoint,
    /// Rows, and columns with zeros that fill them up.
    pub shape: [usize; 2],
    /// The format.
    pub format: WeightFormat,
    /// What it keeps of the weights, `[rows, cols]`.
    pub kept: Vec<f64>,
}

impl Weights {
    /// These weights, in rows of `cols` that are filled up with zeros as a loader does it.
    ///
    /// # Panics
    /// Where `format` does not fit them.
    #[must_use]
    pub fn of(values: &[f32], cols: usize, format: WeightFormat) -> Self {
        let shape = [values.len() / cols, padded(cols as u32) as usize];
        let checkpoint = checkpoint_of(&filled_up(values, cols), shape[0], shape[1]);
        Self::in_checkpoint(checkpoint, shape, cols, format)
    }

    /// The same for weights uniform in about ±`scale`, different ones for every `seed`. Where the format cannot be made
    /// they come in GGUF's blocks.
    ///
    /// # Panics
    /// Where `format` does not fit `cols`.
    #[must_use]
    pub fn uniform(seed: u32, [rows, cols]: [usize; 2], scale: f32, format: WeightFormat) -> Self {
        if format.can_be_made() {
            return Self::of(&uniform(seed, rows * cols, scale), cols, format);
        }
        Self::exactly(seed, [rows, cols], scale, format)
    }

    /// The same in rows that nothing fills up.
    ///
    /// # Panics
    /// Where `format` does not fit `cols`.
    #[must_use]
    pub fn exactly(seed: u32, [rows, cols]: [usize; 2], scale: f32, format: WeightFormat) -> Self {
        // The last one has the format's name: others may be kept in it too.
        let checkpoint = match BlockType::all().filter(|of| of.format() == format && !format.can_be_made()).last() {
            None => checkpoint_of(&uniform(seed, rows * cols, scale), rows, cols),
            Some(of) => {
                assert!(cols.is_multiple_of(of.weights()), "{cols} columns of {format}");
                let tensor = ("w".to_owned(), vec![rows, cols], of.number(), blocks(seed, of, rows * cols, scale));
                let file = Bytes::Owned(crate::gguf::file(&[], vec![tensor]));
                Checkpoint::from_gguf("test.gguf", file).expect("a well-formed file").0
            }
        };
        Self::in_checkpoint(checkpoint, [rows, cols], cols, format)
    }

    fn in_checkpoint(checkpoint: Checkpoint, shape: [usize; 2], cols: usize, format: WeightFormat) -> Self {
        let [rows, width] = shape;
        let matrix = Matrix::open(&checkpoint, "w", rows, width).expect("the tensor is there");
        let encoded = matrix.encode(0..rows, format).expect("test weights fit every format");
        let kept = widen(&format.decode(&encoded.planes));
        if !format.can_be_made() {
            assert_eq!(kept, widen(&matrix.to_f32(0..rows).expect("bytes in memory")), "{format} is exact");
        }
        let kept = kept.chunks(width).flat_map(|row| &row[..cols]).copied().collect();
        Self { checkpoint, shape, format, kept }
    }

    /// The matrix of the checkpoint.
    ///
    /// # Panics
    /// Never: it was there before.
    #[must_use]
    pub fn matrix(&self) -> Matrix<'_> {
        Matrix::open(&self.checkpoint, "w", self.shape[0], self.shape[1]).expect("the tensor is there")
    }
}

/// Blocks of `weights` weights: random bytes, whose scales make them about as large as `scale`. Some blocks have a
/// scale of zero, a negative one, or one that is subnormal in f16.
fn blocks(seed: u32, of: BlockType, weights: usize, scale: f32) -> Vec<u8> {
    let bits = |i: usize| threefry(Key([seed, 0xB10C]), [i as u32, 1])[0];
    let mut bytes: Vec<_> = (0..weights / of.weights() * of.bytes()).map(|i| bits(i) as u8).collect();
    // Where the scale and the minimum are, and the most that they are multiplied with.
    let (scale_at, most, minimum) = match of {
        BlockType::Q4_1 => (0, 15.0, Some((2, 1.0))),
        BlockType::Q5_0 => (0, 16.0, None),
        BlockType::Q5_1 => (0, 31.0, Some((2, 1.0))),
        BlockType::Q4K => (0, 63.0 * 15.0, Some((2, 63.0))),
        BlockType::Q5K => (0, 63.0 * 31.0, Some((2, 63.0))),
        _ => (208, 127.0 * 32.0, None),
    };
    for (i, block) in bytes.chunks_exact_mut(of.bytes()).enumerate() {
        let share = match i % 7 {
            3 => 0.0,
            5 => -1.0,
            6 => 1e-3,
            _ => 1.0,
        };
        let number = half::f16::from_f32(scale * share * 2.0 / most);
        block[scale_at..scale_at + 2].copy_from_slice(&number.to_le_bytes());
        if let Some((at, most)) = minimum {
            // Q4_1 and Q5_1 add it, the others take it away: both signs come up.
            let number = half::f16::from_f32(scale / most * if i % 3 == 1 { -1.0 } else { 1.0 });
            block[at..at + 2].copy_from_slice(&number.to_le_bytes());
        }
    }
    bytes
}
