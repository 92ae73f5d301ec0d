//! Runs a request: prepared off the server's threads, watched while it runs, answered whole or as events.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_core::Stream;
use remask::core::decode::MorSetting;
use remask::core::request::{GenerationRequest, Job};
use remask::{Answer, Collector, EngineError, Event, Events, ServedModel};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::answer_form::named;
use crate::app::{App, Cancellable, Phase, fresh_name, now};
use crate::ask::{Ask, Form};
use crate::error::ApiError;
use crate::shape::Shape;
use crate::tally::Tally;

/// Events of a stream that wait for their reader; what comes after waits in the engine.
const READER_LAG: usize = 32;

/// Refuses requests where none is taken.
pub fn admit(app: &App) -> Result<(), ApiError> {
    if app.phase() >= Phase::Draining { Err(ApiError::stopping()) } else { Ok(()) }
}

/// Prepares requests for a model and hands them to the engine, together.
pub async fn submit(
    app: &Arc<App>,
    model: &Arc<ServedModel>,
    requests: Vec<GenerationRequest>,
    steps: bool,
) -> Result<Events, ApiError> {
    let (engine, of) = (app.engine.clone(), model.clone());
    // A long text takes its time.
    let prepared = tokio::task::spawn_blocking(move || {
        let (mut jobs, mut prompt_tokens): (Vec<Job>, usize) = (Vec::new(), 0);
        for request in &requests {
            let prepared = engine.prepare(&of, request)?;
            prompt_tokens += prepared.prompt_tokens;
            jobs.extend(prepared.jobs);
        }
        Ok::<_, EngineError>((jobs, prompt_tokens))
    });
    let (jobs, prompt_tokens) = prepared.await.map_err(|_| ApiError::from(EngineError::Stopped))??;
    app.engine.submit(model, jobs, prompt_tokens, steps).map_err(|problem| {
        let full = matches!(problem, EngineError::QueueFull { .. });
        let error = ApiError::from(problem);
        if full { ApiError { retry_after: Some(app.retry_after()), ..error } } else { error }
    })
}

/// The next event.
async fn next(events: &mut Events) -> Option<Event> {
    std::future::poll_fn(|cx| Pin::new(&mut *events).poll_next(cx)).await
}

/// The next event of a stream, or none where it is time for a sign of life.
///
/// # Errors
/// Why there is none any more; nothing where the reader has left.
pub async fn next_or_end(
    app: &App,
    events: &mut Events,
    cancellable: &Cancellable,
    deadline: Instant,
    reader: &mpsc::Sender<Bytes>,
) -> Result<Option<Event>, Option<ApiError>> {
    let timeout = app.config.request_timeout.as_secs();
    tokio::select! {
        biased;
        event = next(events) => match event {
            Some(Event::Failed(problem)) => Err(Some(problem.into())),
            Some(event) => Ok(Some(event)),
            None => Err(Some(EngineError::Stopped.into())),
        },
        () = reader.closed() => Err(None),
        why = cancellable.cancelled() => Err(Some(why)),
        () = tokio::time::sleep_until(deadline.into()) => Err(Some(ApiError::deadline(timeout))),
        () = tokio::time::sleep(app.config.ping) => Ok(None),
    }
}

/// Waits for a whole answer.
///
/// # Errors
/// Why there is none; the generation has then ended.
pub async fn wait(
    app: &App,
    mut events: Events,
    cancellable: &Cancellable,
    tally: &mut Tally,
) -> Result<Answer, ApiError> {
    let mut collector = Collector::of(&events);
    let deadline = tally.deadline();
    let collect = async {
        while let Some(event) = next(&mut events).await {
            if matches!(event, Event::Delta { .. }) {
                tally.text();
            }
            collector.take(event)?;
        }
        collector.finish()
    };
    tokio::select! {
        answer = collect => Ok(answer?),
        why = cancellable.cancelled() => Err(why),
        () = tokio::time::sleep_until(deadline.into()) => Err(ApiError::deadline(app.config.request_timeout.as_secs())),
    }
}

/// Answers `/v1/completions` or `/v1/chat/completions`.
pub async fn answer(app: &Arc<App>, form: Form, request_id: &str, body: &Value, mut tally: Tally) -> Response {
    match begin(app, form, request_id, body, &mut tally).await {
        Ok((ask, events, shape, cancellable)) if ask.stream => stream(app, events, shape, cancellable, tally),
        Ok((_, events, shape, cancellable)) => match wait(app, events, &cancellable, &mut tally).await {
            Ok(answer) => {
                tally.succeed(&answer.usage, &answer.statistics);
                axum::Json(shape.whole(&answer)).into_response()
            }
            Err(error) => refuse(error, tally),
        },
        Err(error) => refuse(error, tally),
    }
}

