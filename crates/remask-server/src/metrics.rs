//! What Prometheus is told.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use remask::core::request::{Statistics, Usage};
use remask::{PassRecord, ServedModel};

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered whole.
    Success,
    /// The client's mistake.
    ClientError,
    /// Ours.
    ServerError,
    /// The client has left.
    Aborted,
    /// Somebody cancelled it.
    Cancelled,
    /// It took too long.
    Timeout,
    /// It was never taken.
    Rejected,
}

impl Outcome {
    const ALL: [Self; 7] = [
        Self::Success,
        Self::ClientError,
        Self::ServerError,
        Self::Aborted,
        Self::Cancelled,
        Self::Timeout,
        Self::Rejected,
    ];

    /// As metrics and logs write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::ClientError => "client_error",
            Self::ServerError => "server_error",
            Self::Aborted => "aborted",
            Self::Cancelled => "cancelled",
            Self::Timeout => "timeout",
            Self::Rejected => "rejected",
        }
    }
}

type Labels = Vec<(&'static str, String)>;
type Counters = Family<Labels, Counter>;
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;
type Histograms = Family<Labels, Histogram, fn() -> Histogram>;

fn labels(model: &str) -> Labels {
    vec![("model", model.to_owned())]
}

/// Every metric.
pub struct Metrics {
    registry: Registry,
    success: Counters,
    failure: Counters,
    prompt_tokens: Counters,
    generation_tokens: Counters,
    parallel_tokens: Counters,
    first_token: Histograms,
    latency: Histograms,
    token_time: Histograms,
    parallel_batch: Histograms,
    hit_rate: Gauges,
    running: Gauges,
    waiting: Gauges,
    memory: Gauges,
    model_info: Gauges,
    mor_saved: Gauges,
    mor_easy: Counters,
    mor_medium: Counters,
    mor_hard: Counters,
    mor_recursions: Gauges,
    requests: Counters,
    http_requests: Counters,
    passes: Counters,
    rows: Counters,
    full_rows: Counters,
    pass_requests: Histograms,
    pass_rows: Histograms,
    queue_time: Histograms,
    pass_time: Histograms,
    slots_used: Gauges,
    slots: Gauges,
    build_info: Gauges,
    vllm: Option<[Gauges; 3]>,
    /// Sums behind the averages: recursions, decided tokens, rows, rows of full compute, by requests with MoR.
    mor: [AtomicU64; 4],
}

const COUNTS: [f64; 8] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0];
const FIRST: [f64; 13] = [0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 4.0, 7.0, 10.0];
const LONG: [f64; 14] = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0];
const TOKEN: [f64; 10] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0];
const ROWS: [f64; 12] = [1.0, 4.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0];

