//! How likely a text is to the model itself: LLaDA's Monte-Carlo estimate of the bound on its
//! negative log-likelihood (arXiv 2502.09992, appendix A). A faster decoder that writes worse text shows.

use std::ops::Range;

use crate::architecture::Architecture;
use crate::backend::{Backend, Row, Select, StoreId};
use crate::error::{Error, Result};
use crate::lease::Lease;
use crate::random::{Purpose, step_key, threefry};
use crate::scheduler::logits;

use super::generating::Work;
use super::options::Vocabulary;

/// Mean negative log-likelihood a token, in nats, of `answer` after `prompt`: exact for an autoregressive model, an
/// upper bound on a diffusion model's own. For the latter each of `samples` passes masks a number of the answer's tokens, spread evenly over 1 to
/// all of them, at positions drawn from `seed`; the same seed and length give the same masks, so that
/// texts can be compared.
///
/// # Errors
/// [`Error::Request`] where there is nothing to judge or it does not fit the model; [`Error::Backend`].
pub async fn answer_nll(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    prompt: &[u32],
    answer: &[u32],
    samples: u32,
    seed: u64,
) -> Result<f64> {
    let length = prompt.len() + answer.len();
    if answer.is_empty() || samples == 0 || length > architecture.max_positions {
        return Err(Error::Request(format!(
            "the likelihood of {} tokens after {} by {samples} samples: at least one of each, {} positions at most",
            answer.len(),
            prompt.len(),
            architecture.max_positions
        )));
    }
    if !architecture.is_diffusion() {
        return written_nll(backend, architecture, vocabulary, prompt, answer).await;
    }
    // Samples share passes: rows that do not see each other cost less together.
    let together = (ROWS_TOGETHER / length).clamp(1, samples as usize);
    let mut lease = Lease::new(backend, together, length)?;
    let stores = lease.stores();
    let judge = Judge { architecture, vocabulary, prompt, answer, samples, seed };
    let mut sum = 0.0;
    for first in (0..samples).step_by(together) {
        let chunk = first..samples.min(first + together as u32);
        sum += judge.pass(lease.backend(), &stores, chunk).await?;
    }
    Ok(sum / f64::from(samples))
}

/// Rows of a pass that samples share, where there is more than one to share it.
const ROWS_TOGETHER: usize = 512;

/// As [`answer_nll`], of an autoregressive model: all rows at once, each judging the token behind it.
async fn written_nll(
    backend: &mut dyn Backend,
    architecture: &Architecture,
    vocabulary: &Vocabulary,
    prompt: &[u32],
    answer: &[u32],
) -> Result<f64> {
    let text: Vec<_> = prompt.iter().chain(answer).copied().collect();
    // Nothing predicts a text's very first token.
    let asked = prompt.len().max(1)..text.len();
    if asked.is_empty() {
        return Err(Error::Request("the likelihood of a single token without a prompt".to_owned()));
    }
    let mut lease = Lease::new(backend, 1, text.len())?;
    let store = lease.store();
    let row = |position: usize| Row::of_canvas(architecture, store, position, text[position], text.len());
    let work = Work {
        rows: (0..text.len()).map(row).collect(),
        select: asked.clone().map(|position| Select::logits(position - 1, position)).collect(),
        ..Work::default()
    };
    let logits = logits(lease.backend(), &work).await?;
    let rows = asked.clone().zip(logits.chunks(lease.backend().head_rows()));
    let sum: f64 = rows.map(|(position, row)| -log_probability(row, text[position], vocabulary)).sum();
    Ok(sum / asked.len() as f64)
}

/// An answer and how it is judged.
struct Judge<'a> {
    architecture: &'a Architecture,
    vocabulary: &'a Vocabulary,
    prompt: &'a [u32],
    answer: &'a [u32],
    samples: u32,
    seed: u64,
}

