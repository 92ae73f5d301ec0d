//! Diffusion decoding under way: blocks of a canvas, filled in over passes whose rows cache and mixture of
//! recursions choose, until every hole is decided.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::sync::Arc;

use super::accept::{Acceptance, Order, Scored};
use super::cache::Progress;
use super::credit::Credits;
use super::generating::{Costs, Generating, Work};
use super::mor::Mor;
use super::options::{DecodeOptions, Revision, Vocabulary};
use super::report::{FinishReason, Generation, StepReport};
use super::sampling::{Logprobs, Occurrences, choose};
use crate::architecture::Architecture;
use crate::backend::{Answer, BackendError, Candidate, Guide, Row, Select, StoreId, Want};
use crate::canvas::{Canvas, Cell};
use crate::error::Result;
use crate::random::{Purpose, step_key, threefry, unit};
use crate::schedule::{Block, BlockPlan, quota};

/// A diffusion model's generation under way.
pub struct Decoding {
    architecture: Arc<Architecture>,
    vocabulary: Arc<Vocabulary>,
    options: DecodeOptions,
    stores: Vec<StoreId>,
    blocks: Vec<Block>,
    /// Index of the block at work; past the last one when all are done.
    block: usize,
    /// Passes in this block.
    step: u32,
    /// Holes that the block began with.
    begun: usize,
    /// Steps of the block that a generation which was cut off has behind it.
    behind: usize,
    /// Passes that were run before the cut: their keys and values are gone.
    passes_before: u32,
    /// Revisions of this block.
    rounds: u32,
    /// Sure passes in a row, for adaptive steps.
    sure: u32,
    /// Position of the decided stop id behind which rows are free.
    end: Option<usize>,
    /// Positions of the pass that is being computed.
    computed: Vec<usize>,
    /// Those of its selected rows.
    asked: Vec<usize>,
    mor: Option<Mor>,
    credits: Credits,
    /// What occurs in the text so far, for penalties.
    occurrences: Occurrences,
    /// Log-probabilities of the latest candidate at a position, where they are asked for.
    logprobs: HashMap<usize, Logprobs>,
    last: LastStep,
    /// Of the pass under way.
    costs: Costs,
    /// Whether it had stores before.
    begun_before: bool,
    output: Generation,
}

/// What the last step did; see [`StepReport`].
#[derive(Default)]
struct LastStep {
    block: Range<usize>,
    committed: Vec<Scored>,
    candidates: Vec<Scored>,
    revised: Vec<Scored>,
    remasked: Vec<usize>,
    padded: Vec<usize>,
}

impl Decoding {
    /// Begins to fill the holes of `canvas`, with options that were checked for it. It has a store for the text
    /// and, under guidance, one for its twin without the given part; each has a slot a position.
    ///
    /// What was decided on the canvas before counts: blocks, steps, quotas and random choices go on where it
    /// stands, so that a plain generation cut off after any step ends as it would have without the cut.
    #[must_use]
    pub fn new(
        architecture: Arc<Architecture>,
        vocabulary: Arc<Vocabulary>,
        options: DecodeOptions,
        canvas: Canvas,
    ) -> Self {
        let length = canvas.len();
        let open: Vec<_> = (0..length).filter(|p| canvas.cells()[*p] != Cell::Given).collect();
        let plan = BlockPlan::new(&open, options.block_length, options.steps);
        // Steps count only for the rules that have a number of them.
        let notes = if matches!(options.acceptance, Acceptance::Quota(_)) { plan.notes } else { Vec::new() };
        let passes_before = canvas.cells().iter().filter_map(Cell::decided_at).max().map_or(0, |step| step + 1);
        let given = |cell: &Cell| *cell == Cell::Given;
        let cells = || canvas.cells().iter().zip(canvas.tokens());
        let prompt: Vec<_> = cells().filter(|(cell, _)| given(cell)).map(|(_, token)| *token).collect();
        let mut occurrences = Occurrences::of_prompt(&prompt);
        cells().filter(|(c, _)| c.decided_at().is_some()).for_each(|(_, token)| occurrences.add(*token));
        let mor = options.mor.map(|config| Mor::new(config, length));
        let prompt_tokens = open.first().copied().unwrap_or(length);
        let ends = options.ends(&vocabulary);
        let mut decoding = Self {
            architecture,
            vocabulary,
            options,
            stores: Vec::new(),
            blocks: plan.blocks,
            block: 0,
            step: 0,
            begun: 0,
            behind: 0,
            passes_before,
            rounds: 0,
            sure: 0,
            end: None,
            computed: Vec::new(),
            asked: Vec::new(),
            mor,
            credits: Credits::default(),
            occurrences,
            logprobs: HashMap::new(),
            last: LastStep::default(),
            costs: Costs::default(),
            begun_before: false,
            output: Generation { forward_passes: passes_before, notes, ..Generation::new(canvas, prompt_tokens, ends) },
        };
        decoding.enter_block();
        decoding
    }

