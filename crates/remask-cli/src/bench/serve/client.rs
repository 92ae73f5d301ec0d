//! HTTP to the server that is measured.
//!
//! hyper's own client, whose other half `remask serve` is made of already: keep-alive, a connection for each request
//! under way, and a body that is dropped closes its connection, which is how clients abort. No redirects, cookies,
//! proxies or decompression, which would only blur what is measured.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HeaderName, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client as Pool};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use super::sse::Parser;
use crate::Failure;

/// Bytes of an answer that is read whole.
const MOST: usize = 64 << 20;
/// Characters of a message that a server gives with an error.
const MESSAGE: usize = 300;

/// Why a request was not answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Problem {
    /// No connection, or one that broke.
    #[error("connection: {0}")]
    Connection(String),
    /// Another status than 200 to 299.
    #[error("status {status}: {message}")]
    Status {
        /// The status.
        status: u16,
        /// What came with it.
        message: String,
    },
    /// An error in place of a stream's next chunk.
    #[error("error event {code}: {message}")]
    Event {
        /// Its code, or type.
        code: String,
        /// What it says.
        message: String,
    },
    /// An answer that is none.
    #[error("{0}")]
    Malformed(String),
    /// No end within the time given.
    #[error("no end after {} s", .0.as_secs_f64())]
    Timeout(Duration),
}

impl Problem {
    /// What it is counted as.
    pub fn kind(&self) -> String {
        match self {
            Self::Connection(_) => "connection".to_owned(),
            Self::Status { status, .. } => format!("status {status}"),
            Self::Event { code, .. } => format!("error event {code}"),
            Self::Malformed(_) => "malformed answer".to_owned(),
            Self::Timeout(_) => "timeout".to_owned(),
        }
    }

    /// The error object of a server, in a stream.
    pub fn event(error: &Value) -> Self {
        let text = |name: &str| error.get(name).filter(|value| !value.is_null()).map(plain);
        let code = text("code").or_else(|| text("type")).unwrap_or_else(|| "without a code".to_owned());
        Self::Event { code: cut(&code, 60), message: cut(&text("message").unwrap_or_else(|| plain(error)), MESSAGE) }
    }
}

/// A JSON value as a message: a text without its quotes.
fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn cut(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// A server's answer, read whole.
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its body.
    pub text: String,
}

impl Reply {
    /// Whether the status is one of success.
    pub fn is_ok(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// The body as JSON, null where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_default()
    }

    /// What is wrong, where it is no success.
    pub fn refused(&self) -> Problem {
        let json = self.json();
        let said = json.pointer("/error/message").or_else(|| json.get("message")).or_else(|| json.get("detail"));
        let message = said.map_or_else(|| self.text.clone(), plain);
        Problem::Status { status: self.status, message: cut(&message, MESSAGE) }
    }
}

/// Connections: certificates are only read where they are needed, as a container may have none.
#[derive(Clone)]
enum Http {
    Plain(Pool<HttpConnector, Full<Bytes>>),
    Tls(Pool<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

fn pool() -> Builder {
    let mut builder = Pool::builder(TokioExecutor::new());
    builder.pool_timer(TokioTimer::new());
    builder
}

/// Speaks to one server.
pub struct Client {
    http: Http,
    base: String,
    key: Option<HeaderValue>,
    /// How long a request may take.
    pub timeout: Duration,
}

impl Client {
    /// To the server at `url`, with or without `/v1` behind it.
    pub fn new(url: &str, key: Option<&str>, timeout: Duration) -> Result<Self, Failure> {
        let wrong = |why: &str| Failure::Message(format!("--url {url}: {why}"));
        let url = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let parsed: Uri = url.parse().map_err(|e: hyper::http::uri::InvalidUri| wrong(&e.to_string()))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || parsed.host().is_none_or(str::is_empty) {
            return Err(wrong("an address such as http://127.0.0.1:8080 is needed"));
        }
        if parsed.query().is_some() {
            return Err(wrong("a query has no place in it"));
        }
        let base = url.trim_end_matches('/');
        let base = base.strip_suffix("/v1").unwrap_or(base).trim_end_matches('/').to_owned();
        let key = key.map(|key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
                .map_err(|_| Failure::Message("--api-key: it has characters that no header may have".to_owned()))?;
            value.set_sensitive(true);
            Ok::<_, Failure>(value)
        });
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(Duration::from_secs(30).min(timeout)));
        let http = if parsed.scheme_str() == Some("https") {
            let tls = HttpsConnectorBuilder::new().with_native_roots();
            let tls = tls.map_err(|e| Failure::Message(format!("the system's certificates, for https: {e}")))?;
            Http::Tls(pool().build(tls.https_only().enable_http1().wrap_connector(connector)))
        } else {
            Http::Plain(pool().build(connector))
        };
        Ok(Self { http, base, key: key.transpose()?, timeout })
    }

