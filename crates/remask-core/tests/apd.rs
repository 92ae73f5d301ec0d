//! Verified decoding against two scripted models whose probabilities are known.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used)]

use std::ops::ControlFlow;
use std::sync::Arc;

use remask_core::backend::BackendInfo;
use remask_core::decode::apd::{ApdConfig, Verified, Verifier, generate_verified};
use remask_core::families::parse_config;
use remask_core::{
    Answer, Architecture, Backend, BackendError, BackendFuture, Canvas, Error, Pass, StoreId, Vocabulary,
};

const HEAD: usize = 8;
const MASK: u32 = 7;
const STOP: u32 = 6;

fn architecture() -> Arc<Architecture> {
    let config = format!(
        "{{\"architectures\": [\"LLaDAModelLM\"], \"d_model\": 8, \"n_heads\": 1, \"n_layers\": 1, \
         \"mlp_hidden_size\": 8, \"vocab_size\": {HEAD}, \"max_sequence_length\": 64, \"rope_theta\": 1e4, \
         \"rms_norm_eps\": 1e-5, \"weight_tying\": true, \"mask_token_id\": {MASK}, \"eos_token_id\": {STOP}}}"
    );
    parse_config("config.json", &config).unwrap().1.into()
}

/// A diffusion model whose marginals at a position are `weights(position)`, whatever stands elsewhere.
struct Marginals<F> {
    weights: F,
    rows: Vec<usize>,
    stores: u32,
}

impl<F: Fn(u32) -> [f32; HEAD]> Backend for Marginals<F> {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "scripted".into(), adapter: "none".into(), weights: "none".into() }
    }

    fn head_rows(&self) -> usize {
        HEAD
    }

    fn create_store(&mut self, _: u32) -> Result<StoreId, BackendError> {
        self.stores += 1;
        Ok(StoreId(1))
    }

    fn release_store(&mut self, _: StoreId) {
        self.stores -= 1;
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        self.rows.push(pass.rows.len());
        let row = |s: &remask_core::Select| {
            let row = pass.rows[s.row as usize];
            assert_eq!(row.token, MASK, "a proposal was asked for where there is no hole");
            // Logits need not be normalised.
            Answer::Logits((self.weights)(row.position).map(|w| w.ln() + 3.0).to_vec())
        };
        let answers = pass.select.iter().map(row).collect();
        Box::pin(async { Ok(answers) })
    }
}

/// A verifier whose distribution depends on the token before.
struct Causal<F>(F);

impl<F: Fn(u32) -> [f32; HEAD]> Verifier for Causal<F> {
    fn log_probabilities<'a>(&'a mut self, tokens: &'a [u32], from: usize) -> BackendFuture<'a, Vec<f32>> {
        let logs = tokens[from - 1..tokens.len() - 1].iter().flat_map(|t| (self.0)(*t).map(f32::ln)).collect();
        Box::pin(async { Ok(logs) })
    }
}

fn run(
    diffusion: impl Fn(u32) -> [f32; HEAD],
    verifier: impl Fn(u32) -> [f32; HEAD],
    config: &ApdConfig,
) -> Result<(Verified, Vec<usize>), Error> {
    let architecture = architecture();
    let vocabulary = Arc::new(Vocabulary::of(&architecture));
    let mut backend = Marginals { weights: diffusion, rows: Vec::new(), stores: 0 };
    let mut verifier = Causal(verifier);
    let watch = &mut |_: &Canvas| ControlFlow::Continue(());
    let prompt = [1, 2, 3];
    let run = generate_verified(&mut backend, &mut verifier, &architecture, &vocabulary, &prompt, config, watch);
    let done = pollster::block_on(run)?;
    assert_eq!(backend.stores, 0, "the store was left behind");
    Ok((done, backend.rows))
}

/// Mostly `id`, a little of everything.
fn peak(id: u32) -> [f32; HEAD] {
    let mut weights = [0.01; HEAD];
    weights[id as usize] = 0.93;
    weights
}

