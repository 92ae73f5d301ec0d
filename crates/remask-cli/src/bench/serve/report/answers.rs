//! Trials of what is answered.

use serde_json::{Value, json};

use super::checks::{At, Found, No, demand};
use crate::bench::serve::ask::{Endpoint, Template};
use crate::bench::serve::call::{Answer, call};
use crate::bench::serve::sets::Kind;
use crate::bench::serve::show::ms;

/// What short trials ask.
const PROMPT: &str = "Once upon a time there was";

async fn ask(at: &At, template: &Template, text: &str) -> Result<Answer, No> {
    Ok(call(&at.client, &template.text(text)).await?)
}

fn shown(text: &str) -> String {
    let short: String = text.chars().take(60).collect();
    format!("{short:?}")
}

/// A plain answer with everything that a client reads.
pub async fn form(at: &At, endpoint: Endpoint) -> Found {
    let template = at.form(endpoint);
    let asked = template.text(PROMPT);
    let reply = at.client.post(asked.path, &asked.body).await?;
    demand(reply.is_ok(), || reply.refused().to_string())?;
    let body = reply.json();
    let (object, text) = match endpoint {
        Endpoint::Chat => ("chat.completion", "/choices/0/message/content"),
        Endpoint::Completions => ("text_completion", "/choices/0/text"),
    };
    let said = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
    demand(said("/object") == object, || format!("object is {} and not {object}", body["object"]))?;
    demand(!said(text).trim().is_empty(), || "the answer has no text".to_owned())?;
    demand(!said("/id").is_empty() && !said("/model").is_empty(), || "id or model is missing".to_owned())?;
    if endpoint == Endpoint::Chat {
        let role = said("/choices/0/message/role");
        demand(role == "assistant", || format!("its role is {role:?}"))?;
    }
    let finish = said("/choices/0/finish_reason");
    demand(matches!(finish, "stop" | "length"), || format!("finish_reason is {finish:?}"))?;
    let count = |name: &str| body["usage"][name].as_u64();
    let (prompt, tokens, total) = (count("prompt_tokens"), count("completion_tokens"), count("total_tokens"));
    let sum = prompt.zip(tokens).map(|(prompt, tokens)| prompt + tokens);
    demand(sum.is_some() && sum == total, || format!("usage does not add up: {}", body["usage"]))?;
    let most = template.max_tokens as u64;
    demand(tokens.is_some_and(|n| n <= most), || format!("{} tokens, more than {most}", tokens.unwrap_or(0)))?;
    Ok(format!("{} ({} tokens)", shown(said(text)), tokens.unwrap_or(0)))
}

/// As many tokens as were asked for, or fewer where answers may end.
pub async fn lengths(at: &At) -> Found {
    let mut seen = Vec::new();
    for max_tokens in [1, 7, 24] {
        let template = Template { max_tokens, ..at.completion() };
        let answer = ask(at, &template, PROMPT).await?;
        let tokens = answer.tokens.ok_or_else(|| No::Failed("usage is missing".to_owned()))?;
        let right = if template.ignore_eos { tokens == max_tokens as u64 } else { tokens <= max_tokens as u64 };
        demand(right, || format!("{tokens} tokens where max_tokens was {max_tokens}"))?;
        let full = tokens < max_tokens as u64 || answer.finish_reason == "length";
        demand(full || !template.ignore_eos, || format!("finish_reason {:?} at full length", answer.finish_reason))?;
        seen.push(tokens.to_string());
    }
    Ok(format!("{} tokens", seen.join(", ")))
}

/// An answer to each of some easy and hard prompts.
pub async fn prompts(at: &At) -> Found {
    let mut answered = 0;
    for kind in [Kind::Easy, Kind::Hard] {
        for prompt in kind.prompts().iter().take(2) {
            let answer = ask(at, &at.template, prompt).await?;
            demand(!answer.text.trim().is_empty(), || format!("no text for {prompt:?}"))?;
            answered += 1;
        }
    }
    Ok(format!("{answered} of {answered} answered"))
}

