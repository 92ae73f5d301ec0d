//! The training run: from a corpus and settings to a model folder.

use std::path::{Path, PathBuf};

use burn::module::{Module, ParamGroup};
use burn::tensor::{Bytes, Device, Int, Tensor, TensorData, activation};
use burn_optim::grad_clipping::GradientClippingConfig;
use burn_optim::{AdamWConfig, GradientsParams, ModuleOptimizer};
use remask_core::architecture::{Architecture, TokenIds};
use remask_core::chat::ChatTemplate;
use remask_core::families::parse_config;
use remask_core::tensors::TensorSpec;
use remask_core::{DType, Error, Model, Result, TextTokenizer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::average::Average;
use super::batch::{Batch, Sampler};
use super::checkpoint::{self, Sections, write_whole};
use super::corpus::{Corpus, Encoder, Tokens};
use super::curve::{self, Point};
use super::vocabulary::{self, SPECIALS};
use super::weights::{self, Trained};
use crate::dense::{Projections, rows};
use crate::linear::Precision;
use crate::transformer::Inputs;

/// What a run is. Together with the corpus it determines every step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Ids of the tokenizer that is trained, where none is given.
    pub vocabulary: usize,
    /// Width of the residual stream.
    pub hidden: usize,
    /// Transformer blocks.
    pub layers: usize,
    /// Attention heads.
    pub heads: usize,
    /// Inner width of the MLP.
    pub mlp: usize,
    /// Positions of the model, and tokens of a training sequence.
    pub context: usize,
    /// Sequences of a step.
    pub batch: usize,
    /// Steps of the run.
    pub steps: u32,
    /// Largest learning rate.
    pub learning_rate: f64,
    /// Steps over which the learning rate rises from 0; after them it falls as a cosine.
    pub warm_up: u32,
    /// AdamW's weight decay, of matrices alone.
    pub weight_decay: f32,
    /// Decay of the weights' running average.
    pub average: f32,
    /// Share of sequences that are questions with answers.
    pub pairs: f32,
    /// Seed of every draw.
    pub seed: u64,
    /// What products compute in.
    #[serde(default)]
    pub precision: Precision,
}

/// What a run begins with beside its corpus.
#[derive(Default)]
pub struct Start {
    /// A tokenizer.json to use in place of one trained on the corpus.
    pub tokenizer: Option<Vec<u8>>,
    /// A model to go on from in place of random weights. Its tokenizer must be given too.
    pub model: Option<Model>,
    /// Texts to measure on in place of a part of the corpus.
    pub held_out: Option<Corpus>,
}

/// Largest norm of one parameter's gradient.
const CLIP: f32 = 1.0;

/// Batches that the held-out loss is measured on, with masks that never change.
const HELD_OUT_BATCHES: u32 = 8;

/// Masked rows go through the head in multiples of this, so that devices see few shapes.
const ROWS_AT_ONCE: usize = 64;

/// Where a run stands; the first section of a checkpoint.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    settings: Settings,
    /// Checksum of the tokens that are trained on.
    corpus: u32,
    training: Vec<Point>,
    held_out: Vec<Point>,
}

/// What a step came to.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Steps done.
    pub step: u32,
    /// Loss of this step's batch.
    pub loss: f32,
    /// Tokens the step saw.
    pub tokens: usize,
}

/// A run under way.
pub struct Trainer {
    folder: PathBuf,
    state: State,
    step: u32,
    config: String,
    architecture: Architecture,
    tensors: Vec<TensorSpec>,
    training: Tokens,
    held_out: Tokens,
    device: Device,
    transformer: Trained,
    optimiser: ModuleOptimizer,
    average: Average,
    notes: Vec<String>,
}

