//! What holds for any settings and any answers.

use std::ops::ControlFlow;

use proptest::prelude::*;
use remask_core::{Acceptance, BackendError, Canvas, Cell, Error, FinishReason, Revision, StepReport};

use super::fake::*;

proptest! {
    #[test]
    fn every_step_commits_holes_once(seed: u32, prompt in prompt(), options in options()) {
        let edits = matches!(options.revision, Some(Revision::Edit { .. }));
        let mut backend = Fake { edits, ..Fake::new(seed) };
        let mut auditor = Auditor::new(&Canvas::new(&prompt, options.max_tokens, MASK));
        let done = run(&mut backend, &prompt, &options, &mut |report| {
            auditor.step(report);
            ControlFlow::Continue(())
        })
        .unwrap();

        prop_assert_eq!(&done.canvas.tokens()[..prompt.len()], &prompt[..]);
        prop_assert_eq!(done.canvas.cells(), &auditor.cells[..]);
        prop_assert_eq!(done.canvas.holes(), auditor.cells.iter().filter(|c| **c == Cell::Hole).count());

        // The reported costs are what the backend saw.
        let reported = (done.forward_passes, done.rows_computed, done.rows_selected);
        prop_assert_eq!(reported, (backend.passes, backend.rows, backend.selected));
        prop_assert_eq!(auditor.steps, backend.passes);
        let full = u64::from(done.forward_passes) * (prompt.len() + options.max_tokens) as u64 * u64::from(backend.made);
        prop_assert_eq!(done.rows_of_full_compute, full);
        if let Some(mor) = done.mor {
            prop_assert_eq!(mor.total_tokens_processed, done.rows_computed);
            prop_assert_eq!(mor.tokens_skipped, full - done.rows_computed);
            prop_assert!(edits || mor.total_recursions == done.rows_selected);
            prop_assert_eq!(mor.total_recursions, done.depth.iter().map(|d| u64::from(*d)).sum::<u64>());
        }
        if let (Acceptance::Quota(_), true) = (options.acceptance, plain(&options)) {
            let blocks = options.max_tokens.div_ceil(options.block_length);
            prop_assert!(done.forward_passes as usize <= options.steps.max(blocks));
        }
        prop_assert!(options.revision.is_some() || done.forward_passes as usize <= options.max_tokens);
        let stats = done.acceptance;
        let decided = (options.max_tokens - done.canvas.holes()) as u64;
        prop_assert_eq!(stats.tokens_accepted + stats.tokens_padded, decided + stats.tokens_remasked);
        prop_assert_eq!(backend.made, if options.cfg_scale > 0.0 { 2 } else { 1 });
        prop_assert!(backend.stores.is_empty(), "stores were left behind");

        // An answer ends at its first stop id, before which everything is decided.
        let answer = &done.canvas.tokens()[prompt.len()..];
        let stop = answer.iter().position(|id| *id == STOP);
        prop_assert_eq!(done.finish, if stop.is_some() { FinishReason::Stop } else { FinishReason::Length });
        prop_assert!(!holes(done.canvas.cells(), 0..prompt.len() + stop.unwrap_or(answer.len())));
        prop_assert!(options.early_stop || done.canvas.holes() == 0);
        prop_assert_eq!(done.completion(), &answer[..stop.unwrap_or(answer.len())]);
    }

    #[test]
    fn the_same_seed_gives_the_same_answer(seed: u32, prompt in prompt(), options in options()) {
        let backend = || Fake { edits: true, ..Fake::new(seed) };
        let once = run(&mut backend(), &prompt, &options, &mut go_on).unwrap();
        let again = run(&mut backend(), &prompt, &options, &mut go_on).unwrap();
        prop_assert_eq!(once.canvas, again.canvas);
        prop_assert_eq!(once.forward_passes, again.forward_passes);
    }

    #[test]
    fn stores_are_released_when_the_backend_fails(seed: u32, options in options(), passes in 0u32..6) {
        let mut backend = Fake { fails_after: Some(passes), edits: true, ..Fake::new(seed) };
        match run(&mut backend, &[1, 2], &options, &mut go_on) {
            Ok(done) => prop_assert!(done.forward_passes <= passes),
            Err(e) => prop_assert!(matches!(e, Error::Backend(BackendError::DeviceLost(_))), "{e}"),
        }
        prop_assert!(backend.stores.is_empty());
        // Nor may the first store stay where there is no room for the second.
        let mut backend = Fake { most_stores: Some(passes % 2), edits: true, ..Fake::new(seed) };
        let done = run(&mut backend, &[1, 2], &options, &mut go_on);
        prop_assert_eq!(done.is_ok(), options.cfg_scale == 0.0 && passes % 2 == 1);
        prop_assert!(backend.stores.is_empty());
    }

    #[test]
    fn a_watcher_can_end_a_generation(seed: u32, options in options(), last in 0u32..10) {
        let mut backend = Fake { edits: true, ..Fake::new(seed) };
        let mut watch = |report: &StepReport| {
            if report.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let done = run(&mut backend, &[1, 2], &options, &mut watch).unwrap();
        prop_assert_eq!(done.finish == FinishReason::Aborted, backend.passes == last + 1);
        prop_assert!(backend.passes <= last + 1 && backend.stores.is_empty());
        // What is decided by then can still be read.
        let completion = done.completion();
        prop_assert!(!holes(done.canvas.cells(), 2..2 + completion.len()));
    }
}
