//! Answers within a grammar, on a backend whose answers depend on everything that a row may see.

use std::ops::ControlFlow;
use std::sync::Arc;

use remask_core::backend::TokenSet;
use remask_core::decode::{Grammar, GrammarState, Next, Sampling};
use remask_core::{Canvas, DecodeOptions, FinishReason, Generation, Request, Scheduler, StepReport, Vocabulary};

use crate::causal::{Causal, HEAD, STOP, architecture, writes};

/// Texts whose tokens leave 0, 1, 2, 0, 1, 2 … when divided by 3: of `least` tokens at least, and `most` at most.
#[derive(Debug, Clone, Copy)]
struct Thirds {
    least: u32,
    most: u32,
}

struct State {
    of: Thirds,
    written: u32,
}

impl Grammar for Thirds {
    fn begin(&self) -> Box<dyn GrammarState> {
        Box::new(State { of: *self, written: 0 })
    }
}

impl GrammarState for State {
    fn next(&mut self) -> Result<Next, String> {
        let mut tokens = TokenSet::new(HEAD as usize);
        let fits = |id: &u32| self.written < self.of.most && *id != STOP && id % 3 == self.written % 3;
        (0..HEAD).filter(fits).for_each(|id| tokens.insert(id));
        Ok(Next { tokens, may_end: self.written >= self.of.least })
    }

    fn push(&mut self, token: u32) -> Result<(), String> {
        if token % 3 != self.written % 3 {
            return Err(format!("token {token} at {}", self.written));
        }
        self.written += 1;
        Ok(())
    }
}

fn write(backend: &mut Causal, grammar: Option<&dyn Grammar>, canvas: Canvas, options: &DecodeOptions) -> Generation {
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let request = Request { canvas, options: options.clone() };
    let mut scheduler = Scheduler::default();
    scheduler.admit(request.begin_within(grammar, &a, &v).unwrap());
    let watch = &mut |_, _: &StepReport<'_>| ControlFlow::Continue(());
    for _ in 0..1000 {
        match pollster::block_on(scheduler.step(backend, watch)) {
            Ok(mut stepped) => {
                if let Some((_, done)) = stepped.ended.pop() {
                    return done.unwrap();
                }
            }
            // It is opened again.
            Err(_) => backend.lost_in = None,
        }
    }
    panic!("it has not ended");
}

fn answer(done: &Generation) -> Vec<u32> {
    let written = done.canvas.cells().len() - done.canvas.holes();
    done.canvas.tokens()[done.prompt_tokens..written].to_vec()
}

fn canvas(holes: usize) -> Canvas {
    Canvas::new(&[7, 11], holes, 0)
}

fn samplings() -> [Sampling; 4] {
    let sampled = Sampling { temperature: 1.5, seed: 5, ..Sampling::default() };
    let host = Sampling { logprobs: Some(2), ..sampled.clone() };
    [Sampling::default(), sampled.clone(), host, Sampling { top_k: 3, ..sampled }]
}

#[test]
fn only_what_may_come_next_is_chosen() {
    let mut texts = Vec::new();
    for sampling in samplings() {
        let options = DecodeOptions { sampling, ..writes(40) };
        let done = write(&mut Causal::default(), Some(&Thirds { least: 9, most: 9 }), canvas(40), &options);
        let text = answer(&done);
        assert!(text.len() == 9 && (0..).zip(&text).all(|(at, id)| id % 3 == at % 3), "{text:?}");
        // Nothing may follow: no pass finds that out.
        assert_eq!((done.finish, done.forward_passes), (FinishReason::Complete, 9));
        texts.push(text);
    }
    // The device chooses among what may come next as the host does.
    assert_eq!(texts[1], texts[2]);
    assert_ne!(texts[0], texts[1]);
}