impl Trainer {
    /// Begins a run that writes to `folder`, or goes on where the newest whole checkpoint there left
    /// off.
    ///
    /// # Errors
    /// [`Error::Request`] for settings that cannot be or that differ from those of the run in `folder` or
    /// of the model to go on from; otherwise what reading, encoding and writing can fail with.
    pub fn start(corpus: &Corpus, settings: Settings, folder: &Path, start: Start, device: Device) -> Result<Self> {
        settings.check()?;
        std::fs::create_dir_all(folder).map_err(Error::io("make the folder", folder))?;
        let (saved, mut notes) = checkpoint::newest(&folder.join("checkpoints"))?;
        let tokenizer_file = folder.join("tokenizer.json");
        let json = match (&saved, start.tokenizer) {
            // The ids of a run must not change under it.
            (Some(_), _) => std::fs::read(&tokenizer_file).map_err(Error::io("read", &tokenizer_file))?,
            (None, Some(given)) => given,
            (None, None) => vocabulary::train(corpus.texts().collect::<Vec<_>>().into_iter(), settings.vocabulary)?,
        };
        let text = TextTokenizer::from_bytes(&tokenizer_file.display().to_string(), &json)?;
        let config = settings.config(&text)?;
        let (family, architecture) = parse_config("config.json", &config)?;
        text.vocabulary(&architecture)?;
        let tensors = (family.tensors)(&architecture, &|_| false);
        let chat = family.chat_template.ok_or_else(|| Error::Request("the family has no chat template".to_owned()))?;
        let chat = ChatTemplate::new("(the family's chat template)", chat, SPECIALS[1], SPECIALS[0])?;
        let [eos, bos, turn_end] = [0, 1, 2].map(|i| text.id(SPECIALS[i]).unwrap_or_default());
        let encoder = Encoder { tokenizer: &text, chat: &chat, bos, eos, turn_end, context: settings.context };
        let [training, held_out] = match &start.held_out {
            None => encoder.encode(corpus)?,
            Some(apart) => [encoder.encode_whole(corpus)?, encoder.encode_whole(apart)?],
        };
        if training.stream.is_empty() && training.pairs.is_empty() {
            return Err(Error::Request("every text of the corpus is longer than the context".to_owned()));
        }
        if training.too_long > 0 {
            let all = training.too_long + training.pairs.len();
            notes.push(format!("{} of {all} pairs are longer than the context and left out", training.too_long));
        }
        write_whole(&tokenizer_file, &json)?;
        write_whole(&folder.join("config.json"), config.as_bytes())?;

        device.seed(settings.seed);
        let device = device.autodiff();
        let mut state = State { settings, corpus: training.checksum(), training: Vec::new(), held_out: Vec::new() };
        let mut optimiser = state.settings.optimiser();
        let (step, transformer, average) = match saved {
            None => {
                let transformer = match &start.model {
                    None => weights::random(&architecture, &device),
                    Some(model) => {
                        check_same_shape(&architecture, model)?;
                        weights::of_checkpoint(&architecture, &model.tensors, &model.checkpoint, &device)?
                    }
                };
                let average = Average::of(&transformer, state.settings.average, 0);
                (0, transformer, average)
            }
            Some((step, Sections([saved, own, averaged, moments]))) => {
                let saved: State = serde_json::from_slice(&saved).map_err(|e| Error::Checkpoint {
                    file: format!("the checkpoint of step {step}"),
                    problem: format!("its state cannot be read: {e}"),
                })?;
                saved.check_same(&state, folder)?;
                state = State { settings: state.settings, ..saved };
                optimiser = optimiser.from_bytes(Bytes::from_bytes_vec(moments)).map_err(|e| Error::Checkpoint {
                    file: format!("the checkpoint of step {step}"),
                    problem: format!("the optimiser's state cannot be read: {e}"),
                })?;
                let transformer = weights::restore(&architecture, &tensors, own, &device)?;
                let averaged = weights::restore(&architecture, &tensors, averaged, &device)?;
                notes.push(format!("going on after step {step}"));
                (step, transformer, Average::of(&averaged, state.settings.average, step))
            }
        };
        let folder = folder.to_owned();
        let transformer = weights::computing_in(state.settings.precision, transformer);
        Ok(Self {
            folder,
            state,
            step,
            config,
            architecture,
            tensors,
            training,
            held_out,
            device,
            transformer,
            optimiser,
            average,
            notes,
        })
    }

    /// What a user should know about how the run began.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Steps done.
    #[must_use]
    pub fn step(&self) -> u32 {
        self.step
    }

    /// Parameters of the model.
    #[must_use]
    pub fn parameters(&self) -> u64 {
        self.architecture.parameters()
    }

