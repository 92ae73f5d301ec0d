//! One setting over all questions: what it computed, how long it took, how good the answers are.

use std::collections::HashMap;
use std::ops::{ControlFlow, Range};
use std::time::Instant;

use remask_core::decode::likelihood::answer_nll;
use remask_core::decode::{Request, fill_all};
use remask_core::{Backend, Canvas, DecodeOptions, Error, Generation, Model, StepReport};
use serde::Serialize;
use strsim::generic_levenshtein;

use super::sweep::Setting;
use super::{Args, Question};
use crate::model_args::explain;

/// What a setting came to; costs are means a prompt.
#[derive(Debug, Clone, Serialize)]
pub struct Measured {
    /// Its name.
    pub name: String,
    /// The decoder it is a point of.
    pub curve: String,
    /// Its options as they were written.
    pub line: String,
    /// Rows computed.
    pub rows: f64,
    /// Rows that all positions in as many passes would have been.
    pub rows_of_full_compute: f64,
    /// Forward passes.
    pub passes: f64,
    /// Wall time.
    pub milliseconds: f64,
    /// Tokens of the answers (the end included) over the wall time.
    pub tokens_per_second: f64,
    /// Share of the known answers that were given word for word.
    pub accuracy: Option<f64>,
    /// Share of the answers that are token for token those of the first setting.
    pub same: f64,
    /// One minus the token edit distance to the first setting's answers over the longer's length.
    pub similarity: f64,
    /// Negative log-likelihood bound a token under the model, in nats; see
    /// [`answer_nll`].
    pub nll: Option<f64>,
    /// Accuracy minus the first setting's.
    pub accuracy_difference: Option<Difference>,
    /// `nll` minus the first setting's.
    pub nll_difference: Option<Difference>,
    /// The answers, in the questions' order.
    pub answers: Vec<Answer>,
}

impl Measured {
    /// Whether the setting is one value of a range: its name ends with a number.
    pub fn is_in_range(&self) -> bool {
        self.name.rsplit([' ', ',']).next().is_some_and(|last| last.parse::<f64>().is_ok())
    }
}

/// How far a setting lies from the first one, prompt for prompt.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Difference {
    /// Mean over the prompts.
    pub mean: f64,
    /// Standard error of that mean.
    pub standard_error: f64,
}

impl Difference {
    /// Of paired values. `None` where there are fewer than two pairs.
    fn of(pairs: impl Iterator<Item = (f64, f64)>) -> Option<Self> {
        let differences: Vec<_> = pairs.map(|(own, first)| own - first).collect();
        let count = differences.len() as f64;
        let mean = differences.iter().sum::<f64>() / count;
        let squares: f64 = differences.iter().map(|d| (d - mean).powi(2)).sum();
        (count > 1.0).then(|| Self { mean, standard_error: (squares / (count - 1.0) / count).sqrt() })
    }
}

/// One answer.
#[derive(Debug, Clone, Serialize)]
pub struct Answer {
    /// Its text.
    pub text: String,
    /// Its ids.
    pub token_ids: Vec<u32>,
    rows: u64,
    rows_of_full_compute: u64,
    passes: u32,
    milliseconds: f64,
    nll: Option<f64>,
}

/// Runs settings.
pub struct Measurer<'a> {
    backend: &'a mut dyn Backend,
    model: &'a Model,
    questions: &'a [Question],
    prompts: &'a [Vec<u32>],
    together: usize,
    samples: u32,
    seed: u64,
    /// Likelihoods that are known: settings often give the same answers.
    known: HashMap<(usize, Vec<u32>), f64>,
}

impl<'a> Measurer<'a> {
    /// A measurer of `prompts`, the ids of `questions`, by what `args` says of it.
    pub fn new(
        backend: &'a mut dyn Backend,
        model: &'a Model,
        questions: &'a [Question],
        prompts: &'a [Vec<u32>],
        args: &Args,
    ) -> Self {
        let (together, samples, seed) = (args.together.get(), args.likelihood_samples, args.seed);
        Self { backend, model, questions, prompts, together, samples, seed, known: HashMap::new() }
    }

