//! What a request asks for: fields of OpenAI's, vLLM's and dfastllm's clients, honoured or refused.

use std::sync::Arc;

use remask::ServedModel;
use remask::core::chat::{Conversation, Message};
use remask::core::decode::{DecodeSettings, Defaults};
use remask::core::request::{GenerationRequest, Part, Prompt};
use serde_json::{Map, Value};

use crate::answer_form::AskedForm;
use crate::app::App;
use crate::config::{MOST_CHOICES, MOST_LOGPROBS, MOST_MESSAGES, MOST_PROMPTS, MOST_STOPS};
use crate::error::ApiError;
use crate::fields::{Fields, ids_of};

type Result<T> = std::result::Result<T, ApiError>;

/// Tokens of a completion where a request says nothing.
const USUAL_TOKENS: usize = 16;

/// Which of OpenAI's two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// A request that makes sense.
pub struct Ask {
    /// Its form.
    pub form: Form,
    /// The model.
    pub model: Arc<ServedModel>,
    /// What the request calls it.
    pub model_name: String,
    /// What to write, a prompt each.
    pub requests: Vec<GenerationRequest>,
    /// Texts of the prompts, where they are to be said again.
    pub echo: Option<Vec<String>>,
    /// As events.
    pub stream: bool,
    /// A stream's last chunk says what was used.
    pub include_usage: bool,
    /// Every chunk does.
    pub continuous_usage: bool,
    /// A stream tells of every step.
    pub step_events: bool,
    /// The field that says what form the answer must have.
    pub form_field: Option<&'static str>,
}

impl Ask {
    /// Reads a request of this form.
    pub fn read(app: &App, form: Form, body: &Value) -> Result<Self> {
        let fields = Fields::of(body)?;
        let (model, model_name) = app.model(fields.string("model")?)?;
        let diffusion = model.model.architecture.is_diffusion();
        let ours = Ours::read(&fields, diffusion.then_some(&app.config.decode))?;
        let stream = fields.bool("stream")?.unwrap_or(false);
        let options = fields.object("stream_options")?.map(|o| Fields::inside(o, "stream_options."));
        let option = |name: &str| options.map_or(Ok(None), |o| o.bool(name)).map(|on| on.unwrap_or(false));
        let (include_usage, continuous_usage) = (option("include_usage")?, option("continuous_usage_stats")?);
        if ours.step_events && !stream {
            return Err(ApiError::field("remask.step_events", "step events come in streams; set stream to true"));
        }
        let Ours { settings, step_events, canvas } = ours;
        let parts = canvas.iter().flatten().filter_map(|part| if let Part::Ids(ids) = part { Some(ids) } else { None });
        if let Some(id) = parts.flatten().find(|id| **id as usize >= model.model.architecture.embedding_rows) {
            return Err(ApiError::field("remask.canvas", format!("remask.canvas: token id {id} does not exist")));
        }
        let settings = common(&fields, settings, diffusion)?;
        let ids = model.model.architecture.embedding_rows;
        if let Some(id) = settings.logit_bias.keys().find(|id| **id as usize >= ids) {
            return Err(ApiError::field("logit_bias", format!("logit_bias: token id {id} does not exist")));
        }
        let (ignore_eos, n) = (ignore_eos(&fields)?, fields.integer("n", 1, MOST_CHOICES)?.unwrap_or(1));
        let stop = stop(&fields)?;
        let (asked, form_field) = match AskedForm::read(&fields, &model.model.architecture)? {
            Some(AskedForm { form, field }) => (Some(form), Some(field)),
            None => (None, None),
        };
        let mut ask = Self {
            form,
            model,
            model_name,
            requests: Vec::new(),
            echo: None,
            stream,
            include_usage,
            continuous_usage,
            step_events,
            form_field,
        };
        let request = |prompt: Prompt, settings: DecodeSettings, suffix: Option<String>| GenerationRequest {
            prompt,
            suffix,
            settings,
            usual_tokens: (form == Form::Completion).then_some(USUAL_TOKENS),
            stop: stop.clone(),
            n: n as usize,
            ignore_eos,
            echo: false,
            form: asked.clone(),
        };
        match form {
            Form::Chat => {
                let settings = chat_settings(app, &fields, settings)?;
                let prompt = match canvas {
                    Some(canvas) if fields.get("messages").is_none() => Prompt::Canvas(canvas),
                    Some(_) => return Err(ApiError::field("remask.canvas", "a canvas takes the place of messages")),
                    None => Prompt::Chat(conversation(&fields)?),
                };
                ask.requests.push(request(prompt, settings, None));
            }
            Form::Completion => {
                let echo = fields.bool("echo")?.unwrap_or(false);
                let settings = completion_settings(&fields, n, settings, echo)?;
                let suffix = fields.string("suffix")?.map(str::to_owned);
                let prompts = match canvas {
                    Some(canvas) if fields.get("prompt").is_none() => vec![Prompt::Canvas(canvas)],
                    Some(_) => return Err(ApiError::field("remask.canvas", "a canvas takes the place of the prompt")),
                    None => prompts(&ask.model, &fields)?,
                };
                // Where the prompt's tokens are told as well, its text is theirs.
                let scored = echo && settings.logprobs.is_some();
                if scored && diffusion {
                    let why = "a diffusion model gives a prompt no log-probabilities; leave echo or logprobs out";
                    return Err(ApiError::unsupported("echo", why));
                }
                if echo && !scored {
                    ask.echo =
                        Some(prompts.iter().map(|prompt| said_again(&ask.model, prompt)).collect::<Result<_>>()?);
                }
                let requests = prompts.into_iter().map(|prompt| GenerationRequest {
                    echo: scored,
                    ..request(prompt, settings.clone(), suffix.clone())
                });
                ask.requests = requests.collect();
            }
        }
        Ok(ask)
    }
}

