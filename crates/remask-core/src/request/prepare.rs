//! From a request to canvases that a scheduler runs.

use std::ops::Range;
use std::sync::Arc;

use super::answer::Fill;
use super::{GenerationRequest, MOST_CHOICES, Part, Prompt, RequestError};
use crate::architecture::Architecture;
use crate::canvas::Canvas;
use crate::chat::MarkedText;
use crate::decode::{Defaults, Generating, Grammar, Grammars, Request, Vocabulary, no_grammar};
use crate::error::Result;
use crate::model::Model;
use crate::random::{Key, threefry};

/// What a model's requests have in common.
#[derive(Debug, Clone)]
pub struct Terms {
    /// Sampling where a request says nothing.
    pub defaults: Defaults,
    /// Positions of a canvas at most.
    pub context: usize,
    /// Tokens to write where a request says nothing, less where there is no room for them.
    pub default_max_tokens: usize,
    /// Write fewer tokens where there is no room for those that were asked for.
    pub clamp: bool,
    /// Makes grammars that answers can be kept within; none where there is nothing that does.
    pub grammars: Option<Arc<dyn Grammars>>,
    vocabulary: Arc<Vocabulary>,
    /// The vocabulary in which no end is ever chosen.
    endless: Arc<Vocabulary>,
    architecture: Arc<Architecture>,
}

impl Terms {
    /// A model's own.
    #[must_use]
    pub fn of(model: &Model) -> Self {
        Self {
            defaults: model.defaults,
            context: model.architecture.max_positions,
            default_max_tokens: 1024,
            clamp: false,
            grammars: None,
            vocabulary: model.vocabulary.clone(),
            endless: Arc::new(model.vocabulary.without_ends()),
            architecture: model.architecture.clone(),
        }
    }
}

/// One generation of a request.
#[derive(Debug, Clone)]
pub struct Job {
    /// Which choice of its prompt it is.
    pub choice: usize,
    /// Canvas and options.
    pub request: Request,
    /// Positions that the answer's text is made of.
    pub span: Range<usize>,
    /// Texts that end it.
    pub stop: Vec<String>,
    /// Ids that end it.
    pub ends: Arc<[u32]>,
    /// The gaps of a canvas that was given by parts: place among the parts, and positions.
    pub gaps: Vec<(usize, Range<usize>)>,
    /// Whether the answer's text begins with the prompt's.
    pub echo: bool,
    /// What the answer is kept within.
    pub grammar: Option<Arc<dyn Grammar>>,
    vocabulary: Arc<Vocabulary>,
    architecture: Arc<Architecture>,
}

impl Job {
    /// The generation.
    ///
    /// # Errors
    /// [`Error::Request`](crate::Error::Request) with what cannot be; prepared jobs were checked.
    pub fn begin(&self) -> Result<Box<dyn Generating>> {
        self.request.clone().begin_within(self.grammar.as_deref(), &self.architecture, &self.vocabulary)
    }

    /// What stands in the gaps of `canvas`.
    ///
    /// # Errors
    /// [`Error::Tokenizer`](crate::Error::Tokenizer) where the tokenizer fails.
    pub fn fills(&self, model: &Model, canvas: &Canvas) -> Result<Vec<Fill>> {
        let fill = |(index, positions): &(usize, Range<usize>)| {
            let ids = canvas.tokens().get(positions.clone()).unwrap_or_default();
            let holes = |at: &usize| canvas.is_hole(positions.start + at) || self.ends.contains(&ids[*at]);
            let end = (0..ids.len()).find(holes).unwrap_or(ids.len());
            let text = model.tokenizer.as_ref().map(|t| t.decode(&ids[..end], true)).transpose()?;
            Ok(Fill { index: *index, text: text.unwrap_or_default(), tokens: ids[..end].to_vec() })
        };
        self.gaps.iter().map(fill).collect()
    }
}