impl Judge<'_> {
    /// Sum of the samples' mean negative log-likelihoods, all in one pass; one store for each.
    async fn pass(&self, backend: &mut dyn Backend, stores: &[StoreId], samples: Range<u32>) -> Result<f64> {
        let length = self.prompt.len() + self.answer.len();
        let mut rows = Vec::with_capacity(samples.len() * length);
        let mut select = Vec::new();
        let mut masks = Vec::with_capacity(samples.len());
        for (sample, store) in samples.zip(stores) {
            let masked = masked_positions(self.answer.len(), sample, self.samples, self.seed);
            let token = |position: usize| match position.checked_sub(self.prompt.len()) {
                None => self.prompt[position],
                Some(i) if masked.binary_search(&i).is_ok() => self.vocabulary.hole(),
                Some(i) => self.answer[i],
            };
            select.extend(
                masked.iter().map(|i| Select::logits(rows.len() + self.prompt.len() + i, self.prompt.len() + i)),
            );
            let row = |position| Row::of_canvas(self.architecture, *store, position, token(position), length);
            rows.extend((0..length).map(row));
            masks.push(masked);
        }
        let work = Work { rows, select, ..Work::default() };
        let logits = logits(backend, &work).await?;
        let mut logits = logits.chunks(backend.head_rows());
        let mut sum = 0.0;
        for masked in &masks {
            let nll = |(i, row): (&usize, &[f32])| -log_probability(row, self.answer[*i], self.vocabulary);
            let own: f64 = masked.iter().zip(logits.by_ref()).map(nll).sum();
            sum += own / masked.len() as f64;
        }
        Ok(sum)
    }
}

/// Positions of the answer that a sample masks, in order.
fn masked_positions(length: usize, sample: u32, samples: u32, seed: u64) -> Vec<usize> {
    let key = step_key(seed, sample, Purpose::Remask);
    // Numbers of masks spread evenly over 1..=length, from a common random offset.
    let offset = threefry(step_key(seed, u32::MAX, Purpose::Remask), [length as u32, 0])[0] as usize % length;
    let count = 1 + (offset + sample as usize * length / samples as usize) % length;
    let mut order: Vec<_> = (0..length).map(|i| (threefry(key, [i as u32, length as u32])[0], i)).collect();
    order.sort_unstable();
    let mut masked: Vec<_> = order[..count].iter().map(|(_, i)| *i).collect();
    masked.sort_unstable();
    masked
}

/// Log-probability of `token` among the ids that are tokens.
fn log_probability(logits: &[f32], token: u32, vocabulary: &Vocabulary) -> f64 {
    let allowed = |id: usize| !vocabulary.suppressed.contains(id as u32);
    let logits = || logits.iter().enumerate().filter(|(id, _)| allowed(*id)).map(|(id, l)| (id, f64::from(*l)));
    let largest = logits().map(|(_, l)| l).fold(f64::NEG_INFINITY, f64::max);
    let sum: f64 = logits().map(|(_, l)| (l - largest).exp()).sum();
    let own = logits().find(|(id, _)| *id == token as usize).map_or(f64::NEG_INFINITY, |(_, l)| l);
    own - largest - sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::TokenSet;

    #[test]
    fn samples_mask_every_share_of_the_answer() {
        let counts: Vec<_> = (0..8).map(|s| masked_positions(8, s, 8, 1).len()).collect();
        let mut sorted = counts.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(masked_positions(8, 3, 8, 1), masked_positions(8, 3, 8, 1));
        assert!((0..50).any(|seed| masked_positions(8, 3, 8, seed) != masked_positions(8, 3, 8, 1)));
        assert_eq!(masked_positions(1, 5, 8, 1), [0]);
    }

    #[test]
    fn suppressed_ids_take_no_probability() {
        let mut suppressed = TokenSet::new(4);
        suppressed.insert(3);
        let vocabulary = Vocabulary { mask: Some(3), stop: Vec::new(), pad: None, suppressed: suppressed.into() };
        let logits = [1.0f32, 1.0, 1.0, 50.0];
        assert!((log_probability(&logits, 1, &vocabulary) + 3f64.ln()).abs() < 1e-12);
        assert_eq!(log_probability(&logits, 3, &vocabulary), f64::NEG_INFINITY);
    }
}
