//! The engine: a model on a device, and what can be asked of it.

use std::ops::ControlFlow;

use js_sys::Function;
use remask_core::checkpoint::{Bytes, WeightFormat, format_of_head};
use remask_core::decode::AcceptanceStats;
use remask_core::families::parse_config;
use remask_core::golden::{CaseResult, Golden, check_case, check_logits};
use remask_core::model::ModelFiles;
use remask_core::scheduler::forward;
use remask_core::tokenizer::TokenizerFiles;
use remask_core::{
    Backend, BackendError, Canvas, Cell, Checkpoint, Error, FinishReason, Generation, Model, MorStats, Request,
    StepReport, Trial, fill_all, infill, text,
};
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend};
use serde::Serialize;
use serde_json::json;
use wasm_bindgen::prelude::*;

use crate::fault::thrown;
use crate::files::{Files, ModelFile};
use crate::request::{Prompt, Work, parse};
use crate::step::{Costs, canvas_object, step_object};

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(done: &Function, milliseconds: f64);
    #[wasm_bindgen(js_namespace = performance)]
    fn now() -> f64;
}

/// Says in the browser's console why the engine stopped, should it ever panic.
#[wasm_bindgen(start)]
pub fn start() {
    std::panic::set_hook(Box::new(|info| console_error(&info.to_string())));
}

/// Which device is opened, and opened again where it is lost.
#[derive(Debug, Clone, Copy)]
struct DeviceChoice {
    power: wgpu::PowerPreference,
    limits: LimitChoice,
}

impl DeviceChoice {
    async fn open(self) -> Result<Gpu, BackendError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let options = wgpu::RequestAdapterOptions { power_preference: self.power, ..Default::default() };
        let adapter = instance.request_adapter(&options).await;
        let adapter =
            adapter.map_err(|_| BackendError::NoAdapter("the browser offers no WebGPU adapter".to_owned()))?;
        Gpu::from_adapter(&adapter, self.limits).await
    }
}

/// An opened device without a model: it can be had while the model is still on its way.
#[wasm_bindgen]
pub struct Device {
    gpu: Gpu,
    choice: DeviceChoice,
}

#[wasm_bindgen]
impl Device {
    /// Opens the browser's adapter. `power` is "high-performance", "low-power" or empty; `limits` is
    /// "default" for WebGPU's default limits, or else everything that the adapter has.
    ///
    /// # Errors
    /// Where there is no adapter, or it refuses.
    pub async fn open(power: String, limits: String) -> Result<Device, JsValue> {
        let choice = DeviceChoice {
            power: match power.as_str() {
                "high-performance" => wgpu::PowerPreference::HighPerformance,
                "low-power" => wgpu::PowerPreference::LowPower,
                _ => wgpu::PowerPreference::None,
            },
            limits: if limits == "default" { LimitChoice::WebGpuDefault } else { LimitChoice::Adapter },
        };
        let gpu = choice.open().await.map_err(thrown)?;
        Ok(Self { gpu, choice })
    }

    /// Has the browser compile the kernels of a model's first passes while its weights are on their way: its
    /// config.json, and the first bytes of its checkpoint. False where these do not tell enough; loading
    /// says what is wrong with them.
    pub async fn prepare(&mut self, config: String, head: Vec<u8>, weights: String) -> bool {
        let Some(format) = weights.parse().ok().or_else(|| format_of_head(&head)) else { return false };
        let Ok((_, architecture)) = parse_config("config.json", &config) else { return false };
        WgpuBackend::foresee(&mut self.gpu, &architecture, format).is_ok()
    }
}

/// A model on a device.
#[wasm_bindgen]
pub struct Engine {
    model: Model,
    backend: WgpuBackend,
    choice: DeviceChoice,
    weights: Option<WeightFormat>,
    weight_bytes: u64,
}

