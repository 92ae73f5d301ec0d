//! How the server is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use remask::EngineState;
use serde_json::{Value, json};

use super::pages::prefers_html;
use crate::app::{App, Phase};

const VERSION: &str = env!("CARGO_PKG_VERSION");

pub async fn root(State(app): State<Arc<App>>, headers: HeaderMap) -> Response {
    let status = if app.is_ready() { "ready" } else { "loading" };
    let body = json!({"name": "Remask API Server", "version": VERSION, "status": status, "docs": "/docs"});
    let page = app.config.playground && prefers_html(&headers);
    let mut response = if page { Redirect::to("playground").into_response() } else { Json(body).into_response() };
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    response
}

pub async fn live() -> Json<Value> {
    Json(json!({"status": "alive"}))
}

pub async fn ping() -> StatusCode {
    StatusCode::OK
}

pub async fn ready(State(app): State<Arc<App>>) -> Response {
    if app.is_ready() {
        Json(json!({"status": "ready"})).into_response()
    } else {
        unhealthy(&json!({"status": "not ready", "state": state(&app), "detail": "Not ready"}))
    }
}

pub async fn version(State(app): State<Arc<App>>) -> Json<Value> {
    let diffusion = app.models().first().is_none_or(|model| model.model.architecture.is_diffusion());
    let kind = if diffusion { "diffusion-llm" } else { "autoregressive-llm" };
    Json(json!({"version": VERSION, "model_type": kind}))
}

/// A refusal that clients who look for an error understand as well.
fn unhealthy(body: &Value) -> Response {
    let mut body = body.clone();
    body["error"] = json!({
        "message": body["detail"], "type": "service_unavailable", "param": null, "code": body["state"],
    });
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")], Json(body)).into_response()
}

/// As dfastllm names it.
fn state(app: &App) -> &'static str {
    match (app.phase(), app.engine.state()) {
        (Phase::Ending, _) | (_, EngineState::Stopped(_)) => "shutdown",
        (Phase::Leaving | Phase::Draining, _) => "draining",
        (Phase::Open, EngineState::Loading { .. }) => "loading",
        (Phase::Open, EngineState::Failed(_)) => "error",
        (Phase::Open, EngineState::Ready) if app.engine.counts().0 > 0 => "busy",
        (Phase::Open, EngineState::Ready) => "ready",
    }
}

fn device(app: &App) -> Option<String> {
    app.models().first().map(|model| format!("{} ({})", model.info.adapter, model.info.backend))
}

pub async fn health(State(app): State<Arc<App>>) -> Response {
    let state = state(&app);
    let (_, waiting) = app.engine.counts();
    let capacity = app.engine.queue().waiting;
    let status = match state {
        "ready" | "busy" if waiting * 10 <= capacity * 9 => "healthy",
        "ready" | "busy" | "draining" => "degraded",
        _ => "unhealthy",
    };
    let mut body = json!({
        "status": status,
        "state": state,
        "model_loaded": !app.models().is_empty(),
        "device": device(&app),
        "queue_size": waiting,
        "queue_capacity": capacity,
        "uptime_seconds": app.started.elapsed().as_secs_f64(),
    });
    match app.engine.state() {
        EngineState::Failed(problem) | EngineState::Stopped(problem) => body["last_error"] = json!(problem),
        EngineState::Loading { model, loaded, total } => {
            body["loading"] = json!({"model": model, "loaded_bytes": loaded, "total_bytes": total});
        }
        EngineState::Ready => {}
    }
    if status == "unhealthy" || state == "draining" {
        body["detail"] = json!(format!("{status}: {state}"));
        unhealthy(&body)
    } else {
        Json(body).into_response()
    }
}

pub async fn stats(State(app): State<Arc<App>>) -> Json<Value> {
    let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
    let counts = &app.counts;
    let (processed, tokens, passes) = (read(&counts.processed), read(&counts.tokens), read(&counts.passes));
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let models = app.models();
    let bytes = models.iter().map(|m| m.model.checkpoint.total_bytes() + m.most_slots_used() as u64 * m.slot_bytes);
    let (_, waiting) = app.engine.counts();
    let uptime = app.started.elapsed().as_secs_f64();
    let per_step = share(tokens, passes);
    let (all_passes, rows, full) = models
        .iter()
        .map(|model| model.totals())
        .fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    Json(json!({
        "requests_processed": processed,
        "requests_failed": read(&counts.failed),
        "requests_timeout": read(&counts.timed_out),
        "tokens_generated": tokens,
        "avg_latency_ms": share(read(&counts.micros), processed) / 1e3,
        "avg_tokens_per_step": per_step,
        "peak_memory_mb": bytes.sum::<u64>() as f64 / f64::from(1 << 20),
        "current_queue_size": waiting,
        "uptime_seconds": uptime,
        "is_ready": app.is_ready(),
        "state": state(&app),
        "device": device(&app),
        "is_diffusion_model": models.first().is_some_and(|model| model.model.architecture.is_diffusion()),
        "apd": {
            "total_steps": passes,
            "total_tokens_generated": tokens,
            "tokens_accepted": read(&counts.accepted),
            "tokens_rejected": read(&counts.rejected),
            "avg_tokens_per_step": per_step,
        },
        "remask": {"forward_passes": all_passes, "rows_computed": rows, "rows_of_full_compute": full},
        "server": {
            "uptime_seconds": uptime,
            "total_requests": read(&counts.http),
            "active_requests": read(&counts.active),
        },
    }))
}
