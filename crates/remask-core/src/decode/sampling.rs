//! From logits to a token: penalties, biases, filters and noise, the same in autoregressive generation and at a
//! diffusion model's commit, and on every backend.
//!
//! Devices work out candidates by themselves where a request asks for no more than the likeliest token or plain
//! Gumbel noise. For anything else they hand over the row's logits, and what follows here is arithmetic on the
//! host. The order is transformers': penalties and biases, temperature, top-k, top-p, min-p.

use std::collections::HashMap;

use serde::Serialize;

use crate::backend::{Candidate, TokenSet};
use crate::error::{Error, Result};
use crate::random::{Key, gumbel, threefry};

/// How tokens are chosen from a distribution.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sampling {
    /// 0 takes the likeliest token; above, Gumbel noise times this is added to the logits, which samples from
    /// `softmax(logits / temperature)`.
    pub temperature: f32,
    /// Only the k likeliest tokens, 0 for all.
    pub top_k: usize,
    /// Only the likeliest tokens that together reach this probability, 1 for all.
    pub top_p: f32,
    /// Only tokens at least this share as probable as the likeliest, 0 for all.
    pub min_p: f32,
    /// Positive logits of tokens that occurred, in the prompt or since, are divided by this, negative ones
    /// multiplied (CTRL, arXiv 1909.05858); 1 is off.
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that occurred since the prompt; 0 is off.
    pub presence_penalty: f32,
    /// Subtracted from them as often as they occurred; 0 is off.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// Report log-probabilities: of the chosen token and of this many of the likeliest.
    pub logprobs: Option<usize>,
    /// Seed of every random choice.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            logprobs: None,
            seed: 0,
        }
    }
}

/// Most of the likeliest tokens whose log-probabilities can be asked for.
pub const MOST_LOGPROBS: usize = 64;

impl Sampling {
    /// Whether a row's logits are needed: a device's own candidate knows temperature and suppressed ids alone.
    #[must_use]
    pub fn needs_logits(&self) -> bool {
        self.changes_logits() || self.logprobs.is_some() || (self.temperature > 0.0 && self.filters())
    }

    fn changes_logits(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
            || !self.logit_bias.is_empty()
    }

    fn filters(&self) -> bool {
        self.top_k > 0 || self.top_p < 1.0 || self.min_p > 0.0
    }

    /// Whether the numbers make sense, for a head of `rows` rows.
    ///
    /// # Errors
    /// [`Error::Request`] with the setting that does not.
    pub fn check(&self, rows: usize) -> Result<()> {
        let refuse = |problem: String| Err(Error::Request(problem));
        let finite = [
            ("temperature", self.temperature, 0.0, f32::MAX),
            ("top p", self.top_p, 0.0, 1.0),
            ("min p", self.min_p, 0.0, 1.0),
            ("repetition penalty", self.repetition_penalty, 1e-3, 1e3),
            ("presence penalty", self.presence_penalty, -100.0, 100.0),
            ("frequency penalty", self.frequency_penalty, -100.0, 100.0),
        ];
        for (name, value, least, most) in finite {
            // A NaN is in no range.
            if !(least..=most).contains(&value) {
                let range = if most == f32::MAX { format!("{least} or more") } else { format!("{least} to {most}") };
                return refuse(format!("{name} {value} must be {range}"));
            }
        }
        if self.top_p == 0.0 {
            return refuse("top p 0 leaves no token; it must be above 0".to_owned());
        }
        if let Some(count) = self.logprobs.filter(|count| *count > MOST_LOGPROBS) {
            return refuse(format!("{count} log-probabilities a token; at most {MOST_LOGPROBS} are reported"));
        }
        for (id, bias) in &self.logit_bias {
            if *id as usize >= rows {
                return refuse(format!("logit bias: id {id} is outside the model's {rows} embeddings"));
            }
            if bias.is_nan() || *bias == f32::INFINITY {
                return refuse(format!("logit bias {bias} of id {id}: it must be a number below infinity"));
            }
        }
        Ok(())
    }
}

/// A token's log-probability, and those of the likeliest tokens in its place. From the model's logits with
/// suppressed ids left out, before penalties, biases, filters and temperature.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Logprobs {
    /// Of the chosen token, in nats.
    pub logprob: f32,
    /// The likeliest ids and theirs, best first; among equals the lowest id first.
    pub top: Vec<(u32, f32)>,
}

