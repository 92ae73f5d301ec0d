//! Requests that share passes, blanks in given text, generations that were cut off.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use proptest::prelude::*;
use remask_core::{
    Acceptance, Cache, Canvas, Cell, DecodeOptions, FinishReason, Request, Scheduler, StepReport, Vocabulary, fill,
    fill_all,
};

use super::fake::*;

proptest! {
    /// The same canvas gets the same tokens alone and beside others of other lengths and options.
    #[test]
    fn requests_that_share_passes_do_not_see_each_other(
        seed: u32, requests in proptest::collection::vec((prompt(), options()), 1..5),
    ) {
        let architecture = architecture();
        let vocabulary = Arc::new(Vocabulary::of(&architecture));
        let backend = || Fake { steady: true, edits: true, ..Fake::new(seed) };
        let canvas = |prompt: &[u32], options: &DecodeOptions| Canvas::new(prompt, options.max_tokens, MASK);
        let together: Vec<_> =
            requests.iter().map(|(p, options)| Request { canvas: canvas(p, options), options: options.clone() }).collect();
        let mut steps = vec![0; requests.len()];
        let mut shared = backend();
        let done = pollster::block_on(fill_all(&mut shared, &architecture, &vocabulary, together, &mut |i, report| {
            assert_eq!(report.step, steps[i]);
            steps[i] += 1;
            ControlFlow::Continue(())
        }))
        .unwrap();
        let done: Vec<_> = done.into_iter().map(Result::unwrap).collect();
        prop_assert_eq!(shared.passes, done.iter().map(|d| d.forward_passes).max().unwrap());
        prop_assert_eq!(shared.rows, done.iter().map(|d| d.rows_computed).sum::<u64>());
        prop_assert!(shared.stores.is_empty());
        for ((prompt, options), done) in requests.iter().zip(done) {
            let alone = run(&mut backend(), prompt, options, &mut go_on).unwrap();
            prop_assert_eq!(alone.canvas, done.canvas);
            prop_assert_eq!(alone.rows_computed, done.rows_computed);
            prop_assert_eq!(alone.finish, done.finish);
        }
    }

    /// Infilling: holes anywhere, what is given stays, mask text among it too.
    #[test]
    fn scattered_holes_are_filled_and_nothing_else(
        seed: u32, tokens in proptest::collection::vec(0..HEAD, 1..50), chosen in any::<u64>(), options in options(),
    ) {
        let architecture = architecture();
        let vocabulary = Arc::new(Vocabulary::of(&architecture));
        let with_holes = |(p, token): (usize, &u32)| (chosen >> p & 1 == 0).then_some(*token);
        let canvas = Canvas::with_holes(&tokens.iter().enumerate().map(with_holes).collect::<Vec<_>>(), MASK);
        let mut auditor = Auditor::new(&canvas);
        let mut backend = Fake { edits: true, ..Fake::new(seed) };
        let mut watch = |report: &StepReport| {
            auditor.step(report);
            ControlFlow::Continue(())
        };
        let run = fill(&mut backend, &architecture, &vocabulary, canvas.clone(), &options, &mut watch);
        let done = pollster::block_on(run);
        if canvas.holes() == 0 {
            prop_assert!(done.unwrap_err().to_string().contains("no hole"));
            return Ok(());
        }
        let done = done.unwrap();
        for (position, token) in tokens.iter().enumerate().filter(|(p, _)| !canvas.is_hole(*p)) {
            prop_assert_eq!((done.canvas.tokens()[position], done.canvas.cells()[position]), (*token, Cell::Given));
        }
        // Nothing is left open before what was given.
        let given = (0..tokens.len()).rev().find(|p| !canvas.is_hole(*p)).unwrap_or(0);
        prop_assert!(!holes(done.canvas.cells(), 0..given) && (options.early_stop || done.canvas.holes() == 0));
    }
}

proptest! {
    /// A plain generation that was cut off goes on from its canvas and ends as it would have.
    #[test]
    fn a_cut_off_generation_goes_on_where_it_stood(
        seed: u32, prompt in prompt(), options in options(), last in 0u32..20,
    ) {
        let options = DecodeOptions { mor: None, adaptive_steps: None, revision: None, cache: Cache::None, ..options };
        prop_assume!(!matches!(options.acceptance, Acceptance::Credit(_)));
        let backend = || Fake { steady: true, ..Fake::new(seed) };
        let whole = run(&mut backend(), &prompt, &options, &mut go_on).unwrap();
        let mut stop = |report: &StepReport| {
            if report.step == last { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        };
        let cut = run(&mut backend(), &prompt, &options, &mut stop).unwrap();
        if cut.canvas.holes() > 0 && cut.finish == FinishReason::Aborted && cut.canvas != whole.canvas {
            let architecture = architecture();
            let vocabulary = Arc::new(Vocabulary::of(&architecture));
            let mut backend = backend();
            let watch = &mut go_on;
            let run = fill(&mut backend, &architecture, &vocabulary, cut.canvas, &options, watch);
            let rest = pollster::block_on(run).unwrap();
            prop_assert_eq!((rest.canvas, rest.forward_passes), (whole.canvas, whole.forward_passes));
        }
    }
}

proptest! {
    /// A device that is lost costs the pass under way: whatever the options, all is decided in the end, and plain
    /// generations end as they would have.
    #[test]
    fn generations_go_on_with_another_device_where_one_is_lost(
        seed: u32, requests in proptest::collection::vec((prompt(), options()), 1..4), after in 0u32..20,
    ) {
        let architecture = architecture();
        let vocabulary = Arc::new(Vocabulary::of(&architecture));
        let backend = || Fake { steady: true, edits: true, ..Fake::new(seed) };
        let mut scheduler = Scheduler::default();
        let begin = |(prompt, options): &(Vec<u32>, DecodeOptions)| {
            let canvas = Canvas::new(prompt, options.max_tokens, MASK);
            Request { canvas, options: options.clone() }.begin(&architecture, &vocabulary).unwrap()
        };
        let tickets: Vec<_> = requests.iter().map(|request| scheduler.admit(begin(request))).collect();
        let mut devices = [Fake { fails_after: Some(after), ..backend() }, backend()].into_iter();
        let mut device = devices.next().unwrap();
        let (mut done, mut lost) = (HashMap::new(), 0);
        while !scheduler.is_empty() {
            let watch = &mut |_, _: &StepReport| ControlFlow::Continue(());
            match pollster::block_on(scheduler.step(&mut device, watch)) {
                Ok(stepped) => done.extend(stepped.ended),
                Err(_) => {
                    prop_assert!(device.stores.is_empty());
                    lost += 1;
                    device = devices.next().unwrap();
                }
            }
        }
        prop_assert!(lost <= 1 && device.stores.is_empty());
        for (ticket, (prompt, options)) in tickets.iter().zip(&requests) {
            let rest = done.remove(ticket).unwrap().unwrap();
            prop_assert!(options.early_stop || rest.canvas.holes() == 0);
            let alone = run(&mut backend(), prompt, options, &mut go_on).unwrap();
            let same = plain(options) && options.mor.is_none() && options.cache == Cache::None;
            if same && !matches!(options.acceptance, Acceptance::Credit(_)) {
                prop_assert_eq!(rest.canvas, alone.canvas);
                prop_assert_eq!((rest.forward_passes, rest.finish), (alone.forward_passes, alone.finish));
            }
        }
    }
}
