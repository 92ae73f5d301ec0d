//! Autoregressive generation and the scheduler, on a backend whose answers depend on everything that a row may
//! see: a row that is missing from its store, computed twice or out of order shows in the text.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use remask_core::backend::BackendInfo;
use remask_core::decode::Sampling;
use remask_core::families::parse_config;
use remask_core::random::{Key, gumbel, threefry, unit};
use remask_core::{
    Answer, Architecture, Backend, BackendError, BackendFuture, Candidate, Canvas, DecodeOptions, FinishReason,
    Generation, Pass, Request, Row, Scheduler, Select, StepReport, StoreId, Vocabulary, Want, fill_all, generate,
};

const HEAD: u32 = 50;
const STOP: u32 = 49;
const POSITIONS: usize = 2000;

fn architecture() -> Arc<Architecture> {
    let config = format!(
        "{{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8, \"num_attention_heads\": 1, \
         \"num_hidden_layers\": 1, \"intermediate_size\": 8, \"vocab_size\": {HEAD}, \
         \"max_position_embeddings\": {POSITIONS}, \"eos_token_id\": {STOP}}}"
    );
    parse_config("config.json", &config).unwrap().1.into()
}

/// Keeps the tokens of every store, and answers from a hash of all that a row sees.
#[derive(Default)]
struct Causal {
    stores: BTreeMap<StoreId, Vec<Option<u32>>>,
    made: u32,
    /// Rows of each pass.
    passes: Vec<usize>,
    /// Slots that all stores together may have.
    room: Option<u32>,
    most_rows: Option<usize>,
    /// Rows of this token have logits that are not finite.
    poison: Option<u32>,
}

impl Causal {
    fn logits(&self, row: &Row) -> Vec<f32> {
        let slots = &self.stores[&row.store];
        let seen = (row.keys.start..row.keys.end).map(|slot| slots[slot as usize].unwrap());
        let key = seen.fold(Key([1, 2]), |key, token| Key(threefry(key, [token, 7])));
        (0..HEAD).map(|id| 4.0 * unit(threefry(key, [id, 0]))).collect()
    }

    fn answer(&self, pass: &Pass, select: &Select) -> Answer {
        let logits = self.logits(&pass.rows[select.row as usize]);
        let Want::Candidate { temperature, key, suppressed } = select.want else { return Answer::Logits(logits) };
        let noise = |id: u32| temperature * gumbel(threefry(key, [select.position, id]));
        let allowed = (0..HEAD).filter(|id| !pass.suppressed[suppressed as usize].contains(*id));
        let token = allowed.max_by(|a, b| {
            let score = |id: u32| logits[id as usize] + noise(id);
            score(*a).total_cmp(&score(*b)).then(b.cmp(a))
        });
        Answer::Candidate(Candidate { token: token.unwrap(), probability: 0.5, entropy: 1.0, margin: 0.1 })
    }
}

impl Backend for Causal {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "causal".into(), adapter: "none".into(), weights: "none".into() }
    }

    fn head_rows(&self) -> usize {
        HEAD as usize
    }

    fn most_rows(&self) -> usize {
        self.most_rows.unwrap_or(usize::MAX)
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        let taken: usize = self.stores.values().map(Vec::len).sum();
        if self.room.is_some_and(|room| taken as u32 + capacity > room) {
            return Err(BackendError::OutOfMemory { action: "making a store".into(), bytes: capacity.into() });
        }
        self.made += 1;
        self.stores.insert(StoreId(self.made), vec![None; capacity as usize]);
        Ok(StoreId(self.made))
    }

    fn release_store(&mut self, store: StoreId) {
        assert!(self.stores.remove(&store).is_some(), "{store:?} was released twice");
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        let capacity = |store| self.stores.get(&store).map(|slots| slots.len() as u32);
        pass.check(&architecture(), capacity).unwrap();
        assert!(pass.rows.len() <= self.most_rows());
        self.passes.push(pass.rows.len());
        for row in pass.rows {
            let slot = &mut self.stores.get_mut(&row.store).unwrap()[row.slot as usize];
            assert!(slot.is_none() && row.slot == row.position, "a row is computed once");
            *slot = Some(row.token);
        }
        if let Some(row) = pass.rows.iter().find(|row| Some(row.token) == self.poison) {
            let position = row.position;
            // As a device does that failed: what was written counts for nothing.
            for row in pass.rows {
                self.stores.get_mut(&row.store).unwrap()[row.slot as usize] = None;
            }
            return Box::pin(async move { Err(BackendError::NotFinite { position }) });
        }
        let answers = pass.select.iter().map(|select| self.answer(pass, select)).collect();
        Box::pin(async { Ok(answers) })
    }
}

