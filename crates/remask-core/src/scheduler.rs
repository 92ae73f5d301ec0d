//! The one place that asks a backend for passes. Generations of any kind and length share them: each pass
//! carries the next rows of as many as fit, in turn, and a request that cannot be served fails alone.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::backend::{Answer, Backend, BackendError, StoreId};
use crate::decode::{Generating, Generation, StepReport, Work};
use crate::error::{Error, Result};

/// Names a generation of a scheduler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// Is told of every step and may end the generation.
pub type Watch<'a> = dyn FnMut(Ticket, &StepReport) -> ControlFlow<()> + 'a;

/// A generation and what it holds.
struct Entry {
    ticket: Ticket,
    generating: Box<dyn Generating>,
    stores: Vec<StoreId>,
    /// Work that did not fit into the pass before.
    held: Option<Work>,
}

/// Generations that share the passes of one backend.
#[derive(Default)]
pub struct Scheduler {
    waiting: VecDeque<Entry>,
    running: VecDeque<Entry>,
    next: u64,
}

/// A generation that came to its end.
pub type Ended = (Ticket, Result<Generation>);

impl Scheduler {
    /// Takes a generation in. It runs as soon as the backend has room for its keys and values, in the order in
    /// which generations came.
    pub fn admit(&mut self, generating: Box<dyn Generating>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.waiting.push_back(Entry { ticket, generating, stores: Vec::new(), held: None });
        ticket
    }

    /// Generations that have not ended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len() + self.running.len()
    }

    /// Whether every generation has ended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Ends a generation where it stands; its rows are in no later pass. `None` where it has ended already.
    pub fn cancel(&mut self, backend: &mut dyn Backend, ticket: Ticket) -> Option<Generation> {
        let take = |queue: &mut VecDeque<Entry>| {
            let at = queue.iter().position(|entry| entry.ticket == ticket)?;
            queue.remove(at)
        };
        let mut entry = take(&mut self.running).or_else(|| take(&mut self.waiting))?;
        entry.generating.abort();
        entry.release(backend);
        Some(entry.generating.finish())
    }

    /// Ends everything, and gives all stores back.
    pub fn clear(&mut self, backend: &mut dyn Backend) {
        for mut entry in self.running.drain(..).chain(self.waiting.drain(..)) {
            entry.release(backend);
        }
    }

    /// Runs one pass for as many generations as fit, and answers those that ended with it.
    ///
    /// # Errors
    /// [`Error::Backend`] where the device failed; every generation has then ended, and its stores are given back.
    /// What is wrong with one generation alone is that generation's own end.
    pub async fn step(&mut self, backend: &mut dyn Backend, watch: &mut Watch<'_>) -> Result<Vec<Ended>> {
        let mut ended = Vec::new();
        self.begin_waiting(backend, &mut ended);
        let (joint, shares) = self.form(backend, &mut ended);
        if shares.is_empty() {
            self.retire(backend, &mut ended);
            return Ok(ended);
        }
        match forward(backend, &joint).await {
            Ok(mut answers) => {
                for (index, select) in shares {
                    let rest = answers.split_off(select.min(answers.len()));
                    let own = std::mem::replace(&mut answers, rest);
                    self.running[index].absorb(own, watch, &mut ended);
                }
            }
            // One of them is to blame, perhaps: each runs alone, so that the others go on.
            Err(problem) if is_of_one_request(&problem) && shares.len() > 1 => {
                for (index, _) in shares {
                    let entry = &mut self.running[index];
                    let Some(work) = entry.held.take() else { continue };
                    match forward(backend, &work).await {
                        Ok(answers) => entry.absorb(answers, watch, &mut ended),
                        Err(problem) if is_of_one_request(&problem) => ended.push((entry.ticket, Err(problem.into()))),
                        Err(problem) => {
                            self.clear(backend);
                            return Err(problem.into());
                        }
                    }
                }
            }
            Err(problem) if is_of_one_request(&problem) => {
                ended.extend(shares.first().map(|(index, _)| (self.running[*index].ticket, Err(problem.into()))));
            }
            Err(problem) => {
                self.clear(backend);
                return Err(problem.into());
            }
        }
        self.retire(backend, &mut ended);
        Ok(ended)
    }

    /// Gives waiting generations their stores, as long as there is room.
    fn begin_waiting(&mut self, backend: &mut dyn Backend, ended: &mut Vec<Ended>) {
        while let Some(mut entry) = self.waiting.pop_front() {
            match entry.begin(backend) {
                Ok(()) => self.running.push_back(entry),
                // Room comes when another one ends; nobody overtakes.
                Err(BackendError::OutOfMemory { .. }) if !self.running.is_empty() => {
                    self.waiting.push_front(entry);
                    break;
                }
                Err(problem) => ended.push((entry.ticket, Err(problem.into()))),
            }
        }
    }

    /// The joint work of a pass, and the running generations that have a share in it with their selected rows.
    /// Each keeps its own work until the pass has succeeded.
    fn form(&mut self, backend: &dyn Backend, ended: &mut Vec<Ended>) -> (Work, Vec<(usize, usize)>) {
        let most = backend.most_rows();
        let (mut joint, mut shares) = (Work::default(), Vec::new());
        // Who was served last waits behind the others.
        for index in 0..self.running.len() {
            let entry = &mut self.running[index];
            let room = most.saturating_sub(joint.rows.len());
            if room == 0 {
                break;
            }
            let Some(work) = entry.held.take().or_else(|| entry.generating.next_pass(room)) else { continue };
            if work.rows.len() > most {
                let problem = format!(
                    "a pass of {} rows; this device computes at most {most} together: shorten the text",
                    work.rows.len()
                );
                ended.push((entry.ticket, Err(Error::Request(problem))));
            } else if work.rows.len() <= room {
                shares.push((index, work.select.len()));
                join(&mut joint, &work);
                entry.held = Some(work);
            } else {
                entry.held = Some(work);
            }
        }
        (joint, shares)
    }

    /// Takes out what has ended, and lets those that waited for room in a pass come first.
    fn retire(&mut self, backend: &mut dyn Backend, ended: &mut Vec<Ended>) {
        let mut held = VecDeque::new();
        let mut served = VecDeque::new();
        for mut entry in self.running.drain(..) {
            if ended.iter().any(|(ticket, _)| *ticket == entry.ticket) {
                entry.release(backend);
            } else if entry.is_over() {
                entry.release(backend);
                ended.push((entry.ticket, Ok(entry.generating.finish())));
            } else if entry.held.is_some() {
                held.push_back(entry);
            } else {
                served.push_back(entry);
            }
        }
        held.append(&mut served);
        self.running = held;
    }
}

impl Entry {
    fn begin(&mut self, backend: &mut dyn Backend) -> Result<(), BackendError> {
        for slots in self.generating.stores() {
            match backend.create_store(slots) {
                Ok(store) => self.stores.push(store),
                Err(problem) => {
                    self.release(backend);
                    return Err(problem);
                }
            }
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
