//! Answers in OpenAI's forms.

use remask::core::request::{Choice, Delta, Statistics, TokenLog, Usage};
use remask::{Answer, End, Event};
use serde_json::{Map, Value, json};

use crate::ask::{Ask, Form};

/// The least log-probability that is written: JSON knows no infinity.
const FLOOR: f32 = -9999.0;

/// `usage`, with OpenAI's fields.
#[must_use]
pub fn usage(usage: &Usage) -> Value {
    json!({
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens(),
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    })
}

fn clipped(logprob: f32) -> f32 {
    // A NaN becomes the floor as well.
    logprob.max(FLOOR)
}

/// The log-probability of an answer's token, which has one.
fn own(log: &TokenLog) -> f32 {
    log.logprob.unwrap_or(FLOOR)
}

fn chat_logprobs(logs: &[TokenLog]) -> Value {
    let entry = |token: &remask::core::request::TokenText, logprob: f32| json!({"token": token.token, "logprob": clipped(logprob), "bytes": token.bytes()});
    let content = logs.iter().map(|log| {
        let mut one = entry(&log.token, own(log));
        one["top_logprobs"] = log.top.iter().map(|(token, logprob)| entry(token, *logprob)).collect();
        one
    });
    json!({"content": content.collect::<Vec<_>>(), "refusal": null})
}

fn completion_logprobs(logs: &[TokenLog], before: usize) -> Value {
    let top = |log: &TokenLog| {
        if log.logprob.is_none() {
            return Value::Null;
        }
        let mut map = Map::new();
        for (token, logprob) in &log.top {
            // Of two that look alike the likelier one stays.
            map.entry(token.token.clone()).or_insert_with(|| json!(clipped(*logprob)));
        }
        Value::Object(map)
    };
    let any = logs.iter().any(|log| !log.top.is_empty());
    json!({
        "tokens": logs.iter().map(|log| log.token.token.as_str()).collect::<Vec<_>>(),
        "token_logprobs": logs.iter().map(|log| log.logprob.map(clipped)).collect::<Vec<_>>(),
        "top_logprobs": any.then(|| logs.iter().map(top).collect::<Vec<_>>()),
        "text_offset": logs.iter().map(|log| before + log.offset).collect::<Vec<_>>(),
    })
}

/// What the answer to a request says in all its parts.
pub struct Shape {
    form: Form,
    /// `id`.
    pub id: String,
    created: u64,
    model: String,
    /// Texts that stand before answers, by choice.
    echo: Vec<String>,
    wants_logprobs: bool,
    include_usage: bool,
    continuous_usage: bool,
    /// Choices whose role was said.
    begun: Vec<bool>,
    /// Tokens of each choice so far.
    tokens: Vec<usize>,
    prompt_tokens: usize,
    /// Costs of choices that have ended.
    statistics: Vec<Statistics>,
}

impl Shape {
    /// Of the answer to `ask`, called `id`.
    #[must_use]
    pub fn of(ask: &Ask, id: String, created: u64) -> Self {
        let choices: usize = ask.requests.iter().map(|request| request.n).sum();
        let echoes = ask.echo.iter().flatten().zip(&ask.requests);
        Self {
            form: ask.form,
            id,
            created,
            model: ask.model_name.clone(),
            echo: echoes.flat_map(|(text, request)| vec![text.clone(); request.n]).collect(),
            wants_logprobs: ask.requests.iter().any(|request| request.settings.logprobs.is_some()),
            include_usage: ask.include_usage,
            continuous_usage: ask.continuous_usage,
            begun: vec![false; choices],
            tokens: vec![0; choices],
            prompt_tokens: 0,
            statistics: Vec::new(),
        }
    }

    /// Tokens of the prompt, once they are known.
    pub fn prompt_tokens(&mut self, count: usize) {
        self.prompt_tokens = count;
    }

    fn echo(&self, index: usize) -> &str {
        self.echo.get(index).map_or("", String::as_str)
    }

    fn logprobs(&self, index: usize, logs: &[TokenLog]) -> Value {
        match self.form {
            _ if !self.wants_logprobs => Value::Null,
            Form::Chat => chat_logprobs(logs),
            Form::Completion => completion_logprobs(logs, self.echo(index).chars().count()),
        }
    }

    /// A whole answer.
    #[must_use]
    pub fn whole(&self, answer: &Answer) -> Value {
        let choice = |(index, choice): (usize, &Choice)| {
            let logprobs = choice.logprobs.as_ref().map_or(Value::Null, |logs| self.logprobs(index, logs));
            let text = format!("{}{}", self.echo(index), choice.text);
            let mut value = match self.form {
                Form::Chat => {
                    json!({"index": index, "message": {"role": "assistant", "content": text, "refusal": null}})
                }
                Form::Completion => json!({"index": index, "text": text}),
            };
            value["logprobs"] = logprobs;
            value["finish_reason"] = json!(choice.finish_reason);
            if !choice.fills.is_empty() {
                value["remask"] = json!({"fills": choice.fills});
            }
            value
        };
        let object = match self.form {
            Form::Chat => "chat.completion",
            Form::Completion => "text_completion",
        };
        json!({
            "id": self.id,
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": answer.choices.iter().enumerate().map(choice).collect::<Vec<_>>(),
            "usage": usage(&answer.usage),
            "parallel_tokens_decoded": answer.statistics.parallel_tokens,
            "remask": answer.statistics,
        })
    }