/// The object `remask` of a request. Unknown names in it are refused.
struct Ours {
    settings: DecodeSettings,
    step_events: bool,
    canvas: Option<Vec<Part>>,
}

impl Ours {
    /// Reads it. Where it says nothing, and names no preset, `base` holds.
    fn read(fields: &Fields<'_>, base: Option<&DecodeSettings>) -> Result<Self> {
        let Some(object) = fields.object("remask")? else {
            let settings = base.cloned().unwrap_or_default();
            return Ok(Self { settings, step_events: false, canvas: None });
        };
        let mut rest: Map<String, Value> = object.clone();
        rest.retain(|name, value| !value.is_null() && name != "step_events" && name != "canvas");
        let inside = Fields::inside(object, "remask.");
        let base = base.filter(|_| !rest.contains_key("preset"));
        let settings = serde_json::from_value(Value::Object(rest)).map(|own: DecodeSettings| match base {
            Some(base) => DecodeSettings { preset: base.preset, ..own.over(base) },
            None => own,
        });
        let settings = settings.map_err(|problem| ApiError::field("remask", format!("remask: {problem}")))?;
        let checked = settings.resolve(&Defaults::default()).check_settings();
        checked.map_err(|problem| ApiError::field("remask", format!("remask: {problem}")))?;
        let canvas = inside.get("canvas").map(|canvas| serde_json::from_value::<Vec<Part>>(canvas.clone())).transpose();
        Ok(Self {
            settings,
            step_events: inside.bool("step_events")?.unwrap_or(false),
            canvas: canvas.map_err(|problem| ApiError::field("remask.canvas", format!("remask.canvas: {problem}")))?,
        })
    }
}