    /// The address, without a path.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// The same server without a key.
    pub fn without_key(&self) -> Self {
        Self { http: self.http.clone(), base: self.base.clone(), key: None, timeout: self.timeout }
    }

    /// Whether a key is sent.
    pub fn has_key(&self) -> bool {
        self.key.is_some()
    }

    /// Sends a request and waits for the head of its answer. No limit of time but that of the connection.
    pub async fn send(
        &self,
        method: Method,
        path: &str,
        name: Option<&str>,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Problem> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.base));
        if let Some(key) = &self.key {
            request = request.header(AUTHORIZATION, key);
        }
        if let Some(name) = name {
            request = request.header(HeaderName::from_static("x-request-id"), name);
        }
        if body.is_some() {
            request = request.header(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        }
        let bytes = body.map(|body| Bytes::from(body.to_string())).unwrap_or_default();
        let request = request.body(Full::new(bytes)).map_err(|e| Problem::Connection(e.to_string()))?;
        let answered = match &self.http {
            Http::Plain(pool) => pool.request(request).await,
            Http::Tls(pool) => pool.request(request).await,
        };
        answered.map_err(|e| Problem::Connection(causes(&e)))
    }

    /// Sends a request and reads its whole answer, whatever its status, within the time given.
    pub async fn whole(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Reply, Problem> {
        let whole = async { read(self.send(method, path, None, body).await?).await };
        tokio::time::timeout(self.timeout, whole).await.unwrap_or(Err(Problem::Timeout(self.timeout)))
    }

    /// What a path says.
    pub async fn get(&self, path: &str) -> Result<Reply, Problem> {
        self.whole(Method::GET, path, None).await
    }

    /// What a path answers to a body.
    pub async fn post(&self, path: &str, body: &Value) -> Result<Reply, Problem> {
        self.whole(Method::POST, path, Some(body)).await
    }
}

/// An error with what caused it: hyper's own words say little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    cut(&text, MESSAGE)
}

/// Reads a body to its end.
pub async fn read(response: Response<Incoming>) -> Result<Reply, Problem> {
    let status = response.status().as_u16();
    let body = Limited::new(response.into_body(), MOST).collect().await;
    let bytes = body.map_err(|e| Problem::Connection(causes(&*e)))?.to_bytes();
    Ok(Reply { status, text: String::from_utf8_lossy(&bytes).into_owned() })
}

/// The events of a response, one by one. Dropping it closes the connection.
pub struct Events {
    body: Incoming,
    parser: Parser,
    ready: std::collections::VecDeque<String>,
    over: bool,
}

impl Events {
    /// Of a response.
    pub fn of(response: Response<Incoming>) -> Self {
        Self { body: response.into_body(), parser: Parser::default(), ready: Default::default(), over: false }
    }

    /// The next event's data; none at the end of the body.
    pub async fn next(&mut self) -> Result<Option<String>, Problem> {
        let long = |e: super::sse::TooLong| Problem::Malformed(e.to_string());
        let mut events = Vec::new();
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(Some(event));
            }
            if self.over {
                return Ok(None);
            }
            match self.body.frame().await {
                Some(frame) => {
                    let frame = frame.map_err(|e| Problem::Connection(causes(&e)))?;
                    if let Some(bytes) = frame.data_ref() {
                        self.parser.feed(bytes, &mut events).map_err(long)?;
                    }
                }
                None => {
                    self.over = true;
                    events.extend(self.parser.finish().map_err(long)?);
                }
            }
            self.ready.extend(events.drain(..));
        }
    }
}
