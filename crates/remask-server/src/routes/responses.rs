//! `/v1/responses`, as much of it as a server needs that keeps nothing.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Path, Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use remask::core::request::{Finish, Statistics, Usage};
use remask::{Event, Events};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::receive;
use crate::answer_form::named;
use crate::app::{App, Cancellable, fresh_name, now};
use crate::ask::{Ask, Form};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::gate::RequestId;
use crate::generate::{events_response, next_or_end, refuse, submit, wait};
use crate::tally::Tally;

pub async fn stored(Path(id): Path<String>) -> Response {
    let message = format!("no response {id} is kept: this server keeps none");
    let body = json!({"error": {
        "message": message, "type": "invalid_request_error", "param": "response_id", "code": "not_found",
    }});
    (StatusCode::NOT_FOUND, Json(body)).into_response()
}

pub async fn create(State(app): State<Arc<App>>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    match receive(&app, "/v1/responses", &id, request).await {
        Ok((body, mut tally)) => match begin(&app, &id, &body, &mut tally).await {
            Ok((report, events, cancellable, true)) => {
                let (sender, receiver) = mpsc::channel(32);
                let teller = Teller { sender, sequence: 0 };
                tokio::spawn(run(app, report, events, cancellable, tally, teller));
                events_response(receiver)
            }
            Ok((report, events, cancellable, false)) => match wait(&app, events, &cancellable, &mut tally).await {
                Ok(answer) => {
                    tally.succeed(&answer.usage, &answer.statistics);
                    let (text, finish) = answer
                        .choices
                        .into_iter()
                        .next()
                        .map_or_else(Default::default, |c| (c.text, Some(c.finish_reason)));
                    Json(report.whole(&text, finish, &answer.usage, &answer.statistics)).into_response()
                }
                Err(error) => refuse(error, tally),
            },
            Err(error) => refuse(error, tally),
        },
        Err(response) => response,
    }
}

/// What a response says of its request.
struct Report {
    id: String,
    message: String,
    created: u64,
    model: String,
    /// Fields that are said again.
    asked: Value,
}

type Begun = (Report, Events, Cancellable, bool);

async fn begin(app: &Arc<App>, id: &RequestId, body: &Value, tally: &mut Tally) -> Result<Begun, ApiError> {
    let fields = Fields::of(body)?;
    for name in ["previous_response_id", "conversation", "prompt"] {
        fields.refuse_unless(name, |_| false, "this server keeps nothing; send the whole conversation")?;
    }
    // There is no reasoning that could be encrypted: agents ask for it whatever the model.
    let nothing = |one: &Value| one == "reasoning.encrypted_content";
    let include = |value: &Value| value.as_array().is_some_and(|all| all.iter().all(nothing));
    fields.refuse_unless("include", include, "answers have nothing more to include")?;
    fields.refuse_unless("top_logprobs", |value| value.as_f64() == Some(0.0), "ask /v1/chat/completions for them")?;
    fields.refuse_unless("truncation", |value| value == "disabled", "conversations are never cut")?;
    fields.refuse_unless("background", |value| *value == Value::Bool(false), "this server keeps nothing")?;
    let disabled = |value: &Value| value.is_object() && value.get("effort").is_none_or(|e| e.is_null() || e == "none");
    fields.refuse_unless("reasoning", disabled, "this model does not reason before it answers")?;
    fields.bool("store")?;
    // The rest is a chat's: the same fields under other names.
    let mut chat = json!({"messages": messages(&fields)?, "max_completion_tokens": body.get("max_output_tokens")});
    let same = [
        "model",
        "temperature",
        "top_p",
        "stream",
        "seed",
        "tools",
        "tool_choice",
        "remask",
        "user",
        "top_k",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
    ];
    for name in same {
        chat[name] = body.get(name).cloned().unwrap_or(Value::Null);
    }
    let format = format(&fields)?;
    chat["response_format"] = response_format(&format);
    let before = usize::from(fields.get("instructions").is_some());
    let mut ask = Ask::read(app, Form::Chat, &chat).map_err(|error| as_asked(error, before))?;
    tally.model(&ask.model.name);
    let report = Report {
        id: format!("resp_{}", fresh_name()),
        message: format!("msg_{}", fresh_name()),
        created: now(),
        model: ask.model_name.clone(),
        asked: json!({
            "instructions": body.get("instructions"), "max_output_tokens": body.get("max_output_tokens"),
            "metadata": body.get("metadata").filter(|m| m.is_object()).cloned().unwrap_or_else(|| json!({})),
            "temperature": body.get("temperature"), "top_p": body.get("top_p"), "text": {"format": format},
        }),
    };
    let cancellable = app.enlist(vec![id.0.clone(), report.id.clone()]);
    let events = submit(app, &ask.model, std::mem::take(&mut ask.requests), false).await;
    let events = events.map_err(|error| as_asked(named(error, ask.form_field), before))?;
    Ok((report, events, cancellable, ask.stream))
}