/// Fields that both forms have. OpenAI's own go before those of `remask`.
fn common(fields: &Fields<'_>, mut settings: DecodeSettings, diffusion: bool) -> Result<DecodeSettings> {
    let refuse_true = |name: &str, why: &str| fields.refuse_unless(name, |value| *value == Value::Bool(false), why);
    settings.temperature = fields.number("temperature", 0.0, 2.0)?.or(settings.temperature);
    settings.top_p = fields.number("top_p", f64::from(f32::MIN_POSITIVE), 1.0)?.or(settings.top_p);
    settings.min_p = fields.number("min_p", 0.0, 1.0)?.or(settings.min_p);
    settings.presence_penalty = fields.number("presence_penalty", -2.0, 2.0)?.or(settings.presence_penalty);
    settings.frequency_penalty = fields.number("frequency_penalty", -2.0, 2.0)?.or(settings.frequency_penalty);
    settings.repetition_penalty = fields.number("repetition_penalty", 0.01, 100.0)?.or(settings.repetition_penalty);
    // -1 says "all", as 0 does.
    if fields.get("top_k").and_then(Value::as_f64) != Some(-1.0) {
        settings.top_k = fields.integer("top_k", 0, u64::from(u32::MAX))?.map(|k| k as usize).or(settings.top_k);
    }
    settings.seed = fields.bits("seed")?.or(settings.seed);
    if let Some(bias) = fields.object("logit_bias")? {
        settings.logit_bias = bias.iter().map(|(id, bias)| bias_of(id, bias)).collect::<Result<_>>()?;
    }
    if let Some(ids) = fields.ids("stop_token_ids")? {
        settings.stop_ids.extend(ids);
    }
    if let Some(threshold) = fields.number("confidence_threshold", 0.0, 1.0)? {
        settings.accept.get_or_insert(remask::core::Acceptance::Threshold(threshold));
    }
    // A model that writes token after token decodes nothing in parallel anyway.
    if fields.bool("parallel_decoding")? == Some(false) && settings.accept.is_none() && diffusion {
        settings.accept = Some(remask::core::Acceptance::Quota(remask::core::Order::LowConfidence));
    }
    fields.string("user")?;
    refuse_true("include_stop_str_in_output", "stop strings are cut off")?;
    refuse_true("return_token_ids", "ask /tokenize")?;
    refuse_true("use_beam_search", "there is no beam search")?;
    fields.refuse_unless("skip_special_tokens", |v| *v == Value::Bool(true), "special tokens are never text")?;
    fields.refuse_unless("prompt_logprobs", |_| false, "log-probabilities of the prompt are not computed")?;
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    for list in ["bad_words", "allowed_token_ids"] {
        fields.refuse_unless(list, empty, "logit_bias makes tokens likelier or rules them out")?;
    }
    fields.refuse_unless("length_penalty", |v| v.as_f64() == Some(1.0), "there is no beam search")?;
    fields.refuse_unless("truncate_prompt_tokens", |_| false, "prompts are never cut; send a shorter one")?;
    Ok(settings)
}

fn bias_of(id: &str, bias: &Value) -> Result<(u32, f32)> {
    let wrong = || ApiError::field("logit_bias", "logit_bias must give token ids numbers from -100 to 100");
    let bias = bias.as_f64().filter(|bias| (-100.0..=100.0).contains(bias)).ok_or_else(wrong)?;
    Ok((id.trim().parse().map_err(|_| wrong())?, bias as f32))
}

/// Whether ends are never chosen. `min_tokens` is that where it asks for all tokens.
fn ignore_eos(fields: &Fields<'_>) -> Result<bool> {
    let ignore = fields.bool("ignore_eos")?.unwrap_or(false);
    let least = fields.integer("min_tokens", 0, u64::MAX)?.unwrap_or(0);
    let most = ["max_completion_tokens", "max_tokens"].iter().find_map(|name| fields.get(name).and_then(Value::as_u64));
    match most {
        _ if least == 0 || ignore => Ok(ignore),
        Some(most) if least == most => Ok(true),
        _ => Err(ApiError::unsupported("min_tokens", "min_tokens must be 0 or max_tokens, or ignore_eos be set")),
    }
}

fn stop(fields: &Fields<'_>) -> Result<Vec<String>> {
    let stop = fields.strings("stop", MOST_STOPS)?;
    if stop.iter().any(String::is_empty) {
        return Err(ApiError::field("stop", "an empty stop string would end every answer; leave it out"));
    }
    Ok(stop)
}

fn tokens(fields: &Fields<'_>, name: &str, least: u64) -> Result<Option<usize>> {
    Ok(fields.integer(name, least, u64::MAX)?.map(|n| usize::try_from(n).unwrap_or(usize::MAX)))
}

fn completion_settings(fields: &Fields<'_>, n: u64, settings: DecodeSettings, echo: bool) -> Result<DecodeSettings> {
    let logprobs = match fields.get("logprobs") {
        Some(Value::Bool(on)) => on.then_some(1),
        _ => fields.integer("logprobs", 0, MOST_LOGPROBS)?,
    };
    let logprobs = logprobs.map(|k| k as usize).or(settings.logprobs);
    // The prompt alone may be what is asked about.
    let least = u64::from(!(echo && logprobs.is_some()));
    let max_tokens = tokens(fields, "max_tokens", least)?.or(settings.max_tokens);
    if let Some(best_of) = fields.integer("best_of", 1, MOST_CHOICES)?.filter(|best_of| *best_of != n) {
        let problem = if best_of < n { "it must be at least n" } else { "all answers are returned; set n" };
        return Err(ApiError::unsupported("best_of", format!("best_of {best_of}: {problem}")));
    }
    Ok(DecodeSettings { max_tokens, logprobs, ..settings })
}

