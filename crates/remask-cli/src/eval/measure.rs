//! One setting over all questions: what it computed, how long it took, how good the answers are.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::time::Instant;

use remask_core::decode::likelihood::answer_nll;
use remask_core::{Backend, DecodeOptions, Error, Generation, Model, StepReport, generate};
use serde::Serialize;
use strsim::generic_levenshtein;

use super::Question;
use super::sweep::Setting;
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
    /// The answers, in the questions' order.
    pub answers: Vec<Answer>,
}

impl Measured {
    /// Whether the setting is one value of a range: its name ends with a number.
    pub fn is_in_range(&self) -> bool {
        self.name.rsplit([' ', ',']).next().is_some_and(|last| last.parse::<f64>().is_ok())
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
    samples: u32,
    seed: u64,
    /// Likelihoods that are known: settings often give the same answers.
    known: HashMap<(usize, Vec<u32>), f64>,
}

impl<'a> Measurer<'a> {
    /// A measurer of `prompts`, the ids of `questions`.
    pub fn new(
        backend: &'a mut dyn Backend,
        model: &'a Model,
        questions: &'a [Question],
        prompts: &'a [Vec<u32>],
        samples: u32,
        seed: u64,
    ) -> Self {
        Self { backend, model, questions, prompts, samples, seed, known: HashMap::new() }
    }

    /// Answers all questions under a setting and compares with `first`'s answers, or with its own.
    pub fn measure(
        &mut self,
        setting: &Setting,
        max_tokens: usize,
        first: Option<&Measured>,
        progress: &mut dyn FnMut(),
    ) -> Result<Measured, Error> {
        let options = setting.options(max_tokens);
        // A setting's first pass may build pipelines: that is not its speed.
        self.generate(0, &options)?;
        let mut answers = Vec::with_capacity(self.prompts.len());
        for index in 0..self.prompts.len() {
            let started = Instant::now();
            let done = self.generate(index, &options)?;
            answers.push(self.answer(index, &done, started.elapsed().as_secs_f64() * 1e3)?);
            progress();
        }
        let count = answers.len() as f64;
        let mean = |of: &dyn Fn(&Answer) -> f64| answers.iter().map(of).sum::<f64>() / count;
        let against = first.map_or(&answers, |f| &f.answers);
        let pairs = || answers.iter().zip(against);
        let known: Vec<_> = self
            .questions
            .iter()
            .zip(&answers)
            .filter_map(|(q, a)| q.response.as_ref().map(|response| a.text == response.trim()))
            .collect();
        let right = known.iter().filter(|right| **right).count();
        Ok(Measured {
            name: setting.name.clone(),
            curve: setting.curve().to_owned(),
            line: setting.line.clone(),
            rows: mean(&|a| a.rows as f64),
            rows_of_full_compute: mean(&|a| a.rows_of_full_compute as f64),
            passes: mean(&|a| f64::from(a.passes)),
            milliseconds: mean(&|a| a.milliseconds),
            tokens_per_second: mean(&|a| a.token_ids.len() as f64 + 1.0) / mean(&|a| a.milliseconds) * 1e3,
            accuracy: (!known.is_empty()).then(|| right as f64 / known.len() as f64),
            same: pairs().filter(|(a, b)| a.token_ids == b.token_ids).count() as f64 / count,
            similarity: pairs().map(|(a, b)| similarity(&a.token_ids, &b.token_ids)).sum::<f64>() / count,
            nll: (self.samples > 0).then(|| mean(&|a| a.nll.unwrap_or(f64::NAN))),
            answers,
        })
    }

    fn generate(&mut self, index: usize, options: &DecodeOptions) -> Result<Generation, Error> {
        let watch = &mut |_: &StepReport| ControlFlow::Continue(());
        let (model, prompt) = (self.model, &self.prompts[index]);
        let run = generate(self.backend, &model.architecture, &model.vocabulary, prompt, options, watch);
        pollster::block_on(run).map_err(|e| explain(e, model))
    }

    fn answer(&mut self, index: usize, done: &Generation, milliseconds: f64) -> Result<Answer, Error> {
        let ids = done.completion(&self.model.vocabulary.stop).to_vec();
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
    fn similarity_counts_edits() {
        assert_eq!(similarity(&[], &[]), 1.0);
        assert_eq!(similarity(&[1, 2, 3, 4], &[1, 3, 4]), 0.75);
        assert_eq!(similarity(&[1], &[]), 0.0);
    }
}