/// What is answered at the end of a generation.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Finished {
    text: String,
    token_ids: Vec<u32>,
    canvas_ids: Vec<u32>,
    prompt_tokens: usize,
    completion_tokens: usize,
    finish_reason: FinishReason,
    forward_passes: u32,
    rows_computed: u64,
    rows_selected: u64,
    rows_of_full_compute: u64,
    depth: Vec<u32>,
    decided_tokens: u64,
    acceptance: AcceptanceStats,
    mor: Option<MorStats>,
    devices_lost: u32,
    notes: Vec<String>,
}

#[wasm_bindgen]
impl Engine {
    /// Checks the files and moves the weights to the device, as `weights` ("f32", "f16", "bf16", "q8") or,
    /// where that is empty, as they are stored. `progress` is told the bytes moved so far. The files are read
    /// piece by piece, and once more should the device be lost.
    ///
    /// # Errors
    /// Where a file is missing or wrong, or the device cannot hold or compute the model.
    pub async fn load(
        device: Device,
        files: Vec<ModelFile>,
        origin: String,
        weights: String,
        progress: Function,
    ) -> Result<Engine, JsValue> {
        let weights = if weights.is_empty() {
            None
        } else {
            let format: Result<WeightFormat, _> = weights.parse();
            Some(format.map_err(|e| thrown(Error::Request(format!("weights: {e}"))))?)
        };
        let model = open(Files::new(files), &origin).map_err(thrown)?;
        let mut weight_bytes = 0;
        let mut moved = |bytes| {
            weight_bytes = bytes;
            // What a progress callback throws is its own affair.
            let _ = progress.call1(&JsValue::NULL, &(bytes as f64).into());
        };
        let backend = WgpuBackend::load(device.gpu, &model, weights, &mut moved).await.map_err(thrown)?;
        Ok(Self { model, backend, choice: device.choice, weights, weight_bytes })
    }

    /// What was loaded, as JSON: architecture in numbers, special ids, device and memory.
    pub fn describe(&self) -> String {
        let (a, profile) = (&self.model.architecture, &self.backend.gpu().profile);
        json!({
            "model": {
                "origin": self.model.origin,
                "architecture": a.name,
                "layers": a.blocks.len(),
                "hidden": a.hidden,
                "heads": a.blocks.first().map_or(0, |block| block.attention.heads),
                "isDiffusion": a.is_diffusion(),
                "vocabulary": a.vocab_size,
                "maxPositions": a.max_positions,
                "maskId": self.model.vocabulary.mask,
                "stopIds": self.model.vocabulary.stop,
                "hasTokenizer": self.model.tokenizer.is_some(),
            },
            "weights": self.backend.info().weights,
            "weightBytes": self.weight_bytes,
            "device": profile,
        })
        .to_string()
    }

    /// Ids of a text, special tokens in it taken as plain text.
    ///
    /// # Errors
    /// Where the model has no tokenizer.
    pub fn encode(&self, text: &str) -> Result<Vec<u32>, JsValue> {
        let text = remask_core::chat::MarkedText::from_user(text);
        self.model.text().and_then(|t| t.encode(&text)).map_err(thrown)
    }

    /// Text of ids, special tokens left out.
    ///
    /// # Errors
    /// Where the model has no tokenizer.
    pub fn decode(&self, ids: &[u32]) -> Result<String, JsValue> {
        self.model.text().and_then(|t| t.decode(ids, true)).map_err(thrown)
    }

    /// Decodes. `prompt` and `settings` are JSON (see [`crate::request`]). `on_step` is called with the
    /// canvas before the first pass, with each step, and with a string where the device was lost and is
    /// made anew; it returns false to end the generation. Answers JSON.
    ///
    /// A device that is lost is opened again once, and the request goes on from its canvas.
    ///
    /// # Errors
    /// Where the request does not fit the model, or the device fails.
    pub async fn generate(&mut self, prompt: String, settings: String, on_step: Function) -> Result<String, JsValue> {
        self.run(&prompt, &settings, &on_step).await.map_err(thrown)
    }

