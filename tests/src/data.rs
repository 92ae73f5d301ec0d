//! Test data: reproducible, asymmetric, and never zero by accident.

use remask_core::Checkpoint;
use remask_core::checkpoint::{Bytes, Matrix, WeightFormat};
use remask_core::random::{Key, threefry};

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

/// The weights as `format` stores them, back in float64: the reference for kernels that read it.
///
/// # Panics
/// Where `format` does not fit `cols`.
#[must_use]
pub fn stored(values: &[f32], rows: usize, cols: usize, format: WeightFormat) -> Vec<f64> {
    use remask_core::quantize;
    let checkpoint = checkpoint_of(values, rows, cols);
    let matrix = Matrix::open(&checkpoint, "w", rows, cols).expect("the tensor is there");
    let encoded = matrix.encode(0..rows, format).expect("test weights fit every format");
    let halves = || encoded.values.as_chunks::<2>().0.iter();
    match format {
        WeightFormat::F32 => widen(values),
        WeightFormat::F16 => halves().map(|b| half::f16::from_le_bytes(*b).to_f64()).collect(),
        WeightFormat::Bf16 => halves().map(|b| half::bf16::from_le_bytes(*b).to_f64()).collect(),
        WeightFormat::Q8 => widen(&quantize::dequantize_q8(&encoded.values, encoded.scales.as_deref().unwrap_or(&[]))),
        WeightFormat::Q4 => widen(&quantize::dequantize_q4(&encoded.values, encoded.scales.as_deref().unwrap_or(&[]))),
    }
}
