//! Weights in the order that the kernels of matrix units multiply them in (see [`crate::order`]), and back.

use remask_core::tensors::{BlockRole, Role};
use remask_core::{Architecture, BackendError};

use super::{DeviceMatrix, DeviceWeights};
use crate::gpu::Gpu;
use crate::kernels::linear::Arithmetic;
use crate::kernels::{fragment_probe, gemm_matrix, reorder};
use crate::order::Order;
use crate::plan::PassSizes;
use crate::plan::outline::BLOCK_MATRICES;
use crate::recording::{BindGroups, Recorder};
use crate::uniforms::Uniforms;
use crate::wgsl::KernelSpec;

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
    let bytes = fragment_probe::FOUND as u64 * 4;
    let found = gpu.storage("fragments", bytes).await?;
    let mut uniforms = Uniforms::new(gpu, 1).await?;
    let params = fragment_probe::Params { padding: [0; 4] };
    let asked = run(gpu, &mut uniforms, fragment_probe::spec(), &[&found], params, [1, 1, 1]).await;
    let answer = match asked {
        Err(BackendError::Kernel { .. }) => false,
        Err(e) => return Err(e),
        Ok(()) => {
            let words: Vec<f32> = bytemuck::pod_collect_to_vec(&gpu.read(&found, bytes).await?);
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
    /// Whether the matrix can lie in the order of fragments: f16 or quantised, in whole tiles.
    #[must_use]
    pub fn has_fragments(&self) -> bool {
        self.parts.iter().all(|p| gemm_matrix::fits(p.format, self.cols, p.rows))
    }

    /// Puts the weights in another order, all or none.
    ///
    /// # Errors
    /// [`BackendError::OutOfMemory`] where there is no room for the matrix once more, which is needed for a moment.
    pub async fn reorder(&mut self, gpu: &mut Gpu, order: Order) -> Result<(), BackendError> {
        if self.order == order {
            return Ok(());
        }
        // Between fragments and fragments by way of rows.
        for (from, to) in [(self.order, Order::Rows), (Order::Rows, order)] {
            if from == to {
                continue;
            }
            let mut results = Vec::with_capacity(self.parts.len());
            for part in &self.parts {
                results.push(gpu.storage("weights", part.buffer.size()).await?);
            }
            let mut uniforms = Uniforms::new(gpu, self.parts.len() as u32).await?;
            let fragments = if to == Order::Rows { from } else { to };
            for (part, result) in self.parts.iter().zip(&results) {
                let spec = reorder::spec(part.format, fragments, to == Order::Rows);
                let (params, grid) = reorder::plan(part.format, part.rows, self.cols);
                run(gpu, &mut uniforms, spec, &[&part.buffer, result], params, grid).await?;
            }
            for (part, result) in self.parts.iter_mut().zip(results) {
                part.buffer = result;
            }
            self.order = to;
        }
        Ok(())
    }
}

impl DeviceWeights {
    /// Puts the matrices that matrix units will compute in their order, where the device has such units and
    /// the model suits them. A head that is the embedding becomes one of its own. Where memory has no room for
    /// that, weights stay in rows, with a note. Returns the arithmetic that these weights are for.
    ///
    /// # Errors
    /// Those of the device.
    pub async fn suit(&mut self, gpu: &mut Gpu, a: &Architecture) -> Result<Arithmetic, BackendError> {
        let half = self.suits(a) && Arithmetic::choose(&gpu.profile, a, &self.block_formats()) == Arithmetic::Half;
        if !half || !fragments_are_as_expected(gpu).await? {
            return Ok(Arithmetic::Full);
        }
        match self.order_blocks(gpu, a).await {
            Ok(()) => (),
            Err(problem @ (BackendError::OutOfMemory { .. } | BackendError::Unsupported { .. })) => {
                self.unsuit(gpu).await?;
                let note =
                    format!("matrix units are not used: there is no room to put weights in their order ({problem})");
                tracing::warn!("{note}");
                self.note = Some(note);
                return Ok(Arithmetic::Full);
            }
            Err(e) => return Err(e),
        }
        // Selection over chunks of logits adds no bias.
        let head = self.head().filter(|head| head.has_fragments() && !a.head_bias);
        if let Some(mut head) = head.map(DeviceMatrix::share) {
            match head.reorder(gpu, Order::Fragments).await {
                Ok(()) => {
                    self.matrices.insert(Role::Head, head);
                }
                Err(BackendError::OutOfMemory { .. } | BackendError::Unsupported { .. }) => {
                    tracing::warn!("no room to put the head in order: it stays in rows")
                }
                Err(e) => return Err(e),
            }
            gpu.wait()?;
        }
        Ok(Arithmetic::Half)
    }

    async fn order_blocks(&mut self, gpu: &mut Gpu, a: &Architecture) -> Result<(), BackendError> {
        for (set, block) in a.distinct_blocks().enumerate() {
            for role in BLOCK_MATRICES {
                let Some(matrix) = self.matrices.get_mut(&Role::Block(set, role)) else { continue };
                // Gate and up can take turns where one part has both.
                let paired = role == BlockRole::Up && block.feed_forward.gated && matrix.parts.len() == 1;
                matrix.reorder(gpu, if paired { Order::Paired } else { Order::Fragments }).await?;
            }
            // What was replaced is freed.
            gpu.wait()?;
        }
        Ok(())
    }

    /// Puts every matrix back in rows, for kernels that are not for matrix units.
    ///
    /// # Errors
    /// As [`DeviceMatrix::reorder`].
    pub async fn unsuit(&mut self, gpu: &mut Gpu) -> Result<(), BackendError> {
        for matrix in self.matrices.values_mut() {
            matrix.reorder(gpu, Order::Rows).await?;
            gpu.wait()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use remask_core::checkpoint::WeightFormat;
    use remask_core::families::parse_config;

    use super::*;
    use crate::gpu::LimitChoice;
    use crate::profile::MatrixShape;

    fn bytes(gpu: &Gpu, buffer: &wgpu::Buffer) -> Vec<u8> {
        pollster::block_on(gpu.read(buffer, buffer.size())).unwrap()
    }

    #[test]
    fn weights_that_find_no_room_stay_in_rows() {
        let config = r#"{"architectures": ["LLaDAModelLM"], "d_model": 1024, "n_layers": 1, "n_heads": 16,
            "mlp_hidden_size": 2048, "vocab_size": 256, "max_sequence_length": 128, "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5, "weight_tying": true, "mask_token_id": 255, "eos_token_id": 254}"#;
        let a = parse_config("config.json", config).unwrap().1;
        let mut gpu = pollster::block_on(Gpu::open(None, LimitChoice::Adapter)).unwrap();
        let mut weights = pollster::block_on(DeviceWeights::random(&gpu, &a, WeightFormat::Q8)).unwrap();
        let part = |weights: &DeviceWeights, role| weights.part(Role::Block(0, role), 0).unwrap().clone();
        let before = bytes(&gpu, &part(&weights, BlockRole::Qkv));

        // The device claims what it needs, and has no room for gate and up once more, which come last.
        let shape = MatrixShape { m: 16, n: 16, k: 16, input: "F16".into(), output: "F32".into() };
        gpu.profile.matrix_shapes = vec![shape];
        (gpu.profile.shader_f16, gpu.profile.subgroups, gpu.fragments) = (true, Some((32, 32)), Some(true));
        (gpu.profile.limits.workgroup_bytes, gpu.profile.limits.invocations) = (48 << 10, 512);
        gpu.profile.limits.binding = part(&weights, BlockRole::Up).size() - 1;
        assert_eq!(pollster::block_on(weights.suit(&mut gpu, &a)).unwrap(), Arithmetic::Full);
        assert!(weights.matrices.values().all(|matrix| matrix.order == Order::Rows));
        assert!(weights.note.as_ref().is_some_and(|n| n.contains("no room")), "{:?}", weights.note);
        assert_eq!(bytes(&gpu, &part(&weights, BlockRole::Qkv)), before);

        // With room there is another order, for the embedding's copy too.
        gpu.profile.limits.binding *= 2;
        assert_eq!(pollster::block_on(weights.suit(&mut gpu, &a)).unwrap(), Arithmetic::Half);
        let order = |role| weights.matrices[&role].order;
        assert_eq!(order(Role::Block(0, BlockRole::Up)), Order::Paired);
        assert_eq!([order(Role::Head), order(Role::Embedding)], [Order::Fragments, Order::Rows]);
        assert_ne!(bytes(&gpu, &part(&weights, BlockRole::Qkv)), before);
    }
}
