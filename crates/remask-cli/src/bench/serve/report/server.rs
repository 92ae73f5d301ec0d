//! What a server says about itself.

use serde_json::Value;

use crate::bench::serve::client::{Client, Problem};

/// Requests that are computed now, by server.
pub const RUNNING: [&str; 5] = [
    "dfastllm_num_requests_running",
    "vllm:num_requests_running",
    "sglang:num_running_reqs",
    "llamacpp:requests_processing",
    "tgi_batch_current_size",
];
/// Tokens of answers since the start, by server.
pub const GENERATED: [&str; 4] = [
    "dfastllm_generation_tokens_total",
    "vllm:generation_tokens_total",
    "sglang:generation_tokens_total",
    "llamacpp:tokens_predicted_total",
];
/// Memory in bytes, by what is counted.
pub const MEMORY: [(&str, &str); 2] = [
    ("dfastllm_gpu_memory_usage_bytes", "weights, keys and values"),
    ("process_resident_memory_bytes", "resident memory of the process"),
];
/// Share of the room for keys and values that is taken.
const CACHE_SHARE: [&str; 3] = ["vllm:kv_cache_usage_perc", "vllm:gpu_cache_usage_perc", "sglang:token_usage"];

/// What Prometheus is told.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Those of a server; nothing where it has none.
    pub async fn of(client: &Client) -> Result<Option<Self>, Problem> {
        let reply = client.get("/metrics").await?;
        match reply.status {
            404 | 405 | 501 => Ok(None),
            _ if reply.is_ok() => Ok(Some(Self::parse(&reply.text))),
            _ => Err(reply.refused()),
        }
    }

    /// Series, and their values.
    pub fn parse(text: &str) -> Self {
        let series = |line: &str| {
            let line = line.trim();
            // Label values may hold spaces; a timestamp may follow the value.
            let end = if line.contains('{') { line.rfind('}')? + 1 } else { line.find(' ')? };
            let (name, rest) = line.split_at_checked(end)?;
            Some((name.to_owned(), rest.split_whitespace().next()?.parse().ok()?))
        };
        Self(text.lines().filter(|line| !line.starts_with('#')).filter_map(series).collect())
    }

    /// The value of a name, summed over its series whose labels hold `label`.
    pub fn labelled(&self, name: &str, label: &str) -> Option<f64> {
        let of = |(series, value): &(String, f64)| {
            let labels = series.strip_prefix(name)?;
            ((labels.is_empty() || labels.starts_with('{')) && labels.contains(label)).then_some(*value)
        };
        let mut found = self.0.iter().filter_map(of).peekable();
        found.peek().is_some().then(|| found.sum())
    }

    /// The value of the first of these names that there is.
    pub fn first(&self, names: &[&str]) -> Option<f64> {
        names.iter().find_map(|name| self.labelled(name, ""))
    }

    /// Counters that have grown since `before`.
    pub fn grown(&self, before: &Self) -> Vec<&str> {
        let grown = |(series, value): &&(String, f64)| {
            let name = series.split('{').next().unwrap_or(series);
            let old = before.0.iter().find(|(other, _)| other == series).map_or(0.0, |(_, old)| *old);
            name.ends_with("_total") && *value > old
        };
        self.0.iter().filter(grown).map(|(series, _)| series.as_str()).collect()
    }

    /// Places for keys and values that are taken, of those that there are, in percent.
    pub fn cache_percent(&self) -> Option<f64> {
        let used = self.first(&["remask_kv_slots_used"]);
        let slots = self.first(&["remask_kv_slots_capacity"]).filter(|slots| *slots > 0.0);
        let ours = used.zip(slots).map(|(used, slots)| used / slots * 100.0);
        ours.or_else(|| Some(self.first(&CACHE_SHARE)? * 100.0))
    }
}

/// What a server says of itself and of its model, where it says something.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    pub health: Value,
    pub version: Value,
    /// The model's entry in the list of models.
    pub card: Value,
    pub stats: Value,
    pub metrics: Metrics,
}

