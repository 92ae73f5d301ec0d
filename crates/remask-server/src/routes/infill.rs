//! `/infill`, in llama.cpp's form: what stands between two texts.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, Request, State};
use axum::response::{IntoResponse, Response};
use remask::core::decode::DecodeSettings;
use remask::core::request::{Finish, GenerationRequest, Prompt};
use serde_json::{Value, json};

use super::receive;
use crate::app::App;
use crate::error::ApiError;
use crate::fields::Fields;
use crate::gate::RequestId;
use crate::generate::{refuse, submit, wait};
use crate::tally::Tally;

/// Tokens where a request says nothing: an editor's line.
const USUAL_TOKENS: usize = 64;

pub async fn infill(State(app): State<Arc<App>>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    match receive(&app, "/infill", &id, request).await {
        Ok((body, mut tally)) => match fill(&app, &id, &body, &mut tally).await {
            Ok(answer) => Json(answer).into_response(),
            Err(error) => refuse(error, tally),
        },
        Err(response) => response,
    }
}

async fn fill(app: &Arc<App>, id: &RequestId, body: &Value, tally: &mut Tally) -> Result<Value, ApiError> {
    let fields = Fields::of(body)?;
    let (model, name) = app.model(fields.string("model")?)?;
    tally.model(&model.name);
    fields.refuse_unless("stream", |value| *value == Value::Bool(false), "ask /v1/completions with a suffix")?;
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    fields.refuse_unless("logit_bias", empty, "ask /v1/completions with a suffix")?;
    fields.refuse_unless("n_probs", |value| value.as_f64() == Some(0.0), "ask /v1/completions with a suffix")?;
    for grammar in ["grammar", "json_schema"] {
        fields.refuse_unless(grammar, |value| value == "", "what fills a gap is held to no form")?;
    }
    let extra = extra(&fields)?;
    let before = fields.string("input_prefix")?.unwrap_or_default();
    let begun = fields.string("prompt")?.unwrap_or_default();
    let after = fields.string("input_suffix")?.unwrap_or_default();
    if before.is_empty() && begun.is_empty() && after.is_empty() {
        return Err(ApiError::field("input_prefix", "input_prefix or input_suffix is needed"));
    }
    // -1 leaves the length to the server.
    let tokens = match fields.get("n_predict").and_then(Value::as_i64) {
        Some(-1) => None,
        _ => fields.integer("n_predict", 1, u64::MAX)?,
    };
    let seed = match fields.get("seed").and_then(Value::as_i64) {
        Some(-1) => None,
        _ => fields.bits("seed")?,
    };
    let request = GenerationRequest {
        suffix: Some(after.to_owned()),
        usual_tokens: Some(USUAL_TOKENS),
        stop: fields.strings("stop", crate::config::MOST_STOPS)?,
        settings: DecodeSettings {
            max_tokens: tokens.map(|n| usize::try_from(n).unwrap_or(usize::MAX)),
            temperature: fields.number("temperature", 0.0, 2.0)?,
            top_p: fields.number("top_p", f64::from(f32::MIN_POSITIVE), 1.0)?,
            top_k: fields.integer("top_k", 0, u64::from(u32::MAX))?.map(|k| k as usize),
            min_p: fields.number("min_p", 0.0, 1.0)?,
            repetition_penalty: fields.number("repeat_penalty", 0.01, 100.0)?,
            presence_penalty: fields.number("presence_penalty", -2.0, 2.0)?,
            frequency_penalty: fields.number("frequency_penalty", -2.0, 2.0)?,
            seed,
            ..DecodeSettings::default()
        },
        ..GenerationRequest::new(Prompt::Text(format!("{extra}{before}{begun}")))
    };
    let cancellable = app.enlist(vec![id.0.clone()]);
    let events = submit(app, &model, vec![request], false).await?;
    let answer = wait(app, events, &cancellable, tally).await?;
    tally.succeed(&answer.usage, &answer.statistics);
    let choice = answer.choices.first().ok_or_else(|| ApiError::from(remask::EngineError::Stopped))?;
    let stopped = choice.finish_reason == Finish::Stop;
    Ok(json!({
        "content": choice.text,
        "model": name,
        "stop": true,
        "stop_type": if stopped { "eos" } else { "limit" },
        "truncated": false,
        "tokens_predicted": answer.usage.completion_tokens,
        "tokens_evaluated": answer.usage.prompt_tokens,
        "remask": answer.statistics,
    }))
}

/// Texts that an editor sends along, which stand before the rest.
fn extra(fields: &Fields<'_>) -> Result<String, ApiError> {
    let wrong = || ApiError::field("input_extra", "input_extra must be a list of objects, each with a text");
    let Some(extra) = fields.get("input_extra") else { return Ok(String::new()) };
    let texts = extra.as_array().ok_or_else(wrong)?.iter().map(|one| one.get("text")?.as_str());
    let texts = texts.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    Ok(texts.iter().map(|text| format!("{text}\n")).collect())
}
