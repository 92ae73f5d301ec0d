//! The engine on a scripted device: answers and streams, sharing, cancelling, limits, and devices that fail.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used, clippy::panic)]

#[path = "common/scripted.rs"]
mod scripted;

use std::time::Duration;

use remask::core::request::{Finish, GenerationRequest};
use remask::{Answer, Collector, Engine, EngineError, EngineState, Event, Queue, Source};
use scripted::{Script, Shared, folder};

fn engine(script: &Shared) -> Engine {
    Engine::open_on(folder(), script.open()).unwrap()
}

fn request(json: &str) -> GenerationRequest {
    serde_json::from_str(json).unwrap()
}

/// Waits for what another thread does.
fn until(what: impl Fn() -> bool) {
    for _ in 0..5000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it has not happened");
}

const STORY: &str = r#"{"prompt": {"text": "Once upon a time"}, "settings": {"max_tokens": 60, "preset": "quality"}}"#;

fn streamed(engine: &Engine, request: &GenerationRequest) -> (Answer, usize) {
    let mut events = engine.stream(request).unwrap();
    let mut collector = Collector::of(&events);
    let mut deltas = 0;
    for event in events.by_ref() {
        deltas += usize::from(matches!(event, Event::Delta { .. }));
        collector.take(event).unwrap();
    }
    (collector.finish().unwrap(), deltas)
}