    /// Milliseconds of each of `repeats` passes over `rows` rows of a canvas of `context` positions, candidates
    /// read back, as `remask bench` times them. Kernels are compiled before the first.
    ///
    /// # Errors
    /// Where the model has fewer positions, or the device fails.
    pub async fn bench(&mut self, rows: u32, context: u32, repeats: u32) -> Result<Vec<f64>, JsValue> {
        if rows == 0 || rows > context {
            return Err(thrown(Error::Request(format!("{rows} rows of a canvas of {context} cannot be timed"))));
        }
        let vocabulary = self.model.architecture.vocab_size as u32;
        let trial = Trial::new(&mut self.backend, vocabulary, rows, context).await.map_err(thrown)?;
        let times = self.times(&trial, repeats).await.map_err(thrown);
        trial.end(&mut self.backend);
        times
    }

    /// Compares this device with a reference implementation: logits and generations of a golden folder.
    /// `progress` is called with the number of cases done and in all. `every` checks only every so-manieth
    /// case, for slow devices. Answers JSON.
    ///
    /// # Errors
    /// Where the golden does not fit the model, or the device fails.
    pub async fn verify(
        &mut self,
        cases: String,
        tensors: Vec<u8>,
        every: usize,
        progress: Function,
    ) -> Result<String, JsValue> {
        let golden = Golden::from_parts(&self.model.origin, &cases, Bytes::Owned(tensors)).map_err(thrown)?;
        let logits = check_logits(&mut self.backend, &self.model, &golden).await.map_err(thrown)?;
        let chosen: Vec<_> = golden.cases.iter().step_by(every.max(1)).collect();
        let mut results = Vec::new();
        for (done, case) in chosen.iter().enumerate() {
            let _ = progress.call2(&JsValue::NULL, &done.into(), &chosen.len().into());
            let result = check_case(&mut self.backend, &self.model, case).await.map_err(thrown)?;
            let pass = result.as_ref().is_none_or(CaseResult::passes);
            results.push(json!({ "label": case.label(), "pass": pass, "result": result }));
        }
        let pass = logits.passes() && results.iter().all(|r| r["pass"] == true);
        Ok(json!({ "pass": pass, "logits": logits, "cases": results }).to_string())
    }
}

/// A canvas on its way, one of several where blanks may have several lengths.
struct Choice {
    canvas: Canvas,
    run: Option<Generation>,
    costs: Costs,
    /// Its latest step as a watcher sees it.
    shown: JsValue,
}

impl Choice {
    fn new(canvas: &Canvas) -> Self {
        Self { canvas: canvas.clone(), run: None, costs: Costs::default(), shown: JsValue::NULL }
    }

    /// How far it is now; `before` is what it had cost when this device was opened.
    fn stands(&mut self, run: Generation, before: &Costs) {
        self.canvas = run.canvas.clone();
        self.costs = before.with(&run);
        self.run = Some(run);
    }
}

/// The model of the files that were fetched: one GGUF file, or a folder's.
fn open(mut files: Files, origin: &str) -> Result<Model, Error> {
    let named = |name: &str| format!("{origin}/{name}");
    let whole = |name: &str, bytes: Bytes| -> Result<Vec<u8>, Error> {
        Ok(bytes.read(0..bytes.len()).map_err(Error::io("read", named(name)))?.into_owned())
    };
    let mut tokenizer = TokenizerFiles::new();
    for (name, bytes) in files.take_those(TokenizerFiles::takes) {
        tokenizer = tokenizer.with(&name, whole(&name, bytes)?);
    }
    if let Some((name, bytes)) = files.take_all(".gguf").pop() {
        let own = Some(&tokenizer).filter(|files| !files.is_empty());
        return Model::from_gguf(&named(&name), bytes, own);
    }
    let mut text = |name: &str| -> Result<Option<_>, Error> {
        let utf8 = |bytes| text::decoded(bytes).map_err(|problem| Error::config(name, "(file)", problem));
        let bytes = files.take(name).map(|bytes| whole(name, bytes)).transpose()?;
        Ok(bytes.map(utf8).transpose()?.map(std::borrow::Cow::Owned))
    };
    let missing = || Error::config(&named("config.json"), "(file)", "is missing; a model needs one");
    let config = text("config.json")?.ok_or_else(missing)?;
    let (tokenizer_config, chat_template) = (text("tokenizer_config.json")?, text("chat_template.jinja")?);
    let generation_config = text("generation_config.json")?;
    let mut shards = files.take_all(".safetensors");
    if shards.is_empty() {
        // What training leaves beside it under the same ending holds no weights.
        shards = files.take_all(".bin");
        shards.retain(|(name, _)| name.starts_with("pytorch_model"));
    }
    let checkpoint = Checkpoint::from_shards(shards.into_iter().map(|(name, bytes)| (named(&name), bytes)).collect())?;
    Model::from_files(ModelFiles {
        origin: origin.to_owned(),
        config,
        checkpoint,
        tokenizer,
        tokenizer_config,
        chat_template,
        chat_templates: Vec::new(),
        generation_config,
    })
}