/// What was chosen from a row of logits.
#[derive(Debug, Clone, PartialEq)]
pub struct Choice {
    /// The token, with its probability after penalties and biases, before filters and temperature.
    pub candidate: Candidate,
    /// Where they were asked for.
    pub logprobs: Option<Logprobs>,
}

/// How often ids occurred in a text.
#[derive(Debug, Clone, Default)]
pub struct Occurrences {
    /// In the prompt and since.
    all: HashMap<u32, u32>,
    /// Since the prompt.
    written: HashMap<u32, u32>,
}

impl Occurrences {
    /// Of a prompt.
    #[must_use]
    pub fn of_prompt(tokens: &[u32]) -> Self {
        let mut found = Self::default();
        for token in tokens {
            *found.all.entry(*token).or_default() += 1;
        }
        found
    }

    /// Counts a token that was written.
    pub fn add(&mut self, token: u32) {
        *self.all.entry(token).or_default() += 1;
        *self.written.entry(token).or_default() += 1;
    }

    /// Takes a token back.
    pub fn remove(&mut self, token: u32) {
        for counts in [&mut self.all, &mut self.written] {
            if let Some(count) = counts.get_mut(&token) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(&token);
                }
            }
        }
    }
}

/// Chooses a token for `position` from its row's `logits`, with the noise of `key`. `suppressed` ids take no
/// probability. Nor do `barred` ones, but log-probabilities are told as if they did. `None` where a logit that counts is
/// NaN or plus infinity, or none counts.
#[must_use]
pub fn choose(
    mut logits: Vec<f32>,
    sampling: &Sampling,
    key: Key,
    position: u32,
    suppressed: &TokenSet,
    barred: Option<&TokenSet>,
    occurrences: &Occurrences,
) -> Option<Choice> {
    suppress(&mut logits, suppressed)?;
    let logprobs = sampling.logprobs.map(|count| (count, Normaliser::of(&logits)));
    let plain = logprobs.is_some().then(|| logits.clone());
    penalise(&mut logits, sampling, occurrences);
    for (id, logit) in logits.iter_mut().enumerate() {
        if barred.is_some_and(|barred| barred.contains(id as u32)) {
            *logit = f32::NEG_INFINITY;
        }
    }
    let normaliser = Normaliser::of(&logits);
    if normaliser.largest == f32::NEG_INFINITY {
        return None;
    }
    let token = if sampling.temperature > 0.0 {
        let noisy = |id: usize| {
            let noise = gumbel(threefry(key, [position, id as u32]));
            logits[id] + sampling.temperature * noise
        };
        best(kept(&logits, sampling).into_iter().map(|id| (id, noisy(id))))?
    } else {
        best(logits.iter().copied().enumerate())?
    };
    let candidate = Candidate {
        token: token as u32,
        probability: normaliser.log_probability(logits[token]).exp() as f32,
        entropy: normaliser.entropy(&logits),
        margin: normaliser.margin(&logits),
    };
    let logprobs = logprobs.zip(plain).map(|((count, normaliser), plain)| normaliser.logprobs(&plain, token, count));
    Some(Choice { candidate, logprobs })
}

/// The log-probabilities of `token` and of `count` of the likeliest in a row of `logits`. `suppressed` ids take no
/// probability. `None` where a logit that counts is not finite, or none counts.
#[must_use]
pub fn logprobs_of(mut logits: Vec<f32>, token: u32, count: usize, suppressed: &TokenSet) -> Option<Logprobs> {
    suppress(&mut logits, suppressed)?;
    let normaliser = Normaliser::of(&logits);
    let known = (token as usize) < logits.len() && normaliser.largest > f32::NEG_INFINITY;
    known.then(|| normaliser.logprobs(&logits, token as usize, count))
}

/// Takes the probability of `suppressed` ids away; `None` where another's is not a number.
fn suppress(logits: &mut [f32], suppressed: &TokenSet) -> Option<()> {
    for (id, logit) in logits.iter_mut().enumerate() {
        if suppressed.contains(id as u32) {
            *logit = f32::NEG_INFINITY;
        } else if !logit.is_finite() {
            return None;
        }
    }
    Some(())
}