    /// The rows of the next pass; `None` when the generation is over.
    fn plan(&mut self) -> Option<Work> {
        let block = self.blocks.get(self.block)?.positions.clone();
        let canvas = &self.output.canvas;
        let progress = Progress { canvas, block: &block, step: self.step, pass: self.output.forward_passes };
        let open = canvas.holes_in(block.clone()).next().is_some();
        let mut positions = self.options.cache.positions(&progress);
        if !open {
            // A full block is looked at again: a cache may have set its rows aside.
            positions.retain(|p| !block.contains(p));
            let at = positions.partition_point(|p| *p < block.start);
            positions.splice(at..at, block.clone());
        }
        positions.retain(|p| !self.is_free(*p));
        if let (Some(mor), true) = (&mut self.mor, open) {
            positions = mor.narrow(&progress, positions);
        }
        let canvas = &self.output.canvas;
        let length = canvas.len();
        let mut rows = Vec::with_capacity(positions.len() * self.stores.len());
        for (twin, store) in self.stores.iter().enumerate() {
            for &position in &positions {
                // The unconditional twin sees the mask in place of everything that was given.
                let hidden = twin == 1 && canvas.cells()[position] == Cell::Given;
                let token = if hidden { canvas.mask() } else { canvas.tokens()[position] };
                rows.push(Row::of_canvas(&self.architecture, *store, position, token, length));
            }
        }
        let sampling = &self.options.sampling;
        let key = step_key(sampling.seed, self.output.forward_passes, Purpose::Sample);
        let want = if sampling.needs_logits() {
            Want::Logits
        } else {
            Want::Candidate { temperature: sampling.temperature, key, suppressed: 0 }
        };
        let guided = self.stores.len() == 2;
        let guide = |row: usize| Guide { row: (positions.len() + row) as u32, scale: self.options.cfg_scale };
        let edits = matches!(self.options.revision, Some(Revision::Edit { .. }));
        let wanted = |p: usize| {
            block.contains(&p)
                && match canvas.cells()[p] {
                    Cell::Given => false,
                    Cell::Hole => true,
                    Cell::Decided { .. } => edits && self.end.is_none_or(|end| p <= end),
                }
        };
        let select: Vec<_> = (0..positions.len())
            .filter(|row| wanted(positions[*row]))
            .map(|row| Select {
                row: row as u32,
                guide: guided.then(|| guide(row)),
                position: positions[row] as u32,
                want,
            })
            .collect();
        self.asked = select.iter().map(|s| positions[s.row as usize]).collect();
        self.computed = positions;
        let full_rows = length * self.stores.len();
        let work = Work { rows, select, suppressed: vec![self.vocabulary.suppressed.clone()], full_rows };
        self.costs = Costs::of(&work);
        Some(work)
    }

    /// The candidates in a pass's answers, each with its position.
    fn candidates(&mut self, answers: Vec<Answer>) -> Result<Vec<(usize, Candidate)>> {
        let key = step_key(self.options.sampling.seed, self.output.forward_passes, Purpose::Sample);
        let mut found = Vec::with_capacity(answers.len());
        for (position, answer) in std::mem::take(&mut self.asked).into_iter().zip(answers) {
            found.push((
                position,
                match answer {
                    Answer::Candidate(candidate) => candidate,
                    Answer::Logits(logits) => {
                        let (sampling, suppressed) = (&self.options.sampling, &self.vocabulary.suppressed);
                        let at = position as u32;
                        let choice = choose(logits, sampling, key, at, suppressed, None, &self.occurrences);
                        let choice = choice.ok_or(BackendError::NotFinite { position: at })?;
                        self.logprobs.extend(choice.logprobs.map(|logprobs| (position, logprobs)));
                        choice.candidate
                    }
                },
            ));
        }
        Ok(found)
    }

