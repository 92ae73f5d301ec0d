//! Log-probabilities of prompts.

use remask_core::decode::Sampling;
use remask_core::{DecodeOptions, Request, Vocabulary};

use crate::causal::{Causal, HEAD, POSITIONS, architecture, expected, run, writes};

fn scoring(max_tokens: usize, top: usize) -> DecodeOptions {
    let sampling = Sampling { logprobs: Some(top), ..Sampling::default() };
    DecodeOptions { sampling, score_prompt: true, ..writes(max_tokens) }
}

#[test]
fn a_prompts_tokens_are_scored_as_those_that_are_written() {
    // What the model itself wrote, word after word with its log-probabilities, and then is given as a prompt.
    let written = run(&mut Causal::default(), &[3], &DecodeOptions { score_prompt: false, ..scoring(20, 3) });
    let text = written.canvas.tokens();
    assert_eq!(text, expected(&[3], 20));
    for max_tokens in [0, 1, 6] {
        let mut backend = Causal::default();
        let scored = if max_tokens == 0 {
            let canvas = remask_core::Canvas::new(text, 0, 0);
            let (a, v) = (architecture(), Vocabulary::of(&architecture()).into());
            let watch = &mut |_: &remask_core::StepReport| std::ops::ControlFlow::Continue(());
            pollster::block_on(remask_core::fill(&mut backend, &a, &v, canvas, &scoring(0, 3), watch)).unwrap()
        } else {
            run(&mut backend, text, &scoring(max_tokens, 3))
        };
        for position in 1..text.len() {
            let (own, given) = (&written.logprobs[&position], &scored.logprobs[&position]);
            assert_eq!(own, given, "{position}");
        }
        assert_eq!(scored.logprobs.len(), 20 + max_tokens);
        assert_eq!(scored.canvas.tokens(), expected(text, max_tokens));
        // The last token of a prompt that is all there is predicts nothing.
        let first = if max_tokens == 0 { text.len() - 1 } else { text.len() };
        assert_eq!(backend.passes.first(), Some(&first));
    }
}

#[test]
fn long_prompts_are_scored_in_pieces_and_again_where_the_device_was_lost() {
    let prompt: Vec<u32> = (0..1300).map(|i| i * 7 % (HEAD - 1)).collect();
    let whole = run(&mut Causal::default(), &prompt, &scoring(2, 1));
    assert_eq!(whole.logprobs.keys().copied().collect::<Vec<_>>(), (1..1302).collect::<Vec<_>>());
    let mut narrow = Causal { most_rows: Some(90), ..Causal::default() };
    assert_eq!(run(&mut narrow, &prompt, &scoring(2, 1)).logprobs, whole.logprobs);
}

#[test]
fn what_cannot_be_scored_is_refused() {
    let (a, v) = (architecture(), Vocabulary::of(&architecture()).into());
    let begin = |canvas, options| Request { canvas, options }.begin(&a, &v).map(|generating| generating.is_over());
    assert!(begin(remask_core::Canvas::new(&[], 0, 0), scoring(0, 1)).is_err());
    assert!(begin(remask_core::Canvas::new(&[1; POSITIONS + 1], 0, 0), scoring(0, 1)).is_err());
    assert!(begin(remask_core::Canvas::new(&[1], 0, 0), writes(0)).is_err());
    // One token has nothing before it.
    assert!(begin(remask_core::Canvas::new(&[1], 0, 0), scoring(0, 1)).unwrap());
    assert!(!begin(remask_core::Canvas::new(&[1, 2], 0, 0), scoring(0, 1)).unwrap());
}