/// The id of the greatest score above minus infinity; among equals the first.
fn best(scores: impl Iterator<Item = (usize, f32)>) -> Option<usize> {
    let mut found: Option<(usize, f32)> = None;
    for (id, score) in scores.filter(|(_, score)| *score > f32::NEG_INFINITY) {
        if found.is_none_or(|(_, most)| score > most) {
            found = Some((id, score));
        }
    }
    found.map(|(id, _)| id)
}

fn penalise(logits: &mut [f32], sampling: &Sampling, occurrences: &Occurrences) {
    if sampling.repetition_penalty != 1.0 {
        for id in occurrences.all.keys() {
            if let Some(logit) = logits.get_mut(*id as usize) {
                let penalty = sampling.repetition_penalty;
                *logit = if *logit > 0.0 { *logit / penalty } else { *logit * penalty };
            }
        }
    }
    if sampling.presence_penalty != 0.0 || sampling.frequency_penalty != 0.0 {
        for (id, count) in &occurrences.written {
            if let Some(logit) = logits.get_mut(*id as usize) {
                *logit -= sampling.presence_penalty + sampling.frequency_penalty * *count as f32;
            }
        }
    }
    for (id, bias) in &sampling.logit_bias {
        if let Some(logit) = logits.get_mut(*id as usize) {
            *logit += bias;
        }
    }
}

/// The softmax of a row of logits.
struct Normaliser {
    largest: f32,
    /// Logarithm of the sum of `exp(logit - largest)`.
    log_sum: f64,
}

impl Normaliser {
    fn of(logits: &[f32]) -> Self {
        let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let sum: f64 = logits.iter().map(|l| f64::from(l - largest).exp()).sum();
        Self { largest, log_sum: sum.ln() }
    }

    fn log_probability(&self, logit: f32) -> f64 {
        f64::from(logit - self.largest) - self.log_sum
    }

    fn logprobs(&self, logits: &[f32], token: usize, count: usize) -> Logprobs {
        let of = |id: usize| self.log_probability(logits[id]) as f32;
        let top = likeliest(logits, count).into_iter().map(|id| (id as u32, of(id))).collect();
        Logprobs { logprob: of(token), top }
    }

    fn entropy(&self, logits: &[f32]) -> f32 {
        let one = |logit: &f32| {
            let log = self.log_probability(*logit);
            if log == f64::NEG_INFINITY { 0.0 } else { -log * log.exp() }
        };
        logits.iter().map(one).sum::<f64>().max(0.0) as f32
    }

    /// Probability of the likeliest id minus that of the runner-up.
    fn margin(&self, logits: &[f32]) -> f32 {
        let (mut first, mut second) = (f32::NEG_INFINITY, f32::NEG_INFINITY);
        for logit in logits {
            if *logit > first {
                (first, second) = (*logit, first);
            } else if *logit > second {
                second = *logit;
            }
        }
        (self.log_probability(first).exp() - self.log_probability(second).exp()) as f32
    }
}

/// Ids of the `count` greatest logits, best first, those of minus infinity left out.
fn likeliest(logits: &[f32], count: usize) -> Vec<usize> {
    let order = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
    let mut ids: Vec<_> = (0..logits.len()).filter(|id| logits[*id] > f32::NEG_INFINITY).collect();
    if count > 0 && count < ids.len() {
        ids.select_nth_unstable_by(count - 1, order);
    }
    ids.truncate(count);
    ids.sort_unstable_by(order);
    ids
}

/// Ids that the filters leave, in the order of probability; all of them where no filter is on.
fn kept(logits: &[f32], sampling: &Sampling) -> Vec<usize> {
    if !sampling.filters() {
        return (0..logits.len()).collect();
    }
    let share = |logit: f32, largest: f32| (f64::from(logit - largest) / f64::from(sampling.temperature)).exp();
    let largest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut ids = if sampling.top_k > 0 {
        likeliest(logits, sampling.top_k)
    } else {
        // What top-p and min-p keep is never below this: a nucleus rarely needs all of a vocabulary sorted.
        let floor = if sampling.top_p < 1.0 { nucleus_floor(logits, largest, sampling) } else { f32::NEG_INFINITY };
        let mut ids: Vec<_> =
            (0..logits.len()).filter(|id| logits[*id] >= floor && logits[*id] > f32::NEG_INFINITY).collect();
        ids.sort_unstable_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        ids
    };
    if sampling.top_p < 1.0 {
        let total: f64 = if sampling.top_k > 0 {
            ids.iter().map(|id| share(logits[*id], largest)).sum()
        } else {
            logits.iter().map(|logit| share(*logit, largest)).sum()
        };
        ids.truncate(nucleus(ids.iter().map(|id| share(logits[*id], largest) / total), sampling.top_p));
    }
    if sampling.min_p > 0.0 {
        ids.retain(|id| share(logits[*id], largest) >= f64::from(sampling.min_p));
    }
    ids
}

