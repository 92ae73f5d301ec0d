//! Options of `remask serve`, each with its variable and its key in the configuration file.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use clap::builder::BoolishValueParser;
use ipnet::IpNet;
use remask::{Engine, Queue, Source};
use remask_core::decode::Defaults;
use remask_server::{Metrics, ServerConfig};

use super::theirs::TheirArgs;
use crate::Failure;
use crate::bundled::BUNDLED;
use crate::decode_args::DiffusionArgs;
use crate::model_args::{DeviceArgs, TokenizerArgs, open_model_with};

#[derive(clap::Args)]
pub struct Args {
    /// The default model, in front of those of --model
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    /// Model folder, .safetensors or GGUF file, or name of a bundled model; NAME=PATH gives it a name of its own.
    /// Several times for several models: requests choose one by name, the first is the default. Without any it is
    /// the model of the binary
    #[arg(long, short, env = "REMASK_MODEL", value_name = "[NAME=]MODEL")]
    model: Vec<String>,
    #[command(flatten)]
    tokenizer: TokenizerArgs,
    /// What requests call the default model in place of its own name; several times for several names
    #[arg(long, env = "REMASK_SERVED_MODEL_NAME", value_delimiter = ',', value_name = "NAME")]
    served_model_name: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Folder for compiled kernels and tuning, empty for none. By default the system's for caches, else one of the
    /// temporary folder, else none
    #[arg(long, env = "REMASK_CACHE_DIR", value_name = "FOLDER")]
    cache_dir: Option<OsString>,
    #[command(flatten)]
    configuration: ConfigurationArgs,
    #[command(flatten, next_help_heading = "Network")]
    network: NetworkArgs,
    #[command(flatten, next_help_heading = "Limits")]
    limits: LimitArgs,
    #[command(flatten, next_help_heading = "Behaviour")]
    behaviour: BehaviourArgs,
    #[command(flatten, next_help_heading = "Log")]
    log: LogArgs,
    /// How diffusion models decode where a request says nothing
    #[command(flatten)]
    decode: DiffusionArgs,
    #[command(flatten)]
    theirs: TheirArgs,
}

#[derive(clap::Args)]
struct ConfigurationArgs {
    /// TOML file with these options by name; options and variables go before what it says
    #[arg(long, env = "REMASK_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print what options, variables and the file come to, as such a file without its keys, and exit
    #[arg(long)]
    print_config: bool,
}

#[derive(clap::Args)]
struct NetworkArgs {
    /// Address to listen on; 0.0.0.0 for all of this machine's
    #[arg(long, short_alias = 'H', env = "REMASK_HOST", default_value = "127.0.0.1", value_name = "ADDRESS", value_parser = address)]
    host: IpAddr,
    /// Port to listen on; 0 for any that is free
    #[arg(long, short, env = "REMASK_PORT", default_value_t = 8080)]
    port: u16,
    /// Key that clients must send; several times for several keys
    #[arg(long, env = "REMASK_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File of keys, one a line; lines that begin with # are comments. SIGHUP has it read again
    #[arg(long, env = "REMASK_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Key that /metrics needs; without one it is open
    #[arg(long, env = "REMASK_METRICS_KEY", value_name = "KEY", hide_env_values = true)]
    metrics_key: Option<String>,
    /// Address and port for /metrics alone, which is then not among the other routes
    #[arg(long, env = "REMASK_METRICS_ADDRESS", value_name = "ADDRESS:PORT")]
    metrics_address: Option<SocketAddr>,
    /// Origin whose pages may call, or *; several times for several origins
    #[arg(long, env = "REMASK_ALLOWED_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Address or network of a proxy whose X-Forwarded-For is believed; several times for several
    #[arg(long, env = "REMASK_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORK", value_parser = network)]
    trusted_proxies: Vec<IpNet>,
    /// The page at /playground; auto has it where the server listens for this machine alone
    #[arg(long, env = "REMASK_PLAYGROUND", value_enum, default_value = "auto")]
    playground: Playground,
    /// Connections at once
    #[arg(long, env = "REMASK_MAX_CONNECTIONS", default_value_t = ServerConfig::default().max_connections, value_name = "N")]
    max_connections: usize,
}

/// `localhost` is an address as well.
fn address(text: &str) -> Result<IpAddr, String> {
    let text = if text == "localhost" { "127.0.0.1" } else { text };
    text.parse()
        .map_err(|_| "it must be an IP address, such as 127.0.0.1, or 0.0.0.0 for all of this machine's".to_owned())
}

/// An address is a network of one.
fn network(text: &str) -> Result<IpNet, String> {
    let alone = text.parse::<IpAddr>().ok().map(IpNet::from);
    alone
        .or_else(|| text.parse().ok())
        .ok_or_else(|| "it must be an address or a network, such as 10.0.0.0/8".to_owned())
}

