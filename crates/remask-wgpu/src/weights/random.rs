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

/// A chunk of random weights on the device, from which matrices are copied.
struct RandomSource<'a> {
    gpu: &'a Gpu,
    format: WeightFormat,
    weights: wgpu::Buffer,
    scales: wgpu::Buffer,
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
        // Uniform in +-0.035 has the standard deviation 0.02 of common initialisations.
        let mut weight = || (bits() as f32 / 2f32.powi(31) - 1.0) * 0.035;
        let bytes: Vec<u8> = match format {
            WeightFormat::F32 => (0..CHUNK / 4).flat_map(|_| weight().to_le_bytes()).collect(),
            WeightFormat::F16 => (0..CHUNK / 2).flat_map(|_| half::f16::from_f32(weight()).to_le_bytes()).collect(),
            WeightFormat::Bf16 => (0..CHUNK / 2).flat_map(|_| half::bf16::from_f32(weight()).to_le_bytes()).collect(),
            WeightFormat::Q8 | WeightFormat::Q4 => (0..CHUNK / 4).flat_map(|_| bits().to_le_bytes()).collect(),
        };
        let scale = half::f16::from_f32(0.035 / if format == WeightFormat::Q4 { 8.0 } else { 127.0 });
        let scales: Vec<u8> = (0..CHUNK / 16).flat_map(|_| scale.to_le_bytes()).collect();
        let source = Self {
            gpu,
            format,
            weights: gpu.storage("random weights", CHUNK as u64).await?,
            scales: gpu.storage("scales", (CHUNK / 8) as u64).await?,
        };
        gpu.queue.write_buffer(&source.weights, 0, &bytes);
        gpu.queue.write_buffer(&source.scales, 0, &scales);
        Ok(source)
    }

    async fn matrix(&self, rows: usize, cols: usize) -> Result<DeviceMatrix, BackendError> {
        if !self.format.fits(cols) || !cols.is_multiple_of(4) {
            return Err(BackendError::Unsupported {
                what: format!("a matrix of {rows} x {cols}"),
                adapter: self.gpu.profile.name.clone(),
                why: format!("{} weights do not divide its rows", self.format),
            });
        }
        let mut parts = Vec::new();
        for range in part_ranges(self.gpu.profile.limits.binding, 0..rows, cols, self.format) {
            let (first, rows) = (range.start as u32, range.len());
            let bytes = self.format.bytes(rows, cols).next_multiple_of(4);
            let buffer = self.gpu.storage("random", bytes as u64).await?;
            let scales = rows * self.format.scale_bytes(cols);
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            let mut fill = |source: &wgpu::Buffer, from: usize, to: usize| {
                let mut at = from;
                while at < to {
                    let count = (source.size() as usize).min(to - at);
                    encoder.copy_buffer_to_buffer(source, 0, &buffer, at as u64, count as u64);
                    at += count;
                }
            };
            fill(&self.weights, 0, bytes - scales);
            fill(&self.scales, bytes - scales, bytes);
            self.gpu.queue.submit([encoder.finish()]);
            parts.push(Part { buffer, first, rows: rows as u32, format: self.format });
        }
        Ok(DeviceMatrix { parts, order: Order::Rows, rows: rows as u32, cols: cols as u32 })
    }
}