/// How many of the first shares reach `top_p` together; at least one.
fn nucleus(shares: impl Iterator<Item = f64>, top_p: f32) -> usize {
    let mut sum = 0.0;
    let mut count = 0;
    for share in shares {
        count += 1;
        sum += share;
        if sum >= f64::from(top_p) {
            break;
        }
    }
    count.max(1)
}

/// A logit below which no token of the nucleus lies: halves of the mass are looked for by their size.
fn nucleus_floor(logits: &[f32], largest: f32, sampling: &Sampling) -> f32 {
    let mass = |floor: f32| -> f64 {
        let shares = logits.iter().filter(|logit| **logit >= floor);
        shares.map(|logit| (f64::from(logit - largest) / f64::from(sampling.temperature)).exp()).sum()
    };
    let total = mass(f32::NEG_INFINITY);
    let mut depth = 4.0 * sampling.temperature.max(1e-3);
    for _ in 0..8 {
        if mass(largest - depth) >= f64::from(sampling.top_p) * total * (1.0 + 1e-9) {
            return largest - depth;
        }
        depth *= 2.0;
    }
    f32::NEG_INFINITY
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::random::{Purpose, step_key};
    use proptest::prelude::*;

    fn choose_from(logits: &[f32], sampling: &Sampling, step: u32, seen: &Occurrences) -> Choice {
        let key = step_key(sampling.seed, step, Purpose::Sample);
        choose(logits.to_vec(), sampling, key, 3, &TokenSet::new(logits.len()), None, seen).unwrap()
    }

    fn sampled(logits: &[f32], sampling: &Sampling) -> Vec<u32> {
        (0..4000).map(|step| choose_from(logits, sampling, step, &Occurrences::default()).candidate.token).collect()
    }

    #[test]
    fn frequencies_follow_the_distribution() {
        let logits = [1.0f32, 0.0, 2.0, -1.0];
        let sampling = Sampling { temperature: 0.7, top_k: 4, ..Sampling::default() };
        let drawn = sampled(&logits, &sampling);
        let sum: f64 = logits.iter().map(|l| (f64::from(*l) / 0.7).exp()).sum();
        for (id, logit) in logits.iter().enumerate() {
            let share = drawn.iter().filter(|t| **t == id as u32).count() as f64 / drawn.len() as f64;
            assert!((share - (f64::from(*logit) / 0.7).exp() / sum).abs() < 0.03, "{id}: {share}");
        }
    }

    #[test]
    fn filters_leave_what_they_say() {
        // Probabilities 0.5, 0.25, 0.15, 0.1 at temperature 1.
        let logits = [0.5f32, 0.25, 0.15, 0.1].map(f32::ln);
        let plain = Sampling { temperature: 1.0, ..Sampling::default() };
        for (sampling, left) in [
            (Sampling { top_k: 2, ..plain.clone() }, 2),
            (Sampling { top_p: 0.74, ..plain.clone() }, 2),
            (Sampling { top_p: 0.76, ..plain.clone() }, 3),
            (Sampling { top_p: 0.01, ..plain.clone() }, 1),
            (Sampling { min_p: 0.29, ..plain.clone() }, 3),
            (Sampling { min_p: 0.31, ..plain.clone() }, 2),
            // Of the two that are left the first has two thirds.
            (Sampling { top_k: 2, top_p: 0.6, ..plain.clone() }, 1),
            (plain, 4),
        ] {
            let mut drawn = sampled(&logits, &sampling);
            drawn.sort_unstable();
            drawn.dedup();
            assert_eq!(drawn, (0..left).collect::<Vec<u32>>(), "{sampling:?}");
        }
    }

    #[test]
    fn penalties_count_prompt_and_answer_as_they_should() {
        let mut twice = Occurrences::of_prompt(&[0]);
        twice.add(1);
        twice.add(1);
        let seen = twice;
        let chosen = |sampling: &Sampling| choose_from(&[2.0, 1.9, 1.5, -1.0], sampling, 0, &seen).candidate.token;
        let plain = Sampling::default();
        assert_eq!(chosen(&plain), 0);
        assert_eq!(chosen(&Sampling { repetition_penalty: 1.5, ..plain.clone() }), 2);
        assert_eq!(chosen(&Sampling { presence_penalty: 1.0, ..plain.clone() }), 0, "not for the prompt");
        assert_eq!(chosen(&Sampling { logit_bias: vec![(0, -0.2)], ..plain.clone() }), 1);
        let both = Sampling { logit_bias: vec![(0, -1.0)], frequency_penalty: 0.3, ..plain.clone() };
        assert_eq!(chosen(&both), 2);
        let mut seen = seen.clone();
        seen.remove(1);
        let once = choose_from(&[2.0, 1.9, 1.5, -1.0], &both, 0, &seen).candidate.token;
        assert_eq!(once, 1, "0.3 less, once");
        let never = Sampling { logit_bias: vec![(0, f32::NEG_INFINITY)], ..plain };
        assert_eq!(choose_from(&[2.0, 1.9], &never, 0, &seen).candidate.token, 1);
    }

    #[test]
    fn log_probabilities_are_the_models_own() {
        let sampling = Sampling { logprobs: Some(2), logit_bias: vec![(3, 100.0)], ..Sampling::default() };
        let mut suppressed = TokenSet::new(4);
        suppressed.insert(0);
        let logits = vec![9.0, 1.0, 2.0, 0.0];
        let choice = choose(logits, &sampling, Key::default(), 0, &suppressed, None, &Occurrences::default());
        let choice = choice.unwrap();
        let sum = 1f32.exp() + 2f32.exp() + 1.0;
        let logprobs = choice.logprobs.unwrap();
        assert_eq!(choice.candidate.token, 3);
        assert!((logprobs.logprob + sum.ln()).abs() < 1e-6);
        assert_eq!(logprobs.top.iter().map(|(id, _)| *id).collect::<Vec<_>>(), [2, 1]);
        assert!((logprobs.top[0].1 - (2.0 - sum.ln())).abs() < 1e-6);
    }

    #[test]
    fn what_is_not_finite_is_refused_and_numbers_are_checked() {
        let none = Occurrences::default();
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let plain = Sampling::default();
            let chosen = choose(vec![0.0, bad], &plain, Key::default(), 0, &TokenSet::new(2), None, &none);
            assert_eq!(chosen, None);
        }
        for bad in [
            Sampling { temperature: f32::NAN, ..Sampling::default() },
            Sampling { temperature: -1.0, ..Sampling::default() },
            Sampling { top_p: 0.0, ..Sampling::default() },
            Sampling { repetition_penalty: 0.0, ..Sampling::default() },
            Sampling { logprobs: Some(MOST_LOGPROBS + 1), ..Sampling::default() },
            Sampling { logit_bias: vec![(9, 1.0)], ..Sampling::default() },
        ] {
            assert!(bad.check(9).is_err(), "{bad:?}");
        }
        assert!(Sampling::default().check(9).is_ok());
    }

    proptest! {
        #[test]
        fn a_nucleus_is_the_smallest_set_that_reaches_its_mass(
            logits in proptest::collection::vec(-9.0f32..9.0, 1..200), top_p in 0.01f32..1.0, t in 0.1f32..3.0,
        ) {
            let sampling = Sampling { temperature: t, top_p, ..Sampling::default() };
            let ids = kept(&logits, &sampling);
            let share = |id: &usize| (f64::from(logits[*id]) / f64::from(t)).exp();
            let total: f64 = (0..logits.len()).map(|id| share(&id)).sum();
            let mass = |ids: &[usize]| ids.iter().map(share).sum::<f64>() / total;
            prop_assert!(ids.len() == logits.len() || mass(&ids) >= f64::from(top_p) - 1e-9);
            prop_assert!(ids.len() == 1 || mass(&ids[..ids.len() - 1]) < f64::from(top_p) + 1e-9);
            let least = logits[ids[ids.len() - 1]];
            prop_assert!((0..logits.len()).all(|id| ids.contains(&id) || logits[id] <= least));
        }
    }
}
