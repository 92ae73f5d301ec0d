//! Which models there are.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use remask::ServedModel;
use serde_json::{Value, json};

use crate::app::App;
use crate::error::ApiError;

fn card(app: &App, id: &str, model: &ServedModel) -> Value {
    json!({
        "id": id,
        "object": "model",
        "created": app.created,
        "owned_by": "remask",
        "root": model.name,
        "parent": null,
        "max_model_len": model.terms.context,
        "permission": [{
            "id": format!("modelperm-{}", model.name), "object": "model_permission", "created": app.created,
            "allow_create_engine": false, "allow_sampling": true, "allow_logprobs": true, "allow_search_indices": false,
            "allow_view": true, "allow_fine_tuning": false, "organization": "*", "group": null, "is_blocking": false,
        }],
    })
}

/// Every name that requests may say, but for "default".
fn named(app: &App) -> Result<Vec<(String, Arc<ServedModel>)>, ApiError> {
    let models = app.models();
    if models.is_empty() {
        return Err(app.engine.not_ready().unwrap_or(remask::EngineError::Loading).into());
    }
    let names = &app.config.served_names;
    let default = models.iter().take(1);
    let aliases = default.flat_map(|model| names.iter().map(|name| (name.clone(), model.clone())));
    let hidden = usize::from(!names.is_empty());
    Ok(aliases.chain(models.iter().skip(hidden).map(|model| (model.name.clone(), model.clone()))).collect())
}

pub async fn list(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let cards: Vec<_> = named(&app)?.iter().map(|(id, model)| card(&app, id, model)).collect();
    Ok(Json(json!({"object": "list", "data": cards})))
}

pub async fn one(State(app): State<Arc<App>>, Path(id): Path<String>) -> Result<Json<Value>, ApiError> {
    let (model, name) = app.model(Some(&id))?;
    Ok(Json(card(&app, &name, &model)))
}