fn chat_settings(app: &App, fields: &Fields<'_>, settings: DecodeSettings) -> Result<DecodeSettings> {
    let max_tokens = tokens(fields, "max_completion_tokens", 1)?.or(tokens(fields, "max_tokens", 1)?);
    let wanted = fields.bool("logprobs")?.unwrap_or(false);
    let top = fields.integer("top_logprobs", 0, MOST_LOGPROBS)?;
    if !wanted && top.is_some_and(|top| top > 0) {
        return Err(ApiError::field("top_logprobs", "top_logprobs needs logprobs to be true"));
    }
    let empty = |value: &Value| value.as_array().is_some_and(Vec::is_empty);
    let unused = fields.get("tool_choice").and_then(Value::as_str) == Some("none");
    if !app.config.ignore_tools && !unused {
        fields.refuse_unless(
            "tools",
            empty,
            "this model calls no tools; leave them out, or set tool_choice to none",
        )?;
        let automatic = |value: &Value| matches!(value.as_str(), Some("none" | "auto"));
        fields.refuse_unless("tool_choice", automatic, "this model calls no tools")?;
    }
    fields.refuse_unless("functions", empty, "this model calls no functions")?;
    fields.refuse_unless("function_call", |value| matches!(value.as_str(), Some("none" | "auto")), "see functions")?;
    let only_text = |value: &Value| value.as_array().is_some_and(|all| all.iter().all(|one| one == "text"));
    fields.refuse_unless("modalities", only_text, "answers are text")?;
    for name in ["audio", "prediction", "web_search_options"] {
        fields.refuse_unless(name, |_| false, "answers are text that the model writes by itself")?;
    }
    fields.refuse_unless("verbosity", |value| value == "medium", "this model writes as it does")?;
    fields.refuse_unless("echo", |value| *value == Value::Bool(false), "an answer does not say its prompt again")?;
    let effort = |value: &Value| matches!(value.as_str(), Some("none"));
    fields.refuse_unless("reasoning_effort", effort, "this model does not reason before it answers")?;
    let logprobs = wanted.then_some(top.unwrap_or(0) as usize).or(settings.logprobs);
    Ok(DecodeSettings { max_tokens: max_tokens.or(settings.max_tokens), logprobs, ..settings })
}

/// The prompts of a completion.
fn prompts(model: &ServedModel, fields: &Fields<'_>) -> Result<Vec<Prompt>> {
    let wrong =
        || ApiError::field("prompt", "prompt must be a string, a list of strings, token ids or lists of token ids");
    let plain = fields.bool("add_special_tokens")? == Some(false);
    let text = |text: &str| {
        if plain { ids_alone(model, text).map(Prompt::Ids) } else { Ok(Prompt::Text(text.to_owned())) }
    };
    let found = match fields.get("prompt") {
        None => return Err(ApiError::field("prompt", "prompt is missing")),
        Some(Value::String(one)) => vec![text(one)?],
        Some(Value::Array(all)) if all.iter().all(Value::is_string) => {
            all.iter().filter_map(Value::as_str).map(text).collect::<Result<_>>()?
        }
        Some(value @ Value::Array(all)) if all.iter().all(Value::is_number) => {
            vec![Prompt::Ids(ids_of(value).ok_or_else(wrong)?)]
        }
        Some(Value::Array(all)) => {
            all.iter().map(|ids| ids_of(ids).map(Prompt::Ids).ok_or_else(wrong)).collect::<Result<_>>()?
        }
        Some(_) => return Err(wrong()),
    };
    let most = model.model.architecture.embedding_rows;
    let unknown = |prompt: &Prompt| match prompt {
        Prompt::Ids(ids) => ids.iter().copied().find(|id| *id as usize >= most),
        _ => None,
    };
    if let Some(id) = found.iter().find_map(unknown) {
        return Err(ApiError::field("prompt", format!("prompt: token id {id} does not exist")));
    }
    let is_empty = |prompt: &Prompt| match prompt {
        Prompt::Text(text) => text.is_empty(),
        Prompt::Ids(ids) => ids.is_empty(),
        _ => false,
    };
    if found.is_empty() || found.iter().all(is_empty) {
        return Err(ApiError::field("prompt", "the prompt is empty"));
    }
    if found.len() > MOST_PROMPTS {
        return Err(ApiError::field("prompt", format!("{} prompts; at most {MOST_PROMPTS} a request", found.len())));
    }
    Ok(found)
}

