//! `remask serve`.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use remask::{Engine, EngineState, Handle, Queue, Source};
use remask_core::Error;
use remask_core::decode::Defaults;
use remask_server::{Metrics, ServerConfig};

use crate::bundled::BUNDLED;
use crate::decode_args::DiffusionArgs;
use crate::model_args::{DeviceArgs, open_model};
use crate::report::tell;
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Model folder, .safetensors or GGUF file, or name of a bundled model; NAME=PATH gives it a name of its own.
    /// Several times for several models: requests choose one by name, the first is the default
    #[arg(long, short, env = "REMASK_MODEL", default_value = BUNDLED.name, value_name = "[NAME=]MODEL")]
    model: Vec<String>,
    /// What requests call the default model in place of its own name; several times for several names
    #[arg(long, env = "REMASK_SERVED_MODEL_NAME", value_name = "NAME")]
    served_model_name: Vec<String>,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten, next_help_heading = "Network")]
    network: NetworkArgs,
    #[command(flatten, next_help_heading = "Limits")]
    limits: LimitArgs,
    #[command(flatten, next_help_heading = "Behaviour")]
    behaviour: BehaviourArgs,
    /// How diffusion models decode where a request says nothing
    #[command(flatten)]
    decode: DiffusionArgs,
}

#[derive(clap::Args)]
struct NetworkArgs {
    /// Address to listen on; 0.0.0.0 for all of this machine's
    #[arg(long, env = "REMASK_HOST", default_value = "127.0.0.1", value_name = "ADDRESS")]
    host: IpAddr,
    /// Port to listen on; 0 for any that is free
    #[arg(long, short, env = "REMASK_PORT", default_value_t = 8080)]
    port: u16,
    /// Key that clients must send; several times for several keys
    #[arg(long, env = "REMASK_API_KEY", value_name = "KEY", hide_env_values = true)]
    api_key: Vec<String>,
    /// File of keys, one a line; lines that begin with # are comments
    #[arg(long, env = "REMASK_API_KEY_FILE", value_name = "FILE")]
    api_key_file: Option<PathBuf>,
    /// Key that /metrics needs; without one it is open
    #[arg(long, env = "REMASK_METRICS_KEY", value_name = "KEY", hide_env_values = true)]
    metrics_key: Option<String>,
    /// Origin whose pages may call, or *; several times for several origins
    #[arg(long, env = "REMASK_ALLOWED_ORIGINS", value_delimiter = ',', value_name = "ORIGIN")]
    allow_origin: Vec<String>,
    /// Connections at once
    #[arg(long, default_value_t = ServerConfig::default().max_connections, value_name = "N")]
    max_connections: usize,
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
    #[arg(long)]
    clamp_max_tokens: bool,
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
    #[arg(long, default_value_t = 512, value_name = "N")]
    max_newcomer_rows: usize,
    /// Memory for keys and values of a model's requests, in GiB; 4, or room for eight full contexts, by default
    #[arg(long, env = "REMASK_KV_MEMORY", value_name = "GIB")]
    kv_memory: Option<f64>,
    /// Seconds from a request's arrival to the end of its answer
    #[arg(long, env = "REMASK_REQUEST_TIMEOUT", default_value_t = 300.0, value_name = "SECONDS")]
    request_timeout: f64,
    /// Requests a client may send within the window, 0 for any number
    #[arg(long, env = "REMASK_RATE_LIMIT_REQUESTS", default_value_t = 0, value_name = "N")]
    rate_limit_requests: usize,
    /// Seconds of that window
    #[arg(long, env = "REMASK_RATE_LIMIT_WINDOW", default_value_t = 60.0, value_name = "SECONDS")]
    rate_limit_window: f64,
}

#[derive(clap::Args)]
struct BehaviourArgs {
    /// Seconds after SIGTERM in which requests are still taken, for those who send them to find out
    #[arg(long, env = "REMASK_SHUTDOWN_DELAY", default_value_t = 5.0, value_name = "SECONDS")]
    shutdown_delay: f64,
    /// Seconds that requests under way have then
    #[arg(long, env = "REMASK_DRAIN_TIMEOUT", default_value_t = 30.0, value_name = "SECONDS")]
    drain_timeout: f64,
    /// Answer requests that offer tools as if they had not, in place of refusing them
    #[arg(long)]
    ignore_tools: bool,
    /// Log prompts
    #[arg(long)]
    log_content: bool,
    /// Form of the log
    #[arg(long, env = "REMASK_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// Metrics under another server's names as well, for schedulers that look for those
    #[arg(long, value_enum, value_name = "SERVER")]
    metrics_alias: Option<MetricsAlias>,
}

/// Form of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people
    Text,
    /// A JSON object a line
    Json,
}

/// Whose metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum MetricsAlias {
    /// vLLM's
    Vllm,
}

impl Args {
    /// Form of the log.
    pub fn log_format(&self) -> LogFormat {
        self.behaviour.log_format
    }

