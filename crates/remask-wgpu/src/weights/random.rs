//! Weights made up on the device, for measurements where only the shape matters.

use std::collections::HashMap;

use remask_core::checkpoint::WeightFormat;
use remask_core::tensors::{self, TensorKind, TensorSpec};
use remask_core::{Architecture, BackendError};

use super::{CHUNK, DeviceMatrix, DeviceWeights, Part};
use crate::gpu::Gpu;
use crate::kernels::padded;
use crate::order::Order;
use crate::plan::outline::{padded_rows, part_ranges};

impl DeviceWeights {
    /// Weights of `a`'s shape made up on the device: small matrices, gains and biases of 1.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`], or [`BackendError::Unsupported`] for a shape that `format` cannot
    /// hold.
    pub async fn random(gpu: &Gpu, a: &Architecture, format: WeightFormat) -> Result<Self, BackendError> {
        let source = RandomSource::new(gpu, format).await?;
        let (mut matrices, mut vectors) = (HashMap::new(), HashMap::new());
        for TensorSpec { role, rows, cols, kind, .. } in tensors::canonical(a) {
            match kind {
                TensorKind::Matrix => {
                    let (rows, cols) = (padded_rows(a, role, rows), padded(cols as u32) as usize);
                    matrices.insert(role, source.matrix(rows, cols).await?);
                }
                TensorKind::Vector => {
                    let values = vec![1f32; padded_rows(a, role, padded(cols as u32) as usize)];
                    let buffer = gpu.storage("vector", size_of_val(&values[..]) as u64).await?;
                    gpu.queue.write_buffer(&buffer, 0, bytemuck::cast_slice(&values));
                    vectors.insert(role, buffer);
                }
            }
        }
        gpu.wait()?;
        Self::assemble(gpu, a, matrices, vectors).await
    }
}

/// Chunks of random planes on the device, from which matrices are copied.
struct RandomSource<'a> {
    gpu: &'a Gpu,
    format: WeightFormat,
    planes: Vec<wgpu::Buffer>,
}

impl<'a> RandomSource<'a> {
    async fn new(gpu: &'a Gpu, format: WeightFormat) -> Result<Self, BackendError> {
        let mut state = 0x5EED_u64;
        // xorshift64*: these weights need to be varied and quick, not good.
        let mut bits = || {
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
        };
        let mut planes = Vec::new();
        for (i, plane) in format.planes().iter().enumerate() {
            let size = if i == 0 { CHUNK } else { CHUNK / 8 };
            let bytes = random_plane(format, i, size / plane.bytes, &mut bits);
            let buffer = gpu.storage("random weights", size as u64).await?;
            gpu.queue.write_buffer(&buffer, 0, &bytes);
            planes.push(buffer);
        }
        Ok(Self { gpu, format, planes })
    }

    async fn matrix(&self, rows: usize, cols: usize) -> Result<DeviceMatrix, BackendError> {
        let format = self.format;
        if !format.fits(cols) || !cols.is_multiple_of(4) {
            return Err(BackendError::Unsupported {
                what: format!("a matrix of {rows} x {cols}"),
                adapter: self.gpu.profile.name.clone(),
                why: format!("{format} weights do not divide its rows"),
            });
        }
        let mut parts = Vec::new();
        for range in part_ranges(self.gpu.profile.limits.binding, 0..rows, cols, format) {
            let (first, rows) = (range.start as u32, range.len());
            let buffer = self.gpu.storage("random", format.bytes(rows, cols).next_multiple_of(4) as u64).await?;
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut at = 0;
            for (plane, source) in format.planes().iter().zip(&self.planes) {
                let end = at + plane.of(rows * cols) as u64;
                while at < end {
                    let count = source.size().min((end - at).next_multiple_of(4));
                    encoder.copy_buffer_to_buffer(source, 0, &buffer, at, count);
                    at += count;
                }
            }
            self.gpu.queue.submit([encoder.finish()]);
            parts.push(Part { buffer, first, rows: rows as u32, format });
        }
        Ok(DeviceMatrix { parts, order: Order::Rows, rows: rows as u32, cols: cols as u32 })
    }
}

/// So many groups of plane `i` of random weights.
fn random_plane(format: WeightFormat, i: usize, groups: usize, bits: &mut impl FnMut() -> u32) -> Vec<u8> {
    // Uniform in +-0.035 has the standard deviation 0.02 of common initialisations.
    const SPREAD: f32 = 0.035;
    let mut weight = |groups: usize, bytes: fn(f32) -> Vec<u8>| {
        (0..groups).flat_map(|_| bytes((bits() as f32 / 2f32.powi(31) - 1.0) * SPREAD)).collect()
    };
    let half = |v: f32| half::f16::from_f32(v).to_le_bytes();
    let plane = format.planes()[i];
    let last = i + 1 == format.planes().len();
    match format {
        WeightFormat::F32 => weight(groups, |v| v.to_le_bytes().to_vec()),
        WeightFormat::F16 => weight(groups, |v| half::f16::from_f32(v).to_le_bytes().to_vec()),
        WeightFormat::Bf16 => weight(groups, |v| half::bf16::from_f32(v).to_le_bytes().to_vec()),
        WeightFormat::Q8 if last => half(SPREAD / 127.0).repeat(groups),
        WeightFormat::Q4 if last => half(SPREAD / 8.0).repeat(groups),
        WeightFormat::Q5_0 if last => half(SPREAD / 16.0).repeat(groups),
        WeightFormat::Q4_1 if last => [half(SPREAD / 7.5), half(-SPREAD)].concat().repeat(groups),
        WeightFormat::Q5_1 if last => [half(SPREAD / 15.5), half(-SPREAD)].concat().repeat(groups),
        // Scales of the K types are random bytes as well, of 127 or 255 at most.
        WeightFormat::Q4K if last => [SPREAD / 7.5, SPREAD].map(|v| (v / 255.0).to_le_bytes()).concat().repeat(groups),
        WeightFormat::Q5K if last => [SPREAD / 15.5, SPREAD].map(|v| (v / 255.0).to_le_bytes()).concat().repeat(groups),
        WeightFormat::Q6K if last => (SPREAD / 32.0 / 127.0).to_le_bytes().repeat(groups),
        _ => (0..(groups * plane.bytes).div_ceil(4)).flat_map(|_| bits().to_le_bytes()).collect(),
    }
}
