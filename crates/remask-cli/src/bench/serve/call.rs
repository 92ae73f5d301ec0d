//! One request, measured.

use std::time::{Duration, Instant};

use hyper::Method;
use serde_json::Value;

use super::ask::Ask;
use super::client::{Client, Events, Problem, read};

/// Bytes of text that an answer may have.
const MOST: usize = 64 << 20;

/// An answer, with its times.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Its text, reasoning left out.
    pub text: String,
    /// Why it ended.
    pub finish_reason: String,
    /// Tokens of the prompt, where the server says.
    pub prompt_tokens: Option<u64>,
    /// Tokens of the answer, where the server says.
    pub tokens: Option<u64>,
    /// What the answer cost, where the server says: the object `remask`.
    pub cost: Option<Value>,
    /// From sending to the first text; nothing where the answer came whole.
    pub first_text: Option<Duration>,
    /// From sending to the end.
    pub latency: Duration,
    /// Between chunks with text.
    pub gaps: Vec<Duration>,
}

impl Answer {
    /// A number of its cost.
    pub fn cost(&self, name: &str) -> Option<f64> {
        self.cost.as_ref()?.get(name)?.as_f64()
    }

    /// Seconds a token.
    pub fn token_time(&self) -> Option<f64> {
        self.tokens.filter(|tokens| *tokens > 0).map(|tokens| self.latency.as_secs_f64() / tokens as f64)
    }

    /// Takes what an object of an answer, whole or a chunk, says. Whether text came with it.
    fn take(&mut self, object: &Value) -> Result<bool, Problem> {
        if let Some(error) = object.get("error").filter(|error| !error.is_null()) {
            return Err(Problem::event(error));
        }
        let mut some = false;
        for choice in object.get("choices").and_then(Value::as_array).into_iter().flatten() {
            let said = |name: &str| {
                let inside = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(choice);
                inside.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
            };
            if let Some(text) = said("content").or_else(|| said("text")) {
                if self.text.len() + text.len() > MOST {
                    return Err(Problem::Malformed(format!("the answer is longer than {} MiB", MOST >> 20)));
                }
                self.text.push_str(text);
                some = true;
            }
            some |= said("reasoning_content").or_else(|| said("reasoning")).is_some();
            if let Some(reason) = choice.get("finish_reason").and_then(Value::as_str) {
                reason.clone_into(&mut self.finish_reason);
            }
        }
        if let Some(usage) = object.get("usage").filter(|usage| usage.is_object()) {
            let count = |name: &str| usage.get(name).and_then(Value::as_u64);
            self.prompt_tokens = count("prompt_tokens").or(self.prompt_tokens);
            self.tokens = count("completion_tokens").or(self.tokens);
        }
        // Step events carry an object of this name as well.
        if let Some(cost) = object.get("remask").filter(|cost| cost.get("event").is_none() && cost.is_object()) {
            self.cost = Some(cost.clone());
        }
        Ok(some)
    }
}

/// Sends a request and reads its answer to the end.
///
/// # Errors
/// Why there is no whole answer.
pub async fn call(client: &Client, ask: &Ask) -> Result<Answer, Problem> {
    let sent = Instant::now();
    let answer = async {
        let response = client.send(Method::POST, ask.path, None, Some(&ask.body)).await?;
        if !response.status().is_success() {
            return Err(read(response).await?.refused());
        }
        if ask.stream { stream(response, sent).await } else { whole(read(response).await?, sent) }
    };
    tokio::time::timeout(client.timeout, answer).await.unwrap_or(Err(Problem::Timeout(client.timeout)))
}

fn whole(reply: super::client::Reply, sent: Instant) -> Result<Answer, Problem> {
    let mut answer = Answer { latency: sent.elapsed(), ..Answer::default() };
    let object: Value =
        serde_json::from_str(&reply.text).map_err(|e| Problem::Malformed(format!("the answer is no JSON ({e})")))?;
    answer.take(&object)?;
    ended(answer)
}

async fn stream(response: hyper::Response<hyper::body::Incoming>, sent: Instant) -> Result<Answer, Problem> {
    let kind = response.headers().get(hyper::header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    if !kind.is_some_and(|kind| kind.starts_with("text/event-stream")) {
        let kind = kind.unwrap_or("no content-type");
        return Err(Problem::Malformed(format!("{kind} came where a stream of events was asked for")));
    }
    let mut events = Events::of(response);
    let mut answer = Answer::default();
    let (mut done, mut last) = (false, None);
    while let Some(data) = events.next().await? {
        // A connection is used again only where its answer was read to the end.
        if done {
            continue;
        }
        if data.trim() == "[DONE]" {
            answer.latency = sent.elapsed();
            done = true;
            continue;
        }
        let object = serde_json::from_str(&data)
            .map_err(|e| Problem::Malformed(format!("a chunk of the stream is no JSON ({e})")))?;
        if answer.take(&object)? {
            let now = sent.elapsed();
            match last.replace(now) {
                None => answer.first_text = Some(now),
                Some(last) => answer.gaps.push(now.saturating_sub(last)),
            }
        }
    }
    if !done {
        return Err(Problem::Malformed("the stream ended without [DONE]".to_owned()));
    }
    ended(answer)
}

fn ended(answer: Answer) -> Result<Answer, Problem> {
    if answer.finish_reason.is_empty() {
        return Err(Problem::Malformed("the answer has no finish_reason".to_owned()));
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn chunks_of_every_form_are_understood() {
        let mut answer = Answer::default();
        let mut take = |object: Value| answer.take(&object).unwrap();
        assert!(!take(json!({"choices": [{"delta": {"role": "assistant", "content": ""}}], "usage": null})));
        assert!(take(json!({"choices": [{"delta": {"reasoning_content": "hm"}}]})));
        assert!(take(json!({"choices": [{"delta": {"content": "a"}, "finish_reason": null}]})));
        assert!(take(json!({"choices": [{"text": "b"}]})));
        assert!(!take(json!({"choices": [], "remask": {"event": "step", "rows": 3}})));
        assert!(!take(json!({"choices": [{"delta": {}, "finish_reason": "length"}]})));
        assert!(!take(
            json!({"choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": 2}, "remask": {"rows_computed": 9}})
        ));
        assert_eq!((answer.text.as_str(), answer.finish_reason.as_str()), ("ab", "length"));
        assert_eq!((answer.prompt_tokens, answer.tokens, answer.cost("rows_computed")), (Some(3), Some(2), Some(9.0)));
        let error = answer.take(&json!({"error": {"message": "m", "type": "t", "code": null}})).unwrap_err();
        assert_eq!(error.kind(), "error event t");
    }
}
