//! Requests and answers: what a request turns into, and that a text is the same however its canvas is filled and in
//! whatever pieces it is shown.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use remask_core::request::{Delta, Finish, GenerationRequest, Job, Part, Prompt, RequestError, Terms, Transcript};
use remask_core::{Canvas, Generation, Model, StepReport};

static MODEL: LazyLock<Arc<Model>> = LazyLock::new(|| {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales-33m");
    Model::open(folder.as_ref()).unwrap().into()
});

fn request(json: &str) -> GenerationRequest {
    serde_json::from_str(json).unwrap()
}

fn prepare(json: &str) -> Result<Vec<Job>, RequestError> {
    request(json).prepare(&MODEL, &Terms::of(&MODEL), 7).map(|prepared| prepared.jobs)
}

fn report<'a>(canvas: &'a Canvas, settled: usize, so_far: &'a Generation) -> StepReport<'a> {
    StepReport {
        step: 0,
        canvas,
        block: 0..canvas.len(),
        committed: &[],
        candidates: &[],
        revised: &[],
        remasked: &[],
        padded: &[],
        settled,
        computed: &[],
        so_far,
    }
}

/// Shows an answer of `ids`, decided in `order` and so many at a time.
fn show(job: &Job, ids: &[u32], order: &[usize], at_once: &[usize]) -> (String, Finish, usize, Vec<String>) {
    let mut canvas = job.request.canvas.clone();
    let holes: Vec<_> = canvas.holes_in(0..canvas.len()).collect();
    let mut transcript = Transcript::new(job, MODEL.tokenizer.as_ref());
    let mut deltas = Vec::new();
    let mut order = order.iter();
    let mut sizes = at_once.iter().cycle();
    let so_far = Generation::new(canvas.clone(), holes[0], Vec::new());
    while transcript.finished().is_none() && canvas.holes() > 0 {
        for place in order.by_ref().take(*sizes.next().unwrap()) {
            canvas.decide(holes[*place], ids[*place], 0, 1.0);
        }
        let settled = (0..canvas.len()).find(|p| canvas.is_hole(*p)).unwrap_or(canvas.len());
        deltas.push(transcript.step(&report(&canvas, settled, &so_far)).unwrap().text);
    }
    let Delta { text, .. } = transcript.end(&Generation::new(canvas, holes[0], Vec::new())).unwrap();
    deltas.push(text);
    (deltas.concat(), transcript.finished().unwrap(), transcript.tokens(), deltas)
}

fn shuffled(length: usize, swaps: &[usize]) -> Vec<usize> {
    let mut order: Vec<_> = (0..length).collect();
    for (i, swap) in swaps.iter().enumerate().take(length) {
        order.swap(i, swap % length);
    }
    order
}

proptest! {
    /// Ids of single bytes are among these: characters come in pieces, and some never become whole.
    #[test]
    fn a_text_is_the_same_in_any_pieces(
        ids in proptest::collection::vec(prop_oneof![3 => 0u32..300, 3 => 300u32..8180, 1 => Just(8186u32)], 1..40),
        swaps in proptest::collection::vec(0usize..40, 40), at_once in proptest::collection::vec(1usize..6, 1..5),
        stop in proptest::collection::vec("[a-e ]{1,2}", 0..3),
    ) {
        let json = serde_json::json!({"prompt": {"text": "Once"}, "stop": stop, "settings": {"max_tokens": ids.len()}});
        let job = &prepare(&json.to_string()).unwrap()[0];
        let (text, finish, tokens, deltas) = show(job, &ids, &shuffled(ids.len(), &swaps), &at_once);
        let end = ids.iter().position(|id| job.ends.contains(id));
        let whole = MODEL.text().unwrap().decode(&ids[..end.unwrap_or(ids.len())], true).unwrap();
        let cut = stop.iter().filter_map(|s| whole.find(s.as_str())).min();
        prop_assert_eq!(&text, &whole[..cut.unwrap_or(whole.len())], "{:?}", deltas);
        prop_assert_eq!(finish, if end.is_some() || cut.is_some() { Finish::Stop } else { Finish::Length });
        prop_assert!(tokens <= ids.len());
        if cut.is_none() {
            prop_assert_eq!(tokens, end.map_or(ids.len(), |end| end + 1));
        }
        // What was shown is the beginning of the text all the time; what is still open is no character yet.
        let shown = deltas[..deltas.len() - 1].concat();
        prop_assert!(text.starts_with(&shown));
    }
}

#[test]
fn a_request_says_what_it_wants_and_choices_differ_by_their_seed() {
    let jobs = prepare(
        r#"{"prompt": {"text": "Once upon a time"}, "n": 3, "stop": ["."],
            "settings": {"max_tokens": 12, "temperature": 0.8, "seed": 5, "preset": "quality"}}"#,
    )
    .unwrap();
    let seeds: Vec<_> = jobs.iter().map(|job| job.request.options.sampling.seed).collect();
    assert_eq!((seeds.len(), seeds[0]), (3, 5));
    assert!(seeds[1] != 5 && seeds[1] != seeds[2] && seeds[2] != 5);
    let given = MODEL.encode_raw("Once upon a time").unwrap();
    assert_eq!(jobs[0].request.canvas.tokens()[..given.len()], given);
    assert_eq!((jobs[0].span.clone(), jobs[0].request.canvas.holes()), (given.len()..given.len() + 12, 12));
    assert_eq!(jobs[0].request.options.steps, 12);
    // Without a seed of its own it gets the caller's.
    let none = prepare(r#"{"prompt": {"ids": [1, 2]}}"#).unwrap();
    assert_eq!(none[0].request.options.sampling.seed, 7);
    assert_eq!(none[0].request.canvas.len(), 512, "the default never exceeds the room");
}