/// A stream says what a plain answer says, to the byte.
pub async fn streams(at: &At) -> Found {
    let mut chunks = 0;
    for (endpoint, temperature) in [(Endpoint::Completions, 0.0), (Endpoint::Chat, 0.0), (Endpoint::Chat, 0.7)] {
        let plain = Template { temperature, max_tokens: 24, ..at.form(endpoint) };
        let whole = ask(at, &plain, PROMPT).await?;
        let streamed = ask(at, &Template { stream: true, ..plain }, PROMPT).await?;
        let name = endpoint.path();
        let texts = || format!("{name}: {} streamed, {} plain", shown(&streamed.text), shown(&whole.text));
        demand(streamed.text == whole.text, texts)?;
        demand(streamed.finish_reason == whole.finish_reason, || {
            format!("{name}: finish_reason {:?} streamed, {:?} plain", streamed.finish_reason, whole.finish_reason)
        })?;
        let usage = |answer: &Answer| (answer.prompt_tokens, answer.tokens);
        demand(usage(&streamed) == usage(&whole) && streamed.tokens.is_some(), || {
            format!("{name}: usage {:?} streamed, {:?} plain", usage(&streamed), usage(&whole))
        })?;
        chunks += streamed.gaps.len() + 1;
    }
    Ok(format!("three pairs, {chunks} chunks with text"))
}

/// A stop string ends an answer before it.
pub async fn stop(at: &At) -> Found {
    let plain = at.completion();
    let whole = ask(at, &plain, PROMPT).await?;
    let letters: Vec<_> = whole.text.chars().collect();
    // Three letters in the middle: wherever they come first, the answer ends.
    let stop: String = letters.iter().skip(letters.len() / 2).take(3).collect();
    let Some(until) = whole.text.find(&stop).filter(|_| letters.len() >= 6) else {
        return Err(No::Failed(format!("{} is too short to be stopped in", shown(&whole.text))));
    };
    let stopped = ask(at, &plain.with("stop", json!([stop])), PROMPT).await?;
    let expected = whole.text.get(..until).unwrap_or_default();
    demand(stopped.text == expected, || format!("{} where {stop:?} should have ended it", shown(&stopped.text)))?;
    demand(stopped.finish_reason == "stop", || format!("finish_reason is {:?}", stopped.finish_reason))?;
    Ok(format!("{stop:?} ended the answer"))
}

/// Answers that are drawn repeat.
pub async fn seed(at: &At) -> Found {
    let drawn = Template { temperature: 0.8, seed: 7, ..at.completion() };
    let (first, second) = (ask(at, &drawn, PROMPT).await?, ask(at, &drawn, PROMPT).await?);
    demand(first.text == second.text, || format!("{} and {}", shown(&first.text), shown(&second.text)))?;
    Ok(shown(&first.text))
}

/// The first text comes, and before the end.
pub async fn times(at: &At) -> Found {
    let template = Template { stream: true, ..at.template.clone() };
    let mut seen = Vec::new();
    for _ in 0..3 {
        let answer = ask(at, &template, PROMPT).await?;
        let Some(first) = answer.first_text else {
            return Err(No::Failed("the stream had no text".to_owned()));
        };
        let (first, end) = (Some(first.as_secs_f64()), Some(answer.latency.as_secs_f64()));
        demand(first <= end, || format!("text after {} ms, the end after {} ms", ms(first), ms(end)))?;
        seen.push(format!("{} of {}", ms(first), ms(end)));
    }
    Ok(format!("first text after {} ms", seen.join(", ")))
}

/// Recompute depth does something where it is on, and nothing where it is off.
pub async fn depth(at: &At) -> Found {
    if at.facts.diffusion() == Some(false) {
        return Err(No::NotOffered("the model writes token after token".to_owned()));
    }
    let plain = ask(at, &at.completion(), PROMPT).await?;
    if plain.cost.is_none() {
        return Err(No::NotOffered("answers do not tell their rows and passes".to_owned()));
    }
    let with = |on: bool| at.completion().with("remask", json!({"mor": on}));
    let (on, off) = (ask(at, &with(true), PROMPT).await?, ask(at, &with(false), PROMPT).await?);
    let told = |answer: &Answer, path: &str| answer.cost.as_ref().and_then(|cost| cost.pointer(path)?.as_f64());
    let depth = told(&on, "/mor/avg_recursions").filter(|depth| *depth > 0.0);
    let Some(depth) = depth else {
        return Err(No::Failed("it was asked for, and the answer tells of none".to_owned()));
    };
    let none = off.cost.as_ref().is_none_or(|cost| cost.get("mor").is_none_or(Value::is_null));
    demand(none, || "it was switched off, and the answer tells of it".to_owned())?;
    let rows = |answer: &Answer| answer.cost("rows_computed").unwrap_or(0.0);
    demand(rows(&on) > 0.0 && rows(&off) > 0.0, || "answers tell of no rows".to_owned())?;
    Ok(format!("{depth:.2} passes a token; {} rows with it, {} without", rows(&on), rows(&off)))
}