    /// Tokens that the run draws from.
    #[must_use]
    pub fn corpus_tokens(&self) -> usize {
        self.training.stream.len() + self.training.pairs.iter().map(|(p, a)| p.len() + a.len()).sum::<usize>()
    }

    /// Steps and losses of the whole run so far: of each training batch, and held out.
    #[must_use]
    pub fn losses(&self) -> (&[Point], &[Point]) {
        (&self.state.training, &self.state.held_out)
    }

    /// Trains one step.
    ///
    /// # Errors
    /// [`Error::Request`] where the loss is no longer finite.
    pub fn advance(&mut self) -> Result<Report> {
        let settings = &self.state.settings;
        let batch = self.sampler(&self.training, settings.batch, settings.seed).batch(self.step);
        let loss = loss(&self.transformer, &self.architecture, &batch, &self.device);
        let gradients = GradientsParams::from_grads(loss.backward(), &self.transformer);
        let rate = self.state.settings.rate(self.step);
        self.transformer = self.optimiser.step(rate, self.transformer.clone(), gradients);
        self.average.update(&self.transformer);
        self.step += 1;
        let loss = read(loss)?;
        if !loss.is_finite() {
            let problem = format!(
                "the loss of step {} is {loss}; start again from an earlier checkpoint with a lower --learning-rate",
                self.step
            );
            return Err(Error::Request(problem));
        }
        self.state.training.push((self.step, loss));
        Ok(Report { step: self.step, loss, tokens: batch.seen.len() })
    }

    /// Loss of the averaged weights on what is held out, `None` where nothing is. Always the same
    /// sequences and masks, so that runs can be compared.
    ///
    /// # Errors
    /// [`Error::Backend`] where the device fails.
    pub fn measure(&mut self) -> Result<Option<f32>> {
        if self.held_out.stream.is_empty() && self.held_out.pairs.is_empty() {
            return Ok(None);
        }
        let transformer = self.average.apply(&self.transformer);
        let device = self.device.clone().inner();
        let sampler = self.sampler(&self.held_out, self.state.settings.batch, 0);
        let mut sum = 0.0;
        for number in 0..HELD_OUT_BATCHES {
            sum += read(loss(&transformer, &self.architecture, &sampler.batch(number), &device))?;
        }
        let mean = sum / HELD_OUT_BATCHES as f32;
        self.state.held_out.push((self.step, mean));
        Ok(Some(mean))
    }

    /// Writes a checkpoint, the model as it would be used now (averaged weights, bf16) and the curve.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Checkpoint`] where the state cannot be put into bytes.
    pub fn save(&self) -> Result<()> {
        let failed = |problem: String| Error::Checkpoint { file: "the state of the run".to_owned(), problem };
        let averaged = self.average.apply(&self.transformer);
        let container = |t: &Trained, dtype| weights::container(&self.tensors, t, dtype);
        let sections = Sections([
            serde_json::to_vec(&self.state).map_err(|e| failed(e.to_string()))?,
            container(&self.transformer.valid(), DType::F32)?,
            container(&averaged, DType::F32)?,
            self.optimiser.into_bytes().map_err(|e| failed(e.to_string()))?.to_vec(),
        ]);
        checkpoint::save(&self.folder.join("checkpoints"), self.step, &sections)?;
        write_whole(&self.folder.join("model.safetensors"), &container(&averaged, DType::BF16)?)?;
        write_whole(&self.folder.join("loss.svg"), &curve::svg(&self.state.training, &self.state.held_out)?)
    }

    /// The model's config.json.
    #[must_use]
    pub fn config(&self) -> &str {
        &self.config
    }

    fn sampler<'a>(&'a self, tokens: &'a Tokens, sequences: usize, seed: u64) -> Sampler<'a> {
        let ids = &self.architecture.tokens;
        Sampler {
            tokens,
            sequences,
            length: self.state.settings.context,
            pairs: self.state.settings.pairs,
            mask: ids.mask.unwrap_or_default(),
            pad: ids.pad.unwrap_or_default(),
            seed,
        }
    }
}