#[test]
fn gaps_are_filled_between_what_is_given() {
    let jobs = prepare(r#"{"prompt": {"text": "The cat"}, "suffix": " mat.", "settings": {"max_tokens": 4}}"#).unwrap();
    let canvas = &jobs[0].request.canvas;
    let behind = MODEL.text().unwrap().encode(&remask_core::chat::MarkedText::from_user(" mat.")).unwrap();
    assert_eq!(canvas.tokens()[canvas.len() - behind.len()..], behind);
    assert_eq!(jobs[0].span.len(), 4);

    let parts = r#"{"prompt": {"canvas": [{"text": "A cat"}, {"holes": 3}, {"text": " and a dog"}, {"holes": 2}]}}"#;
    let job = &prepare(parts).unwrap()[0];
    let word = |text: &str| MODEL.text().unwrap().encode(&remask_core::chat::MarkedText::from_user(text)).unwrap()[0];
    let end = MODEL.vocabulary.stop[0];
    let ids = [word(" ran"), end, word(" x"), word(" sat"), word(".")];
    let (text, finish, tokens, _) = show(job, &ids, &[3, 0, 2, 1, 4], &[2]);
    // An end in a gap ends the gap alone.
    assert_eq!((text.as_str(), finish, tokens), ("A cat ran and a dog sat.", Finish::Length, 5));
    let mut canvas = job.request.canvas.clone();
    let holes: Vec<_> = canvas.holes_in(0..canvas.len()).collect();
    holes.iter().zip(ids).for_each(|(p, id)| assert!(canvas.decide(*p, id, 0, 1.0)));
    let fills = job.fills(&MODEL, &canvas).unwrap();
    let texts: Vec<_> = fills.iter().map(|fill| (fill.index, fill.text.as_str(), fill.tokens.len())).collect();
    assert_eq!(texts, [(1, " ran", 1), (3, " sat.", 2)]);
}

#[test]
fn what_cannot_be_is_named() {
    let long: Vec<u32> = vec![5; 509];
    let ids = serde_json::to_string(&long).unwrap();
    match prepare(&format!(r#"{{"prompt": {{"ids": {ids}}}, "settings": {{"max_tokens": 4}}}}"#)).unwrap_err() {
        RequestError::ContextLength { limit, prompt, max_tokens } => {
            assert_eq!((limit, prompt, max_tokens), (512, 509, 4))
        }
        other => panic!("{other}"),
    }
    let mut clamped = Terms::of(&MODEL);
    clamped.clamp = true;
    let one = request(&format!(r#"{{"prompt": {{"ids": {ids}}}, "settings": {{"max_tokens": 4}}}}"#));
    assert_eq!(one.prepare(&MODEL, &clamped, 0).unwrap().max_tokens, 3);
    for (json, word) in [
        (r#"{"prompt": {"text": "a"}, "n": 0}"#, "n: 0 choices"),
        (r#"{"prompt": {"text": "a"}, "stop": [""]}"#, "stop: an empty"),
        (r#"{"prompt": {"text": "a"}, "settings": {"max_tokens": 0}}"#, "max_tokens: 0"),
        (r#"{"prompt": {"text": "a"}, "settings": {"temperature": -1}}"#, "temperature"),
        (r#"{"prompt": {"canvas": [{"text": "a"}]}}"#, "canvas: there is no hole"),
        (r#"{"prompt": {"canvas": [{"holes": 18446744073709551615}, {"holes": 9}]}}"#, "maximum context length"),
        (r#"{"prompt": {"ids": [99999]}}"#, "99999"),
    ] {
        let problem = prepare(json).map(|_| ()).unwrap_err().to_string();
        assert!(problem.contains(word), "{json}: {problem}");
    }
    for bad in [r#"{"prompt": {"text": "a"}, "sotp": []}"#, r#"{"prompt": {"words": "a"}}"#, r#"{}"#] {
        assert!(serde_json::from_str::<GenerationRequest>(bad).is_err(), "{bad}");
    }
    let given = GenerationRequest { prompt: Prompt::Canvas(vec![Part::Ids(vec![1]), Part::Holes(2)]), ..one };
    assert_eq!(given.prepare(&MODEL, &clamped, 0).unwrap().prompt_tokens, 2);
}

#[test]
fn without_ends_no_end_is_chosen() {
    let job = &prepare(r#"{"prompt": {"text": "a"}, "ignore_eos": true, "settings": {"max_tokens": 4}}"#).unwrap()[0];
    assert!(job.ends.is_empty() && job.request.options.ignore_eos);
    let endless = MODEL.vocabulary.without_ends();
    assert!(MODEL.vocabulary.stop.iter().all(|id| endless.suppressed.contains(*id)));
}