/// A request that was found to be one that the model can serve.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Tokens that were given.
    pub prompt_tokens: usize,
    /// Tokens that a choice has at most.
    pub max_tokens: usize,
    /// Its generations, one a choice.
    pub jobs: Vec<Job>,
}

/// A canvas by ids, `None` being a hole, and what the answer is of it.
struct Layout {
    ids: Vec<Option<u32>>,
    span: Range<usize>,
    gaps: Vec<(usize, Range<usize>)>,
}

impl GenerationRequest {
    /// Checks the request for a model, and makes canvases of it. `seed` is what a request gets that names none.
    ///
    /// # Errors
    /// The first thing that cannot be.
    pub fn prepare(&self, model: &Model, terms: &Terms, seed: u64) -> Result<Prepared, RequestError> {
        if self.n == 0 || self.n > MOST_CHOICES {
            return Err(RequestError::field("n", format!("{} choices; there can be 1 to {MOST_CHOICES}", self.n)));
        }
        if self.stop.iter().any(String::is_empty) {
            return Err(RequestError::field("stop", "an empty stop string would end every answer; leave it out"));
        }
        self.settings.check_for(&model.architecture)?;
        let layout = self.layout(model, terms)?;
        let holes = layout.ids.iter().filter(|id| id.is_none()).count();
        let settings = crate::decode::DecodeSettings { max_tokens: Some(holes.max(1)), ..self.settings.clone() };
        let mut options = settings.resolve(&terms.defaults);
        options.score_prompt = self.scores();
        options.ignore_eos = self.ignore_eos || self.settings.ignore_eos;
        let seed = self.settings.seed.unwrap_or(seed);
        let vocabulary = if options.ignore_eos { &terms.endless } else { &terms.vocabulary };
        let ends: Arc<[u32]> = options.ends(vocabulary).into();
        let canvas = Canvas::with_holes(&layout.ids, vocabulary.hole());
        options.check_canvas(&model.architecture, &canvas)?;
        let grammar = self.grammar(model, terms)?;
        let job = |choice: usize| {
            let mut options = options.clone();
            options.sampling.seed = choice_seed(seed, choice);
            Job {
                choice,
                request: Request { canvas: canvas.clone(), options },
                span: layout.span.clone(),
                stop: self.stop.clone(),
                ends: ends.clone(),
                gaps: layout.gaps.clone(),
                echo: self.echo && layout.gaps.is_empty(),
                grammar: grammar.clone(),
                vocabulary: vocabulary.clone(),
                architecture: terms.architecture.clone(),
            }
        };
        Ok(Prepared {
            prompt_tokens: layout.ids.len() - holes,
            max_tokens: holes,
            jobs: (0..self.n).map(job).collect(),
        })
    }

    fn grammar(&self, model: &Model, terms: &Terms) -> Result<Option<Arc<dyn Grammar>>, RequestError> {
        let Some(form) = &self.form else { return Ok(None) };
        let refuse = |problem: String| RequestError::field("form", problem);
        if model.architecture.is_diffusion() {
            return Err(refuse(no_grammar(&model.architecture)));
        }
        let none = || refuse("answers cannot be kept within a grammar here; leave it out".to_owned());
        terms.grammars.as_ref().ok_or_else(none)?.compile(form).map(Some).map_err(refuse)
    }

    /// Whether the prompt's tokens are scored.
    fn scores(&self) -> bool {
        self.echo && self.settings.logprobs.is_some() && !matches!(self.prompt, Prompt::Canvas(_))
    }