#[test]
fn a_stream_says_what_the_plain_answer_says() {
    let script = Shared::new(Script { ends: Some(400), ..Script::default() });
    let engine = engine(&script);
    for json in [
        STORY.to_owned(),
        STORY.replace("quality", "balanced"),
        STORY.replace("quality", "fast"),
        STORY.replace(r#""preset": "quality""#, r#""revise": "verify:0.9,2", "temperature": 0.7, "seed": 9"#),
        STORY.replace(r#""settings""#, r#""n": 3, "stop": ["e", "zz"], "settings""#),
        STORY.replace(r#""preset""#, r#""logprobs": 2, "preset""#),
        r#"{"prompt": {"canvas": [{"text": "The"}, {"holes": 7}, {"text": " end."}]}}"#.to_owned(),
        r#"{"prompt": {"text": "The"}, "suffix": " end.", "settings": {"max_tokens": 9}}"#.to_owned(),
    ] {
        let plain = engine.complete(&request(&json)).unwrap();
        let (stream, deltas) = streamed(&engine, &request(&json));
        assert_eq!((plain.choices.clone(), plain.usage), (stream.choices, stream.usage), "{json}");
        assert!(deltas > 1 || plain.choices[0].text.is_empty(), "{json}: {plain:?}");
        assert!(plain.usage.prompt_tokens > 0 && plain.statistics.rows_computed > 0);
        if let Some(logs) = &plain.choices[0].logprobs {
            let texts: String = logs.iter().map(|log| log.token.token.as_str()).collect();
            assert!(texts == plain.choices[0].text || texts.contains(char::REPLACEMENT_CHARACTER));
            assert!(logs.iter().all(|log| log.top.len() == 2 && log.logprob <= Some(log.top[0].1)));
        }
    }
    until(|| engine.handle().counts() == (0, 0));
    assert_eq!(script.lock().stores, 0);
}

#[test]
fn an_answer_is_the_same_alone_and_beside_others() {
    let script = Shared::default();
    let engine = engine(&script);
    let jsons: Vec<_> = (0..12)
        .map(|i| {
            let tokens = 5 + 7 * i;
            format!(
                r#"{{"prompt": {{"text": "Once {i}"}}, "n": {}, "settings": {{"max_tokens": {tokens}, "temperature": 0.8, "seed": {i}}}}}"#,
                1 + i % 3
            )
        })
        .collect();
    let alone: Vec<_> = jsons.iter().map(|json| engine.complete(&request(json)).unwrap().choices).collect();
    script.lock().hold = true;
    let together: Vec<_> = jsons.iter().rev().map(|json| engine.stream(&request(json)).unwrap()).collect();
    script.lock().hold = false;
    let together: Vec<_> = together.into_iter().map(|events| events.wait().unwrap().choices).collect();
    assert_eq!(alone, together.into_iter().rev().collect::<Vec<_>>());
    assert_ne!(alone[2][0], alone[2][1], "choices differ");
    let most = script.lock().passes.iter().copied().max().unwrap();
    assert!(most > 200, "passes are shared: {most}");
}

#[test]
fn who_leaves_takes_no_rows_any_more() {
    let script = Shared::new(Script { pass_time: Duration::from_millis(1), ..Script::default() });
    let engine = engine(&script);
    let mut events = engine.stream(&request(STORY)).unwrap();
    while !matches!(events.next(), Some(Event::Delta { .. })) {}
    drop(events);
    until(|| engine.handle().counts() == (0, 0));
    let passes = script.lock().passes.len();
    assert!(passes < 50 && script.lock().stores == 0);
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(script.lock().passes.len(), passes, "nothing is computed for nobody");
    // A stop string ends the generation too.
    let all = engine.complete(&request(STORY)).unwrap();
    let begin: String = all.choices[0].text.chars().skip(8).take(3).collect();
    let stopped = STORY.replace(r#""settings""#, &format!(r#""stop": [{}], "settings""#, serde_json::json!(begin)));
    let answer = engine.complete(&request(&stopped)).unwrap();
    let at = all.choices[0].text.find(&begin).unwrap();
    assert_eq!(
        (answer.choices[0].text.as_str(), answer.choices[0].finish_reason),
        (&all.choices[0].text[..at], Finish::Stop)
    );
    assert!(answer.statistics.forward_passes < all.statistics.forward_passes);
}

#[test]
fn what_is_too_much_is_refused_at_once() {
    let script = Shared::default();
    let queue = Queue { concurrent: Some(2), waiting: 3 };
    let engine = Engine::builder().queue(queue).model(Source::path(folder(), script.open())).open().unwrap();
    script.lock().hold = true;
    let five: Vec<_> = (0..5).map(|_| engine.stream(&request(STORY)).unwrap()).collect();
    let (running, waiting) = engine.handle().counts();
    assert_eq!(running + waiting, 5);
    assert!(matches!(engine.stream(&request(STORY)).unwrap_err(), EngineError::QueueFull { waiting: 3.. }));
    let many = STORY.replace(r#""settings""#, r#""n": 6, "settings""#);
    assert!(matches!(engine.stream(&request(&many)).unwrap_err(), EngineError::TooMany { asked: 6, most: 5 }));
    assert!(matches!(engine.handle().model("other").map(|_| ()).unwrap_err(), EngineError::UnknownModel(_)));
    script.lock().hold = false;
    for events in five {
        assert!(!events.wait().unwrap().choices[0].text.is_empty());
    }
    let narrow = Engine::builder().kv_bytes(1 << 20).model(Source::path(folder(), script.open())).open().unwrap();
    let problem = narrow.complete(&request(STORY)).unwrap_err().to_string();
    assert!(problem.contains("there is room for 32"), "{problem}");
}

#[test]
fn a_request_that_fails_fails_alone() {
    let script = Shared::default();
    let engine = engine(&script);
    let poison = engine.handle().default_model().unwrap().model.encode_raw("poison").unwrap()[1];
    let expected = engine.complete(&request(STORY)).unwrap();
    script.lock().poison = Some(poison);
    script.lock().hold = true;
    let good = engine.stream(&request(STORY)).unwrap();
    let bad = engine.stream(&request(&STORY.replace("Once upon a time", "poison"))).unwrap();
    script.lock().hold = false;
    assert!(bad.wait().unwrap_err().to_string().contains("not finite"));
    assert_eq!(good.wait().unwrap().choices, expected.choices);
    until(|| engine.handle().counts() == (0, 0));
}

#[test]
fn a_lost_device_comes_back_and_answers_are_completed() {
    let script = Shared::default();
    let engine = engine(&script);
    let expected = engine.complete(&request(STORY)).unwrap();
    let passes = script.lock().passes.len();
    script.lock().lost_in = Some(passes + 20);
    let (again, _) = streamed(&engine, &request(STORY));
    assert_eq!(again.choices, expected.choices, "nothing is lost and nothing said twice");
    let Script { opened, stores, .. } = *script.lock();
    assert_eq!((opened, stores), (2, 0));
    until(|| engine.handle().state() == EngineState::Ready);
}

#[test]
fn a_device_that_stays_away_fails_requests_and_is_taken_back_later() {
    let script = Shared::default();
    let engine = engine(&script);
    let passes = script.lock().passes.len();
    {
        let mut script = script.lock();
        (script.lost_in, script.gone) = (Some(passes + 3), true);
    }
    let problem = engine.complete(&request(STORY)).unwrap_err();
    assert!(matches!(&problem, EngineError::Device(words) if words.contains("it is gone")), "{problem}");
    assert!(matches!(engine.handle().state(), EngineState::Failed(_)));
    assert!(matches!(engine.stream(&request(STORY)).unwrap_err(), EngineError::Device(_)));
    assert_eq!(engine.handle().counts(), (0, 0));
}

#[test]
fn what_cannot_be_opened_is_said() {
    let script = Shared::new(Script { gone: true, ..Script::default() });
    let problem = Engine::open_on(folder(), script.open()).map(|_| ()).unwrap_err().to_string();
    assert!(problem.contains("it is gone"), "{problem}");
    let problem = Engine::open_on("no/such/model", script.open()).map(|_| ()).unwrap_err().to_string();
    assert!(problem.contains("no/such/model"), "{problem}");
    let twice = Engine::builder().model(Source::path(folder(), script.open()));
    let problem = twice.model(Source::path(folder(), script.open())).start().map(|_| ()).unwrap_err().to_string();
    assert!(problem.contains("two models are called tales-33m"), "{problem}");
}

#[test]
fn steps_are_told_where_they_are_asked_for() {
    let script = Shared::default();
    let engine = engine(&script);
    let model = engine.handle().default_model().unwrap();
    let prepared = engine.handle().prepare(&model, &request(STORY)).unwrap();
    let events = engine.handle().submit(&model, prepared.jobs, prepared.prompt_tokens, true).unwrap();
    let (mut steps, mut committed, mut prefix) = (0, Vec::new(), 0);
    for event in events {
        if let Event::Step { event, .. } = event {
            assert_eq!(event.step, steps);
            assert!(event.prefix >= prefix && event.block[1] <= 60 && event.rows > 0);
            (steps, prefix) = (steps + 1, event.prefix);
            committed.extend(event.committed.into_iter().map(|token| token.pos));
        }
    }
    committed.sort_unstable();
    assert_eq!((prefix, committed), (60, (0..60).collect::<Vec<_>>()));
    assert!(steps > 50, "about one token a step: {steps}");
}