/// The diffusion model counts up by position; the verifier wants each token to follow the one before.
#[test]
fn runs_end_where_the_models_part() {
    let config = ApdConfig { max_tokens: 8, lookahead: 4, window: 2, mixture: 0.3, ..ApdConfig::default() };
    let (done, rows) = run(|p| peak((p - 3) % 3), |t| peak((t + 1) % 3), &config).unwrap();
    assert_eq!(&done.canvas.tokens()[3..], [0, 1, 2, 0, 1, 2, 0, 1]);
    assert_eq!((done.forward_passes, done.proposed, done.kept, done.corrected), (2, 8, 8, 0));
    assert_eq!(rows, [11, 6], "all at first, then the window and the run");

    // A verifier that never lets 0 follow 2: the run ends there with what it wants instead.
    let never = |t: u32| if t == 2 { peak(4) } else { peak((t + 1) % 3) };
    let (done, _) = run(|p| peak((p - 3) % 3), never, &config).unwrap();
    assert_eq!(&done.canvas.tokens()[3..], [0, 1, 2, 4, 1, 2, 4, 1]);
    assert_eq!((done.kept, done.corrected), (6, 2));

    // With the whole weight on the diffusion model the verifier is not heard.
    let deaf = ApdConfig { mixture: 1.0, ..config };
    let (done, _) = run(|p| peak((p - 3) % 3), never, &deaf).unwrap();
    assert_eq!((done.kept, done.corrected, done.forward_passes), (8, 0, 2));
}

#[test]
fn an_answer_ends_at_a_stop_id_and_the_mask_is_never_chosen() {
    let config = ApdConfig { max_tokens: 8, ..ApdConfig::default() };
    let (done, _) = run(|p| if p == 5 { peak(STOP) } else { peak(MASK) }, |_| [1.0 / 8.0; HEAD], &config).unwrap();
    assert_eq!((done.canvas.tokens()[5], done.canvas.holes(), done.forward_passes), (STOP, 5, 1));
    assert!(done.canvas.tokens()[3..5].iter().all(|t| *t != MASK));
}

/// Coupled sampling: what stands at the second position is distributed as the normalised product.
#[test]
fn the_second_token_follows_the_product_mixture() {
    let diffusion = [0.5, 0.3, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0];
    let verifier = [0.1, 0.3, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0];
    let (trials, r) = (4000u32, 0.4f32);
    let mut counts = [0u32; 3];
    for seed in 0..u64::from(trials) {
        let config = ApdConfig { max_tokens: 2, mixture: r, temperature: 1.0, seed, ..ApdConfig::default() };
        let (done, _) = run(|_| diffusion, |_| verifier, &config).unwrap();
        counts[done.canvas.tokens()[4] as usize] += 1;
    }
    let product: Vec<f32> = (0..3).map(|i| diffusion[i].powf(r) * verifier[i].powf(1.0 - r)).collect();
    let sum: f32 = product.iter().sum();
    for (count, p) in counts.iter().zip(product) {
        let (share, expected) = (*count as f32 / trials as f32, p / sum);
        let sigma = (expected * (1.0 - expected) / trials as f32).sqrt();
        assert!((share - expected).abs() < 4.0 * sigma, "{share} for {expected}");
    }
}

#[test]
fn what_cannot_be_run_is_refused() {
    let good = ApdConfig::default();
    for (config, words) in [
        (ApdConfig { max_tokens: 0, ..good }, "do not fit"),
        (ApdConfig { max_tokens: 62, ..good }, "do not fit"),
        (ApdConfig { mixture: f32::NAN, max_tokens: 4, ..good }, "mixture"),
        (ApdConfig { lookahead: 0, max_tokens: 4, ..good }, "lookahead"),
        (ApdConfig { temperature: -1.0, max_tokens: 4, ..good }, "temperature"),
    ] {
        let message = run(|_| peak(1), |_| peak(1), &config).map(|_| ()).unwrap_err().to_string();
        assert!(message.contains(words), "no {words:?} in: {message}");
    }
}
