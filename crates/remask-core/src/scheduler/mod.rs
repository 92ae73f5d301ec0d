//! The one place that asks a backend for passes. Generations of any kind and length share them: each pass
//! carries the next rows of as many as fit, in turn, and a request that cannot be served fails alone.

mod prefixes;

use std::collections::VecDeque;
use std::ops::ControlFlow;

use self::prefixes::{LEAST, Prefixes, common};
use crate::backend::{Answer, Backend, BackendError, StoreId};
use crate::decode::{Generating, Generation, StepReport, Work};
use crate::error::{Error, Result};

/// Names a generation of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Is told of every step and may end the generation.
pub type Watch<'a> = dyn FnMut(Ticket, &StepReport) -> ControlFlow<()> + 'a;

/// What a scheduler stays within, beside what its backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Generations that run at once. Those that came together count one by one, but begin all the same where they
    /// are more and nothing else runs.
    pub generations: usize,
    /// Slots of all stores together: the keys and values that the device has room for.
    pub slots: usize,
    /// Rows of a pass.
    pub rows: usize,
    /// Rows of a pass that are of first passes and of prompts: they cost many times what a step does that caches
    /// help, and those who are under way wait for them. One newcomer a pass may always come.
    pub newcomer_rows: usize,
    /// Slots of stores that are kept when their generations have ended, as long as nobody else needs them, for texts
    /// that begin alike; 0 for none. Texts under way share beginnings only where this is not 0.
    pub kept_slots: usize,
}

impl Default for Limits {
    /// None, and nothing is kept.
    fn default() -> Self {
        let most = usize::MAX;
        Self { generations: most, slots: most, rows: most, newcomer_rows: most, kept_slots: 0 }
    }
}

/// A generation and what it holds.
struct Entry {
    ticket: Ticket,
    generating: Box<dyn Generating>,
    stores: Vec<StoreId>,
    /// Slots of its stores together.
    slots: usize,
    /// Work that did not fit into the pass before.
    held: Option<Work>,
    /// Whether the pass at hand carries it.
    served: bool,
    /// Whether its next pass is its first one, or goes on with its prompt.
    newcomer: bool,
    /// Whether nothing was computed for its stores yet.
    fresh: bool,
}

/// Generations that share the passes of one backend.
#[derive(Default)]
pub struct Scheduler {
    limits: Limits,
    /// Those that wait, each with those that it came with.
    waiting: VecDeque<Vec<Entry>>,
    /// Those that run; who was not in the latest pass comes first.
    running: VecDeque<Entry>,
    /// What those who have ended left behind.
    prefixes: Prefixes,
    next: u64,
}

/// A generation that came to its end.
pub type Ended = (Ticket, Result<Generation>);

/// What a step did.
#[derive(Debug, Default)]
pub struct Stepped {
    /// Generations that got their stores before the pass.
    pub begun: Vec<Ticket>,
    /// Generations that ended with it.
    pub ended: Vec<Ended>,
    /// Generations that the pass carried.
    pub generations: usize,
    /// Rows that it computed.
    pub rows: usize,
    /// Rows that full compute would have computed in its place.
    pub full_rows: usize,
}

/// A generation's share of a pass: its index among those that run, and how many rows it is answered.
type Share = (usize, usize);