    fn chunk(&self, choices: Vec<Value>) -> Value {
        let object = match self.form {
            Form::Chat => "chat.completion.chunk",
            Form::Completion => "text_completion",
        };
        let mut chunk = json!({
            "id": self.id, "object": object, "created": self.created, "model": self.model, "choices": choices,
        });
        if self.continuous_usage {
            chunk["usage"] = usage(&self.usage());
        } else if self.include_usage {
            chunk["usage"] = Value::Null;
        }
        chunk
    }

    fn usage(&self) -> Usage {
        let completion_tokens = self.tokens.iter().sum();
        let cached_tokens = self.statistics.iter().map(|one| one.cached_tokens).sum();
        Usage { prompt_tokens: self.prompt_tokens, completion_tokens, cached_tokens }
    }

    /// What a chunk says of one choice.
    fn part(&self, index: usize, text: Option<&str>, logs: &[TokenLog], finish: Option<&str>) -> Value {
        let logprobs = if logs.is_empty() { Value::Null } else { self.logprobs(index, logs) };
        match self.form {
            Form::Chat => {
                let delta = text.map_or_else(|| json!({}), |text| json!({"content": text}));
                json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
            }
            Form::Completion => {
                json!({"index": index, "text": text.unwrap_or(""), "logprobs": logprobs, "finish_reason": finish})
            }
        }
    }

    /// The chunks that an event gives.
    pub fn chunks(&mut self, event: &Event) -> Vec<Value> {
        let mut chunks = Vec::new();
        match event {
            Event::Began { .. } | Event::Failed(_) => {}
            Event::Step { index, event } => {
                let mut step = self.chunk(Vec::new());
                step["remask"] = json!(event);
                step["remask"]["event"] = json!("step");
                step["remask"]["index"] = json!(index);
                chunks.push(step);
            }
            Event::Delta { index, delta: Delta { text, logprobs }, tokens } => {
                self.count(*index, *tokens);
                self.begin(*index, &mut chunks);
                chunks.push(self.chunk(vec![self.part(*index, Some(text), logprobs, None)]));
            }
            Event::End { index, end } => {
                let End { finish, tokens, fills, statistics } = end.as_ref();
                self.count(*index, *tokens);
                self.begin(*index, &mut chunks);
                let mut part = self.part(*index, None, &[], Some(finish.name()));
                if !fills.is_empty() {
                    part["remask"] = json!({"fills": fills});
                }
                let mut chunk = self.chunk(vec![part]);
                if !self.include_usage {
                    chunk["remask"] = json!(statistics);
                    chunk["parallel_tokens_decoded"] = json!(statistics.parallel_tokens);
                }
                chunks.push(chunk);
                self.statistics.push(statistics.clone());
            }
        }
        chunks
    }

    fn count(&mut self, index: usize, tokens: usize) {
        if let Some(count) = self.tokens.get_mut(index) {
            *count = tokens;
        }
    }

    /// The role, or the prompt's text, before the first of an answer.
    fn begin(&mut self, index: usize, chunks: &mut Vec<Value>) {
        if self.begun.get_mut(index).is_none_or(|begun| std::mem::replace(begun, true)) {
            return;
        }
        match self.form {
            Form::Chat => {
                let delta = json!({"role": "assistant", "content": ""});
                let part = json!({"index": index, "delta": delta, "logprobs": null, "finish_reason": null});
                chunks.push(self.chunk(vec![part]));
            }
            Form::Completion if !self.echo(index).is_empty() => {
                let echo = self.echo(index).to_owned();
                chunks.push(self.chunk(vec![self.part(index, Some(&echo), &[], None)]));
            }
            Form::Completion => {}
        }
    }

    /// What a stream that is complete used and cost, and its last chunk where one was asked for.
    #[must_use]
    pub fn last(&self) -> (Usage, Statistics, Option<Value>) {
        let used = self.usage();
        let statistics = Statistics::sum(self.statistics.iter().cloned(), used.completion_tokens);
        let last = self.include_usage.then(|| {
            let mut chunk = self.chunk(Vec::new());
            chunk["usage"] = usage(&used);
            chunk["remask"] = json!(statistics);
            chunk["parallel_tokens_decoded"] = json!(statistics.parallel_tokens);
            chunk
        });
        (used, statistics, last)
    }
}
