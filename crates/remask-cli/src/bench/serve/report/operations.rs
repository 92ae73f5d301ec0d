//! Trials of how a server is run: what it says of itself, what it refuses, what becomes of requests that end early or
//! come together.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::checks::{At, Found, No, demand};
use super::server::{Facts, GENERATED, Metrics, RUNNING, memory};
use crate::bench::serve::ask::{Ask, Endpoint, Template};
use crate::bench::serve::call::call;
use crate::bench::serve::client::{Client, Events, Problem, Reply};
use crate::bench::serve::sets::Kind;

fn not_offered<T>(why: &str) -> Result<T, No> {
    Err(No::NotOffered(why.to_owned()))
}

fn text<'a>(value: &'a Value, name: &str) -> Option<&'a str> {
    value.get(name).and_then(Value::as_str)
}

/// `/health` answers with success.
pub async fn health(at: &At) -> Found {
    let reply = at.client.get("/health").await?;
    if reply.status == 404 {
        return not_offered("there is no /health");
    }
    demand(reply.is_ok(), || reply.refused().to_string())?;
    let body = reply.json();
    let status = text(&body, "status").unwrap_or("no status");
    demand(!matches!(status, "unhealthy" | "degraded" | "error"), || format!("status {status}"))?;
    Ok(format!("status {}: {status}", reply.status))
}

/// The health object says that a model is loaded.
pub async fn loading(at: &At) -> Found {
    let body = &at.facts.health;
    let Some(loaded) = body.get("model_loaded") else { return not_offered("/health does not tell") };
    let state = text(body, "state").unwrap_or("unknown");
    demand(*loaded == true, || format!("model_loaded is {loaded}, state {state}"))?;
    demand(matches!(state, "ready" | "busy" | "unknown"), || format!("state {state}"))?;
    Ok(format!("state {state}, device {}", at.facts.device().unwrap_or_else(|| "unknown".to_owned())))
}

/// The list names the model.
pub async fn models(at: &At) -> Found {
    let reply = at.client.get("/v1/models").await?;
    demand(reply.is_ok(), || reply.refused().to_string())?;
    let body = reply.json();
    let ids = body.get("data").and_then(Value::as_array).into_iter().flatten().filter_map(|card| text(card, "id"));
    let ids: Vec<_> = ids.collect();
    demand(text(&body, "object") == Some("list"), || format!("object is {}", body["object"]))?;
    demand(ids.contains(&at.template.model.as_str()), || format!("{} is not in {ids:?}", at.template.model))?;
    Ok(ids.join(", "))
}

/// What the server says of the kind of its model is one thing.
pub async fn kind(at: &At) -> Found {
    let Facts { version, stats, .. } = &at.facts;
    let kind = text(version, "model_type");
    let diffusion = stats.get("is_diffusion_model").and_then(Value::as_bool);
    match (kind, diffusion) {
        (None, None) => not_offered("neither /version nor /v1/engine/stats tells"),
        (Some(kind), Some(diffusion)) if kind.contains("diffusion") != diffusion => {
            Err(No::Failed(format!("/version says {kind}, /v1/engine/stats is_diffusion_model {diffusion}")))
        }
        (kind, diffusion) => Ok(kind.map_or_else(|| format!("diffusion: {}", diffusion == Some(true)), str::to_owned)),
    }
}

/// An error that OpenAI's clients understand, with this status.
fn refusal(reply: &Reply, status: u16) -> Found {
    demand(reply.status == status, || format!("status {} in place of {status}", reply.status))?;
    let body = reply.json();
    let error = body.get("error").cloned().unwrap_or_default();
    let message = text(&error, "message").unwrap_or_default();
    demand(!message.is_empty() && text(&error, "type").is_some(), || {
        format!(
            "status {status}, but no error object with message and type: {}",
            reply.text.chars().take(80).collect::<String>()
        )
    })?;
    Ok(format!("{status}: {message}"))
}

async fn post(at: &At, ask: &Ask) -> Result<Reply, No> {
    Ok(at.client.post(ask.path, &ask.body).await?)
}