/// Weighted cross-entropy of a batch's masked tokens, a scalar.
#[must_use]
pub fn loss(transformer: &Trained, a: &Architecture, batch: &Batch, device: &Device) -> Tensor<1> {
    let ids = |ids: Vec<i64>| Tensor::<1, Int>::from_data(TensorData::from(&ids[..]), device);
    let positions = (0..batch.sequences).flat_map(|_| 0..batch.length as u32).collect();
    let inputs = Inputs::new(a, batch.seen.clone(), positions, device);
    let precision = transformer.embedding.precision;
    let x = transformer
        .forward(&inputs, |block, projected| attend(projected, batch.sequences, block.attention.scale, precision));

    // Filled up with rows that weigh nothing.
    let count = batch.masked.len().next_multiple_of(ROWS_AT_ONCE).max(ROWS_AT_ONCE);
    let filled = |own: &mut dyn Iterator<Item = i64>| {
        let mut own: Vec<_> = own.collect();
        own.resize(count, 0);
        ids(own)
    };
    let masked = filled(&mut batch.masked.iter().map(|at| *at as i64));
    let targets = filled(&mut batch.targets.iter().map(|id| i64::from(*id)));
    let mut weights = batch.weights.clone();
    weights.resize(count, 0.0);
    let weights = Tensor::<1>::from_data(TensorData::from(&weights[..]), device);
    let logits = transformer.logits(transformer.normed(rows(x, masked)));
    let likelihood = activation::log_softmax(logits, 1).gather(1, targets.unsqueeze_dim(1));
    (likelihood.squeeze_dim::<1>(1) * weights).sum().neg()
}

/// Every token of a sequence attends to all of it: `[sequences * length, heads * head_dim]`.
fn attend(p: Projections, sequences: usize, scale: f32, precision: Precision) -> Tensor<2> {
    let [rows, heads, head_dim] = p.q.dims();
    let length = rows / sequences;
    let by_head = |x: Tensor<3>| {
        let [_, own, _] = x.dims();
        let x = x.reshape([sequences, length, own, head_dim]).swap_dims(1, 2);
        if own == heads {
            return x;
        }
        // Every K/V head once for each query head that shares it.
        let shared = x.unsqueeze_dim::<5>(2).repeat_dim(2, heads / own);
        shared.reshape([sequences, heads, length, head_dim])
    };
    let scores = precision.product_transposed(by_head(p.q.mul_scalar(scale)), by_head(p.k));
    let attended = precision.product(activation::softmax(scores, 3), by_head(p.v));
    attended.swap_dims(1, 2).reshape([rows, heads * head_dim])
}

/// A scalar on the host.
fn read(scalar: Tensor<1>) -> Result<f32> {
    scalar.try_into_scalar::<f32>().map_err(|e| {
        let operation = "read the loss back".to_owned();
        remask_core::BackendError::Device { operation, problem: format!("{e:?}") }.into()
    })
}

impl Settings {
    fn check(&self) -> Result<()> {
        let refuse = |problem: String| Err(Error::Request(problem));
        for (name, value) in [
            ("hidden", self.hidden),
            ("layers", self.layers),
            ("heads", self.heads),
            ("mlp", self.mlp),
            ("context", self.context),
            ("batch", self.batch),
        ] {
            if value == 0 {
                return refuse(format!("--{name} must be at least 1"));
            }
        }
        if !self.hidden.is_multiple_of(2 * self.heads) {
            return refuse(format!("{} heads need a hidden size that is a multiple of {}", self.heads, 2 * self.heads));
        }
        if !(self.learning_rate.is_finite() && self.learning_rate > 0.0) {
            return refuse(format!("a learning rate of {} cannot be", self.learning_rate));
        }
        for (name, share) in [("average", self.average), ("pairs", self.pairs)] {
            if !(0.0..=1.0).contains(&share) {
                return refuse(format!("--{name} {share} must be between 0 and 1"));
            }
        }
        Ok(())
    }

    /// Learning rate of the step after `done` ones.
    fn rate(&self, done: u32) -> f64 {
        if done < self.warm_up {
            return self.learning_rate * f64::from(done + 1) / f64::from(self.warm_up);
        }
        let rest = f64::from(self.steps.saturating_sub(self.warm_up).max(1));
        let share = (f64::from(done - self.warm_up) / rest).min(1.0);
        // It ends at a hundredth, not at nothing: a last step is a step.
        self.learning_rate * (0.01 + 0.99 * 0.5 * (1.0 + (std::f64::consts::PI * share).cos()))
    }

