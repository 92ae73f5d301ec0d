//! `/tokenize` and `/detokenize`, in vLLM's form and llama.cpp's.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request, State};
use remask::core::request::TokenText;
use serde_json::{Value, json};

use crate::app::App;
use crate::ask::{conversation, ids_alone};
use crate::error::ApiError;
use crate::fields::Fields;
use crate::gate::read_json;
use crate::generate::admit;

async fn read(app: &App, request: Request) -> Result<Value, ApiError> {
    admit(app)?;
    let (parts, body) = request.into_parts();
    read_json(app, &parts.headers, body).await
}

pub async fn tokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = read(&app, request).await?;
    let fields = Fields::of(&body)?;
    let (model, _) = app.model(fields.string("model")?)?;
    let with_special = fields.bool("add_special_tokens")?.unwrap_or(true);
    let strings = fields.bool("return_token_strs")?.unwrap_or(false) || fields.bool("with_pieces")?.unwrap_or(false);
    let text = fields.string("prompt")?.or(fields.string("content")?);
    let wrong = |problem: remask::core::Error| ApiError::invalid(problem.to_string());
    let ids = match (text, fields.get("messages")) {
        (Some(text), None) if with_special => model.model.encode_raw(text).map_err(wrong)?,
        (Some(text), None) => ids_alone(&model, text)?,
        (None, Some(_)) => model.model.encode_chat(&conversation(&fields)?).map_err(wrong)?,
        _ => return Err(ApiError::field("prompt", "either prompt, content or messages is needed")),
    };
    let texts = strings.then(|| {
        let texts = ids.iter().map(|id| TokenText::of(*id, model.model.tokenizer.as_ref()).token);
        texts.collect::<Vec<_>>()
    });
    Ok(Json(json!({
        "count": ids.len(), "max_model_len": model.terms.context, "tokens": ids, "token_strs": texts,
    })))
}

pub async fn detokenize(State(app): State<Arc<App>>, request: Request) -> Result<Json<Value>, ApiError> {
    let body = read(&app, request).await?;
    let fields = Fields::of(&body)?;
    let (model, _) = app.model(fields.string("model")?)?;
    let ids = fields.ids("tokens")?.ok_or_else(|| ApiError::field("tokens", "tokens must be a list of token ids"))?;
    let tokenizer = model.model.text().map_err(|problem| ApiError::invalid(problem.to_string()))?;
    if let Some(id) = ids.iter().find(|id| tokenizer.token(**id).is_none()) {
        return Err(ApiError::field("tokens", format!("token id {id} does not exist")));
    }
    let text = tokenizer.decode(&ids, false).map_err(|problem| ApiError::invalid(problem.to_string()))?;
    Ok(Json(json!({"prompt": text, "content": text})))
}