/// The ids of a text with nothing around them.
pub fn ids_alone(model: &ServedModel, text: &str) -> Result<Vec<u32>> {
    let marked = remask::core::chat::MarkedText::from_user(text);
    let encoded = model.model.text().and_then(|tokenizer| tokenizer.encode(&marked));
    encoded.map_err(|problem| ApiError::field("prompt", problem.to_string()))
}

fn said_again(model: &ServedModel, prompt: &Prompt) -> Result<String> {
    match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Ids(ids) => {
            let text = model.model.text().and_then(|tokenizer| tokenizer.decode(ids, true));
            text.map_err(|problem| ApiError::field("echo", problem.to_string()))
        }
        // Its text is the whole of it anyway.
        Prompt::Canvas(_) | Prompt::Messages(_) | Prompt::Chat(_) => Ok(String::new()),
    }
}

/// The conversation of a chat, with what vLLM's clients ask of its template.
pub fn conversation(fields: &Fields<'_>) -> Result<Conversation> {
    fields.refuse_unless("chat_template", |_| false, "the model's own template is used")?;
    let conversation = Conversation {
        messages: messages(fields)?,
        add_generation_prompt: fields.bool("add_generation_prompt")?,
        continue_final_message: fields.bool("continue_final_message")?.unwrap_or(false),
        variables: fields.object("chat_template_kwargs")?.cloned().unwrap_or_default(),
        ..Conversation::default()
    };
    if conversation.continue_final_message && conversation.add_generation_prompt == Some(true) {
        let problem = "the last message is either continued, or followed by an answer";
        return Err(ApiError::field("continue_final_message", problem));
    }
    Ok(conversation)
}

/// The messages of a chat.
fn messages(fields: &Fields<'_>) -> Result<Vec<Message>> {
    let wrong = |problem: &str| ApiError::field("messages", format!("messages: {problem}"));
    let Some(Value::Array(all)) = fields.get("messages") else {
        return Err(wrong("a list of messages is needed"));
    };
    if all.is_empty() || all.len() > MOST_MESSAGES {
        return Err(wrong(&format!("there must be 1 to {MOST_MESSAGES}")));
    }
    let message = |(index, value): (usize, &Value)| {
        let name = format!("messages[{index}].");
        let object = value.as_object().ok_or_else(|| wrong("every message is an object"))?;
        let fields = Fields::inside(object, &name);
        let role = fields
            .string("role")?
            .ok_or_else(|| ApiError::field(fields.name("role"), format!("{name}role is missing")))?;
        let role = match role {
            "developer" => "system",
            "system" | "user" | "assistant" | "tool" | "function" => role,
            other => {
                let problem = format!("{name}role {other:?} is not known; there are system, user, assistant and tool");
                return Err(ApiError::field(fields.name("role"), problem));
            }
        };
        let mut message = Message::new(role, content(&fields, role)?);
        // Calls of tools and their results are the template's affair.
        let others = object.iter().filter(|(name, _)| !matches!(name.as_str(), "role" | "content"));
        message.fields = others.map(|(name, value)| (name.clone(), value.clone())).collect();
        Ok(message)
    };
    all.iter().enumerate().map(message).collect()
}

fn content(fields: &Fields<'_>, role: &str) -> Result<String> {
    let wrong = |problem: &str| {
        let name = fields.name("content");
        ApiError::field(name.clone(), format!("{name} {problem}"))
    };
    match fields.get("content") {
        Some(Value::String(text)) => Ok(text.clone()),
        // An assistant that called a tool said nothing.
        None if role == "assistant" => Ok(String::new()),
        None => Err(wrong("is missing")),
        Some(Value::Array(parts)) => {
            let part = |part: &Value| {
                let kind = part.get("type").and_then(Value::as_str);
                let text = part.get("text").and_then(Value::as_str);
                match (kind, text) {
                    (Some("text" | "input_text" | "output_text"), Some(text)) => Ok(text.to_owned()),
                    (Some("text" | "input_text" | "output_text"), None) => Err(wrong("has a part without text")),
                    (Some(other), _) => Err(wrong(&format!("has a part of type {other}; this model reads text only"))),
                    (None, _) => Err(wrong("has a part without a type")),
                }
            };
            Ok(parts.iter().map(part).collect::<Result<Vec<_>>>()?.join("\n"))
        }
        Some(_) => Err(wrong("must be a string or a list of parts")),
    }
}
