//! The engine's thread: it owns the device and everything on it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use remask_core::chat::Conversation;
use remask_core::request::{GenerationRequest, Prompt, Terms};
use remask_core::{Backend, Canvas, DecodeOptions, Error, Model, Scheduler, Stepped, Ticket, fill};

use crate::error::EngineError;
use crate::events::{Answer, Events};
use crate::guidance::Guidance;
use crate::handle::{Command, Handle, Submission};
use crate::open::{EngineBuilder, OpenBackend, Source};
use crate::seat::Seat;
use crate::state::{EngineState, ServedModel, Shared, Totals};

/// How long a failed device is left alone before it is opened again, try by try.
const PAUSES: [Duration; 3] = [Duration::ZERO, Duration::from_millis(250), Duration::from_secs(1)];
/// The pause after those: requests are refused meanwhile.
const LONG_PAUSE: Duration = Duration::from_secs(2);

/// What a pass was.
#[derive(Debug, Clone)]
pub struct PassRecord {
    /// Name of the model.
    pub model: Arc<str>,
    /// Generations that it carried.
    pub generations: usize,
    /// Rows that it computed.
    pub rows: usize,
    /// Rows that full compute would have computed in its place.
    pub full_rows: usize,
    /// Tokens that each generation committed.
    pub committed: Vec<usize>,
    /// How long it took.
    pub time: Duration,
}

/// Models on a device, and a thread that answers requests with them. Its [`Handle`]s can be anywhere; to drop the
/// engine ends them all.
pub struct Engine {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    pub(crate) fn new(handle: Handle, thread: JoinHandle<()>) -> Self {
        Self { handle, thread: Some(thread) }
    }

    /// Sends requests from anywhere.
    #[must_use]
    pub fn handle(&self) -> &Handle {
        &self.handle
    }

    /// The answer to a user's message, by the default model.
    ///
    /// # Errors
    /// What kept it from being complete.
    pub fn chat(&self, message: &str) -> Result<String, EngineError> {
        let answer = self.complete(&GenerationRequest::new(Prompt::Chat(Conversation::ask(message))))?;
        Ok(answer.choices.into_iter().next().map(|choice| choice.text).unwrap_or_default())
    }

    /// The answer to a request, by the default model.
    ///
    /// # Errors
    /// What kept it from being complete.
    pub fn complete(&self, request: &GenerationRequest) -> Result<Answer, EngineError> {
        self.stream(request)?.wait()
    }

    /// The answer to a request as it comes, by the default model.
    ///
    /// # Errors
    /// Why there will be none.
    pub fn stream(&self, request: &GenerationRequest) -> Result<Events, EngineError> {
        self.handle.ask(&self.handle.default_model()?, request)
    }

    /// Waits until it answers.
    ///
    /// # Errors
    /// [`EngineError::Open`] where it never will.
    pub fn wait_until_ready(&self) -> Result<(), EngineError> {
        loop {
            match self.handle.state() {
                EngineState::Ready => return Ok(()),
                EngineState::Loading { .. } => std::thread::sleep(Duration::from_millis(5)),
                EngineState::Failed(problem) | EngineState::Stopped(problem) => return Err(EngineError::Open(problem)),
            }
        }
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // A thread that is gone has stopped.
        let _ = self.handle.commands.send(Command::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Says that the engine has stopped, however its thread ends.
struct Farewell<'a>(&'a Shared);

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let words = if std::thread::panicking() { "the engine's thread failed" } else { "the engine was shut down" };
        if !matches!(self.0.state(), EngineState::Stopped(_)) {
            self.0.set(EngineState::Stopped(words.to_owned()));
        }
    }
}

/// The engine's thread.
pub(crate) fn run(mut builder: EngineBuilder, shared: &Arc<Shared>, commands: &Receiver<Command>) {
    let _farewell = Farewell(shared);
    let mut loaded = Vec::new();
    for (index, source) in std::mem::take(&mut builder.sources).into_iter().enumerate() {
        match Loaded::open(&builder, source, index, shared) {
            Ok(one) => loaded.push(one),
            Err(problem) => {
                tracing::error!("{problem}");
                shared.set(EngineState::Stopped(problem));
                return;
            }
        }
    }
    let served: Vec<_> = loaded.iter().map(|one| one.served.clone()).collect();
    *shared.models.write().unwrap_or_else(PoisonError::into_inner) = served.clone();
    let mut lines: Vec<_> =
        loaded.into_iter().zip(&served).map(|(one, served)| Line::new(&builder, one, served)).collect();
    shared.set(EngineState::Ready);
    serve(&mut lines, &mut builder, shared, commands);
    for line in &mut lines {
        line.fail_all(&EngineError::Stopped);
    }
}

/// A model with its device.
struct Loaded {
    served: Arc<ServedModel>,
    backend: Box<dyn Backend>,
    open: OpenBackend,
}