impl Engine {
    async fn times(&mut self, trial: &Trial, repeats: u32) -> Result<Vec<f64>, BackendError> {
        forward(&mut self.backend, trial.work()).await?;
        let mut times = Vec::new();
        for _ in 0..repeats {
            let begun = now();
            forward(&mut self.backend, trial.work()).await?;
            times.push(now() - begun);
        }
        Ok(times)
    }

    async fn run(&mut self, prompt: &str, settings: &str, on_step: &Function) -> Result<String, Error> {
        let prompt: Prompt = parse("prompt", prompt)?;
        let work = prompt.prepare(&self.model, &parse("options", settings)?)?;
        // Of a text whose blanks may have several lengths, the longest canvas is shown.
        if let Some((canvas, _)) = work.choices.last() {
            let shown = canvas_object(&self.model, canvas);
            if !goes_on(on_step, &shown) {
                return Err(Error::Request("the request was aborted before its first pass".to_owned()));
            }
        }
        let (choices, devices_lost) = self.decide(&work, on_step).await?;
        let all: Vec<_> = choices.iter().map(|choice| choice.costs.clone()).collect();
        let shown: Vec<_> = choices.iter().map(|choice| choice.shown.clone()).collect();
        let mut runs: Vec<_> = choices.into_iter().filter_map(|choice| choice.run).collect();
        let forward_passes = runs.iter().map(|run| run.forward_passes).max().unwrap_or(0);
        let best = infill::best(&runs);
        if best + 1 < shown.len() {
            // The steps so far were of another canvas.
            let _ = on_step.call1(&JsValue::NULL, &shown[best]);
        }
        let (done, costs) = (runs.swap_remove(best), all[best].clone().among(&all));
        let ids = known_ids(&done);
        let text = text_of(&self.model, &ids)?;
        let decided = done.canvas.cells().iter().filter(|cell| matches!(cell, Cell::Decided { .. })).count() as u64;
        let finished = Finished {
            text: if matches!(prompt, Prompt::Messages(_)) { text.trim().to_owned() } else { text },
            completion_tokens: ids.len(),
            token_ids: ids,
            canvas_ids: done.canvas.tokens().to_vec(),
            prompt_tokens: done.prompt_tokens,
            finish_reason: done.finish,
            forward_passes,
            rows_computed: costs.rows_computed,
            rows_selected: costs.rows_selected,
            rows_of_full_compute: costs.rows_of_full_compute,
            depth: costs.depth,
            decided_tokens: decided.saturating_sub(done.acceptance.tokens_padded),
            acceptance: done.acceptance,
            mor: done.mor,
            devices_lost,
            notes: done.notes,
        };
        serde_json::to_string(&finished).map_err(|e| Error::Request(e.to_string()))
    }

