//! Runs generations on a backend: one, or several that share their passes.

use std::ops::ControlFlow;

use super::decoding::{Decoding, Work};
use super::options::{DecodeOptions, Vocabulary};
use super::report::{Generation, StepReport};
use crate::architecture::Architecture;
use crate::backend::{Answer, Backend, Candidate, Pass, StoreId};
use crate::canvas::Canvas;
use crate::error::Result;

/// A canvas to fill and how.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The text with its holes.
    pub canvas: Canvas,
    /// How to decode it; `max_tokens` is not looked at.
    pub options: &'a DecodeOptions,
}

/// Fills `options.max_tokens` holes after `prompt`.
///
/// `watch` is called after every step and may end the generation. With the defaults this is LLaDA's
/// reference sampler, token for token; passes over blocks that are already full are not run.
///
/// # Errors
/// [`Error::Request`](crate::Error::Request) before anything is computed;
/// [`Error::Backend`](crate::Error::Backend) after. The backend's stores are released either way.
pub async fn generate(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
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
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    canvas: Canvas,
    options: &DecodeOptions,
    watch: &mut dyn FnMut(&StepReport) -> ControlFlow<()>,
) -> Result<Generation> {
    let request = Request { canvas, options };
    let watch = &mut |_: usize, report: &StepReport| watch(report);
    let mut done = fill_all(backend, architecture, vocabulary, vec![request], watch).await?;
    Ok(done.remove(0))
}

/// Fills several canvases, of any lengths and options, with the rows of all of them in each pass. A
/// canvas gets the tokens that it would get alone.
///
/// `watch` is told the index of the request and may end each by itself.
///
/// # Errors
/// As [`generate`]; one request that cannot be run refuses them all.
pub async fn fill_all(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    requests: Vec<Request<'_>>,
    watch: &mut dyn FnMut(usize, &StepReport) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    for request in &requests {
        request.options.check_canvas(architecture, &request.canvas)?;
    }
    let mut stores = Vec::new();
    let result = run(backend, architecture, vocabulary, requests, &mut stores, watch).await;
    for store in stores {
        backend.release_store(store);
    }
    result
}

/// As [`fill_all`]; the stores that were made are left in `made`, whatever happens.
async fn run(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    requests: Vec<Request<'_>>,
    made: &mut Vec<StoreId>,
    watch: &mut dyn FnMut(usize, &StepReport) -> ControlFlow<()>,
) -> Result<Vec<Generation>> {
    let mut running = Vec::with_capacity(requests.len());
    for Request { canvas, options } in requests {
        let twins = if options.cfg_scale > 0.0 { 2 } else { 1 };
        let first = made.len();
        for _ in 0..twins {
            made.push(backend.create_store(canvas.len() as u32)?);
        }
        running.push(Decoding::new(architecture, vocabulary, options, canvas, made[first..].to_vec()));
    }
    loop {
        let mut joint = Work::default();
        let mut shares = Vec::new();
        for (index, decoding) in running.iter_mut().enumerate() {
            if let Some(work) = decoding.next_pass() {
                shares.push((index, work.select.len()));
                join(&mut joint, work);
            }
        }
        if shares.is_empty() {
            return Ok(running.into_iter().map(Decoding::finish).collect());
        }
        let pass = Pass { rows: &joint.rows, select: &joint.select, suppressed: &[vocabulary.suppressed.clone()] };
        let answers = backend.forward(&pass).await?;
        let candidates: Vec<_> = answers.iter().filter_map(Answer::candidate).collect();
        let mut rest: &[Candidate] = &candidates;
        for (index, share) in shares {
            let (own, others) = rest.split_at(share.min(rest.len()));
            rest = others;
            if watch(index, &running[index].absorb(own)).is_break() {
                running[index].abort();
            }
        }
    }
}

/// Appends one generation's rows to a pass.
fn join(joint: &mut Work, work: Work) {
    let first = joint.rows.len() as u32;
    joint.rows.extend(work.rows);
    joint.select.extend(work.select.into_iter().map(|mut select| {
        select.row += first;
        select.guide = select.guide.map(|mut guide| {
            guide.row += first;
            guide
        });
        select
    }));
}
