//! Single cases.

use std::ops::ControlFlow;

use remask_core::decode::Sampling;
use remask_core::{Acceptance, AdaptiveSteps, DecodeOptions, Order, Revision, Trial};

use super::fake::*;

#[test]
fn a_short_answer_in_a_long_canvas_costs_little() {
    let options = DecodeOptions { max_tokens: 48, steps: 48, block_length: 12, ..DecodeOptions::default() };
    // A seed whose third token or so is a stop id.
    let stops_early = |seed: &u32| {
        let mut backend = Fake { steady: true, ..Fake::new(*seed) };
        let full = run(&mut backend, &[1, 2], &options, &mut go_on).unwrap();
        (2..6).contains(&full.completion().len())
    };
    let seed = (0..500).find(stops_early).unwrap();
    let cost = |options: &DecodeOptions| {
        let mut backend = Fake { steady: true, ..Fake::new(seed) };
        let done = run(&mut backend, &[1, 2], options, &mut go_on).unwrap();
        (done.completion().to_vec(), done.rows_computed, done.finish)
    };
    let full = cost(&options);
    let stopped = cost(&DecodeOptions { early_stop: true, ..options.clone() });
    let freed = cost(&DecodeOptions { early_stop: true, free_tail: true, ..options.clone() });
    assert_eq!((&full.0, full.2), (&stopped.0, stopped.2), "stopping early changes nothing");
    assert_eq!(full.2, freed.2);
    assert!(stopped.1 <= full.1 / 4 && freed.1 < stopped.1, "{} {} {}", full.1, stopped.1, freed.1);
}

#[test]
fn verification_decides_the_doubtful_again() {
    let revision = Some(Revision::Verify { threshold: 1.0, rounds: 2 });
    let options = DecodeOptions { max_tokens: 8, steps: 8, block_length: 8, revision, ..DecodeOptions::default() };
    let mut backend = Fake::new(3);
    let mut remasked = Vec::new();
    let done = run(&mut backend, &[1], &options, &mut |report| {
        remasked.push(report.remasked.len());
        ControlFlow::Continue(())
    })
    .unwrap();
    assert_eq!((remasked.iter().filter(|n| **n > 0).count(), done.canvas.holes()), (2, 0));
    assert_eq!(remasked.iter().sum::<usize>() as u64, done.acceptance.tokens_remasked);
}

#[test]
fn another_seed_gives_another_answer_where_chance_has_a_say() {
    let answer = |temperature: f32, order: Order, seed: u64| {
        let acceptance = Acceptance::Quota(order);
        let options = DecodeOptions {
            max_tokens: 24,
            steps: 8,
            acceptance,
            sampling: Sampling { temperature, seed, ..Sampling::default() },
            ..DecodeOptions::default()
        };
        run(&mut Fake::new(1), &[5], &options, &mut go_on).unwrap().canvas
    };
    assert_eq!(answer(0.0, Order::LowConfidence, 1), answer(0.0, Order::LowConfidence, 2));
    assert_ne!(answer(1.0, Order::LowConfidence, 1), answer(1.0, Order::LowConfidence, 2));
    assert_ne!(answer(0.0, Order::Random, 1), answer(0.0, Order::Random, 2));
}

#[test]
fn guidance_hides_the_prompt_from_the_second_store() {
    let options = DecodeOptions { max_tokens: 2, steps: 1, cfg_scale: 0.5, ..DecodeOptions::default() };
    let mut backend = Fake::new(0);
    run(&mut backend, &[7, 8], &options, &mut go_on).unwrap();
    let expected = [(1, 7), (1, 8), (1, MASK), (1, MASK), (2, MASK), (2, MASK), (2, MASK), (2, MASK)];
    assert_eq!(backend.last, expected);
}

#[test]
fn requests_that_cannot_be_run_are_refused_before_anything_is_made() {
    let good = DecodeOptions { max_tokens: 8, steps: 8, block_length: 8, ..DecodeOptions::default() };
    let long = vec![1; 57];
    let table: Vec<(&[u32], DecodeOptions, &str)> = vec![
        (&[1], DecodeOptions { max_tokens: 0, ..good.clone() }, "max tokens is 0"),
        (&[1], DecodeOptions { steps: 0, ..good.clone() }, "steps must be at least 1"),
        (&[1], DecodeOptions { block_length: 0, ..good.clone() }, "block length and steps"),
        (&[1], DecodeOptions { max_tokens: usize::MAX, ..good.clone() }, "exceed the model's 64 positions"),
        (&long, good.clone(), "57 tokens and 8 to fill in exceed the model's 64 positions"),
        (&[1, 40], good.clone(), "prompt id 40 is outside the model's 40 embeddings"),
        (
            &[1],
            DecodeOptions { sampling: Sampling { temperature: -0.5, ..Sampling::default() }, ..good.clone() },
            "temperature -0.5",
        ),
        (
            &[1],
            DecodeOptions { sampling: Sampling { temperature: f32::NAN, ..Sampling::default() }, ..good.clone() },
            "temperature NaN",
        ),
        (&[1], DecodeOptions { cfg_scale: f32::INFINITY, ..good.clone() }, "cfg scale inf"),
        (&[1], DecodeOptions { acceptance: Acceptance::Threshold(1.5), ..good.clone() }, "threshold 1.5"),
        (&[1], DecodeOptions { acceptance: Acceptance::Threshold(f32::NAN), ..good.clone() }, "threshold NaN"),
        (
            &[1],
            DecodeOptions { revision: Some(Revision::Verify { threshold: 2.0, rounds: 1 }), ..good.clone() },
            "verify",
        ),
        (
            &[1],
            DecodeOptions {
                adaptive_steps: Some(AdaptiveSteps { threshold: -1.0, ..AdaptiveSteps::default() }),
                ..good.clone()
            },
            "adaptive steps",
        ),
    ];
    for (prompt, options, words) in table {
        let mut backend = Fake::new(0);
        let message = run(&mut backend, prompt, &options, &mut go_on).unwrap_err().to_string();
        assert!(message.contains(words), "no {words:?} in: {message}");
        assert_eq!(backend.made, 0, "{words}");
    }
    // Steps that do not divide are no reason to refuse: they are spread, with a note.
    let uneven = DecodeOptions { steps: 7, block_length: 4, ..good.clone() };
    assert_eq!(run(&mut Fake::new(0), &[1], &uneven, &mut go_on).unwrap().notes.len(), 1);
    let few = DecodeOptions { steps: 1, block_length: 4, ..good };
    let done = run(&mut Fake::new(0), &[1], &few, &mut go_on).unwrap();
    assert!(done.forward_passes == 2 && done.notes[0].contains("raised to 2"), "{:?}", done.notes);
}

#[test]
fn a_trial_that_fails_keeps_no_store() {
    let mut backend = Fake { fails_after: Some(0), edits: true, ..Fake::new(1) };
    assert!(pollster::block_on(Trial::new(&mut backend, HEAD, 2, 8)).is_err());
    assert_eq!((backend.made, backend.stores.len()), (1, 0));
    let mut backend = Fake { edits: true, ..Fake::new(1) };
    let trial = pollster::block_on(Trial::new(&mut backend, HEAD, 2, 8)).unwrap();
    assert_eq!((trial.rows(), backend.stores.len()), (2, 1));
    trial.end(&mut backend);
    assert!(backend.stores.is_empty());
}