    /// Decodes every choice, on a second device where the first is lost. Also answers how often that happened.
    async fn decide(&mut self, work: &Work, on_step: &Function) -> Result<(Vec<Choice>, u32), Error> {
        let mut lost = 0;
        let mut choices: Vec<_> = work.choices.iter().map(|(canvas, _)| Choice::new(canvas)).collect();
        let shown = choices.len() - 1;
        loop {
            // A choice that was finished before a device was lost stays as it is.
            let open: Vec<_> = (0..choices.len()).filter(|i| choices[*i].canvas.holes() > 0).collect();
            let request =
                |i: &usize| Request { canvas: choices[*i].canvas.clone(), options: work.choices[*i].1.clone() };
            let requests = open.iter().map(request).collect();
            let before: Vec<_> = choices.iter().map(|choice| choice.costs.clone()).collect();
            let model = &self.model;
            let mut aborted = false;
            let mut watch = |index: usize, report: &StepReport| {
                let index = open[index];
                choices[index].stands(report.so_far.clone(), &before[index]);
                let all: Vec<_> = choices.iter().map(|choice| choice.costs.clone()).collect();
                let costs = choices[index].costs.clone().among(&all);
                let text = text_of(model, &known_ids(report.so_far)).unwrap_or_default();
                let step = JsValue::from(step_object(model, report, &costs, &text));
                let seen = if index == shown { step.clone() } else { JsValue::NULL };
                aborted |= !goes_on(on_step, &seen);
                choices[index].shown = step;
                if aborted { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let (backend, a) = (&mut self.backend, &model.architecture);
            let run = fill_all(backend, a, &work.vocabulary, requests, &mut watch).await;
            let problem = match run {
                Ok(done) => {
                    for (i, run) in open.into_iter().zip(done) {
                        choices[i].stands(run?, &before[i]);
                    }
                    return Ok((choices, lost));
                }
                Err(error) => match self.loss(error).await {
                    Ok(reason) if lost == 0 => reason,
                    Ok(reason) => return Err(BackendError::DeviceLost(reason).into()),
                    Err(error) => return Err(error),
                },
            };
            lost += 1;
            // What a watcher throws is its own affair.
            let _ = on_step.call1(&JsValue::NULL, &problem.into());
            let gpu = self.choice.open().await?;
            self.backend = WgpuBackend::load(gpu, &self.model, self.weights, &mut |_| ()).await?;
        }
    }

    /// Why the device is gone, or the error where it is not. What was under way fails a moment before the
    /// browser says that the device is lost.
    async fn loss(&self, error: Error) -> Result<String, Error> {
        match error {
            Error::Backend(BackendError::DeviceLost(reason)) => Ok(reason),
            Error::Backend(BackendError::Device { .. } | BackendError::OutOfMemory { .. }) => {
                let pause = js_sys::Promise::new(&mut |resolve, _| set_timeout(&resolve, 50.0));
                // A timer cannot fail.
                let _ = wasm_bindgen_futures::JsFuture::from(pause).await;
                match self.backend.gpu().check() {
                    Err(BackendError::DeviceLost(reason)) => Ok(reason),
                    _ => Err(error),
                }
            }
            _ => Err(error),
        }
    }
}

/// Ids of the answer up to its end or first hole. Where nothing may end the answer, which is how gaps are
/// filled, everything that is not a hole.
fn known_ids(run: &Generation) -> Vec<u32> {
    if !run.ends.is_empty() {
        return run.completion().to_vec();
    }
    let known = |(position, id): (usize, &u32)| (!run.canvas.is_hole(position)).then_some(*id);
    run.canvas.tokens().iter().enumerate().filter_map(known).collect()
}

/// Text of ids, special tokens left out; their numbers where the model has no tokenizer.
fn text_of(model: &Model, ids: &[u32]) -> Result<String, Error> {
    match &model.tokenizer {
        Some(tokenizer) => tokenizer.decode(ids, true),
        None => Ok(ids.iter().map(u32::to_string).collect::<Vec<_>>().join(",")),
    }
}

/// Shows a step, and whether the watcher wants more.
fn goes_on(on_step: &Function, step: &JsValue) -> bool {
    on_step.call1(&JsValue::NULL, step).is_ok_and(|answer| answer != JsValue::FALSE)
}
