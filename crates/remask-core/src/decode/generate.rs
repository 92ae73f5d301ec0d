//! Runs generations on a backend: one, or several that share their passes.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::decoding::Decoding;
use super::generating::Generating;
use super::grammar::Grammar;
use super::options::{DecodeOptions, Vocabulary};
use super::report::{Generation, StepReport};
use super::writing::Writing;
use crate::architecture::Architecture;
use crate::backend::Backend;
use crate::canvas::Canvas;
use crate::error::{Error, Result};
use crate::scheduler::{Scheduler, Ticket};

/// A canvas to fill and how.
#[derive(Debug, Clone)]
pub struct Request {
    /// The text with its holes.
    pub canvas: Canvas,
    /// How to decode it; `max_tokens` is not looked at.
    pub options: DecodeOptions,
}

impl Request {
    /// The generation that it asks of a model, checked for it: diffusion where the model has a mask,
    /// autoregressive where it has none.
    ///
    /// # Errors
    /// [`Error::Request`] with what cannot be.
    pub fn begin(self, architecture: &Arc<Architecture>, vocabulary: &Arc<Vocabulary>) -> Result<Box<dyn Generating>> {
        self.begin_within(None, architecture, vocabulary)
    }

    /// The same, kept within a grammar, which an autoregressive model's answers can be.
    ///
    /// # Errors
    /// As [`Request::begin`].
    pub fn begin_within(
        self,
        grammar: Option<&dyn Grammar>,
        architecture: &Arc<Architecture>,
        vocabulary: &Arc<Vocabulary>,
    ) -> Result<Box<dyn Generating>> {
        let Self { canvas, options } = self;
        options.check_canvas(architecture, &canvas)?;
        let (a, v) = (architecture.clone(), vocabulary.clone());
        if architecture.is_diffusion() {
            return match grammar {
                None => Ok(Box::new(Decoding::new(a, v, options, canvas))),
                Some(_) => Err(Error::Request(no_grammar(architecture))),
            };
        }
        let mut writing = Writing::new(a, v, options, canvas);
        grammar.map_or(Ok(()), |grammar| writing.keep_within(grammar))?;
        Ok(Box::new(writing))
    }
}

/// Why a diffusion model's answers cannot be kept within a grammar.
#[must_use]
pub fn no_grammar(architecture: &Architecture) -> String {
    let name = &architecture.name;
    format!(
        "{name} is a diffusion model: it decides the tokens of an answer in any order, and cannot be held to a grammar, \
         which says what comes next; leave it out, or ask an autoregressive model"
    )
}

/// Fills `options.max_tokens` holes after `prompt`.
///
/// `watch` is called after every step and may end the generation. With the defaults a diffusion model is decoded
/// by LLaDA's reference sampler, token for token; passes over blocks that are already full are not run.
///
/// # Errors
/// [`Error::Request`] before anything is computed; [`Error::Backend`] after. The backend's stores are released
/// either way.
pub async fn generate(
    backend: &mut dyn Backend,
    architecture: &Arc<Architecture>,
    vocabulary: &Arc<Vocabulary>,
    prompt: &[u32],
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation> {
    options.check(architecture, prompt)?;
    let canvas = Canvas::new(prompt, options.max_tokens, vocabulary.hole());
    fill(backend, architecture, vocabulary, canvas, options, watch).await
}

/// Fills the holes of a canvas, wherever they are: an answer behind a prompt, blanks in a text, or what a
/// generation left that was cut off. `options.max_tokens` is not looked at.
///
/// # Errors
/// As [`generate`].
pub async fn fill(
    backend: &mut dyn Backend,
    architecture: &Arc<Architecture>,
    vocabulary: &Arc<Vocabulary>,
    canvas: Canvas,
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation> {
    let request = Request { canvas, options: options.clone() };
    let watch = &mut |_: usize, report: &StepReport| watch(report);
    let mut done = fill_all(backend, architecture, vocabulary, vec![request], watch).await?;
    done.pop().unwrap_or_else(|| Err(Error::Request("no request".to_owned())))
}

/// Fills several canvases, of any lengths and options, with the rows of all of them in each pass. A
/// canvas gets the tokens that it would get alone; one that cannot be served fails alone.
///
/// `watch` is told the index of the request and may end each by itself.
///
/// # Errors
/// [`Error::Backend`] where the device failed.
pub async fn fill_all(
    backend: &mut dyn Backend,
    architecture: &Arc<Architecture>,
    vocabulary: &Arc<Vocabulary>,
    requests: Vec<Request>,
    watch: &mut dyn FnMut(usize, &StepReport) -> ControlFlow<()>,
) -> Result<Vec<Result<Generation>>> {
    let mut attended = Attended { scheduler: Scheduler::default(), backend };
    let Attended { scheduler, backend } = &mut attended;
    let mut done: Vec<Option<Result<Generation>>> = Vec::with_capacity(requests.len());
    let mut tickets: HashMap<Ticket, usize> = HashMap::new();
    for (index, request) in requests.into_iter().enumerate() {
        match request.begin(architecture, vocabulary) {
            Ok(generating) => {
                tickets.insert(scheduler.admit(generating), index);
                done.push(None);
            }
            Err(problem) => done.push(Some(Err(problem))),
        }
    }
    let watch = &mut |ticket: Ticket, report: &StepReport| {
        tickets.get(&ticket).map_or(ControlFlow::Continue(()), |index| watch(*index, report))
    };
    while !scheduler.is_empty() {
        for (ticket, outcome) in scheduler.step(*backend, watch).await?.ended {
            if let Some(slot) = tickets.get(&ticket).and_then(|index| done.get_mut(*index)) {
                *slot = Some(outcome);
            }
        }
    }
    let lost = || Err(Error::Request("the request was lost".to_owned()));
    Ok(done.into_iter().map(|outcome| outcome.unwrap_or_else(lost)).collect())
}

/// A scheduler that gives its stores back where it is dropped before all has ended.
struct Attended<'a> {
    scheduler: Scheduler,
    backend: &'a mut dyn Backend,
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.scheduler.clear(Some(&mut *self.backend));
    }
}
