//! Who is in which pass.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use remask_core::decode::Generating;
use remask_core::decode::likelihood::answer_nll;
use remask_core::scheduler::Limits;
use remask_core::{
    Answer, Backend, BackendError, BackendFuture, Canvas, Error, Generation, Pass, Request, Scheduler, StepReport,
    StoreId, Ticket, Vocabulary, generate,
};

use crate::causal::{Causal, architecture, expected, writes};

fn begin(prompt: &[u32], count: usize) -> Box<dyn Generating> {
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    Request { canvas: Canvas::new(prompt, count, 0), options: writes(count) }.begin(&a, &v).unwrap()
}

/// Runs passes until all have ended, or so many. What ended, and who took part in each pass.
fn drive(
    scheduler: &mut Scheduler,
    backend: &mut Causal,
    most: usize,
) -> (HashMap<Ticket, Generation>, Vec<Vec<Ticket>>) {
    let (mut ended, mut passes) = (HashMap::new(), Vec::new());
    while !scheduler.is_empty() && passes.len() < most {
        let mut pass = Vec::new();
        let watch = &mut |ticket: Ticket, _: &StepReport| {
            pass.push(ticket);
            ControlFlow::Continue(())
        };
        let done = pollster::block_on(scheduler.step(backend, watch)).unwrap();
        assert_eq!((done.generations, done.rows), (pass.len(), *backend.passes.last().unwrap()));
        ended.extend(done.ended.into_iter().map(|(ticket, outcome)| (ticket, outcome.unwrap())));
        passes.push(pass);
    }
    (ended, passes)
}

#[test]
fn everybody_moves_where_a_pass_has_no_room_for_all() {
    let mut backend = Causal { most_rows: Some(2), ..Causal::default() };
    let mut scheduler = Scheduler::default();
    let tickets: Vec<_> = (0..5).map(|i| scheduler.admit(begin(&[i], 20))).collect();
    let (_, passes) = drive(&mut scheduler, &mut backend, 10);
    for ticket in tickets {
        assert_eq!(passes.iter().flatten().filter(|t| **t == ticket).count(), 4, "{passes:?}");
    }
    scheduler.clear(Some(&mut backend));
    assert!(scheduler.is_empty() && backend.stores.is_empty());
}

#[test]
fn newcomers_do_not_hold_up_those_under_way() {
    let limits = Limits { newcomer_rows: 150, ..Limits::default() };
    let (mut backend, mut scheduler) = (Causal::default(), Scheduler::new(limits));
    let running = scheduler.admit(begin(&[1], 30));
    drive(&mut scheduler, &mut backend, 2);
    let long: Vec<u32> = (0..100).collect::<Vec<_>>().iter().map(|i| i % 49).collect();
    let newcomers: Vec<_> = (0..4).map(|_| scheduler.admit(begin(&long, 3))).collect();
    let before = backend.passes.len();
    let (ended, passes) = drive(&mut scheduler, &mut backend, 6);
    assert!(passes.iter().all(|pass| pass.contains(&running)), "{passes:?}");
    assert!(backend.passes[before..].iter().all(|rows| *rows <= 150 + 5), "{:?}", backend.passes);
    // All of their rows are computed, once.
    let (rest, _) = drive(&mut scheduler, &mut backend, 100);
    for newcomer in newcomers {
        let done = ended.get(&newcomer).or(rest.get(&newcomer)).unwrap();
        assert_eq!((done.canvas.tokens(), done.rows_computed), (&expected(&long, 3)[..], 102));
    }
}