/// Names of a chat's fields, and what they are called here.
const NAMES: [(&str, &str); 4] = [
    ("max_completion_tokens", "max_output_tokens"),
    ("max_tokens", "max_output_tokens"),
    ("response_format.json_schema", "text.format"),
    ("response_format", "text.format"),
];

/// An error of the chat in a response's words; `before` messages stand in front of its input.
fn as_asked(mut error: ApiError, before: usize) -> ApiError {
    let Some(param) = error.param.clone() else { return error };
    let inside = param.strip_prefix("messages[").and_then(|rest| rest.split_once(']'));
    let place = inside.and_then(|(index, rest)| Some((index.parse::<usize>().ok()?.checked_sub(before)?, rest)));
    let named = NAMES.iter().find(|(theirs, _)| param.starts_with(theirs));
    let (theirs, ours) = match (param.as_str(), place, named) {
        (_, _, Some((theirs, ours))) => ((*theirs).to_owned(), (*ours).to_owned()),
        ("messages", ..) => (param.clone(), "input".to_owned()),
        (_, Some((index, rest)), _) => (param.clone(), format!("input[{index}]{rest}")),
        _ => return error,
    };
    error.message = error.message.replace(&theirs, &ours);
    error.param = Some(param.replacen(&theirs, &ours, 1));
    error
}

/// What form the text must have, as it is said here.
fn format(fields: &Fields<'_>) -> Result<Value, ApiError> {
    let text = fields.object("text")?.map(|text| Fields::inside(text, "text."));
    let format = text.map_or(Ok(None), |text| text.object("format"))?;
    Ok(format.map_or_else(|| json!({"type": "text"}), |format| Value::Object(format.clone())))
}

/// The same as a chat says it: one level deeper.
fn response_format(format: &Value) -> Value {
    match format["type"].as_str() {
        Some("json_schema") => json!({"type": "json_schema", "json_schema": format}),
        _ => format.clone(),
    }
}

/// Input and instructions as a chat's messages.
fn messages(fields: &Fields<'_>) -> Result<Vec<Value>, ApiError> {
    let mut messages = Vec::new();
    if let Some(instructions) = fields.string("instructions")? {
        messages.push(json!({"role": "system", "content": instructions}));
    }
    match fields.get("input") {
        Some(Value::String(text)) => messages.push(json!({"role": "user", "content": text})),
        Some(Value::Array(items)) if items.is_empty() => return Err(ApiError::field("input", "input is empty")),
        Some(Value::Array(items)) => {
            for item in items {
                let kind = item.get("type").and_then(Value::as_str).unwrap_or("message");
                if kind != "message" {
                    return Err(ApiError::unsupported(
                        "input",
                        format!("input items of type {kind} are not understood"),
                    ));
                }
                messages.push(json!({"role": item.get("role"), "content": item.get("content")}));
            }
        }
        _ => return Err(ApiError::field("input", "input must be a string or a list of messages")),
    }
    Ok(messages)
}

impl Report {
    fn item(&self, text: Option<&str>, status: &str) -> Value {
        let content: Vec<_> = text.into_iter().map(part).collect();
        json!({"id": self.message, "type": "message", "role": "assistant", "status": status, "content": content})
    }

    fn response(&self, status: &str, output: Vec<Value>, usage: Value, incomplete: Value, error: Value) -> Value {
        let mut response = json!({
            "id": self.id, "object": "response", "created_at": self.created, "status": status, "model": self.model,
            "output": output, "usage": usage, "incomplete_details": incomplete, "error": error, "tools": [],
            "tool_choice": "auto", "parallel_tool_calls": true, "previous_response_id": null, "store": false,
            "background": false, "truncation": "disabled",
            "reasoning": {"effort": null, "summary": null},
        });
        for (name, value) in self.asked.as_object().into_iter().flatten() {
            response[name.as_str()] = value.clone();
        }
        response
    }

