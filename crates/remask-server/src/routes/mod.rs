//! The routes.

mod health;
mod infill;
mod models;
mod pages;
mod responses;
mod tokens;

use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use serde_json::{Value, json};

use crate::app::App;
use crate::ask::Form;
use crate::error::ApiError;
use crate::gate::{RequestId, address_of, client_of, gate, read_json};
use crate::generate::{admit, answer, refuse};
use crate::tally::Tally;

const METRICS: &str = "/metrics";

/// Every route, behind the gate.
pub fn router(app: &Arc<App>) -> Router {
    // Metrics that have an address of their own are there alone.
    let elsewhere = app.config.metrics_address.is_some();
    let here = table().into_iter().filter(|(path, _)| !(elsewhere && *path == METRICS));
    gated(here.fold(Router::new(), |router, (path, methods)| router.route(path, methods)), app)
}

/// Paths and what answers there, each of which the document describes.
fn table() -> Vec<(&'static str, MethodRouter<Arc<App>>)> {
    vec![
        ("/", get(health::root)),
        ("/health", get(health::health)),
        ("/health/live", get(health::live)),
        ("/health/ready", get(health::ready)),
        ("/ping", get(health::ping)),
        ("/version", get(health::version)),
        ("/v1/models", get(models::list)),
        ("/v1/models/{*id}", get(models::one)),
        ("/v1/completions", post(completions)),
        ("/v1/chat/completions", post(chat_completions)),
        ("/v1/responses", post(responses::create)),
        ("/v1/responses/{id}", get(responses::stored).delete(responses::stored)),
        ("/v1/engine/stats", get(health::stats)),
        ("/v1/engine/health", get(health::health)),
        ("/v1/requests/{*id}", delete(cancel)),
        ("/tokenize", post(tokens::tokenize)),
        ("/detokenize", post(tokens::detokenize)),
        ("/infill", post(infill::infill)),
        ("/playground", get(pages::playground)),
        ("/docs", get(pages::docs)),
        ("/redoc", get(pages::redoc)),
        ("/openapi.json", get(pages::openapi)),
        ("/assets/{name}", get(pages::asset)),
        (METRICS, get(metrics)),
    ]
}

/// Every path.
#[cfg(test)]
pub fn paths() -> impl Iterator<Item = &'static str> {
    table().into_iter().map(|(path, _)| path)
}

/// The metrics alone.
pub fn metrics_router(app: &Arc<App>) -> Router {
    gated(Router::new().route(METRICS, get(metrics)), app)
}

fn gated(router: Router<Arc<App>>, app: &Arc<App>) -> Router {
    router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(axum::middleware::from_fn_with_state(app.clone(), gate))
        .with_state(app.clone())
}

async fn no_route(uri: Uri) -> ApiError {
    ApiError::not_found(uri.path())
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    ApiError::method(method.as_str(), uri.path())
}

/// What a request that generates needs before its body is looked at; it is counted from here on.
pub(crate) async fn receive(
    app: &Arc<App>,
    route: &'static str,
    id: &RequestId,
    request: Request,
) -> Result<(Value, Tally), Response> {
    let address = address_of(app, &request);
    let tally = Tally::new(app, route, &id.0, address);
    let client = client_of(app, &request, address);
    let allowed = admit(app).and_then(|()| {
        let problem = |seconds| ApiError::too_many("rate_limit_exceeded", "too many requests; slow down", seconds);
        app.rate.count(&client, Instant::now()).map_err(problem)
    });
    if let Err(error) = allowed {
        return Err(refuse(error, tally));
    }
    let (parts, body) = request.into_parts();
    match read_json(app, &parts.headers, body).await {
        Ok(body) => Ok((body, tally)),
        Err(error) => Err(refuse(error, tally)),
    }
}

async fn completions(State(app): State<Arc<App>>, Extension(id): Extension<RequestId>, request: Request) -> Response {
    match receive(&app, "/v1/completions", &id, request).await {
        Ok((body, tally)) => answer(&app, Form::Completion, &id.0, &body, tally).await,
        Err(response) => response,
    }
}

async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(id): Extension<RequestId>,
    request: Request,
) -> Response {
    match receive(&app, "/v1/chat/completions", &id, request).await {
        Ok((body, tally)) => answer(&app, Form::Chat, &id.0, &body, tally).await,
        Err(response) => response,
    }
}

async fn cancel(State(app): State<Arc<App>>, Path(id): Path<String>) -> Response {
    if app.cancel(&id) {
        let message = "the request ends before its next pass";
        axum::Json(json!({"request_id": id, "status": "cancelled", "message": message})).into_response()
    } else {
        let body = json!({
            "request_id": id, "status": "not_found", "message": "no request of this name is under way",
            "error": {"message": "no request of this name is under way", "type": "invalid_request_error",
                "param": "request_id", "code": "not_found"},
        });
        (StatusCode::NOT_FOUND, axum::Json(body)).into_response()
    }
}

async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let asked = headers.get_all(header::ACCEPT).iter().filter_map(|accept| accept.to_str().ok());
    let (kind, text) = if asked.into_iter().any(|accept| accept.contains("application/openmetrics-text")) {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", app.metrics.text(&app.models()))
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", app.metrics.plain_text(&app.models()))
    };
    ([(header::CONTENT_TYPE, kind), (header::VARY, "Accept")], text).into_response()
}