#[derive(clap::Args)]
struct LimitArgs {
    /// Tokens of prompt and answer together at most, where that is less than the model's own
    #[arg(long, env = "REMASK_MAX_MODEL_LEN", value_name = "N")]
    max_model_len: Option<usize>,
    /// Tokens of a chat's answer where a request says nothing; fewer where there is no room
    #[arg(long, env = "REMASK_DEFAULT_MAX_TOKENS", default_value_t = 1024, value_name = "N")]
    default_max_tokens: usize,
    /// Write fewer tokens where there is no room for those that a request asks for, in place of refusing it
    #[arg(long, env = "REMASK_CLAMP_MAX_TOKENS", value_parser = BoolishValueParser::new())]
    clamp_max_tokens: bool,
    /// Compute every prompt anew: texts that begin alike share no keys and values, and none are kept after an answer.
    /// Only autoregressive models share them
    #[arg(long, env = "REMASK_NO_PREFIX_CACHE", value_parser = BoolishValueParser::new())]
    no_prefix_cache: bool,
    /// Answers under way at once; as many as there is room for by default
    #[arg(long, env = "REMASK_MAX_CONCURRENT_REQUESTS", value_name = "N")]
    max_concurrent_requests: Option<usize>,
    /// Answers that may wait for room; further ones are refused with 429
    #[arg(long, env = "REMASK_MAX_QUEUE_SIZE", default_value_t = 256, value_name = "N")]
    max_queue_size: usize,
    /// Rows of a pass at most
    #[arg(
        long,
        env = "REMASK_MAX_PASS_ROWS",
        visible_alias = "max-num-batched-tokens",
        default_value_t = 2048,
        value_name = "N"
    )]
    max_pass_rows: usize,
    /// Of these, rows of requests that begin: they keep those under way waiting
    #[arg(long, env = "REMASK_MAX_NEWCOMER_ROWS", default_value_t = 512, value_name = "N")]
    max_newcomer_rows: usize,
    /// Memory for keys and values of a model's requests, in GiB; 4, or room for eight full contexts, by default
    #[arg(long, env = "REMASK_KV_MEMORY", value_name = "GIB", value_parser = gibibytes, allow_negative_numbers = true)]
    kv_memory: Option<f64>,
    /// Seconds from a request's arrival to the end of its answer
    #[arg(long, env = "REMASK_REQUEST_TIMEOUT", default_value_t = 300.0, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    request_timeout: f64,
    /// Requests a client may send within the window, 0 for any number. A client is a key, where there are any, else an
    /// address
    #[arg(long, env = "REMASK_RATE_LIMIT_REQUESTS", default_value_t = 0, value_name = "N")]
    rate_limit_requests: usize,
    /// Seconds of that window
    #[arg(long, env = "REMASK_RATE_LIMIT_WINDOW", default_value_t = 60.0, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    rate_limit_window: f64,
}

#[derive(clap::Args)]
struct BehaviourArgs {
    /// Seconds after SIGTERM in which requests are still taken, for those who send them to find out
    #[arg(long, env = "REMASK_SHUTDOWN_DELAY", default_value_t = 5.0, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    shutdown_delay: f64,
    /// Seconds that requests under way have then
    #[arg(long, env = "REMASK_DRAIN_TIMEOUT", default_value_t = 30.0, value_name = "SECONDS", value_parser = seconds, allow_negative_numbers = true)]
    drain_timeout: f64,
    /// Answer requests that offer tools as if they had not, in place of refusing them
    #[arg(long, env = "REMASK_IGNORE_TOOLS", value_parser = BoolishValueParser::new())]
    ignore_tools: bool,
    /// Metrics under another server's names as well, for schedulers that look for those
    #[arg(long, env = "REMASK_METRICS_ALIAS", value_enum, value_name = "SERVER")]
    metrics_alias: Option<MetricsAlias>,
}

#[derive(clap::Args)]
struct LogArgs {
    /// What is logged: a level, or a filter such as warn,remask_server=debug
    #[arg(
        long,
        env = "REMASK_LOG",
        visible_alias = "log-level",
        alias = "uvicorn-log-level",
        default_value = "info",
        value_name = "FILTER",
        value_parser = |text: &str| super::log::filter(text).map(|_| text.to_owned())
    )]
    log: String,
    /// Form of the log
    #[arg(long, env = "REMASK_LOG_FORMAT", value_enum, default_value = "text")]
    log_format: LogFormat,
    /// Log prompts
    #[arg(long, env = "REMASK_LOG_CONTENT", value_parser = BoolishValueParser::new())]
    log_content: bool,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

/// Whether there is a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Playground {
    /// Always
    On,
    /// Never
    Off,
    /// On this machine
    Auto,
}

/// Whose metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MetricsAlias {
    /// vLLM's
    Vllm,
}

impl Args {
    /// What is logged, and in which form.
    pub fn log(&self) -> (&str, LogFormat) {
        (&self.log.log, self.log.log_format)
    }

    /// Whether only the configuration is wanted.
    pub fn print_config(&self) -> bool {
        self.configuration.print_config
    }