#[test]
fn choices_begin_together_and_in_turn() {
    let limits = Limits { generations: 3, ..Limits::default() };
    let (mut backend, mut scheduler) = (Causal::default(), Scheduler::new(limits));
    let first = scheduler.admit(begin(&[1], 4));
    let group = scheduler.admit_together((0..3).map(|i| begin(&[i], 2)).collect());
    let last = scheduler.admit(begin(&[9], 1));
    let (_, passes) = drive(&mut scheduler, &mut backend, 4);
    assert!(passes.iter().all(|pass| *pass == [first]), "nobody overtakes: {passes:?}");
    assert_eq!((scheduler.running(), scheduler.waiting()), (0, 4));
    assert!(scheduler.cancel(Some(&mut backend), group[1]).is_some(), "one that waits leaves the others");
    let (ended, passes) = drive(&mut scheduler, &mut backend, 9);
    assert_eq!(passes[0], [group[0], group[2], last]);
    assert_eq!(ended.len(), 3);
    // More than may run at once do so where nothing else runs.
    scheduler.admit_together((0..5).map(|i| begin(&[i], 1)).collect());
    assert_eq!(drive(&mut scheduler, &mut backend, 9).1[0].len(), 5);
}

#[test]
fn room_for_keys_and_values_is_reserved_and_a_text_too_long_for_it_refused_alone() {
    let limits = Limits { slots: 40, ..Limits::default() };
    let (mut backend, mut scheduler) = (Causal::default(), Scheduler::new(limits));
    let (first, second) = (scheduler.admit(begin(&[1], 24)), scheduler.admit(begin(&[2], 19)));
    let too_long = scheduler.admit(begin(&[3], 50));
    let watch = &mut |_: Ticket, _: &StepReport| ControlFlow::Continue(());
    let done = pollster::block_on(scheduler.step(&mut backend, watch)).unwrap();
    assert_eq!((done.begun, scheduler.slots()), (vec![first], 25));
    let mut ends = Vec::new();
    while !scheduler.is_empty() {
        let done = pollster::block_on(scheduler.step(&mut backend, watch)).unwrap();
        assert!(scheduler.slots() <= 40);
        ends.extend(
            done.ended.into_iter().map(|(ticket, outcome)| (ticket, outcome.map(|_| ()).map_err(|e| e.to_string()))),
        );
    }
    assert_eq!(ends[..2], [(first, Ok(())), (second, Ok(()))]);
    assert!(ends[2].0 == too_long && ends[2].1.as_ref().unwrap_err().contains("room for 40"), "{ends:?}");
}

#[test]
fn generations_go_on_with_another_device_where_one_is_lost() {
    let mut scheduler = Scheduler::default();
    let (first, second) = (scheduler.admit(begin(&[1, 2, 3], 9)), scheduler.admit(begin(&[4], 6)));
    let mut lost = Causal { lost_in: Some(4), ..Causal::default() };
    let watch = &mut |_: Ticket, _: &StepReport| ControlFlow::Continue(());
    let problem = loop {
        match pollster::block_on(scheduler.step(&mut lost, watch)) {
            Ok(_) => {}
            Err(problem) => break problem,
        }
    };
    assert!(matches!(problem, Error::Backend(BackendError::DeviceLost(_))));
    assert!(lost.stores.is_empty() && (scheduler.running(), scheduler.waiting()) == (0, 2));
    let (ended, passes) = drive(&mut scheduler, &mut Causal::default(), 99);
    assert_eq!(passes[0], [first, second]);
    assert_eq!(ended[&first].canvas.tokens(), expected(&[1, 2, 3], 9));
    assert_eq!(ended[&second].canvas.tokens(), expected(&[4], 6));
    assert_eq!((ended[&second].forward_passes, ended[&second].rows_computed), (6, 4 + 5 + 1));
}