impl Facts {
    /// Asks it. What it does not answer is null.
    pub async fn of(client: &Client, model: &str) -> Self {
        let ask = async |path: &str| match client.get(path).await {
            Ok(reply) if reply.is_ok() => reply.json(),
            _ => Value::Null,
        };
        let models = ask("/v1/models").await;
        let list = models.get("data").and_then(Value::as_array);
        let card = list.into_iter().flatten().find(|card| card.get("id").and_then(Value::as_str) == Some(model));
        // One that is not well says so with another status.
        let health = client.get("/health").await.map(|reply| reply.json()).unwrap_or_default();
        Self {
            health,
            version: ask("/version").await,
            card: card.cloned().unwrap_or_default(),
            stats: ask("/v1/engine/stats").await,
            metrics: Metrics::of(client).await.ok().flatten().unwrap_or_default(),
        }
    }

    /// Positions that prompt and answer have together.
    pub fn context(&self) -> Option<u64> {
        self.card.get("max_model_len").and_then(Value::as_u64)
    }

    /// Whether the model is a diffusion model, as it says in one place or the other.
    pub fn diffusion(&self) -> Option<bool> {
        let kind = self.version.get("model_type").and_then(Value::as_str).map(|kind| kind.contains("diffusion"));
        self.stats.get("is_diffusion_model").and_then(Value::as_bool).or(kind)
    }

    /// What it computes on.
    pub fn device(&self) -> Option<String> {
        let said = self.health.get("device").or_else(|| self.stats.get("device"));
        said.and_then(Value::as_str).map(str::to_owned)
    }

    /// The program that answers, as far as it says.
    pub fn program(&self) -> String {
        let version = self.version.get("version").and_then(Value::as_str).unwrap_or("of unknown version");
        let owner = self.card.get("owned_by").and_then(Value::as_str).unwrap_or("a server");
        format!("{owner}, {version}")
    }
}

/// Memory in use, by what is counted, in MiB.
pub fn memory(metrics: &Metrics, stats: &Value, health: &Value) -> Vec<(String, f64)> {
    let mib = f64::from(1 << 20);
    let counted =
        MEMORY.iter().filter_map(|(name, what)| Some(((*what).to_owned(), metrics.labelled(name, "")? / mib)));
    let mut all: Vec<_> = counted.collect();
    let said = |value: &Value, path: &str| value.pointer(path).and_then(Value::as_f64);
    if let Some(peak) = said(stats, "/peak_memory_mb") {
        all.push(("peak, by /v1/engine/stats".to_owned(), peak));
    }
    if let Some(used) = said(health, "/gpu_memory/used_mb") {
        all.push(("GPU, by /health".to_owned(), used));
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_read_with_their_labels() {
        let text = "# HELP a_total x\n# TYPE a_total counter\na_total{model=\"m x\",outcome=\"success\"} 3\n\
                    a_total{model=\"m x\",outcome=\"aborted\"} 2 1700000000\nb 1e3\nab 5\nbroken\nc{ 1\n";
        let metrics = Metrics::parse(text);
        assert_eq!(metrics.labelled("a_total", ""), Some(5.0));
        assert_eq!(metrics.labelled("a_total", "aborted"), Some(2.0));
        assert_eq!((metrics.first(&["none", "b"]), metrics.first(&["a"])), (Some(1000.0), None));
        let before = Metrics::parse("a_total{model=\"m x\",outcome=\"success\"} 3\nb 1");
        assert_eq!(metrics.grown(&before), ["a_total{model=\"m x\",outcome=\"aborted\"}"]);
    }

    #[test]
    fn shares_of_the_cache_are_percents() {
        let ours = Metrics::parse("remask_kv_slots_used{model=\"a\"} 32\nremask_kv_slots_capacity{model=\"a\"} 128");
        assert_eq!(ours.cache_percent(), Some(25.0));
        assert_eq!(Metrics::parse("vllm:kv_cache_usage_perc 0.5").cache_percent(), Some(50.0));
        assert_eq!(Metrics::default().cache_percent(), None);
    }
}