impl Loaded {
    fn open(builder: &EngineBuilder, source: Source, index: usize, shared: &Shared) -> Result<Self, String> {
        let Source { name, open, mut backend } = source;
        let told = |loaded, total| shared.set(EngineState::Loading { model: name.clone(), loaded, total });
        told(0, 0);
        let model = open().map_err(|e| e.to_string())?;
        let total = model.checkpoint.total_bytes();
        told(0, total);
        let mut opened = backend(&model, &mut |bytes| told(bytes, total)).map_err(|e| e.to_string())?;
        warm_up(opened.as_mut(), &model).map_err(|e| e.to_string())?;
        let mut terms = Terms::of(&model);
        terms.context = builder.context.unwrap_or(usize::MAX).min(terms.context);
        (terms.default_max_tokens, terms.clamp) = (builder.default_max_tokens, builder.clamp);
        let slot_bytes = crate::open::slot_bytes(&model);
        let model = Arc::new(model);
        terms.grammars = Some(Arc::new(Guidance::new(model.clone())));
        let served = ServedModel {
            slots: builder.limits(&model).slots,
            model,
            terms,
            info: opened.info(),
            notes: opened.notes(),
            index,
            name,
            slot_bytes,
            slots_used: AtomicUsize::new(0),
            slots_most: AtomicUsize::new(0),
            under_way: std::sync::Mutex::default(),
            totals: Totals::default(),
        };
        Ok(Self { served: served.into(), backend: opened, open: backend })
    }
}

/// Computes one token, so that the first request finds kernels compiled.
fn warm_up(backend: &mut dyn Backend, model: &Model) -> Result<(), Error> {
    let first = model.architecture.tokens.bos.unwrap_or_default();
    let canvas = Canvas::new(&[first], 1, model.vocabulary.hole());
    let options = DecodeOptions { max_tokens: 1, steps: 1, ..DecodeOptions::default() };
    let watch = &mut |_: &remask_core::StepReport<'_>| std::ops::ControlFlow::Continue(());
    pollster::block_on(fill(backend, &model.architecture, &model.vocabulary, canvas, &options, watch)).map(|_| ())
}

/// A model's device and those who share it.
struct Line<'m> {
    served: &'m ServedModel,
    name: Arc<str>,
    backend: Option<Box<dyn Backend>>,
    open: OpenBackend,
    scheduler: Scheduler,
    seats: HashMap<Ticket, Seat<'m>>,
    /// Passes that failed since one succeeded.
    failures: usize,
    /// When the device is opened again.
    again: Instant,
}

impl<'m> Line<'m> {
    fn new(builder: &EngineBuilder, loaded: Loaded, served: &'m ServedModel) -> Self {
        Self {
            served,
            name: served.name.as_str().into(),
            backend: Some(loaded.backend),
            open: loaded.open,
            scheduler: Scheduler::new(builder.limits(&served.model)),
            seats: HashMap::new(),
            failures: 0,
            again: Instant::now(),
        }
    }

    fn submit(&mut self, submission: Submission) {
        let Submission { jobs, places, events, steps, since, .. } = submission;
        let begun: Result<Vec<_>, _> = jobs.iter().map(remask_core::request::Job::begin).collect();
        let seats = jobs.into_iter().zip(places).enumerate().map(|(index, (job, place))| {
            Seat::new(&self.served.model, index, job, events.clone(), steps, place, since)
        });
        let seats: Vec<_> = seats.collect();
        match begun {
            Ok(generations) => self.seats.extend(self.scheduler.admit_together(generations).into_iter().zip(seats)),
            Err(problem) => {
                let problem = EngineError::from_generation(problem);
                seats.into_iter().for_each(|seat| seat.fail(problem.clone()));
            }
        }
    }

    /// Ends generations that nobody waits for.
    fn forget_those_left(&mut self) {
        let left: Vec<_> = self.seats.iter().filter(|(_, seat)| seat.is_left()).map(|(ticket, _)| *ticket).collect();
        for ticket in left {
            self.scheduler.cancel(self.backend.as_deref_mut().map(|b| b as _), ticket);
            self.seats.remove(&ticket);
        }
        self.served.hold(self.scheduler.slots());
    }