/// A temperature that is a text.
pub async fn bad_field(at: &At) -> Found {
    refusal(&post(at, &at.template.clone().with("temperature", json!("hot")).text("a")).await?, 400)
}

/// A model that nobody has.
pub async fn unknown_model(at: &At) -> Found {
    refusal(&post(at, &at.template.clone().with("model", json!("no-such-model")).text("a")).await?, 404)
}

/// More than fits.
pub async fn context(at: &At) -> Found {
    let Some(context) = at.facts.context() else { return not_offered("the list of models names no max_model_len") };
    let ask = at.template.clone().with("max_tokens", json!(context)).text("a few words before");
    refusal(&post(at, &ask).await?, 400)
}

/// Without its key nothing is answered.
pub async fn key(at: &At) -> Found {
    if !at.client.has_key() {
        return not_offered("no --api-key was given");
    }
    let ask = at.template.text("a");
    refusal(&at.client.without_key().post(ask.path, &ask.body).await?, 401)
}

async fn metrics_of(at: &At) -> Result<Metrics, No> {
    match Metrics::of(&at.client).await? {
        Some(metrics) => Ok(metrics),
        None => not_offered("there is no /metrics"),
    }
}

/// An answer's tokens are counted.
pub async fn metrics(at: &At) -> Found {
    let before = metrics_of(at).await?;
    let answer = call(&at.client, &at.template.text("Count this.")).await?;
    let begun = Instant::now();
    loop {
        let after = metrics_of(at).await?;
        let seen = match (before.first(&GENERATED), after.first(&GENERATED), answer.tokens) {
            (Some(old), Some(new), Some(tokens)) if new - old >= tokens as f64 => {
                return Ok(format!("{} tokens more", new - old));
            }
            (Some(old), Some(new), Some(tokens)) => format!("{} tokens more after an answer of {tokens}", new - old),
            _ => match after.grown(&before).first() {
                Some(one) => return Ok(format!("{one} has grown")),
                None => "no counter has grown after an answer".to_owned(),
            },
        };
        demand(begun.elapsed() < at.patience, || seen)?;
        pause().await;
    }
}

/// The server says how much memory it uses.
pub async fn memory_used(at: &At) -> Found {
    let metrics = Metrics::of(&at.client).await?.unwrap_or_default();
    let all = memory(&metrics, &at.facts.stats, &at.facts.health);
    let Some((what, mib)) = all.first() else { return not_offered("the server does not tell") };
    demand(all.iter().all(|(_, mib)| *mib > 0.0), || "it says that it uses none".to_owned())?;
    Ok(format!("{mib:.1} MiB ({what})"))
}

/// A stream that is long enough to be caught.
fn long(at: &At) -> Ask {
    let most = at.facts.context().map_or(512, |context| (context * 3 / 4).min(1024)).max(1);
    let template = Template { stream: true, max_tokens: most as usize, ..at.form(Endpoint::Completions) };
    template.with("ignore_eos", json!(at.template.ignore_eos)).text("A long story begins:")
}

async fn pause() {
    tokio::time::sleep(Duration::from_millis(5)).await;
}

/// A client that leaves is noticed, and its request ended.
pub async fn cancel(at: &At) -> Found {
    let idle = metrics_of(at).await?;
    let Some(usual) = idle.first(&RUNNING) else { return not_offered("no metric tells how many requests run") };
    let aborted = |metrics: &Metrics| metrics.labelled("remask_requests_total", "outcome=\"aborted\"");
    let ask = long(at);
    let response = at.client.send(Method::POST, ask.path, None, Some(&ask.body)).await?;
    let begun = Instant::now();
    while metrics_of(at).await?.first(&RUNNING).unwrap_or(0.0) <= usual {
        demand(begun.elapsed() < at.patience, || "it was never counted as running".to_owned())?;
        pause().await;
    }
    drop(response);
    let left = Instant::now();
    loop {
        let now = metrics_of(at).await?;
        let running = now.first(&RUNNING).unwrap_or(0.0);
        // Ours says which requests were given up: an answer that was over before shows nothing.
        let noticed = aborted(&idle).is_none() || aborted(&now) > aborted(&idle);
        if running <= usual && noticed {
            return Ok(format!("its place was free after {} ms", left.elapsed().as_millis()));
        }
        demand(left.elapsed() < at.patience, || {
            let noticed = if noticed { "" } else { ", and it is not counted as aborted" };
            format!("{running} requests run {} s after it left{noticed}", at.patience.as_secs())
        })?;
        pause().await;
    }
}