    fn whole(&self, text: &str, finish: Option<Finish>, usage: &Usage, statistics: &Statistics) -> Value {
        let (status, incomplete) = match finish {
            Some(Finish::Length) => ("incomplete", json!({"reason": "max_output_tokens"})),
            _ => ("completed", Value::Null),
        };
        let used = json!({
            "input_tokens": usage.prompt_tokens,
            "input_tokens_details": {"cached_tokens": usage.cached_tokens},
            "output_tokens": usage.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage.total_tokens(),
        });
        let mut response = self.response(status, vec![self.item(Some(text), status)], used, incomplete, Value::Null);
        response["remask"] = json!(statistics);
        response
    }
}

fn part(text: &str) -> Value {
    json!({"type": "output_text", "text": text, "annotations": [], "logprobs": []})
}

/// Says events with their numbers.
struct Teller {
    sender: mpsc::Sender<Bytes>,
    sequence: u64,
}

impl Teller {
    fn line(&mut self, kind: &str, mut event: Value) -> String {
        event["type"] = json!(kind);
        event["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        format!("event: {kind}\ndata: {event}\n\n")
    }

    /// Whether the reader is still there.
    async fn tell(&mut self, kind: &str, event: Value) -> bool {
        let line = self.line(kind, event);
        self.sender.send(line.into()).await.is_ok()
    }
}

async fn run(
    app: Arc<App>,
    report: Report,
    mut events: Events,
    cancellable: Cancellable,
    mut tally: Tally,
    mut teller: Teller,
) {
    let begun = report.response("in_progress", Vec::new(), Value::Null, Value::Null, Value::Null);
    let place = json!({"item_id": report.message, "output_index": 0, "content_index": 0});
    let at = |name: &str, value: Value| {
        let mut event = place.clone();
        event[name] = value;
        event
    };
    let head = [
        ("response.created", json!({"response": begun})),
        ("response.in_progress", json!({"response": begun})),
        ("response.output_item.added", json!({"output_index": 0, "item": report.item(None, "in_progress")})),
        ("response.content_part.added", at("part", part(""))),
    ];
    for (kind, event) in head {
        if !teller.tell(kind, event).await {
            return;
        }
    }
    let (mut text, deadline) = (String::new(), tally.deadline());
    let mut usage = Usage { prompt_tokens: events.prompt_tokens, ..Usage::default() };
    loop {
        let event = match next_or_end(&app, &mut events, &cancellable, deadline, &teller.sender).await {
            Ok(Some(event)) => event,
            Ok(None) => {
                if teller.sender.send(Bytes::from_static(b": ping\n\n")).await.is_err() {
                    return;
                }
                continue;
            }
            Err(None) => return,
            Err(Some(error)) => {
                drop(events);
                tally.fail(&error);
                let why = json!({"code": error.code.unwrap_or(error.kind), "message": error.message});
                let failed = report.response("failed", Vec::new(), Value::Null, Value::Null, why);
                teller.tell("response.failed", json!({"response": failed})).await;
                return;
            }
        };
        match event {
            Event::Delta { delta, tokens, .. } => {
                tally.text();
                usage.completion_tokens = tokens;
                text += &delta.text;
                if !teller.tell("response.output_text.delta", at("delta", json!(delta.text))).await {
                    return;
                }
            }
            Event::End { end, .. } => {
                (usage.completion_tokens, usage.cached_tokens) = (end.tokens, end.statistics.cached_tokens);
                let whole = report.whole(&text, Some(end.finish), &usage, &end.statistics);
                let kind = if whole["status"] == "completed" { "response.completed" } else { "response.incomplete" };
                let item = whole["output"][0].clone();
                let tail = [
                    ("response.output_text.done", at("text", json!(text))),
                    ("response.content_part.done", at("part", part(&text))),
                    ("response.output_item.done", json!({"output_index": 0, "item": item})),
                    (kind, json!({"response": whole})),
                ];
                let lines: String = tail.into_iter().map(|(kind, event)| teller.line(kind, event)).collect();
                if let Ok(permit) = teller.sender.reserve().await {
                    tally.succeed(&usage, &end.statistics);
                    drop(cancellable);
                    permit.send(lines.into());
                }
                return;
            }
            Event::Began { .. } | Event::Step { .. } | Event::Failed(_) => {}
        }
    }
}