    /// Answers all questions under a setting and compares with `first`'s answers, or with its own.
    pub fn measure(
        &mut self,
        setting: &Setting,
        max_tokens: usize,
        first: Option<&Measured>,
        progress: &mut dyn FnMut(),
    ) -> Result<Measured, Error> {
        let options = setting.options(self.model, max_tokens)?;
        // A setting's first pass may build pipelines: that is not its speed.
        self.generate(0..self.together.min(self.prompts.len()), &options)?;
        let mut answers = Vec::with_capacity(self.prompts.len());
        for first in (0..self.prompts.len()).step_by(self.together) {
            let indices = first..self.prompts.len().min(first + self.together);
            let started = Instant::now();
            let done = self.generate(indices.clone(), &options)?;
            let each = started.elapsed().as_secs_f64() * 1e3 / indices.len() as f64;
            for (index, done) in indices.zip(&done) {
                answers.push(self.answer(index, done, each)?);
                progress();
            }
        }
        let count = answers.len() as f64;
        let mean = |of: &dyn Fn(&Answer) -> f64| answers.iter().map(of).sum::<f64>() / count;
        let against = first.map_or(&answers, |f| &f.answers);
        let pairs = || answers.iter().zip(against);
        let known = |answers: &[Answer]| -> Vec<f64> {
            let right = |(q, a): (&Question, &Answer)| Some(f64::from(u8::from(a.text == q.response.as_ref()?.trim())));
            self.questions.iter().zip(answers).filter_map(right).collect()
        };
        let (own, firsts) = (known(&answers), known(against));
        let right: f64 = own.iter().sum();
        let nlls = || pairs().filter_map(|(a, b)| Some((a.nll?, b.nll?)));
        Ok(Measured {
            name: setting.name.clone(),
            curve: setting.curve().to_owned(),
            line: setting.line.clone(),
            rows: mean(&|a| a.rows as f64),
            rows_of_full_compute: mean(&|a| a.rows_of_full_compute as f64),
            passes: mean(&|a| f64::from(a.passes)),
            milliseconds: mean(&|a| a.milliseconds),
            tokens_per_second: mean(&|a| a.token_ids.len() as f64 + 1.0) / mean(&|a| a.milliseconds) * 1e3,
            accuracy: (!own.is_empty()).then(|| right / own.len() as f64),
            accuracy_difference: Difference::of(own.iter().copied().zip(firsts)),
            same: pairs().filter(|(a, b)| a.token_ids == b.token_ids).count() as f64 / count,
            similarity: pairs().map(|(a, b)| similarity(&a.token_ids, &b.token_ids)).sum::<f64>() / count,
            nll_difference: Difference::of(nlls()),
            nll: (self.samples > 0).then(|| mean(&|a| a.nll.unwrap_or(f64::NAN))),
            answers,
        })
    }

    /// Answers some of the prompts in shared passes.
    fn generate(&mut self, indices: Range<usize>, options: &DecodeOptions) -> Result<Vec<Generation>, Error> {
        let watch = &mut |_: usize, _: &StepReport| ControlFlow::Continue(());
        let model = self.model;
        let canvas = |prompt: &Vec<u32>| Canvas::new(prompt, options.max_tokens, model.vocabulary.hole());
        let request = |prompt| Request { canvas: canvas(prompt), options: options.clone() };
        let requests = self.prompts[indices].iter().map(request).collect();
        let run = fill_all(self.backend, &model.architecture, &model.vocabulary, requests, watch);
        let done = pollster::block_on(run).and_then(|done| done.into_iter().collect());
        done.map_err(|e| explain(e, model))
    }

    fn answer(&mut self, index: usize, done: &Generation, milliseconds: f64) -> Result<Answer, Error> {
        let ids = done.completion().to_vec();
        let nll = if self.samples > 0 { Some(self.nll(index, done, &ids)?) } else { None };
        Ok(Answer {
            text: self.model.text()?.decode(&ids, true)?.trim().to_owned(),
            token_ids: ids,
            rows: done.rows_computed,
            rows_of_full_compute: done.rows_of_full_compute,
            passes: done.forward_passes,
            milliseconds,
            nll,
        })
    }

    /// Likelihood of an answer, with the stop id that ends it where there is one.
    fn nll(&mut self, index: usize, done: &Generation, ids: &[u32]) -> Result<f64, Error> {
        let mut judged = ids.to_vec();
        judged.extend(done.canvas.tokens().get(done.prompt_tokens + ids.len()));
        if let Some(nll) = self.known.get(&(index, judged.clone())) {
            return Ok(*nll);
        }
        let model = self.model;
        let (architecture, vocabulary) = (&model.architecture, &model.vocabulary);
        let prompt = &self.prompts[index];
        let run = answer_nll(self.backend, architecture, vocabulary, prompt, &judged, self.samples, self.seed);
        let nll = pollster::block_on(run).map_err(|e| explain(e, model))?;
        self.known.insert((index, judged), nll);
        Ok(nll)
    }
}

/// One minus the edit distance over the longer length; 1 for two empty answers.
fn similarity(a: &[u32], b: &[u32]) -> f64 {
    let longer = a.len().max(b.len()).max(1);
    1.0 - generic_levenshtein(&a.to_vec(), &b.to_vec()) as f64 / longer as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_paired() {
        let Some(d) = Difference::of([(3.0, 1.0), (4.0, 3.0), (5.0, 5.0)].into_iter()) else { panic!("two pairs") };
        assert!((d.mean - 1.0).abs() < 1e-12 && (d.standard_error - 1.0 / 3f64.sqrt()).abs() < 1e-12);
        assert!(Difference::of([(3.0, 1.0)].into_iter()).is_none());
    }

    #[test]
    fn similarity_counts_edits() {
        assert_eq!(similarity(&[], &[]), 1.0);
        assert_eq!(similarity(&[1, 2, 3, 4], &[1, 3, 4]), 0.75);
        assert_eq!(similarity(&[1], &[]), 0.0);
    }
}