    /// Where to listen.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.network.host, self.network.port)
    }

    /// The cache's folder, where one is named.
    pub fn cache_dir(&self) -> Option<&OsString> {
        self.cache_dir.as_ref()
    }

    /// Limits that the engine keeps, for people.
    pub fn engine_limits(&self) -> String {
        let limits = &self.limits;
        let or = |value: Option<String>, otherwise: &str| value.unwrap_or_else(|| otherwise.to_owned());
        format!(
            "{} answers at once and {} that wait, {} rows a pass ({} of newcomers), {} for keys and values",
            or(limits.max_concurrent_requests.map(|n| n.to_string()), "as many as there is room for"),
            limits.max_queue_size,
            limits.max_pass_rows,
            limits.max_newcomer_rows,
            or(limits.kv_memory.map(|gib| format!("{gib} GiB")), "4 GiB or eight full contexts"),
        )
    }

    /// The server's settings.
    pub fn config(&self) -> Result<ServerConfig, Failure> {
        let (network, limits, behaviour) = (&self.network, &self.limits, &self.behaviour);
        if network.api_key.iter().chain(&network.metrics_key).any(|key| key.trim().is_empty()) {
            return Err(Failure::Message("an API key is empty; leave it out to need none".to_owned()));
        }
        let decode = self.decode.settings_in_full();
        decode.resolve(&Defaults::default()).check_settings()?;
        Ok(ServerConfig {
            api_keys: network.api_key.clone(),
            api_key_file: network.api_key_file.clone(),
            metrics_key: network.metrics_key.clone(),
            metrics_address: network.metrics_address,
            served_names: self.served_model_name.clone(),
            allow_origins: network.allow_origin.clone(),
            trusted_proxies: network.trusted_proxies.clone(),
            decode,
            request_timeout: Duration::from_secs_f64(limits.request_timeout),
            shutdown_delay: Duration::from_secs_f64(behaviour.shutdown_delay),
            drain_timeout: Duration::from_secs_f64(behaviour.drain_timeout),
            max_connections: network.max_connections.clamp(1, u32::MAX as usize),
            rate_limit: limits.rate_limit_requests,
            rate_window: Duration::from_secs_f64(limits.rate_limit_window),
            ignore_tools: behaviour.ignore_tools,
            log_content: self.log.log_content,
            log_stats: self.decode.log_stats(),
            vllm_metrics: behaviour.metrics_alias == Some(MetricsAlias::Vllm),
            ..ServerConfig::default()
        })
    }

    /// Starts the engine, whose passes are counted.
    pub fn engine(&self, metrics: &Arc<Metrics>) -> Result<Engine, Failure> {
        let limits = &self.limits;
        let metrics = metrics.clone();
        let mut builder = Engine::builder()
            .queue(Queue { concurrent: limits.max_concurrent_requests, waiting: limits.max_queue_size })
            .rows(limits.max_pass_rows, limits.max_newcomer_rows)
            .max_tokens(limits.default_max_tokens, limits.clamp_max_tokens)
            .share_prefixes(!limits.no_prefix_cache)
            .observe(move |pass| metrics.pass(pass));
        if let Some(gib) = limits.kv_memory {
            builder = builder.kv_bytes((gib * f64::from(1 << 30)) as u64);
        }
        if let Some(positions) = limits.max_model_len {
            builder = builder.context(positions.max(1));
        }
        for (index, named) in self.models().into_iter().enumerate() {
            // A tokenizer is one model's.
            let tokenizer = if index == 0 { self.tokenizer.clone() } else { TokenizerArgs::default() };
            builder = builder.model(self.source(named, tokenizer));
        }
        Ok(builder.start()?)
    }

    /// Every model, the default first.
    fn models(&self) -> Vec<&str> {
        let named: Vec<_> = self.first.iter().chain(&self.model).map(String::as_str).collect();
        if named.is_empty() { vec![BUNDLED.name] } else { named }
    }

    /// The model of `[NAME=]MODEL`.
    fn source(&self, named: &str, tokenizer: TokenizerArgs) -> Source {
        let device = self.device.clone();
        let backend = Box::new(move |model: &remask_core::Model, progress: &mut dyn FnMut(u64)| {
            device.backend.open(&device, model, progress)
        });
        let path = std::path::Path::new(named);
        let (name, model) = match named.split_once('=') {
            Some((name, model)) if !path.exists() && !name.is_empty() => (name.to_owned(), model.to_owned()),
            _ => {
                let last = path.file_name().map(|name| name.to_string_lossy().into_owned());
                (last.unwrap_or_else(|| named.to_owned()), named.to_owned())
            }
        };
        Source { name, open: Box::new(move || open_model_with(&model, &tokenizer)), backend }
    }

    /// Whether the page at `/playground` is wanted.
    pub fn playground(&self) -> bool {
        match self.network.playground {
            Playground::On => true,
            Playground::Off => false,
            Playground::Auto => self.network.host.is_loopback(),
        }
    }
}

/// Seconds that are a duration.
fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text.trim().parse::<f64>().map_err(|problem| problem.to_string())?;
    Duration::try_from_secs_f64(seconds).map(|_| seconds).map_err(|problem| problem.to_string())
}

fn gibibytes(text: &str) -> Result<f64, String> {
    let gib = text.trim().parse::<f64>().map_err(|problem| problem.to_string())?;
    if gib.is_finite() && gib > 0.0 { Ok(gib) } else { Err("it must be more than 0".to_owned()) }
}
