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
    /// Whether the matrix can lie in the order of fragments: f16, q8 or q4, in whole tiles.
    #[must_use]
    pub fn has_fragments(&self) -> bool {
        self.parts.iter().all(|p| gemm_matrix::fits(self.format, self.cols, p.rows))
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
            let spec = reorder::spec(self.format, fragments, to == Order::Rows);
            for (part, result) in self.parts.iter().zip(&results) {
                let (params, grid) = reorder::plan(self.format, part.rows, self.cols);
                run(gpu, &mut uniforms, spec.clone(), &[&part.buffer, result], params, grid).await?;
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
        if self.arithmetic(gpu, a) != Arithmetic::Half || !fragments_are_as_expected(gpu).await? {
            return Ok(Arithmetic::Full);
        }
        match self.order_layers(gpu).await {
            Ok(()) => (),
            Err(BackendError::OutOfMemory { bytes, .. }) => {
                self.unsuit(gpu).await?;
                let note = format!(
                    "matrix units are not used: there is no room for {bytes} bytes to put weights in their order"
                );
                tracing::warn!("{note}");
                self.note = Some(note);
                return Ok(Arithmetic::Full);
            }
            Err(e) => return Err(e),
        }
        if self.head().has_fragments() {
            let mut head = self.head().share();
            match head.reorder(gpu, Order::Fragments).await {
                Ok(()) => self.head = Some(head),
                Err(BackendError::OutOfMemory { .. }) => {
                    tracing::warn!("no room to put the head in order: it stays in rows")
                }
                Err(e) => return Err(e),
            }
            gpu.wait()?;
        }
        Ok(Arithmetic::Half)
    }

    async fn order_layers(&mut self, gpu: &mut Gpu) -> Result<(), BackendError> {
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
        Ok(())
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
        let before = bytes(&gpu, &weights.layers[0].qkv.parts[0].buffer);

        // The device claims what it needs, and has no room for gate and up once more, which come last.
        let shape = MatrixShape { m: 16, n: 16, k: 16, input: "F16".into(), output: "F32".into() };
        gpu.profile.matrix_shapes = vec![shape];
        (gpu.profile.shader_f16, gpu.profile.subgroups, gpu.fragments) = (true, Some((32, 32)), Some(true));
        (gpu.profile.limits.workgroup_bytes, gpu.profile.limits.invocations) = (48 << 10, 512);
        gpu.profile.limits.binding = weights.layers[0].gate_up.parts[0].buffer.size() - 1;
        assert_eq!(pollster::block_on(weights.suit(&mut gpu, &a)).unwrap(), Arithmetic::Full);
        let layer = &weights.layers[0];
        for matrix in [&layer.qkv, &layer.attention_out, &layer.gate_up, &layer.down] {
            assert_eq!(matrix.order, Order::Rows);
        }
        assert!(weights.note.as_ref().is_some_and(|n| n.contains("no room")), "{:?}", weights.note);
        assert_eq!(bytes(&gpu, &layer.qkv.parts[0].buffer), before);

        // With room there is another order, for the embedding's copy too.
        gpu.profile.limits.binding *= 2;
        assert_eq!(pollster::block_on(weights.suit(&mut gpu, &a)).unwrap(), Arithmetic::Half);
        assert_eq!(weights.layers[0].gate_up.order, Order::Paired);
        assert_eq!((weights.head().order, weights.embedding.order), (Order::Fragments, Order::Rows));
        assert_ne!(bytes(&gpu, &weights.layers[0].qkv.parts[0].buffer), before);
    }
}