/// Counts an error and says it.
pub fn refuse(error: ApiError, mut tally: Tally) -> Response {
    tally.fail(&error);
    error.into_response()
}

async fn begin(
    app: &Arc<App>,
    form: Form,
    request_id: &str,
    body: &Value,
    tally: &mut Tally,
) -> Result<(Ask, Events, Shape, Cancellable), ApiError> {
    let mut ask = Ask::read(app, form, body)?;
    tally.model(&ask.model.name);
    let depth = ask.requests.first().and_then(|request| request.settings.mor);
    if matches!(depth, Some(MorSetting::Config(config)) if config.log_stats) {
        tally.log_stats();
    }
    let prefix = match form {
        Form::Chat => "chatcmpl-",
        Form::Completion => "cmpl-",
    };
    let id = format!("{prefix}{}", fresh_name());
    let cancellable = app.enlist(vec![request_id.to_owned(), id.clone()]);
    let mut shape = Shape::of(&ask, id, now());
    let events = submit(app, &ask.model, std::mem::take(&mut ask.requests), ask.step_events).await;
    let events = events.map_err(|error| named(error, ask.form_field))?;
    shape.prompt_tokens(events.prompt_tokens);
    if app.config.log_content {
        tracing::info!(request_id, body = %body, "asked");
    }
    Ok((ask, events, shape, cancellable))
}

/// Answers with events.
fn stream(app: &Arc<App>, events: Events, shape: Shape, cancellable: Cancellable, tally: Tally) -> Response {
    let (sender, receiver) = mpsc::channel(READER_LAG);
    let pump = Pump { app: app.clone(), events, shape, cancellable, deadline: tally.deadline(), tally, sender };
    tokio::spawn(pump.run());
    events_response(receiver)
}

/// A response of server-sent events.
pub fn events_response(receiver: mpsc::Receiver<Bytes>) -> Response {
    let mut response = Body::from_stream(Lines(receiver)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

/// What a connection is sent.
struct Lines(mpsc::Receiver<Bytes>);

impl Stream for Lines {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx).map(|line| line.map(Ok))
    }
}

/// Turns a request's events into those of its stream.
struct Pump {
    app: Arc<App>,
    events: Events,
    shape: Shape,
    cancellable: Cancellable,
    deadline: Instant,
    tally: Tally,
    sender: mpsc::Sender<Bytes>,
}

fn write(lines: &mut String, data: &Value) {
    lines.push_str("data: ");
    lines.push_str(&data.to_string());
    lines.push_str("\n\n");
}

impl Pump {
    async fn run(mut self) {
        match self.chunks().await {
            // The end is counted before its reader sees it.
            Ok(mut last) => {
                let (usage, statistics, chunk) = self.shape.last();
                if let Some(chunk) = chunk {
                    write(&mut last, &chunk);
                }
                last.push_str("data: [DONE]\n\n");
                if let Ok(permit) = self.sender.reserve().await {
                    self.tally.succeed(&usage, &statistics);
                    drop(self.cancellable);
                    permit.send(last.into());
                }
            }
            Err(Some(error)) => {
                let mut last = String::new();
                write(&mut last, &error.body());
                last.push_str("data: [DONE]\n\n");
                // The generation ends now, not when its reader gets to know.
                drop(self.events);
                self.tally.fail(&error);
                drop(self.cancellable);
                let _ = self.sender.send(last.into()).await;
            }
            // The reader is gone, and with this the generation.
            Err(None) => {}
        }
    }

    /// Sends everything but what comes with the end, which it returns.
    async fn chunks(&mut self) -> Result<String, Option<ApiError>> {
        loop {
            let next = next_or_end(&self.app, &mut self.events, &self.cancellable, self.deadline, &self.sender);
            let Some(event) = next.await? else {
                self.send(": ping\n\n".to_owned()).await?;
                continue;
            };
            if matches!(event, Event::Delta { .. }) {
                self.tally.text();
            }
            let mut lines = String::new();
            self.shape.chunks(&event).iter().for_each(|chunk| write(&mut lines, chunk));
            if self.events.is_over() {
                return Ok(lines);
            }
            if !lines.is_empty() {
                self.send(lines).await?;
            }
        }
    }

    /// Sends to a reader who may be slow, unless it is cancelled meanwhile.
    async fn send(&self, lines: String) -> Result<(), Option<ApiError>> {
        let timeout = self.app.config.request_timeout.as_secs();
        tokio::select! {
            biased;
            sent = self.sender.send(lines.into()) => sent.map_err(|_| None),
            why = self.cancellable.cancelled() => Err(Some(why)),
            () = tokio::time::sleep_until(self.deadline.into()) => Err(Some(ApiError::deadline(timeout))),
        }
    }
}