impl Metrics {
    /// None has moved.
    #[must_use]
    pub fn new(vllm: bool) -> Self {
        let mut registry = Registry::default();
        let mut counter = |name: &str, help: &str| {
            let family = Counters::default();
            registry.register(name, help, family.clone());
            family
        };
        let success = counter("dfastllm_request_success", "Total number of successful requests");
        let failure = counter("dfastllm_request_failure", "Total number of failed requests");
        let prompt_tokens = counter("dfastllm_prompt_tokens", "Total prompt tokens processed");
        let generation_tokens = counter("dfastllm_generation_tokens", "Total tokens generated");
        let parallel_tokens = counter("dfastllm_parallel_tokens_decoded", "Tokens committed together with another one");
        let mor_easy = counter("dfastllm_mor_tokens_easy", "Tokens that recompute depth found easy");
        let mor_medium =
            counter("dfastllm_mor_tokens_medium", "Tokens that recompute depth found neither easy nor hard");
        let mor_hard = counter("dfastllm_mor_tokens_hard", "Tokens that recompute depth found hard");
        let requests = counter("remask_requests", "Requests by how they ended");
        let http_requests = counter("remask_http_requests", "HTTP requests by route, method and status");
        let passes = counter("remask_forward_passes", "Forward passes");
        let rows = counter("remask_rows_computed", "Rows computed");
        let full_rows = counter("remask_rows_of_full_compute", "Rows that full compute would have computed");
        let mut gauge = |name: &str, help: &str| {
            let family = Gauges::default();
            registry.register(name, help, family.clone());
            family
        };
        let hit_rate = gauge("dfastllm_kv_cache_hit_rate", "Share of rows whose keys and values were reused");
        let running = gauge("dfastllm_num_requests_running", "Generations on the device");
        let waiting = gauge("dfastllm_num_requests_waiting", "Generations that wait");
        let memory = gauge("dfastllm_gpu_memory_usage_bytes", "Weights, and keys and values that are reserved");
        let model_info = gauge("dfastllm_model_info", "The model");
        let mor_saved = gauge("dfastllm_mor_compute_saved_percent", "Rows saved, of requests with recompute depth");
        let mor_recursions = gauge("dfastllm_mor_avg_recursions", "Passes a token took part in before it was decided");
        let slots_used = gauge("remask_kv_slots_used", "Slots for keys and values that are reserved");
        let slots = gauge("remask_kv_slots_capacity", "Slots for keys and values");
        let build_info = gauge("remask_build_info", "Version and device");
        let vllm = vllm.then(|| {
            [
                gauge("vllm:num_requests_running", "Generations on the device"),
                gauge("vllm:num_requests_waiting", "Generations that wait"),
                gauge("vllm:kv_cache_usage_perc", "Share of slots for keys and values that are reserved"),
            ]
        });
        let mut histogram = |name: &str, help: &str, new: fn() -> Histogram| {
            let family = Histograms::new_with_constructor(new);
            registry.register(name, help, family.clone());
            family
        };
        let first_token = histogram("dfastllm_time_to_first_token_seconds", "From arrival to the first text", || {
            Histogram::new(FIRST)
        });
        let latency = histogram("dfastllm_request_latency_seconds", "From arrival to the end", || Histogram::new(LONG));
        let token_time =
            histogram("dfastllm_time_per_output_token_seconds", "Seconds a token", || Histogram::new(TOKEN));
        let parallel_batch =
            histogram("dfastllm_parallel_batch_size", "Tokens that a generation committed in a pass", || {
                Histogram::new(COUNTS)
            });
        let pass_requests = histogram("remask_requests_per_pass", "Generations in a pass", || Histogram::new(COUNTS));
        let pass_rows = histogram("remask_rows_per_pass", "Rows of a pass", || Histogram::new(ROWS));
        let queue_time = histogram("remask_queue_seconds", "From arrival to the device", || Histogram::new(LONG));
        let pass_time = histogram("remask_time_per_pass_seconds", "Seconds a pass", || Histogram::new(TOKEN));
        Self {
            registry,
            success,
            failure,
            prompt_tokens,
            generation_tokens,
            parallel_tokens,
            first_token,
            latency,
            token_time,
            parallel_batch,
            hit_rate,
            running,
            waiting,
            memory,
            model_info,
            mor_saved,
            mor_easy,
            mor_medium,
            mor_hard,
            mor_recursions,
            requests,
            http_requests,
            passes,
            rows,
            full_rows,
            pass_requests,
            pass_rows,
            queue_time,
            pass_time,
            slots_used,
            slots,
            build_info,
            vllm,
            mor: Default::default(),
        }
    }

    /// Makes every series of a model, so that rates begin at 0.
    pub fn know(&self, model: &ServedModel) {
        let of = labels(&model.name);
        for counters in [
            &self.success,
            &self.failure,
            &self.prompt_tokens,
            &self.generation_tokens,
            &self.parallel_tokens,
            &self.mor_easy,
            &self.mor_medium,
            &self.mor_hard,
            &self.passes,
            &self.rows,
            &self.full_rows,
        ] {
            drop(counters.get_or_create(&of));
        }
        for histograms in [
            &self.first_token,
            &self.latency,
            &self.token_time,
            &self.parallel_batch,
            &self.pass_requests,
            &self.pass_rows,
            &self.queue_time,
            &self.pass_time,
        ] {
            drop(histograms.get_or_create(&of));
        }
        for outcome in Outcome::ALL {
            drop(self.requests.get_or_create(&self.ended(&model.name, outcome)));
        }
        drop(self.mor_saved.get_or_create(&of));
        drop(self.mor_recursions.get_or_create(&of));
        let kind = if model.model.architecture.is_diffusion() { "diffusion-llm" } else { "autoregressive-llm" };
        let info = vec![("model_name", model.name.clone()), ("model_type", kind.to_owned())];
        self.model_info.get_or_create(&info).set(1.0);
        let build = vec![
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("backend", model.info.backend.clone()),
            ("device", model.info.adapter.clone()),
        ];
        self.build_info.get_or_create(&build).set(1.0);
    }

    fn ended(&self, model: &str, outcome: Outcome) -> Labels {
        vec![("model", model.to_owned()), ("outcome", outcome.name().to_owned())]
    }

    /// Counts a pass.
    pub fn pass(&self, record: &PassRecord) {
        let of = labels(&record.model);
        self.passes.get_or_create(&of).inc();
        self.rows.get_or_create(&of).inc_by(record.rows as u64);
        self.full_rows.get_or_create(&of).inc_by(record.full_rows as u64);
        self.pass_requests.get_or_create(&of).observe(record.generations as f64);
        self.pass_rows.get_or_create(&of).observe(record.rows as f64);
        self.pass_time.get_or_create(&of).observe(record.time.as_secs_f64());
        for committed in record.committed.iter().filter(|count| **count > 0) {
            self.parallel_batch.get_or_create(&of).observe(*committed as f64);
        }
    }