impl Scheduler {
    /// A scheduler that stays within `limits`.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self { limits, ..Self::default() }
    }

    /// Takes a generation in. It runs as soon as there is room for its keys and values, in the order in which
    /// generations came.
    pub fn admit(&mut self, generating: Box<dyn Generating>) -> Ticket {
        let ticket = Ticket(self.next);
        self.admit_together(vec![generating]);
        ticket
    }

    /// Takes generations in that begin together: none gets its stores before there is room for all.
    pub fn admit_together(&mut self, generating: Vec<Box<dyn Generating>>) -> Vec<Ticket> {
        let group: Vec<_> =
            (self.next..).zip(generating).map(|(number, one)| Entry::new(Ticket(number), one)).collect();
        self.next += group.len() as u64;
        let tickets = group.iter().map(|entry| entry.ticket).collect();
        if !group.is_empty() {
            self.waiting.push_back(group);
        }
        tickets
    }

    /// Generations that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.running() + self.waiting()
    }

    /// Generations that have their stores.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running.len()
    }

    /// Generations that have not begun.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.waiting.iter().map(Vec::len).sum()
    }

    /// Slots of the stores that are held.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.running.iter().map(|entry| entry.slots).sum()
    }

    /// Whether every generation has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends a generation where it stands; its rows are in no later pass. `None` where it has ended already. Without a
    /// backend, because it was lost, there is nothing to give back.
    pub fn cancel(&mut self, backend: Option<&mut dyn Backend>, ticket: Ticket) -> Option<Generation> {
        let mut entry = self.take(ticket)?;
        entry.generating.abort();
        if let Some(backend) = backend {
            self.put_away(&mut entry, backend);
        }
        Some(entry.generating.finish())
    }

    fn take(&mut self, ticket: Ticket) -> Option<Entry> {
        if let Some(at) = self.running.iter().position(|entry| entry.ticket == ticket) {
            return self.running.remove(at);
        }
        let place = |group: &Vec<Entry>| group.iter().position(|entry| entry.ticket == ticket);
        let (group, at) = self.waiting.iter().enumerate().find_map(|(i, group)| Some((i, place(group)?)))?;
        let members = self.waiting.get_mut(group)?;
        let entry = members.remove(at);
        if members.is_empty() {
            self.waiting.remove(group);
        }
        Some(entry)
    }

    /// Ends everything, and gives all stores back where there is a backend.
    pub fn clear(&mut self, backend: Option<&mut dyn Backend>) {
        self.waiting.clear();
        let running = std::mem::take(&mut self.running);
        match backend {
            Some(backend) => {
                running.into_iter().for_each(|mut entry| entry.release(backend));
                self.prefixes.clear(Some(backend));
            }
            None => self.prefixes.clear(None),
        }
    }

    /// Gives back what a generation holds that has ended, or keeps it for texts that begin alike.
    fn put_away(&mut self, entry: &mut Entry, backend: &mut dyn Backend) {
        let stored = entry.generating.prefix().map(|prefix| &prefix.tokens[..prefix.stored]);
        if let (Some(tokens), [store]) = (stored.filter(|tokens| tokens.len() >= LEAST), &entry.stores[..])
            && entry.slots <= self.limits.kept_slots
        {
            self.prefixes.keep(tokens.to_vec(), *store, entry.slots, backend);
            entry.stores.clear();
            let free = self.limits.slots.saturating_sub(self.slots());
            self.prefixes.shrink(self.limits.kept_slots.min(free), backend);
        } else {
            entry.release(backend);
        }
    }

    /// Gives those that wait their stores, in the order in which they came and as far as there is room. A step does so
    /// too; here it is known who begins before the pass runs.
    pub fn begin(&mut self, backend: &mut dyn Backend) -> Stepped {
        let mut done = Stepped::default();
        self.begin_waiting(backend, &mut done);
        done
    }

    /// Runs one pass for as many generations as fit, and answers those that ended with it.
    ///
    /// # Errors
    /// [`Error::Backend`] where the device failed. Every generation then waits again, before those that did so
    /// already, and its stores are given back: a later step, with a backend that works, goes on from the canvases
    /// as they stand. What is wrong with one generation alone is that generation's own end.
    pub async fn step(&mut self, backend: &mut dyn Backend, watch: &mut Watch<'_>) -> Result<Stepped> {
        let mut done = self.begin(backend);
        let (joint, shares) = self.form(backend, &mut done.ended);
        if shares.is_empty() {
            self.retire(backend, &mut done.ended);
            return Ok(done);
        }
        (done.generations, done.rows, done.full_rows) = (shares.len(), joint.rows.len(), joint.full_rows);
        let outcome = match forward(backend, &joint).await {
            Ok(answers) => {
                self.share_out(answers, shares, watch, &mut done.ended);
                Ok(())
            }
            // One of them is to blame, perhaps: each runs alone, so that the others go on.
            Err(problem) if is_of_one_request(&problem) && shares.len() > 1 => {
                self.run_apart(backend, shares, watch, &mut done.ended).await
            }
            Err(problem) if is_of_one_request(&problem) => {
                done.ended.extend(shares.first().map(|(index, _)| (self.running[*index].ticket, Err(problem.into()))));
                Ok(())
            }
            Err(problem) => Err(problem),
        };
        self.retire(backend, &mut done.ended);
        if let Err(problem) = outcome {
            self.interrupt(backend);
            return Err(problem.into());
        }
        Ok(done)
    }

    /// Hands a pass's answers to those who asked.
    fn share_out(
        &mut self,
        mut answers: Vec<Answer>,
        shares: Vec<Share>,
        watch: &mut Watch<'_>,
        ended: &mut Vec<Ended>,
    ) {
        for (index, select) in shares {
            let rest = answers.split_off(select.min(answers.len()));
            let own = std::mem::replace(&mut answers, rest);
            self.running[index].absorb(own, watch, ended);
        }
    }

    /// Runs the shares of a pass one by one.
    async fn run_apart(
        &mut self,
        backend: &mut dyn Backend,
        shares: Vec<Share>,
        watch: &mut Watch<'_>,
        ended: &mut Vec<Ended>,
    ) -> Result<(), BackendError> {
        for (index, _) in shares {
            let entry = &mut self.running[index];
            let Some(work) = entry.held.take() else { continue };
            match forward(backend, &work).await {
                Ok(answers) => entry.absorb(answers, watch, ended),
                Err(problem) if is_of_one_request(&problem) => ended.push((entry.ticket, Err(problem.into()))),
                Err(problem) => return Err(problem),
            }
        }
        Ok(())
    }

    /// Gives waiting generations their stores, as long as there is room.
    fn begin_waiting(&mut self, backend: &mut dyn Backend, done: &mut Stepped) {
        while let Some(mut group) = self.waiting.pop_front() {
            let generations = self.running.len().saturating_add(group.len());
            let slots: usize = group.iter().map(|entry| entry.slots).fold(self.slots(), usize::saturating_add);
            let room = generations <= self.limits.generations && slots <= self.limits.slots;
            // Room comes when another one ends; nobody overtakes.
            if !room && !self.running.is_empty() {
                self.waiting.push_front(group);
                break;
            }
            if slots > self.limits.slots {
                let most = self.limits.slots;
                let problem = || {
                    Error::Request(format!(
                        "keys and values of {slots} positions; there is room for {most}: shorten the text or ask for fewer at once"
                    ))
                };
                done.ended.extend(group.iter().map(|entry| (entry.ticket, Err(problem()))));
                continue;
            }
            self.prefixes.shrink(self.limits.slots - slots, backend);
            let mut begun = group.iter_mut().try_for_each(|entry| entry.begin(backend));
            if begun.is_err() && self.prefixes.slots() > 0 {
                self.prefixes.clear(Some(backend));
                group.iter_mut().for_each(|entry| entry.release(backend));
                begun = group.iter_mut().try_for_each(|entry| entry.begin(backend));
            }
            match begun {
                Ok(()) => {
                    done.begun.extend(group.iter().map(|entry| entry.ticket));
                    self.running.extend(group);
                }
                Err(problem) => {
                    group.iter_mut().for_each(|entry| entry.release(backend));
                    // What others hold now may be what it lacks.
                    if !matches!(problem, BackendError::InvalidPass(_)) && !self.running.is_empty() {
                        self.waiting.push_front(group);
                        break;
                    }
                    done.ended.extend(group.iter().map(|entry| (entry.ticket, Err(problem.clone().into()))));
                }
            }
        }
    }

    /// The joint work of a pass, and the running generations that have a share in it with their selected rows.
    /// Each keeps its own work until the pass has succeeded.
    fn form(&mut self, backend: &mut dyn Backend, ended: &mut Vec<Ended>) -> (Work, Vec<Share>) {
        let able = backend.most_rows();
        let most = able.min(self.limits.rows.max(1));
        let (mut joint, mut shares) = (Work::default(), Vec::new());
        let mut newcomer_rows = 0;
        for index in 0..self.running.len() {
            self.running[index].served = false;
            if self.running[index].fresh && !self.take_over(index, backend) {
                continue;
            }
            let entry = &mut self.running[index];
            let mut room = most.saturating_sub(joint.rows.len());
            if entry.newcomer && newcomer_rows > 0 {
                room = room.min(self.limits.newcomer_rows.saturating_sub(newcomer_rows));
            }
            if room == 0 {
                continue;
            }
            let Some(work) = entry.held.take().or_else(|| entry.generating.next_pass(room)) else { continue };
            let rows = work.rows.len();
            if rows > able {
                let problem =
                    format!("a pass of {rows} rows; this device computes at most {able} together: shorten the text");
                ended.push((entry.ticket, Err(Error::Request(problem))));
                continue;
            }
            // A pass that is larger than the limit, and cannot be cut, goes alone.
            if rows <= room || joint.rows.is_empty() {
                shares.push((index, work.select.len()));
                join(&mut joint, &work);
                (entry.served, entry.fresh) = (true, false);
                newcomer_rows += if entry.newcomer { rows } else { 0 };
            }
            entry.held = Some(work);
        }
        (joint, shares)
    }

    /// Gives a generation whose first pass is next what others hold of the beginning of its text. False where it
    /// should wait, since one that runs computes more of it right now.
    fn take_over(&mut self, index: usize, backend: &mut dyn Backend) -> bool {
        if self.limits.kept_slots == 0 {
            return true;
        }
        let entry = &self.running[index];
        let Some(own) = entry.generating.prefix() else { return true };
        let mut best = (0, None);
        let mut coming = 0;
        for (at, other) in self.running.iter().enumerate().filter(|(at, _)| *at != index) {
            let Some(theirs) = other.generating.prefix() else { continue };
            let shared = common(own.tokens, theirs.tokens);
            let stored = shared.min(theirs.stored);
            if stored > best.0 {
                best = (stored, other.stores.first().copied());
            }
            // Of two that begin at the same time, the later one waits for the other.
            if !other.fresh || at < index {
                coming = coming.max(shared);
            }
        }
        if let Some((store, kept)) = self.prefixes.find(own.tokens)
            && kept > best.0
        {
            best = (kept, Some(store));
        }
        // The last token is computed in any case: the next one is read from its row.
        let most = own.tokens.len().saturating_sub(1);
        let count = best.0.min(most);
        if coming.min(most) >= count + LEAST {
            return false;
        }
        if let (Some(from), Some(to)) = (best.1, entry.stores.first().copied())
            && count >= LEAST
            && backend.copy_slots(from, to, count as u32)
        {
            self.running[index].generating.take_over(count);
        }
        true
    }

    /// Takes out what has ended, and lets those that were not in the pass come first in the next.
    fn retire(&mut self, backend: &mut dyn Backend, ended: &mut Vec<Ended>) {
        let (mut first, mut served) = (VecDeque::new(), VecDeque::new());
        for mut entry in std::mem::take(&mut self.running) {
            if ended.iter().any(|(ticket, _)| *ticket == entry.ticket) {
                entry.release(backend);
            } else if entry.is_over() {
                self.put_away(&mut entry, backend);
                ended.push((entry.ticket, Ok(entry.generating.finish())));
            } else if entry.served {
                served.push_back(entry);
            } else {
                first.push_back(entry);
            }
        }
        first.append(&mut served);
        self.running = first;
    }

    /// Puts those that run back to those that wait: what their stores held is lost.
    fn interrupt(&mut self, backend: &mut dyn Backend) {
        self.prefixes.clear(Some(backend));
        for mut entry in self.running.drain(..).rev() {
            entry.release(backend);
            (entry.held, entry.newcomer, entry.fresh) = (None, true, true);
            self.waiting.push_front(vec![entry]);
        }
    }
}