    /// Runs a pass, where there is something to compute and something to do it with.
    fn pass(&mut self) -> Option<PassRecord> {
        let backend = self.backend.as_mut().filter(|_| !self.scheduler.is_empty())?;
        let Stepped { begun, ended, .. } = self.scheduler.begin(backend.as_mut());
        // Who hears that it has begun may look at the gauges at once.
        self.served.hold(self.scheduler.slots());
        for ticket in begun {
            if let Some(seat) = self.seats.get_mut(&ticket) {
                seat.begin();
            }
        }
        let seats = &mut self.seats;
        for (ticket, outcome) in ended {
            if let Some(seat) = seats.remove(&ticket) {
                seat.end(outcome);
            }
        }
        let began = Instant::now();
        let mut committed = Vec::new();
        let outcome = {
            let watch = &mut |ticket: Ticket, report: &remask_core::StepReport<'_>| {
                committed.push(report.committed.len());
                seats.get_mut(&ticket).map_or(std::ops::ControlFlow::Break(()), |seat| seat.step(report))
            };
            pollster::block_on(self.scheduler.step(backend.as_mut(), watch))
        };
        match outcome {
            Ok(stepped) => Some(self.passed(stepped, committed, began.elapsed())),
            Err(problem) => {
                self.interrupted(&problem);
                None
            }
        }
    }

    fn passed(&mut self, stepped: Stepped, committed: Vec<usize>, time: Duration) -> PassRecord {
        let Stepped { ended, generations, rows, full_rows, .. } = stepped;
        if generations > 0 {
            self.failures = 0;
            let totals = &self.served.totals;
            totals.passes.fetch_add(1, Ordering::Relaxed);
            totals.rows.fetch_add(rows as u64, Ordering::Relaxed);
            totals.full_rows.fetch_add(full_rows as u64, Ordering::Relaxed);
        }
        // Who reads the end may look at the gauges at once.
        self.served.hold(self.scheduler.slots());
        for (ticket, outcome) in ended {
            if let Some(seat) = self.seats.remove(&ticket) {
                seat.end(outcome);
            }
        }
        PassRecord { model: self.name.clone(), generations, rows, full_rows, committed, time }
    }

    /// The device failed: those under way wait for another.
    fn interrupted(&mut self, problem: &Error) {
        tracing::error!(model = %self.name, "the device failed: {problem}");
        self.backend = None;
        self.again = Instant::now() + PAUSES.get(self.failures).copied().unwrap_or(LONG_PAUSE);
        self.failures += 1;
        if self.failures > PAUSES.len() {
            self.fail_all(&EngineError::Device(problem.to_string()));
        }
    }

    /// Opens the device again, where its time has come. What is wrong, where it cannot be.
    fn reopen(&mut self) -> Result<(), String> {
        if self.backend.is_some() {
            return Ok(());
        }
        if Instant::now() < self.again {
            return Err("it is opened again soon".to_owned());
        }
        let mut backend = match (self.open)(&self.served.model, &mut |_| {}) {
            Ok(backend) => backend,
            Err(problem) => {
                self.interrupted(&problem.clone().into());
                return Err(problem.to_string());
            }
        };
        if let Err(problem) = warm_up(backend.as_mut(), &self.served.model) {
            self.interrupted(&problem);
            return Err(problem.to_string());
        }
        tracing::warn!(model = %self.name, "the device is back");
        self.backend = Some(backend);
        Ok(())
    }

    fn fail_all(&mut self, problem: &EngineError) {
        self.scheduler.clear(self.backend.as_deref_mut().map(|b| b as _));
        self.served.hold(0);
        self.seats.drain().for_each(|(_, seat)| seat.fail(problem.clone()));
    }
}

/// Runs passes as long as somebody waits, and waits for requests where nobody does.
fn serve(lines: &mut [Line<'_>], builder: &mut EngineBuilder, shared: &Shared, commands: &Receiver<Command>) {
    loop {
        let down = lines.iter().any(|line| line.backend.is_none());
        let idle = lines.iter().all(|line| line.scheduler.is_empty() || line.backend.is_none());
        let mut next = match (idle, down) {
            (true, false) => commands.recv().map_err(|_| TryRecvError::Disconnected),
            (true, true) => commands.recv_timeout(Duration::from_millis(50)).map_err(|e| match e {
                RecvTimeoutError::Timeout => TryRecvError::Empty,
                RecvTimeoutError::Disconnected => TryRecvError::Disconnected,
            }),
            (false, _) => commands.try_recv(),
        };
        loop {
            match next {
                Ok(Command::Submit(submission)) => {
                    if let Some(line) = lines.get_mut(submission.model) {
                        line.submit(submission);
                    }
                }
                Ok(Command::Stop) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => break,
            }
            next = commands.try_recv();
        }
        let mut problem = None;
        for line in lines.iter_mut() {
            line.forget_those_left();
            if let Err(words) = line.reopen() {
                problem = Some(words);
            }
            if let Some(record) = line.pass().filter(|record| record.generations > 0) {
                (builder.observe)(&record);
            }
            if line.backend.is_none() && problem.is_none() {
                problem = Some("a pass failed".to_owned());
            }
        }
        let failed = matches!(shared.state(), EngineState::Failed(_));
        match problem {
            Some(problem) if !failed => shared.set(EngineState::Failed(problem)),
            None if failed => shared.set(EngineState::Ready),
            _ => {}
        }
    }
}