fn run(backend: &mut Causal, prompt: &[u32], options: &DecodeOptions) -> Generation {
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let watch = &mut |_: &StepReport| ControlFlow::Continue(());
    let done = pollster::block_on(generate(backend, &a, &v, prompt, options, watch)).unwrap();
    assert!(backend.stores.is_empty(), "stores are given back");
    done
}

fn writes(max_tokens: usize) -> DecodeOptions {
    DecodeOptions { max_tokens, ignore_eos: true, ..DecodeOptions::default() }
}

/// What the backend's own distribution gives token after token.
fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..count {
        let mut all = Causal::default();
        all.stores.insert(StoreId(0), text.iter().map(|t| Some(*t)).collect());
        let last = Row::of_canvas(&architecture(), StoreId(0), text.len() - 1, 0, text.len());
        let logits = all.logits(&last);
        let best = (0..HEAD).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]).then(b.cmp(a)));
        text.push(best.unwrap());
    }
    text
}

#[test]
fn a_prompt_is_computed_in_pieces_and_then_a_row_a_token() {
    let prompt: Vec<u32> = (0..1200).map(|i| i * 7 % 49).collect();
    let mut backend = Causal::default();
    let done = run(&mut backend, &prompt, &writes(3));
    assert_eq!(done.canvas.tokens(), expected(&prompt, 3));
    assert_eq!(backend.passes, [512, 512, 176, 1, 1]);
    assert_eq!((done.forward_passes, done.rows_computed, done.rows_selected), (5, 1202, 3));
    assert_eq!(done.finish, FinishReason::Length);
    let mut narrow = Causal { most_rows: Some(100), ..Causal::default() };
    assert_eq!(run(&mut narrow, &prompt, &writes(3)).canvas.tokens(), done.canvas.tokens());
}

#[test]
fn the_end_of_a_text_ends_it_unless_it_is_ignored() {
    let prompt = [3];
    let text = expected(&prompt, 400);
    let stop = text.iter().skip(1).position(|id| *id == STOP).unwrap() + 1;
    let plain = DecodeOptions { max_tokens: 400, ..DecodeOptions::default() };
    let done = run(&mut Causal::default(), &prompt, &plain);
    assert_eq!((done.finish, done.canvas.holes()), (FinishReason::Stop, 400 - stop));
    assert_eq!(done.completion(), &text[1..stop]);
    let own = DecodeOptions { stop_ids: vec![text[5]], ..writes(400) };
    assert_eq!(run(&mut Causal::default(), &prompt, &own).canvas.holes(), 400 - 5.min(stop));
}

#[test]
fn a_seed_gives_the_same_text_by_either_way() {
    // A device's own candidate and one chosen from its logits draw the same noise.
    let sampled = |sampling: Sampling| {
        let options = DecodeOptions { sampling, ..writes(40) };
        run(&mut Causal::default(), &[1, 2, 3], &options)
    };
    let device = Sampling { temperature: 1.0, seed: 11, ..Sampling::default() };
    let host = Sampling { logprobs: Some(3), ..device.clone() };
    let (by_device, by_host) = (sampled(device.clone()), sampled(host));
    assert_eq!(by_device.canvas.tokens(), by_host.canvas.tokens());
    assert_ne!(by_device.canvas.tokens(), sampled(Sampling { seed: 12, ..device }).canvas.tokens());
    assert_eq!(by_host.logprobs.keys().copied().collect::<Vec<_>>(), (3..43).collect::<Vec<_>>());
    for (position, logprobs) in &by_host.logprobs {
        let sum: f32 = logprobs.top.iter().map(|(_, log)| log.exp()).sum();
        assert!(logprobs.top.len() == 3 && sum < 1.0 && logprobs.logprob <= logprobs.top[0].1, "{position}");
    }
}

