//! The order in which a matrix's weights lie on the device.
//!
//! Portable kernels read rows. Those on matrix units read fragments: what each invocation multiplies lies
//! together, so that one load of 16 bytes brings it into the registers where it is needed, with nothing to
//! pass through workgroup memory and nothing to wait for others for. Weights are put in that order once,
//! by the device, after they are loaded; and back where its kernels turn out not to compile.

use remask_core::{Architecture, BackendError};

use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::kernels::{fragment_probe, gemm_matrix, reorder};
use crate::recording::{BindGroups, Recorder};
use crate::uniforms::{PassSizes, Uniforms};
use crate::weights::{DeviceLayer, DeviceMatrix, DeviceWeights};
use crate::wgsl::KernelSpec;

/// An order of weights.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Row by row.
    Rows,
    /// Fragments of 16 x 16 (`shaders/reorder.wgsl`).
    Fragments,
    /// The same, 16 rows of the first half and 16 of the second in turn: gate and up where they meet.
    Paired,
}

/// Runs one kernel over buffers.
async fn run<P: bytemuck::Pod>(
    gpu: &mut Gpu,
    uniforms: &mut Uniforms,
    spec: KernelSpec,
    buffers: &[&wgpu::Buffer],
    params: P,
    grid: [u32; 3],
) -> Result<(), BackendError> {
    let mut groups = BindGroups::new();
    let mut recorder = Recorder::new(gpu, uniforms, &mut groups);
    recorder.dispatch(spec, buffers, &params, grid).await?;
    let recording = recorder.finish();
    uniforms.set_pass(gpu, PassSizes::default());
    let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
    recording.encode(&mut encoder, uniforms, None);
    gpu.queue.submit([encoder.finish()]);
    Ok(())
}

/// Asks the device whether its invocations hold the elements of a matrix that kernels take them to hold. A device
/// that does not compile the question says no.
///
/// # Errors
/// Those of the device.
pub async fn fragments_are_as_expected(gpu: &mut Gpu) -> Result<bool, BackendError> {
    if let Some(known) = gpu.fragments {
        return Ok(known);
    }
    use wgpu::BufferUsages as U;
    let bytes = fragment_probe::FOUND as u64 * 4;
    let found = gpu.storage("fragments", bytes).await?;
    let mut uniforms = Uniforms::new(gpu, 1).await?;
    let params = fragment_probe::Params { padding: [0; 4] };
    let asked = run(gpu, &mut uniforms, fragment_probe::spec(), &[&found], params, [1, 1, 1]).await;
    let answer = match asked {
        Err(BackendError::Kernel { .. }) => false,
        Err(e) => return Err(e),
        Ok(()) => {
            let host = gpu.buffer("fragments, host", bytes, U::MAP_READ | U::COPY_DST).await?;
            let mut encoder = gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            encoder.copy_buffer_to_buffer(&found, 0, &host, 0, bytes);
            gpu.queue.submit([encoder.finish()]);
            let words: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.map(&host, bytes).await?);
            let expected = words == fragment_probe::expected();
            if !expected {
                let lanes = || words.chunks(8).enumerate().filter(|(i, _)| i % 32 < 6).map(|(_, held)| held);
                let found: Vec<_> = lanes().collect();
                tracing::warn!(
                    ?found,
                    "matrix units are not used: their matrices lie otherwise in registers than is known"
                );
            }
            expected
        }
    };
    gpu.fragments = Some(answer);
    Ok(answer)
}

impl DeviceMatrix {
    /// Whether the matrix can lie in the order of fragments: f16, q8 or q4, in whole tiles.
    #[must_use]
    pub fn has_fragments(&self) -> bool {
        gemm_matrix::takes(self.format)
            && self.cols.is_multiple_of(128)
            && self.parts.iter().all(|p| p.rows.is_multiple_of(128))
    }

    /// Puts the weights in another order.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] where there is no room for one more part, which is needed for a moment.
    pub async fn reorder(&mut self, gpu: &mut Gpu, order: Order) -> Result<(), BackendError> {
        if self.order == order {
            return Ok(());
        }
        // Between fragments and fragments by way of rows.
        for (from, to) in [(self.order, Order::Rows), (Order::Rows, order)] {
            if from == to {
                continue;
            }
            let mut uniforms = Uniforms::new(gpu, self.parts.len() as u32).await?;
            for part in &mut self.parts {
                let result = gpu.storage("weights", part.buffer.size()).await?;
                let of = if to == Order::Rows { from } else { to };
                let (params, grid) = reorder::plan(self.format, part.rows, self.cols);
                let spec = reorder::spec(self.format, of, to == Order::Rows);
                run(gpu, &mut uniforms, spec, &[&part.buffer, &result], params, grid).await?;
                part.buffer = result;
            }
            self.order = to;
        }
        Ok(())
    }
}

impl DeviceWeights {
    /// Puts the matrices that matrix units will compute in their order, where the device has such units and
    /// the model suits them. A head that is the embedding becomes one of its own. Returns the arithmetic that
    /// these weights are for.
    ///
    /// # Errors
    /// As [`DeviceMatrix::reorder`].
    pub async fn suit(&mut self, gpu: &mut Gpu, a: &Architecture) -> Result<Arithmetic, BackendError> {
        if self.arithmetic(gpu, a) != Arithmetic::Half || !fragments_are_as_expected(gpu).await? {
            return Ok(Arithmetic::Full);
        }
        for layer in &mut self.layers {
            for matrix in [&mut layer.qkv, &mut layer.attention_out, &mut layer.down] {
                matrix.reorder(gpu, Order::Fragments).await?;
            }
            // Gate and up can take turns where one part has both.
            let whole = layer.gate_up.parts.len() == 1;
            let order = if whole { Order::Paired } else { Order::Fragments };
            layer.gate_up.reorder(gpu, order).await?;
            // What was replaced is freed.
            gpu.wait()?;
        }
        if self.head().has_fragments() {
            let mut head = match self.head.take() {
                Some(head) => head,
                None => self.embedding.share(),
            };
            head.reorder(gpu, Order::Fragments).await?;
            self.head = Some(head);
            gpu.wait()?;
        }
        Ok(Arithmetic::Half)
    }

    /// Puts every matrix back in rows, for kernels that are not for matrix units.
    ///
    /// # Errors
    /// As [`DeviceMatrix::reorder`].
    pub async fn unsuit(&mut self, gpu: &mut Gpu) -> Result<(), BackendError> {
        for layer in &mut self.layers {
            for matrix in [&mut layer.qkv, &mut layer.attention_out, &mut layer.gate_up, &mut layer.down] {
                matrix.reorder(gpu, Order::Rows).await?;
            }
            gpu.wait()?;
        }
        if let Some(head) = &mut self.head {
            head.reorder(gpu, Order::Rows).await?;
        }
        Ok(())
    }

    fn arithmetic(&self, gpu: &Gpu, a: &Architecture) -> Arithmetic {
        let mut formats: Vec<_> = self.layers.iter().flat_map(DeviceLayer::formats).collect();
        formats.dedup();
        let whole = |l: &DeviceLayer| [&l.qkv, &l.attention_out, &l.gate_up, &l.down].iter().all(|m| m.has_fragments());
        if self.layers.iter().all(whole) { Arithmetic::choose(&gpu.profile, a, &formats) } else { Arithmetic::Full }
    }
}
