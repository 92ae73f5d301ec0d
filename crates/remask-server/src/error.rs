//! Errors as OpenAI's clients read them.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use remask::EngineError;
use remask::core::request::RequestError;
use serde_json::{Value, json};

use crate::metrics::Outcome;

/// An answer that says what is wrong.
#[derive(Debug, Clone)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// `type`.
    pub kind: &'static str,
    /// `code`.
    pub code: Option<&'static str>,
    /// The field that is meant.
    pub param: Option<String>,
    /// In words.
    pub message: String,
    /// Seconds after which to try again.
    pub retry_after: Option<u64>,
    /// Clients that retry by themselves shall not.
    pub final_word: bool,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { status, kind, code, param: None, message, retry_after: None, final_word: false }
    }

    /// A request that makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", None, message)
    }

    /// A field that makes no sense, or asks for what there is not.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::invalid(message) }
    }

    /// A field that asks for what there is not.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_value"), ..Self::field(param, message) }
    }

    /// No such route.
    pub fn not_found(path: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "invalid_request_error",
            Some("not_found"),
            format!("there is no route {path}"),
        )
    }

    /// The route knows other methods.
    pub fn method(method: &str, path: &str) -> Self {
        let message = format!("{path} does not answer {method}");
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "invalid_request_error", Some("method_not_allowed"), message)
    }

    /// No key, or none that is known.
    pub fn key() -> Self {
        let message = "a valid API key is needed: Authorization: Bearer KEY";
        Self::new(StatusCode::UNAUTHORIZED, "invalid_request_error", Some("invalid_api_key"), message)
    }

    /// A body that is too large.
    pub fn too_large(most: usize) -> Self {
        let message = format!("the request is larger than {most} bytes");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "invalid_request_error", Some("request_too_large"), message)
    }

    /// A head that is too large.
    pub fn head_too_large(most: usize) -> Self {
        let (status, message) =
            (StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, format!("the request's head is larger than {most} bytes"));
        Self::new(status, "invalid_request_error", Some("head_too_large"), message)
    }

    /// A body that came too slowly.
    pub fn too_slow() -> Self {
        let message = "the request's body did not arrive in time";
        Self::new(StatusCode::REQUEST_TIMEOUT, "invalid_request_error", Some("request_timeout"), message)
    }

    /// A body that is no JSON by its own word.
    pub fn media_type(found: &str) -> Self {
        let message = format!("content type {found} is not understood; send application/json");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "invalid_request_error", Some("unsupported_media_type"), message)
    }

    /// No such model.
    pub fn model(name: &str) -> Self {
        let message = format!("The model `{name}` does not exist.");
        let error = Self::new(StatusCode::NOT_FOUND, "invalid_request_error", Some("model_not_found"), message);
        Self { param: Some("model".to_owned()), ..error }
    }

    /// Not ready: loading, draining, or without a device.
    pub fn unavailable(code: &'static str, message: impl Into<String>, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable", Some(code), message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// Too many requests.
    pub fn too_many(code: &'static str, message: impl Into<String>, retry_after: u64) -> Self {
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", Some(code), message);
        Self { retry_after: Some(retry_after), ..error }
    }

    /// It took too long.
    pub fn deadline(seconds: u64) -> Self {
        let message = format!("the request was not answered within {seconds} seconds");
        let error = Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout_error", Some("deadline_exceeded"), message);
        Self { final_word: true, ..error }
    }

    /// Somebody cancelled it.
    pub fn cancelled() -> Self {
        let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
        let error = Self::new(status, "cancelled_error", Some("cancelled"), "the request was cancelled");
        Self { final_word: true, ..error }
    }

    /// The server stops.
    pub fn stopping() -> Self {
        Self::unavailable("draining", "the server is shutting down", 5)
    }

    /// As `{"error": …}`.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({"error": {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}})
    }

    /// How a request that ends with it is counted.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        match (self.status.as_u16(), self.code) {
            (499, _) => Outcome::Cancelled,
            (504, _) => Outcome::Timeout,
            (429 | 503, _) => Outcome::Rejected,
            (400..500, _) => Outcome::ClientError,
            _ => Outcome::ServerError,
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(problem: EngineError) -> Self {
        let message = problem.to_string();
        match problem {
            EngineError::Loading => Self::unavailable("loading", message, 5),
            EngineError::Device(_) => Self::unavailable("device_unavailable", message, 5),
            EngineError::Stopped | EngineError::Open(_) => Self::unavailable("engine_stopped", message, 5),
            EngineError::UnknownModel(name) => Self::model(&name),
            EngineError::QueueFull { .. } => Self::too_many("queue_full", message, 1),
            EngineError::TooMany { .. } => Self::field("n", message),
            EngineError::Request(problem) => match problem.as_ref() {
                RequestError::ContextLength { .. } => {
                    Self { code: Some("context_length_exceeded"), ..Self::field("max_tokens", message) }
                }
                // What the request calls it.
                RequestError::Field { field: "canvas", .. } => {
                    Self::field("remask.canvas", format!("remask.{message}"))
                }
                RequestError::Field { field, .. } => Self::field(*field, message),
                RequestError::Other(_) => Self::invalid(message),
            },
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", Some("generation_failed"), message),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.final_word {
            headers.insert("x-should-retry", HeaderValue::from_static("false"));
        }
        response
    }
}