    fn layout(&self, model: &Model, terms: &Terms) -> Result<Layout, RequestError> {
        let user = |text: &str| Ok::<_, RequestError>(model.text()?.encode(&MarkedText::from_user(text))?);
        let before = match &self.prompt {
            Prompt::Text(text) => model.encode_raw(text)?,
            Prompt::Ids(ids) => ids.clone(),
            Prompt::Messages(messages) => model.encode_chat(&messages.clone().into())?,
            Prompt::Chat(conversation) => model.encode_chat(conversation)?,
            Prompt::Canvas(parts) => return self.canvas(model, terms, parts),
        };
        let behind = self.suffix.as_deref().filter(|suffix| !suffix.is_empty()).map(user).transpose()?;
        let behind = behind.unwrap_or_default();
        if !behind.is_empty() && !model.architecture.is_diffusion() {
            let problem = format!("{} writes on and cannot fill a gap before a suffix", model.architecture.name);
            return Err(RequestError::field("suffix", problem));
        }
        if self.scores() && model.architecture.is_diffusion() {
            let problem =
                format!("{} is a diffusion model, which gives a prompt no log-probabilities", model.architecture.name);
            return Err(RequestError::field("echo", problem));
        }
        let given = before.len() + behind.len();
        let room = terms.context.saturating_sub(given);
        let max_tokens = match self.settings.max_tokens {
            Some(0) if self.scores() && given > 0 && given <= terms.context => 0,
            Some(0) if self.scores() && given > 0 => {
                return Err(RequestError::ContextLength { limit: terms.context, prompt: given, max_tokens: 0 });
            }
            Some(0) => return Err(RequestError::field("max_tokens", "0 tokens: there is nothing to write")),
            Some(asked) if asked <= room => asked,
            Some(_) if terms.clamp && room > 0 => room,
            None if room > 0 => self.usual_tokens.unwrap_or(terms.default_max_tokens).clamp(1, room),
            asked => {
                let max_tokens = asked.unwrap_or(1);
                return Err(RequestError::ContextLength { limit: terms.context, prompt: given, max_tokens });
            }
        };
        let start = before.len();
        let mut ids: Vec<_> = before.into_iter().map(Some).collect();
        ids.resize(start + max_tokens, None);
        ids.extend(behind.into_iter().map(Some));
        let first = if self.echo { 0 } else { start };
        Ok(Layout { ids, span: first..start + max_tokens, gaps: Vec::new() })
    }

    fn canvas(&self, model: &Model, terms: &Terms, parts: &[Part]) -> Result<Layout, RequestError> {
        if self.suffix.as_deref().is_some_and(|suffix| !suffix.is_empty()) {
            return Err(RequestError::field("suffix", "a canvas has no suffix; put the text into its last part"));
        }
        let too_long = |given: usize, holes: usize| RequestError::ContextLength {
            limit: terms.context,
            prompt: given,
            max_tokens: holes,
        };
        let asked = parts.iter().fold(0usize, |sum, part| match part {
            Part::Holes(count) => sum.saturating_add(*count),
            _ => sum,
        });
        if asked == 0 {
            return Err(RequestError::field("canvas", "there is no hole to fill"));
        }
        if asked > terms.context {
            return Err(too_long(0, asked));
        }
        let mut ids = Vec::from_iter(model.architecture.tokens.bos.map(Some));
        let start = ids.len();
        let mut gaps = Vec::new();
        for (index, part) in parts.iter().enumerate() {
            match part {
                Part::Text(text) => {
                    ids.extend(model.text()?.encode(&MarkedText::from_user(text))?.into_iter().map(Some));
                }
                Part::Ids(given) => ids.extend(given.iter().copied().map(Some)),
                Part::Holes(count) => {
                    gaps.push((index, ids.len()..ids.len() + count));
                    ids.resize(ids.len() + count, None);
                }
            }
        }
        if ids.len() > terms.context {
            return Err(too_long(ids.len() - asked, asked));
        }
        Ok(Layout { span: start..ids.len(), ids, gaps })
    }
}

/// The seed of a choice; the first has the request's own, so that it is the one a request for one would get.
fn choice_seed(seed: u64, choice: usize) -> u64 {
    if choice == 0 {
        return seed;
    }
    let key = Key([seed as u32, (seed >> 32) as u32]);
    let [low, high] = threefry(key, [choice as u32, 0x6e]);
    u64::from(high) << 32 | u64::from(low)
}