    fn config(&self) -> Result<ServerConfig, Failure> {
        let (network, limits, behaviour) = (&self.network, &self.limits, &self.behaviour);
        let mut api_keys = network.api_key.clone();
        if let Some(file) = &network.api_key_file {
            let text = std::fs::read_to_string(file).map_err(Error::io("read", file))?;
            let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
            api_keys.extend(lines.map(str::to_owned));
            if api_keys.is_empty() {
                return Err(Failure::Message(format!("{}: no key in it, which would open the server", file.display())));
            }
        }
        if api_keys.iter().any(|key| key.trim().is_empty()) {
            return Err(Failure::Message("an API key is empty".to_owned()));
        }
        let decode = self.decode.settings_in_full();
        decode.resolve(&Defaults::default()).check_settings()?;
        Ok(ServerConfig {
            api_keys,
            metrics_key: network.metrics_key.clone(),
            served_names: self.served_model_name.clone(),
            allow_origins: network.allow_origin.clone(),
            decode,
            request_timeout: seconds("--request-timeout", limits.request_timeout)?,
            shutdown_delay: seconds("--shutdown-delay", behaviour.shutdown_delay)?,
            drain_timeout: seconds("--drain-timeout", behaviour.drain_timeout)?,
            max_connections: network.max_connections.clamp(1, u32::MAX as usize),
            rate_limit: limits.rate_limit_requests,
            rate_window: seconds("--rate-limit-window", limits.rate_limit_window)?,
            ignore_tools: behaviour.ignore_tools,
            log_content: behaviour.log_content,
            vllm_metrics: behaviour.metrics_alias == Some(MetricsAlias::Vllm),
            ..ServerConfig::default()
        })
    }

    fn engine(&self, metrics: &Arc<Metrics>) -> Result<Engine, Failure> {
        let limits = &self.limits;
        let metrics = metrics.clone();
        let mut builder = Engine::builder()
            .queue(Queue { concurrent: limits.max_concurrent_requests, waiting: limits.max_queue_size })
            .rows(limits.max_pass_rows, limits.max_newcomer_rows)
            .max_tokens(limits.default_max_tokens, limits.clamp_max_tokens)
            .observe(move |pass| metrics.pass(pass));
        if let Some(gib) = limits.kv_memory {
            if !(gib.is_finite() && gib > 0.0) {
                return Err(Failure::Message(format!("--kv-memory {gib}: it must be more than 0")));
            }
            builder = builder.kv_bytes((gib * f64::from(1 << 30)) as u64);
        }
        if let Some(positions) = limits.max_model_len {
            builder = builder.context(positions.max(1));
        }
        for named in &self.model {
            builder = builder.model(self.source(named));
        }
        Ok(builder.start()?)
    }

    /// The model of `[NAME=]MODEL`.
    fn source(&self, named: &str) -> Source {
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
        Source { name, open: Box::new(move || open_model(&model)), backend }
    }
}

fn seconds(option: &str, seconds: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(seconds).map_err(|e| Failure::Message(format!("{option} {seconds}: {e}")))
}

pub fn run(args: &Args) -> Outcome {
    for unknown in unknown_variables(std::env::vars_os().filter_map(|(name, _)| name.into_string().ok())) {
        tell("note", &format!("{unknown} is set, but means nothing to this server"));
    }
    let config = args.config()?;
    if !args.network.host.is_loopback() && config.api_keys.is_empty() {
        tell("note", "the server is open to the network without a key; --api-key closes it");
    }
    tell("decoding", &serde_json::to_string(&config.decode.resolve(&Defaults::default()))?);
    let address = SocketAddr::new(args.network.host, args.network.port);
    let metrics = Arc::new(Metrics::new(config.vllm_metrics));
    let engine = args.engine(&metrics)?;
    let handle = engine.handle().clone();
    let watcher = handle.clone();
    let listening = move |address: SocketAddr| {
        tell("listening", &format!("http://{address}"));
        std::thread::spawn(move || show_progress(&watcher));
    };
    let chat = |address: SocketAddr| {
        for model in handle.models() {
            tell("model", &format!("{} on {} ({})", model.name, model.info.adapter, model.info.backend));
            model.notes.iter().for_each(|note| tell("note", note));
        }
        let body = r#"{"messages": [{"role": "user", "content": "Tell me about a dog."}]}"#;
        let curl = format!("curl http://{address}/v1/chat/completions -H 'Content-Type: application/json' -d '{body}'");
        tell("ready", &curl);
    };
    Ok(remask_server::serve(address, &engine, config, metrics, listening, chat)?)
}

/// A bar for as long as models are being loaded.
fn show_progress(engine: &Handle) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("loading {msg} {bar:30} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    while let EngineState::Loading { model, loaded, total } = engine.state() {
        bar.set_message(model);
        bar.set_length(total);
        bar.set_position(loaded);
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
}

/// Variables of dfastllm that are set and that nothing here reads.
fn unknown_variables(names: impl Iterator<Item = String>) -> Vec<String> {
    let known = |name: &String| crate::ALIASES.iter().any(|(_, alias)| alias == name);
    let mut unknown: Vec<_> = names.filter(|name| name.starts_with("VDIFF_") && !known(name)).collect();
    unknown.sort();
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_that_mean_nothing_are_said() {
        let set = ["VDIFF_PORT", "VDIFF_WORKERS", "PATH", "VDIFF_API_KEY"].map(str::to_owned);
        assert_eq!(unknown_variables(set.into_iter()), ["VDIFF_WORKERS"]);
    }
}