    /// Writes a token and what belongs to it.
    fn decide(&mut self, s: &Scored, pass: u32) {
        self.output.canvas.decide(s.position, s.candidate.token, pass, s.candidate.probability);
        self.occurrences.add(s.candidate.token);
        self.output.logprobs.extend(self.logprobs.get(&s.position).map(|l| (s.position, l.clone())));
    }

    /// Makes a decided position a hole again.
    fn remask(&mut self, position: usize) {
        self.occurrences.remove(self.output.canvas.tokens()[position]);
        self.output.canvas.remask(position);
        self.output.logprobs.remove(&position);
    }

    fn take_in(&mut self, candidates: Vec<(usize, Candidate)>) -> StepReport<'_> {
        let pass = self.output.forward_passes;
        self.output.forward_passes += 1;
        self.costs.add_to(&mut self.output);
        self.last = LastStep { block: self.blocks[self.block].positions.clone(), ..LastStep::default() };
        let (fresh, decided): (Vec<_>, Vec<_>) =
            candidates.into_iter().partition(|(p, _)| self.output.canvas.is_hole(*p));
        self.commit(fresh, pass);
        self.edit(&decided, pass);
        if self.options.free_tail {
            self.pad_tail(pass);
        }
        self.step += 1;
        if self.output.canvas.holes_in(self.last.block.clone()).next().is_none() && !self.revise() {
            self.leave_block();
        } else if self.options.early_stop && self.options.revision.is_none() && self.has_ended() {
            self.block = self.blocks.len();
        }
        StepReport {
            step: pass,
            canvas: &self.output.canvas,
            block: self.last.block.clone(),
            committed: &self.last.committed,
            candidates: &self.last.candidates,
            revised: &self.last.revised,
            remasked: &self.last.remasked,
            padded: &self.last.padded,
            settled: self.settled(),
            computed: &self.computed,
            so_far: &self.output,
        }
    }

    /// Every position before this one will not change. With revision that is so when its block is left.
    fn settled(&self) -> usize {
        let canvas = &self.output.canvas;
        let open = canvas.cells().iter().position(|cell| *cell == Cell::Hole).unwrap_or(canvas.len());
        match (self.options.revision, self.blocks.get(self.block)) {
            (Some(_), Some(block)) => open.min(block.positions.start),
            _ => open,
        }
    }

    /// Begins again from the canvas as it stands, its keys and values being lost. What it cost so far counts on.
    fn resume(&mut self) {
        let (architecture, vocabulary) = (self.architecture.clone(), self.vocabulary.clone());
        let fresh = Self::new(architecture, vocabulary, self.options.clone(), self.output.canvas.clone());
        let Self { output, .. } = std::mem::replace(self, fresh);
        self.passes_before = output.forward_passes;
        self.output = output;
    }

    fn into_generation(mut self) -> Generation {
        if self.output.finish == FinishReason::Length && (0..self.output.canvas.len()).any(|p| self.is_end(p)) {
            self.output.finish = FinishReason::Stop;
        }
        if let Some(mor) = self.mor {
            let decided = self.output.canvas.cells().iter().filter_map(Cell::decided_at).count();
            let (stats, log) = mor.stats(&self.output, decided);
            self.output.mor = Some(stats);
            self.output.notes.extend(log);
        }
        self.output
    }

    /// Commits what the acceptance rule takes of the block's latest candidates.
    fn commit(&mut self, fresh: Vec<(usize, Candidate)>, pass: u32) {
        let holes: Vec<_> = self.output.canvas.holes_in(self.last.block.clone()).collect();
        for (position, _) in &fresh {
            self.output.depth[*position] += 1;
        }
        let candidates = match &mut self.mor {
            Some(mor) => mor.observe(&holes, &fresh),
            None => fresh,
        };
        self.last.candidates = self.score(&candidates, pass);
        let quota = quota(self.begun, self.blocks[self.block].steps, self.behind + self.step as usize).max(1);
        let mut committed = self.options.acceptance.accept(self.last.candidates.clone(), quota);
        let accepted = committed.len();
        if self.may_finish() {
            committed = Acceptance::Threshold(f32::MIN).accept(self.last.candidates.clone(), 0);
        }
        committed.iter().for_each(|s| self.decide(s, pass));
        let stats = &mut self.output.acceptance;
        stats.tokens_accepted += committed.len() as u64;
        stats.tokens_rejected += (self.last.candidates.len() - committed.len()) as u64;
        stats.finished_early += (committed.len() - accepted) as u64;
        self.last.committed = committed;
    }

    fn score(&mut self, candidates: &[(usize, Candidate)], pass: u32) -> Vec<Scored> {
        let key = step_key(self.options.sampling.seed, pass, Purpose::Remask);
        let rule = self.options.acceptance;
        self.credits.fade();
        let mut score = |position: usize, candidate: &Candidate| match rule {
            Acceptance::Quota(Order::Random) => unit(threefry(key, [position as u32, 0])),
            Acceptance::Credit(_) => self.credits.credit(position, candidate),
            _ => rule.score(candidate),
        };
        let scored = |(position, candidate): &(usize, Candidate)| Scored {
            position: *position,
            candidate: *candidate,
            score: score(*position, candidate),
        };
        candidates.iter().map(scored).collect()
    }

    /// Whether adaptive steps finish the block with this pass's candidates.
    fn may_finish(&mut self) -> bool {
        let Some(config) = self.options.adaptive_steps else { return false };
        let candidates = &self.last.candidates;
        let sum: f32 = candidates.iter().map(|s| s.candidate.probability).sum();
        let sure = !candidates.is_empty() && sum / candidates.len() as f32 >= config.threshold;
        self.sure = if sure { self.sure + 1 } else { 0 };
        self.sure >= config.patience.max(1) && self.output.forward_passes >= config.min_steps
    }

    /// Replaces decided tokens by what the model is now surer of.
    fn edit(&mut self, proposals: &[(usize, Candidate)], pass: u32) {
        let Some(Revision::Edit { threshold, .. }) = self.options.revision else { return };
        for (position, candidate) in proposals {
            if candidate.probability > threshold && candidate.token != self.output.canvas.tokens()[*position] {
                let s = Scored { position: *position, candidate: *candidate, score: candidate.probability };
                self.remask(*position);
                self.decide(&s, pass);
                self.last.revised.push(s);
            }
        }
        self.output.acceptance.tokens_revised += self.last.revised.len() as u64;
    }

    /// Fills everything behind the first decided stop id, unless text was given there.
    fn pad_tail(&mut self, pass: u32) {
        let Some(pad) = self.vocabulary.pad else { return };
        let answer = self.output.prompt_tokens..self.output.canvas.len();
        let Some(end) = answer.into_iter().find(|p| self.is_end(*p)) else { return };
        let canvas = &mut self.output.canvas;
        if canvas.cells()[end..].contains(&Cell::Given) {
            return;
        }
        self.end = Some(end);
        let tail: Vec<_> = canvas.holes_in(end..canvas.len()).collect();
        for position in &tail {
            canvas.decide(*position, pad, pass, 1.0);
        }
        self.output.acceptance.tokens_padded += tail.len() as u64;
        self.last.padded = tail;
    }

    /// Whether a stop id was decided at `position`.
    fn is_end(&self, position: usize) -> bool {
        let canvas = &self.output.canvas;
        canvas.cells()[position].decided_at().is_some() && self.output.ends.contains(&canvas.tokens()[position])
    }

    /// Whether a row behind the end was computed with its padding already.
    fn is_free(&self, position: usize) -> bool {
        self.end.is_some_and(|end| position > end)
            && matches!(self.output.canvas.cells()[position],
                Cell::Decided { step, .. } if (step + 1).max(self.passes_before) < self.output.forward_passes)
    }

    /// Looks at a full block again; false when it is done.
    fn revise(&mut self) -> bool {
        match self.options.revision {
            None => return false,
            Some(Revision::Verify { threshold, rounds }) if self.rounds < rounds => {
                let doubtful = self.doubtful(threshold);
                doubtful.iter().for_each(|position| self.remask(*position));
                self.output.acceptance.tokens_remasked += doubtful.len() as u64;
                self.begun = doubtful.len();
                self.last.remasked = doubtful;
                if let Some(mor) = &mut self.mor {
                    mor.enter_block();
                }
                if self.last.remasked.is_empty() {
                    return false;
                }
            }
            // A pass that neither committed nor changed anything has nothing new to look at.
            Some(Revision::Edit { rounds, .. })
                if self.rounds < rounds && !(self.last.committed.is_empty() && self.last.revised.is_empty()) => {}
            Some(_) => return false,
        }
        self.rounds += 1;
        true
    }

    /// Positions of the block that were committed below `threshold`, most doubtful first, at most half
    /// of the block.
    fn doubtful(&self, threshold: f32) -> Vec<usize> {
        let probability = |p: usize| match self.output.canvas.cells()[p] {
            Cell::Decided { probability, .. } if probability < threshold => Some((p, probability)),
            _ => None,
        };
        let mut doubtful: Vec<_> = self.last.block.clone().filter_map(probability).collect();
        doubtful.sort_by(|a, b| a.1.total_cmp(&b.1).then(a.0.cmp(&b.0)));
        doubtful.truncate(self.last.block.len().div_ceil(2));
        doubtful.into_iter().map(|(p, _)| p).collect()
    }

    fn leave_block(&mut self) {
        self.block += 1;
        if self.options.early_stop && self.has_ended() {
            self.block = self.blocks.len();
        }
        self.enter_block();
    }

    /// Begins the next block that has holes.
    fn enter_block(&mut self) {
        while let Some(block) = self.blocks.get(self.block) {
            let cells = &self.output.canvas.cells()[block.positions.clone()];
            if cells.contains(&Cell::Hole) {
                self.begun = cells.iter().filter(|c| **c != Cell::Given).count();
                // Every step decides something.
                let steps: BTreeSet<_> = cells.iter().filter_map(Cell::decided_at).collect();
                self.behind = steps.len();
                break;
            }
            self.block += 1;
        }
        (self.step, self.rounds, self.sure) = (0, 0, 0);
        self.credits.clear();
        if let Some(mor) = &mut self.mor {
            mor.enter_block();
        }
    }

    /// Whether a stop id is decided with nothing open before it and no text given behind it.
    fn has_ended(&self) -> bool {
        let canvas = &self.output.canvas;
        let answer = self.output.prompt_tokens..canvas.len();
        let end = answer.clone().find(|p| canvas.is_hole(*p) || self.output.ends.contains(&canvas.tokens()[*p]));
        end.is_some_and(|p| {
            matches!(canvas.cells()[p], Cell::Decided { .. }) && !canvas.cells()[p..].contains(&Cell::Given)
        })
    }
}

impl Generating for Decoding {
    fn stores(&self) -> Vec<u32> {
        let twins = if self.options.cfg_scale > 0.0 { 2 } else { 1 };
        vec![self.output.canvas.len() as u32; twins]
    }

    fn begin(&mut self, stores: Vec<StoreId>) {
        if self.begun_before {
            self.resume();
        }
        self.begun_before = true;
        self.stores = stores;
    }

    /// Every row of a pass may see every other, so that none can be left for later: `most` is not looked at.
    fn next_pass(&mut self, _most: usize) -> Option<Work> {
        self.plan()
    }

    fn absorb(&mut self, answers: Vec<Answer>) -> Result<StepReport<'_>> {
        let candidates = self.candidates(answers)?;
        Ok(self.take_in(candidates))
    }

    fn is_over(&self) -> bool {
        self.block >= self.blocks.len()
    }

    fn abort(&mut self) {
        self.block = self.blocks.len();
        self.output.finish = FinishReason::Aborted;
    }

    fn finish(self: Box<Self>) -> Generation {
        self.into_generation()
    }
}