    /// Counts an HTTP request.
    pub fn http(&self, route: &str, method: &str, status: u16) {
        let of = vec![("route", route.to_owned()), ("method", method.to_owned()), ("status", status.to_string())];
        self.http_requests.get_or_create(&of).inc();
    }

    /// Everything as text.
    #[must_use]
    pub fn text(&self, models: &[Arc<ServedModel>]) -> String {
        for model in models {
            let of = labels(&model.name);
            let (running, waiting) = model.counts();
            let (used, slots) = (model.slots_used() as f64, model.slots as f64);
            let (_, rows, full) = model.totals();
            let reused = if full == 0 { 0.0 } else { (1.0 - rows as f64 / full as f64).max(0.0) };
            self.running.get_or_create(&of).set(running as f64);
            self.waiting.get_or_create(&of).set(waiting as f64);
            self.slots_used.get_or_create(&of).set(used);
            self.slots.get_or_create(&of).set(slots);
            self.hit_rate.get_or_create(&of).set(reused);
            let bytes = model.model.checkpoint.total_bytes() as f64 + used * model.slot_bytes as f64;
            let device = vec![("model", model.name.clone()), ("device", model.info.adapter.clone())];
            self.memory.get_or_create(&device).set(bytes);
            if let Some([vllm_running, vllm_waiting, usage]) = &self.vllm {
                let of = vec![("model_name", model.name.clone())];
                vllm_running.get_or_create(&of).set(running as f64);
                vllm_waiting.get_or_create(&of).set(waiting as f64);
                usage.get_or_create(&of).set(used / slots.max(1.0));
            }
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The same in Prometheus' older form, which calls counters by their whole names.
    #[must_use]
    pub fn plain_text(&self, models: &[Arc<ServedModel>]) -> String {
        let text = self.text(models);
        let counters: HashSet<_> =
            text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.strip_suffix(" counter")).collect();
        let mut plain = String::with_capacity(text.len());
        for line in text.lines().filter(|line| *line != "# EOF") {
            let described = line.strip_prefix("# ").and_then(|rest| {
                let (kind, rest) = rest.split_once(' ')?;
                let (name, rest) = rest.split_once(' ')?;
                counters.contains(name).then(|| format!("# {kind} {name}_total {rest}"))
            });
            plain.push_str(described.as_deref().unwrap_or(line));
            plain.push('\n');
        }
        plain
    }

    /// Counts a request that was not answered whole.
    pub fn failed(&self, model: &str, outcome: Outcome, took: Duration) {
        let of = labels(model);
        self.failure.get_or_create(&of).inc();
        self.latency.get_or_create(&of).observe(took.as_secs_f64());
        self.requests.get_or_create(&self.ended(model, outcome)).inc();
    }

    /// Counts a request that was answered whole, `first` after its arrival its first text.
    pub fn answered(&self, model: &str, first: Duration, took: Duration, usage: &Usage, statistics: &Statistics) {
        let of = labels(model);
        self.success.get_or_create(&of).inc();
        self.requests.get_or_create(&self.ended(model, Outcome::Success)).inc();
        self.first_token.get_or_create(&of).observe(first.as_secs_f64());
        self.latency.get_or_create(&of).observe(took.as_secs_f64());
        self.queue_time.get_or_create(&of).observe(statistics.queue_seconds);
        if usage.completion_tokens > 0 {
            self.token_time.get_or_create(&of).observe(took.as_secs_f64() / usage.completion_tokens as f64);
        }
        self.prompt_tokens.get_or_create(&of).inc_by(usage.prompt_tokens as u64);
        self.generation_tokens.get_or_create(&of).inc_by(usage.completion_tokens as u64);
        self.parallel_tokens.get_or_create(&of).inc_by(statistics.parallel_tokens);
        let Some(mor) = &statistics.mor else { return };
        self.mor_easy.get_or_create(&of).inc_by(mor.easy);
        self.mor_medium.get_or_create(&of).inc_by(mor.medium);
        self.mor_hard.get_or_create(&of).inc_by(mor.hard);
        let more = [mor.total_recursions, mor.decided, statistics.rows_computed, statistics.rows_of_full_compute];
        let mut sums = [0u64; 4];
        for (sum, (all, more)) in sums.iter_mut().zip(self.mor.iter().zip(more)) {
            *sum = all.fetch_add(more, Ordering::Relaxed) + more;
        }
        let [recursions, decided, rows, full] = sums.map(|n| n as f64);
        self.mor_recursions.get_or_create(&of).set(recursions / decided.max(1.0));
        self.mor_saved.get_or_create(&of).set(100.0 * (1.0 - rows / full.max(1.0)));
    }
}