impl Entry {
    fn new(ticket: Ticket, generating: Box<dyn Generating>) -> Self {
        let slots = generating.stores().iter().map(|slots| *slots as usize).sum();
        Self { ticket, generating, stores: Vec::new(), slots, held: None, served: false, newcomer: true, fresh: true }
    }

    /// Makes its stores; those that were made before one could not be stay with it.
    fn begin(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        for slots in self.generating.stores() {
            self.stores.push(backend.create_store(slots)?);
        }
        self.generating.begin(self.stores.clone());
        Ok(())
    }

    fn release(&mut self, backend: &mut dyn Backend) {
        self.stores.drain(..).for_each(|store| backend.release_store(store));
    }

    fn absorb(&mut self, answers: Vec<Answer>, watch: &mut Watch<'_>, ended: &mut Vec<Ended>) {
        self.held = None;
        match self.generating.absorb(answers) {
            Ok(report) => {
                // A pass that committed nothing was a piece of a prompt.
                self.newcomer &= report.committed.is_empty();
                if watch(self.ticket, &report).is_break() {
                    self.generating.abort();
                }
            }
            Err(problem) => ended.push((self.ticket, Err(problem))),
        }
    }

    /// Whether nothing is left to do. What is left is held for the next pass.
    fn is_over(&mut self) -> bool {
        self.held.is_none() && self.generating.is_over()
    }
}

