//! Autoregressive generation and the scheduler, on a backend whose answers depend on everything that a row may
//! see: a row that is missing from its store, computed twice or out of order shows in the text.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

mod causal;
mod grammar;
mod scheduling;
mod scoring;

use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use remask_core::decode::Sampling;
use remask_core::{Canvas, DecodeOptions, FinishReason, Request, Scheduler, StepReport, Vocabulary, fill_all};

use crate::causal::{Causal, HEAD, STOP, architecture, expected, run, writes};

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
    let cut = scheduler.cancel(Some(&mut backend), first).unwrap();
    assert_eq!((cut.finish, cut.canvas.holes()), (FinishReason::Aborted, 47));
    assert!(scheduler.cancel(Some(&mut backend), first).is_none() && backend.stores.len() == 1);
    pollster::block_on(scheduler.step(&mut backend, watch)).unwrap();
    assert_eq!(backend.passes, [2, 2, 2, 1]);
    assert!(scheduler.cancel(Some(&mut backend), second).is_some() && scheduler.is_empty());
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