    fn optimiser(&self) -> ModuleOptimizer {
        let config = AdamWConfig::new().with_beta_2(0.95).with_epsilon(1e-8).with_weight_decay(self.weight_decay);
        let clip = GradientClippingConfig::Norm(CLIP);
        let optimiser = config.clone().with_grad_clipping(Some(clip.clone())).init();
        // The factors of norms are no weights to keep small.
        let norms = ParamGroup::from_predicate("norm");
        optimiser.with_group(norms, config.with_weight_decay(0.0).build(), Some(clip.init()))
    }

    /// A config.json in the keys of LLaDA's checkpoints.
    fn config(&self, tokenizer: &TextTokenizer) -> Result<String> {
        let id = |text: &str| {
            tokenizer.id(text).ok_or_else(|| Error::Tokenizer {
                file: "tokenizer.json".to_owned(),
                problem: format!("does not have {text}, which training needs"),
            })
        };
        let [eos, bos, _, _, _, mask] = SPECIALS;
        for text in SPECIALS {
            id(text)?;
        }
        let rows = (0..).take_while(|id| tokenizer.token(*id).is_some()).count();
        let config: Value = json!({
            "architectures": ["LLaDAModelLM"], "model_type": "llada",
            "d_model": self.hidden, "n_heads": self.heads, "n_kv_heads": self.heads, "n_layers": self.layers,
            "mlp_hidden_size": self.mlp, "vocab_size": rows, "embedding_size": rows,
            "max_sequence_length": self.context, "block_type": "llama", "block_group_size": 1,
            "rope": true, "rope_theta": 10000.0, "activation_type": "silu", "layer_norm_type": "rms",
            "rms_norm_eps": 1e-5, "layer_norm_with_affine": true, "attention_layer_norm": false,
            "bias_for_layer_norm": false, "include_bias": false, "include_qkv_bias": false, "weight_tying": false,
            "alibi": false, "flash_attention": false, "input_emb_norm": false, "scale_logits": false,
            "attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0, "init_device": "cpu",
            "bos_token_id": id(bos)?, "eos_token_id": id(eos)?, "pad_token_id": id(eos)?,
            "mask_token_id": id(mask)?, "torch_dtype": "bfloat16",
        });
        serde_json::to_string_pretty(&config).map_err(|e| Error::Request(format!("cannot write config.json: {e}")))
    }
}

/// Refuses to train a model of another shape than the run's.
fn check_same_shape(a: &Architecture, model: &Model) -> Result<()> {
    let shape = |a: &Architecture| Architecture {
        // What the weights do not depend on.
        name: String::new(),
        vocab_size: 0,
        tokens: TokenIds::default(),
        ..a.clone()
    };
    let describe = |a: &Architecture| serde_json::to_value(shape(a)).unwrap_or_default();
    let (own, there) = (describe(a), describe(&model.architecture));
    let keys = own.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let differ: Vec<_> = keys.filter(|key| own[*key] != there[*key]).collect();
    if differ.is_empty() {
        return Ok(());
    }
    let (origin, differ) = (&model.origin, differ.join(", "));
    Err(Error::Request(format!("{origin} has another shape than this run would write; they differ in {differ}")))
}

impl State {
    /// Refuses to go on with a run of other settings or another corpus. The number of steps may change.
    fn check_same(&self, wanted: &Self, folder: &Path) -> Result<()> {
        let own = Settings { steps: wanted.settings.steps, ..self.settings.clone() };
        let what = if own != wanted.settings {
            "with other settings"
        } else if self.corpus != wanted.corpus {
            "over another corpus"
        } else {
            return Ok(());
        };
        let problem = format!("{} holds a run {what}; choose another folder, or repeat its own", folder.display());
        Err(Error::Request(format!("{problem} (settings there: {:?})", self.settings)))
    }
}

impl Tokens {
    fn checksum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        let pairs = self.pairs.iter().flat_map(|(prompt, answer)| [prompt, answer]);
        for ids in std::iter::once(&self.stream).chain(pairs) {
            sum.update(&(ids.len() as u64).to_le_bytes());
            sum.update(bytemuck::cast_slice(ids));
        }
        sum.finalize()
    }
}
