//! A backend that answers as a script says, for tests of what stands above it: it is fast, what it answers depends on
//! everything that a row sees, and it can be slow, full, lost or broken when told.

// Tests take what they need of it, and fail by a panic.
#![allow(dead_code, clippy::unwrap_used, clippy::panic)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use remask_core::backend::BackendInfo;
use remask_core::random::{Key, gumbel, threefry, unit};
use remask_core::{Answer, Backend, BackendError, BackendFuture, Candidate, Model, Pass, Select, StoreId, Want};

/// What the backend is told, and what it saw.
#[derive(Debug, Default)]
pub struct Script {
    /// How long a pass takes.
    pub pass_time: Duration,
    /// Passes wait as long as this is set.
    pub hold: bool,
    /// The device is lost in the pass of this number, counted from the first of all.
    pub lost_in: Option<usize>,
    /// It cannot be opened.
    pub gone: bool,
    /// Rows of this token have logits that are not finite.
    pub poison: Option<u32>,
    /// One in so many candidates ends the text.
    pub ends: Option<u32>,
    /// Rows of each pass, of all devices that were opened.
    pub passes: Vec<usize>,
    /// Stores that are held.
    pub stores: usize,
    /// Devices that were opened.
    pub opened: usize,
}

/// A script that test and backend share.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Mutex<Script>>);

impl Shared {
    pub fn new(script: Script) -> Self {
        Self(Arc::new(Mutex::new(script)))
    }

    pub fn lock(&self) -> MutexGuard<'_, Script> {
        self.0.lock().unwrap()
    }

    /// Opens backends of this script.
    pub fn open(&self) -> remask::OpenBackend {
        let shared = self.clone();
        Box::new(move |model, progress| {
            if shared.lock().gone {
                return Err(BackendError::NoAdapter("it is gone".into()));
            }
            progress(1);
            shared.lock().opened += 1;
            Ok(Box::new(Scripted { shared: shared.clone(), model: Facts::of(model), stores: BTreeMap::new(), made: 0 }))
        })
    }
}

/// The bundled model's folder.
pub fn folder() -> PathBuf {
    concat!(env!("CARGO_MANIFEST_DIR"), "/../../models/tales-33m").into()
}

struct Facts {
    rows: u32,
    stop: u32,
}

impl Facts {
    fn of(model: &Model) -> Self {
        Self { rows: model.architecture.embedding_rows as u32, stop: model.vocabulary.stop[0] }
    }
}

struct Scripted {
    shared: Shared,
    model: Facts,
    stores: BTreeMap<StoreId, Vec<u32>>,
    made: u32,
}

impl Scripted {
    /// A hash of the texts that a row sees.
    fn seen(&self, pass: &Pass<'_>, select: &Select) -> Key {
        let row = pass.rows[select.row as usize];
        let slots = &self.stores[&row.store][row.keys.start as usize..row.keys.end as usize];
        let key = slots.iter().fold(Key([3, 4]), |key, token| Key(threefry(key, [*token, 5])));
        Key(threefry(key, [select.position, 6]))
    }

    fn answer(&self, pass: &Pass<'_>, select: &Select, ends: Option<u32>) -> Answer {
        let seen = self.seen(pass, select);
        let rows = self.model.rows;
        let Want::Candidate { temperature, key, suppressed } = select.want else {
            return Answer::Logits((0..rows).map(|id| 8.0 * unit(threefry(seen, [id, 0]))).collect());
        };
        let suppressed = &pass.suppressed[suppressed as usize];
        let [bits, sure] = threefry(seen, [0, 1]);
        if ends.is_some_and(|one_in| bits % one_in == 0) && !suppressed.contains(self.model.stop) {
            return Answer::Candidate(Candidate {
                token: self.model.stop,
                probability: 0.95,
                entropy: 0.1,
                margin: 0.9,
            });
        }
        // A few ids compete, so that noise can change which one wins.
        let few = (0..8).map(|i| threefry(seen, [i, 2])[0] % rows).filter(|id| !suppressed.contains(*id));
        let score =
            |id: u32| unit(threefry(seen, [id, 3])) + temperature * gumbel(threefry(key, [select.position, id]));
        let chosen = few.max_by(|a, b| score(*a).total_cmp(&score(*b)));
        let token = chosen.unwrap_or_else(|| {
            let left: Vec<_> = (0..rows).filter(|id| !suppressed.contains(*id)).collect();
            left[bits as usize % left.len()]
        });
        let probability = 0.5 + 0.5 * (sure % 1000) as f32 / 1000.0;
        Answer::Candidate(Candidate { token, probability, entropy: 1.0, margin: 0.2 })
    }
}

impl Backend for Scripted {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "scripted".into(), adapter: "a script".into(), weights: "none".into() }
    }

    fn head_rows(&self) -> usize {
        self.model.rows as usize
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        self.made += 1;
        self.stores.insert(StoreId(self.made), vec![0; capacity as usize]);
        self.shared.lock().stores += 1;
        Ok(StoreId(self.made))
    }

    fn release_store(&mut self, store: StoreId) {
        assert!(self.stores.remove(&store).is_some(), "{store:?} was released twice");
        self.shared.lock().stores -= 1;
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        let time = self.shared.lock().pass_time;
        std::thread::sleep(time);
        // A test that failed does not end the hold.
        for _ in 0..10_000 {
            if !self.shared.lock().hold {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let (ends, poison) = {
            let mut script = self.shared.lock();
            if script.lost_in.is_some_and(|pass| pass <= script.passes.len()) {
                script.lost_in = None;
                return Box::pin(async { Err(BackendError::DeviceLost("unplugged".into())) });
            }
            script.passes.push(pass.rows.len());
            (script.ends, script.poison)
        };
        if let Some(row) = pass.rows.iter().find(|row| Some(row.token) == poison) {
            let position = row.position;
            return Box::pin(async move { Err(BackendError::NotFinite { position }) });
        }
        for row in pass.rows {
            self.stores.get_mut(&row.store).unwrap()[row.slot as usize] = row.token;
        }
        let answers = pass.select.iter().map(|select| self.answer(pass, select, ends)).collect();
        Box::pin(async { Ok(answers) })
    }
}

impl Drop for Scripted {
    fn drop(&mut self) {
        self.shared.lock().stores -= self.stores.len();
    }
}
