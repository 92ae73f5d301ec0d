//! What every request goes through: its name, keys, pages of other origins, headers and counts.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde_json::Value;

use crate::app::{App, fresh_name};
use crate::config::MAX_HEAD;
use crate::error::ApiError;
use crate::keys::{Keys, key_in};

/// The name of a request: the client's, or ours.
#[derive(Debug, Clone)]
pub struct RequestId(pub String);

/// Who is at the other end.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

const REQUEST_ID: &str = "x-request-id";
/// Bytes of a client's name for its request.
const LONGEST_ID: usize = 128;

/// Paths that never need a key.
const OPEN: [&str; 10] = [
    "/",
    "/health",
    "/health/live",
    "/health/ready",
    "/version",
    "/ping",
    "/playground",
    "/docs",
    "/redoc",
    "/openapi.json",
];
/// What those of them that are pages are made of.
const OPEN_FOLDER: &str = "/assets/";

/// Runs a request through.
pub async fn gate(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = request_id(request.headers());
    let method = request.method().clone();
    let matched = request.extensions().get::<MatchedPath>();
    let route = matched.map_or_else(|| "other".to_owned(), |path| template(path.as_str()).to_owned());
    let origin = allowed_origin(&app, request.headers());
    app.counts.http.fetch_add(1, Ordering::Relaxed);
    app.counts.active.fetch_add(1, Ordering::Relaxed);
    let _active = Active(&app);
    request.extensions_mut().insert(RequestId(id.clone()));
    let preflight = method == Method::OPTIONS && request.headers().contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = if head_size(&request) > MAX_HEAD {
        ApiError::head_too_large(MAX_HEAD).into_response()
    } else if preflight && origin.is_some() {
        preflighted()
    } else if method != Method::OPTIONS && !may_pass(&app, request.uri().path(), request.headers()) {
        ApiError::key().into_response()
    } else {
        next.run(request).await
    };
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("openai-processing-ms", HeaderValue::from(began.elapsed().as_millis() as u64));
    if !app.config.allow_origins.is_empty() {
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        let exposed = "x-request-id, retry-after, openai-processing-ms";
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(exposed));
    }
    app.metrics.http(&route, known_method(&method), response.status().as_u16());
    response
}

/// Bytes of a request's head, about: the parser's own limit is on what it reads at once.
fn head_size(request: &Request) -> usize {
    let line = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len() + 4;
    let target = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    target + request.headers().iter().map(line).sum::<usize>()
}

struct Active<'a>(&'a App);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.counts.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A route as documentation writes it.
fn template(path: &str) -> &str {
    match path {
        "/v1/models/{*id}" => "/v1/models/{id}",
        "/v1/requests/{*id}" => "/v1/requests/{id}",
        other => other,
    }
}

/// Methods are names that clients choose; labels are not.
fn known_method(method: &Method) -> &'static str {
    match method.as_str() {
        "GET" => "GET",
        "HEAD" => "HEAD",
        "POST" => "POST",
        "DELETE" => "DELETE",
        "OPTIONS" => "OPTIONS",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        _ => "other",
    }
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let good = |id: &&str| !id.is_empty() && id.len() <= LONGEST_ID && id.bytes().all(|b| b.is_ascii_graphic());
    given.filter(good).map_or_else(fresh_name, str::to_owned)
}

fn may_pass(app: &App, path: &str, headers: &HeaderMap) -> bool {
    match path {
        "/metrics" => {
            app.config.metrics_key.as_ref().is_none_or(|key| Keys::new(std::slice::from_ref(key)).open_for(headers))
        }
        path if OPEN.contains(&path) || path.starts_with(OPEN_FOLDER) => true,
        _ => app.keys.open_for(headers),
    }
}

fn allowed_origin(app: &App, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(header::ORIGIN)?;
    let allowed = |allowed: &String| allowed == "*" || origin.as_bytes() == allowed.trim_end_matches('/').as_bytes();
    app.config.allow_origins.iter().any(allowed).then(|| origin.clone())
}

fn preflighted() -> Response {
    let allowed = "authorization, content-type, x-request-id, x-api-key, x-stainless-arch, x-stainless-async, \
                   x-stainless-lang, x-stainless-os, x-stainless-package-version, x-stainless-retry-count, \
                   x-stainless-runtime, x-stainless-runtime-version, x-stainless-timeout, x-stainless-helper-method, \
                   x-stainless-poll-helper, x-stainless-custom-poll-interval";
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, DELETE, OPTIONS"),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, allowed),
        (header::ACCESS_CONTROL_MAX_AGE, "600"),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

/// Where a request came from: the other end of its connection, or who a trusted proxy says that it speaks for.
#[must_use]
pub fn address_of(app: &App, request: &Request) -> Option<IpAddr> {
    let peer = request.extensions().get::<Peer>()?.0.ip().to_canonical();
    let trusted = |address: &IpAddr| app.config.trusted_proxies.iter().any(|network| network.contains(address));
    let mut found = peer;
    // Each proxy adds whom it heard at the end; what a client wrote itself stands before that.
    let lists = request.headers().get_all("x-forwarded-for").iter().rev();
    for said in lists.flat_map(|list| list.to_str().unwrap_or_default().rsplit(',')) {
        if !trusted(&found) {
            break;
        }
        match forwarded(said) {
            Some(address) => found = address,
            None => break,
        }
    }
    Some(found)
}

/// An address as proxies write it, with a port or without.
fn forwarded(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let plain = text.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok();
    plain.or_else(|| text.parse::<SocketAddr>().ok().map(|with_port| with_port.ip())).map(|ip| ip.to_canonical())
}

/// Who sent a request, for limits: a key, where keys mean something, else an address.
#[must_use]
pub fn client_of(app: &App, request: &Request, address: Option<IpAddr>) -> String {
    let key = key_in(request.headers()).filter(|_| !app.keys.is_open());
    key.map_or_else(|| address.map(|address| address.to_string()).unwrap_or_default(), |key| format!("key {key}"))
}

/// Reads a request's body as JSON, within the limits of size and time.
///
/// # Errors
/// What is wrong with it.
pub async fn read_json(app: &App, headers: &HeaderMap, body: Body) -> Result<Value, ApiError> {
    if let Some(kind) = headers.get(header::CONTENT_TYPE) {
        let kind = kind.to_str().unwrap_or("(not text)");
        let essence = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if essence != "application/json" && !(essence.starts_with("application/") && essence.ends_with("+json")) {
            return Err(ApiError::media_type(kind));
        }
    }
    let most = app.config.max_body;
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > most as u64) {
        return Err(ApiError::too_large(most));
    }
    let collected = tokio::time::timeout(app.config.body_timeout, Limited::new(body, most).collect());
    let bytes = match collected.await {
        Err(_) => return Err(ApiError::too_slow()),
        Ok(Err(problem)) if problem.downcast_ref::<LengthLimitError>().is_some() => {
            return Err(ApiError::too_large(most));
        }
        Ok(Err(problem)) => return Err(ApiError::invalid(format!("the request's body cannot be read: {problem}"))),
        Ok(Ok(whole)) => whole.to_bytes(),
    };
    // serde_json goes 128 levels deep and no further.
    serde_json::from_slice(&bytes).map_err(|problem| ApiError::invalid(format!("the request is not JSON: {problem}")))
}
