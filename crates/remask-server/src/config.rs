//! How a server behaves.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use remask::core::DecodeSettings;

/// Settings of a server. The engine has its own.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Keys that open the guarded routes; none opens them to everybody.
    pub api_keys: Vec<String>,
    /// A file of further keys, one a line; [`App::reload_keys`](crate::App::reload_keys) reads it again.
    pub api_key_file: Option<PathBuf>,
    /// Networks of proxies whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Where `/metrics` is, and nothing else, in place of among the other routes.
    pub metrics_address: Option<SocketAddr>,
    /// A key that `/metrics` needs; it is open where there is none.
    pub metrics_key: Option<String>,
    /// Other names of the default model. The first is the one that `/v1/models` and answers say, where there is one.
    pub served_names: Vec<String>,
    /// Origins whose pages may call, `*` for all; none switches CORS off.
    pub allow_origins: Vec<String>,
    /// How diffusion models decode where a request says nothing. A request with a preset of its own takes nothing of it.
    pub decode: DecodeSettings,
    /// From a request's arrival to the end of its answer.
    pub request_timeout: Duration,
    /// After the signal to stop, new requests are still taken for this long: whoever sends them needs to be told.
    pub shutdown_delay: Duration,
    /// Then those under way have this long.
    pub drain_timeout: Duration,
    /// Bytes of a request's body.
    pub max_body: usize,
    /// For reading a body.
    pub body_timeout: Duration,
    /// For reading a request's head.
    pub head_timeout: Duration,
    /// A connection without a request is closed after this.
    pub keep_alive: Duration,
    /// A reader that takes nothing for this long is dropped.
    pub write_timeout: Duration,
    /// Connections at once.
    pub max_connections: usize,
    /// Between comments on a stream that says nothing.
    pub ping: Duration,
    /// Requests a client may send to the routes that generate within a window, 0 for any number.
    pub rate_limit: usize,
    /// That window.
    pub rate_window: Duration,
    /// Write on as if no tools had been given, in place of refusing them.
    pub ignore_tools: bool,
    /// Log prompts and answers.
    pub log_content: bool,
    /// Log what recompute depth did for each request.
    pub log_stats: bool,
    /// The page at `/playground`.
    pub playground: bool,
    /// Names for schedulers that look for vLLM's metrics.
    pub vllm_metrics: bool,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            api_keys: Vec::new(),
            api_key_file: None,
            trusted_proxies: Vec::new(),
            metrics_address: None,
            metrics_key: None,
            served_names: Vec::new(),
            allow_origins: Vec::new(),
            decode: DecodeSettings::default(),
            request_timeout: Duration::from_secs(300),
            shutdown_delay: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
            max_body: 10 << 20,
            body_timeout: Duration::from_secs(60),
            head_timeout: Duration::from_secs(30),
            keep_alive: Duration::from_secs(75),
            write_timeout: Duration::from_secs(60),
            max_connections: 4096,
            ping: Duration::from_secs(15),
            rate_limit: 0,
            rate_window: Duration::from_secs(60),
            ignore_tools: false,
            log_content: false,
            log_stats: false,
            playground: true,
            vllm_metrics: false,
        }
    }
}

/// Most choices of a request for each prompt.
pub const MOST_CHOICES: u64 = 16;
/// Most prompts of a request.
pub const MOST_PROMPTS: usize = 64;
/// Most messages of a conversation.
pub const MOST_MESSAGES: usize = 1000;
/// Most stop strings.
pub const MOST_STOPS: usize = 16;
/// Most of the likeliest tokens with log-probabilities.
pub const MOST_LOGPROBS: u64 = 20;
/// Headers of a request.
pub const MOST_HEADERS: usize = 1024;
/// Bytes of a request's head.
pub const MAX_HEAD: usize = 64 << 10;