#[test]
fn ends_are_chosen_only_where_a_text_may_end() {
    // The end is always likeliest, where it may be.
    let bias = Sampling { logit_bias: vec![(STOP, 100.0)], ..Sampling::default() };
    let options = DecodeOptions { sampling: bias.clone(), ..DecodeOptions::default() };
    let grammar = Thirds { least: 4, most: 30 };
    let done = write(&mut Causal::default(), Some(&grammar), canvas(40), &options);
    assert_eq!((done.finish, answer(&done).len(), answer(&done)[4]), (FinishReason::Stop, 5, STOP));
    assert_eq!(done.completion().len(), 4);
    // Where ends are ignored the text goes on as long as it may.
    let vocabulary = Vocabulary::of(&architecture()).without_ends();
    let options = DecodeOptions { sampling: bias, ..writes(40) };
    let request = Request { canvas: canvas(40), options };
    let mut generating = request.begin_within(Some(&grammar), &architecture(), &vocabulary.into()).unwrap();
    let mut backend = Causal::default();
    let store = remask_core::Backend::create_store(&mut backend, 42).unwrap();
    generating.begin(vec![store]);
    while let Some(work) = generating.next_pass(100) {
        let answers = pollster::block_on(remask_core::scheduler::forward(&mut backend, &work)).unwrap();
        generating.absorb(answers).unwrap();
    }
    let done = generating.finish();
    assert_eq!((done.finish, answer(&done).len()), (FinishReason::Complete, 30));
    // And what is cut is cut.
    let done = write(&mut Causal::default(), Some(&grammar), canvas(3), &writes(3));
    assert_eq!((done.finish, answer(&done).len()), (FinishReason::Length, 3));
}

#[test]
fn a_lost_device_and_a_cut_change_nothing() {
    let grammar = Thirds { least: 12, most: 12 };
    for sampling in samplings() {
        let options = DecodeOptions { sampling, ..writes(40) };
        let whole = write(&mut Causal::default(), Some(&grammar), canvas(40), &options);
        let lost = write(&mut Causal { lost_in: Some(5), ..Causal::default() }, Some(&grammar), canvas(40), &options);
        assert_eq!((answer(&lost), lost.finish), (answer(&whole), whole.finish));
        // A generation that goes on from a canvas goes on within its grammar.
        let mut begun = canvas(40);
        for (place, id) in answer(&whole).iter().enumerate().take(7) {
            begun.decide(2 + place, *id, 0, 1.0);
        }
        let rest = write(&mut Causal::default(), Some(&grammar), begun, &options);
        assert_eq!((answer(&rest), rest.finish), (answer(&whole), whole.finish));
    }
    let mut strayed = canvas(40);
    strayed.decide(2, 1, 0, 1.0);
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let problem = Request { canvas: strayed, options: writes(40) }.begin_within(Some(&grammar), &a, &v);
    assert!(problem.err().unwrap().to_string().contains("token 1 at 0"));
}

#[test]
fn a_text_that_no_token_goes_on_with_fails() {
    #[derive(Debug)]
    struct Nothing;
    impl Grammar for Nothing {
        fn begin(&self) -> Box<dyn GrammarState> {
            Box::new(State { of: Thirds { least: 9, most: 0 }, written: 0 })
        }
    }
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let problem = Request { canvas: canvas(4), options: writes(4) }.begin_within(Some(&Nothing), &a, &v);
    assert!(problem.err().unwrap().to_string().contains("no token of this model"));
    // What is complete before its first token needs no pass.
    let done = write(&mut Causal::default(), Some(&Thirds { least: 0, most: 0 }), canvas(4), &writes(4));
    assert_eq!((done.finish, done.forward_passes, answer(&done).len()), (FinishReason::Complete, 0, 0));
}

#[test]
fn sets_of_tokens_are_what_they_say() {
    for rows in [1usize, 31, 32, 33, 64, 100] {
        let mut set = TokenSet::of_words(vec![u32::MAX; 9], rows);
        assert!(set.is_full() && (0..rows as u32).all(|id| set.contains(id)) && !set.contains(rows as u32));
        let empty = TokenSet::new(rows);
        assert_eq!((set.without(&set), empty.and_all_but(&set)), (empty.clone(), empty.clone()));
        assert!(empty.and_all_but(&empty).is_full() && set.without(&empty) == set && !empty.is_full());
        set.remove(rows as u32 - 1);
        set.remove(rows as u32 + 99);
        assert!(!set.is_full() && !set.contains(rows as u32 - 1));
        set.insert(rows as u32 - 1);
        assert!(set.is_full());
    }
}