/// Whether a failed pass may be the fault of one of its requests, and left the device as it was.
fn is_of_one_request(problem: &BackendError) -> bool {
    matches!(problem, BackendError::InvalidPass(_) | BackendError::NotFinite { .. } | BackendError::OutOfMemory { .. })
}

/// Runs one pass. Everything that computes goes through here.
///
/// # Errors
/// As [`Backend::forward`].
pub async fn forward(backend: &mut dyn Backend, work: &Work) -> Result<Vec<Answer>, BackendError> {
    backend.forward(&work.pass()).await
}

/// The logits of all selected rows, each of which must ask for them: `[select, head rows]`.
///
/// # Errors
/// As [`Backend::forward`].
pub async fn logits(backend: &mut dyn Backend, work: &Work) -> Result<Vec<f32>, BackendError> {
    let answers = forward(backend, work).await?;
    Ok(answers.into_iter().filter_map(Answer::logits).flatten().collect())
}

/// Appends one generation's rows to a pass.
fn join(joint: &mut Work, work: &Work) {
    let first = joint.rows.len() as u32;
    joint.full_rows += work.full_rows;
    joint.rows.extend_from_slice(&work.rows);
    let sets: Vec<u32> = work
        .suppressed
        .iter()
        .map(|set| {
            let known = joint.suppressed.iter().position(|other| std::sync::Arc::ptr_eq(other, set));
            known.unwrap_or_else(|| {
                joint.suppressed.push(set.clone());
                joint.suppressed.len() - 1
            }) as u32
        })
        .collect();
    joint.select.extend(work.select.iter().map(|select| {
        let mut select = *select;
        select.row += first;
        if let Some(guide) = &mut select.guide {
            guide.row += first;
        }
        if let crate::backend::Want::Candidate { suppressed, .. } = &mut select.want {
            // A set that is not there stays so: the backend refuses the pass.
            *suppressed = sets.get(*suppressed as usize).copied().unwrap_or(u32::MAX);
        }
        select
    }));
}