/// DELETE /v1/requests/{id} ends a stream with an error event.
pub async fn cancel_id(at: &At) -> Found {
    let ask = long(at);
    let name = format!("remask-check-{}", std::process::id());
    let response = at.client.send(Method::POST, ask.path, Some(&name), Some(&ask.body)).await?;
    demand(response.status().is_success(), || format!("status {}", response.status()))?;
    let reply = at.client.whole(Method::DELETE, &format!("/v1/requests/{name}"), None).await?;
    let status = text(&reply.json(), "status").map(str::to_owned);
    let Some(status) = status else { return not_offered("there is no DELETE /v1/requests/{id}") };
    demand(reply.is_ok() && status == "cancelled", || format!("status {}: {status}", reply.status))?;
    let end = async {
        let mut events = Events::of(response);
        while let Some(data) = events.next().await? {
            let object: Value = serde_json::from_str(&data).unwrap_or_default();
            if let Some(error) = object.get("error") {
                return Ok(Some(Problem::event(error)));
            }
        }
        Ok::<_, Problem>(None)
    };
    match tokio::time::timeout(at.patience, end).await {
        Ok(ended) => match ended? {
            Some(problem) => Ok(problem.to_string()),
            None => Err(No::Failed("the stream ended as if it had not been cancelled".to_owned())),
        },
        Err(_) => Err(No::Failed("the stream went on".to_owned())),
    }
}

/// Requests that differ in everything.
fn eight(at: &At) -> Vec<Ask> {
    let prompts = Kind::Easy.prompts().iter().chain(Kind::Hard.prompts()).step_by(2);
    let ask = |(number, prompt): (usize, &&str)| {
        let drawn =
            Template { temperature: 0.7, seed: number as u64, max_tokens: 4 + 2 * number, ..at.template.clone() };
        drawn.text(prompt)
    };
    prompts.take(8).enumerate().map(ask).collect()
}

/// The texts of answers to requests that are sent at once, in their order.
async fn together(client: &std::sync::Arc<Client>, asks: &[Ask]) -> Result<Vec<String>, No> {
    let mut running = JoinSet::new();
    for (number, ask) in asks.iter().cloned().enumerate() {
        let client = client.clone();
        running.spawn(async move { (number, call(&client, &ask).await) });
    }
    let mut texts = vec![String::new(); asks.len()];
    while let Some(ended) = running.join_next().await {
        let (number, answer) = ended.map_err(|e| No::Failed(e.to_string()))?;
        if let Some(text) = texts.get_mut(number) {
            *text = answer?.text;
        }
    }
    Ok(texts)
}

/// Eight at once are all answered.
pub async fn concurrency(at: &At) -> Found {
    let begun = Instant::now();
    let texts = together(&at.client, &eight(at)).await?;
    let answered = texts.iter().filter(|text| !text.trim().is_empty()).count();
    demand(answered == texts.len(), || format!("{answered} of {} have text", texts.len()))?;
    Ok(format!("{answered} answers within {:.2} s", begun.elapsed().as_secs_f64()))
}

/// Eight at once are answered as each is alone.
pub async fn alone(at: &At) -> Found {
    let asks = eight(at);
    let mut alone = Vec::new();
    for ask in &asks {
        alone.push(call(&at.client, ask).await?.text);
    }
    let beside = together(&at.client, &asks).await?;
    let same = alone.iter().zip(&beside).filter(|(one, other)| one == other).count();
    demand(same == asks.len(), || format!("{} of {} differ", asks.len() - same, asks.len()))?;
    Ok(format!("{same} of {same} are the same"))
}