#[test]
fn texts_that_begin_alike_are_computed_once() {
    let limits = Limits { slots: 400, kept_slots: 400, ..Limits::default() };
    let (mut backend, mut scheduler) = (Causal::default(), Scheduler::new(limits));
    let text: Vec<u32> = (0..60).map(|i| i * 7 % 49).collect();
    let (mut other, mut longer) = (text[..40].to_vec(), text.clone());
    other.push(48);
    longer.extend(expected(&text, 5)[60..].iter().chain(&[11, 12, 13]));
    // Those that come at once: the first computes, the others wait for that and compute what differs.
    let tickets = [&text, &text, &other].map(|prompt| scheduler.admit(begin(prompt, 5)));
    let (ended, _) = drive(&mut scheduler, &mut backend, 99);
    for (ticket, prompt, reused) in [(tickets[0], &text, 0), (tickets[1], &text, 59), (tickets[2], &other, 40)] {
        let done = &ended[&ticket];
        assert_eq!((done.canvas.tokens(), done.reused_tokens), (&expected(prompt, 5)[..], reused));
        assert_eq!(done.rows_computed as usize, prompt.len() - reused + 4);
    }
    assert_eq!(scheduler.slots(), 0, "what is kept holds nobody up");
    // A conversation that goes on.
    let ticket = scheduler.admit(begin(&longer, 5));
    let (ended, _) = drive(&mut scheduler, &mut backend, 99);
    // The last token that was written has no keys and values yet.
    assert_eq!((ended[&ticket].canvas.tokens(), ended[&ticket].reused_tokens), (&expected(&longer, 5)[..], 64));
    // What is kept makes room for those who need it.
    let others: Vec<_> = (0..5).map(|i| scheduler.admit(begin(&[i], 79))).collect();
    let (ended, passes) = drive(&mut scheduler, &mut backend, 99);
    assert_eq!((passes[0].len(), ended.len()), (5, others.len()));
    assert!(backend.stores.values().map(Vec::len).sum::<usize>() <= 400);
    scheduler.clear(Some(&mut backend));
    assert!(backend.stores.is_empty());
}

#[test]
fn a_lost_device_takes_what_was_kept_with_it() {
    let limits = Limits { slots: 400, kept_slots: 400, ..Limits::default() };
    let (mut backend, mut scheduler) = (Causal::default(), Scheduler::new(limits));
    let text: Vec<u32> = (0..30).collect();
    scheduler.admit(begin(&text, 3));
    drive(&mut scheduler, &mut backend, 99);
    backend.lost_in = Some(backend.passes.len());
    let ticket = scheduler.admit(begin(&text, 3));
    let watch = &mut |_: Ticket, _: &StepReport| ControlFlow::Continue(());
    assert!(pollster::block_on(scheduler.step(&mut backend, watch)).is_err());
    assert!(backend.stores.is_empty());
    let (ended, _) = drive(&mut scheduler, &mut Causal::default(), 99);
    assert_eq!(ended[&ticket].canvas.tokens(), expected(&text, 3));
}

#[test]
fn a_future_that_is_dropped_leaves_no_store_behind() {
    let mut backend = Pausing(Causal::default());
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let watch = &mut |_: &StepReport| ControlFlow::Continue(());
    let waker = std::task::Waker::noop();
    let options = writes(5);
    let mut run = Box::pin(generate(&mut backend, &a, &v, &[1, 2], &options, watch));
    assert!(run.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    drop(run);
    assert!(backend.0.stores.is_empty());
    let mut run = Box::pin(answer_nll(&mut backend, &a, &v, &[1, 2], &[3, 4], 1, 0));
    assert!(run.as_mut().poll(&mut std::task::Context::from_waker(waker)).is_pending());
    drop(run);
    assert!(backend.0.stores.is_empty());
}

/// Its passes never end.
struct Pausing(Causal);

impl Backend for Pausing {
    fn info(&self) -> remask_core::backend::BackendInfo {
        self.0.info()
    }

    fn head_rows(&self) -> usize {
        self.0.head_rows()
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        self.0.create_store(capacity)
    }

    fn release_store(&mut self, store: StoreId) {
        self.0.release_store(store);
    }

    fn forward<'a>(&'a mut self, _: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        Box::pin(std::future::pending())
    }
}