#[test]
fn one_request_that_fails_leaves_the_others_alone() {
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let request = |prompt: &[u32], count| Request { canvas: Canvas::new(prompt, count, 0), options: writes(count) };
    let mut backend = Causal { poison: Some(42), ..Causal::default() };
    let requests = vec![request(&[1, 2], 5), request(&[1, 42], 5), request(&[99], 5), request(&[4], 7)];
    let watch = &mut |_: usize, _: &StepReport| ControlFlow::Continue(());
    let done = pollster::block_on(fill_all(&mut backend, &a, &v, requests, watch)).unwrap();
    let text = |index: usize| done[index].as_ref().map(|d| d.canvas.tokens().to_vec());
    assert!(text(1).unwrap_err().to_string().contains("not finite"));
    assert!(text(2).unwrap_err().to_string().contains("99"));
    // The poisoned token may turn up in the others' texts too; these are chosen so that it does not.
    assert_eq!(text(0).unwrap(), expected(&[1, 2], 5));
    assert_eq!(text(3).unwrap(), expected(&[4], 7));
    assert!(backend.stores.is_empty());
}

#[test]
fn a_cancelled_request_has_no_rows_in_later_passes() {
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let mut backend = Causal::default();
    let mut scheduler = Scheduler::default();
    let begin = |prompt: &[u32]| {
        let request = Request { canvas: Canvas::new(prompt, 50, 0), options: writes(50) };
        request.begin(&a, &v).unwrap()
    };
    let (first, second) = (scheduler.admit(begin(&[1])), scheduler.admit(begin(&[2])));
    let watch = &mut |_, _: &StepReport| ControlFlow::Continue(());
    for _ in 0..3 {
        pollster::block_on(scheduler.step(&mut backend, watch)).unwrap();
    }
    let cut = scheduler.cancel(&mut backend, first).unwrap();
    assert_eq!((cut.finish, cut.canvas.holes()), (FinishReason::Aborted, 47));
    assert!(scheduler.cancel(&mut backend, first).is_none() && backend.stores.len() == 1);
    pollster::block_on(scheduler.step(&mut backend, watch)).unwrap();
    assert_eq!(backend.passes, [2, 2, 2, 1]);
    assert!(scheduler.cancel(&mut backend, second).is_some() && scheduler.is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the device has room for, in rows and in slots, every text is what it is alone.
    #[test]
    fn texts_do_not_depend_on_who_shares_the_device(
        requests in proptest::collection::vec((proptest::collection::vec(0..HEAD, 1..60), 1usize..20), 1..7),
        room in 80u32..300, most_rows in 1usize..100, temperature in prop_oneof![Just(0.0f32), Just(0.8)],
    ) {
        let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
        let options = |count| DecodeOptions {
            sampling: Sampling { temperature, seed: 5, ..Sampling::default() },
            ..writes(count)
        };
        let joint = requests.iter().map(|(prompt, count)| Request {
            canvas: Canvas::new(prompt, *count, 0),
            options: options(*count),
        });
        let mut backend = Causal { room: Some(room), most_rows: Some(most_rows), ..Causal::default() };
        let watch = &mut |_: usize, _: &StepReport| ControlFlow::Continue(());
        let done = pollster::block_on(fill_all(&mut backend, &a, &v, joint.collect(), watch)).unwrap();
        prop_assert!(backend.stores.is_empty());
        for ((prompt, count), done) in requests.iter().zip(done) {
            let alone = run(&mut Causal::default(), prompt, &options(*count));
            let done = done.unwrap();
            prop_assert_eq!(alone.canvas.tokens(), done.canvas.tokens());
        }
    }
}
