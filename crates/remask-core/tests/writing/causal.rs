//! A backend that writes, and what it is to write.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use remask_core::backend::BackendInfo;
use remask_core::families::parse_config;
use remask_core::random::{Key, gumbel, threefry, unit};
use remask_core::{
    Answer, Architecture, Backend, BackendError, BackendFuture, Candidate, DecodeOptions, Generation, Pass, Row,
    Select, StepReport, StoreId, Vocabulary, Want, generate,
};

pub const HEAD: u32 = 50;
pub const STOP: u32 = 49;
pub const POSITIONS: usize = 2000;

pub fn architecture() -> Arc<Architecture> {
    let config = format!(
        "{{\"architectures\": [\"LlamaForCausalLM\"], \"hidden_size\": 8, \"num_attention_heads\": 1, \
         \"num_hidden_layers\": 1, \"intermediate_size\": 8, \"vocab_size\": {HEAD}, \
         \"max_position_embeddings\": {POSITIONS}, \"eos_token_id\": {STOP}}}"
    );
    parse_config("config.json", &config).unwrap().1.into()
}

/// Keeps the tokens of every store, and answers from a hash of all that a row sees.
#[derive(Default)]
pub struct Causal {
    pub stores: BTreeMap<StoreId, Vec<Option<u32>>>,
    pub made: u32,
    /// Rows of each pass.
    pub passes: Vec<usize>,
    /// Slots that all stores together may have.
    pub room: Option<u32>,
    pub most_rows: Option<usize>,
    /// Rows of this token have logits that are not finite.
    pub poison: Option<u32>,
    /// The device is lost in the pass of this number.
    pub lost_in: Option<usize>,
}

impl Causal {
    fn logits(&self, row: &Row) -> Vec<f32> {
        let slots = &self.stores[&row.store];
        let seen = (row.keys.start..row.keys.end).map(|slot| slots[slot as usize].unwrap());
        let key = seen.fold(Key([1, 2]), |key, token| Key(threefry(key, [token, 7])));
        (0..HEAD).map(|id| 4.0 * unit(threefry(key, [id, 0]))).collect()
    }

    fn answer(&self, pass: &Pass, select: &Select) -> Answer {
        let logits = self.logits(&pass.rows[select.row as usize]);
        let Want::Candidate { temperature, key, suppressed } = select.want else { return Answer::Logits(logits) };
        let noise = |id: u32| temperature * gumbel(threefry(key, [select.position, id]));
        let allowed = (0..HEAD).filter(|id| !pass.suppressed[suppressed as usize].contains(*id));
        let token = allowed.max_by(|a, b| {
            let score = |id: u32| logits[id as usize] + noise(id);
            score(*a).total_cmp(&score(*b)).then(b.cmp(a))
        });
        Answer::Candidate(Candidate { token: token.unwrap(), probability: 0.5, entropy: 1.0, margin: 0.1 })
    }
}

impl Backend for Causal {
    fn info(&self) -> BackendInfo {
        BackendInfo { backend: "causal".into(), adapter: "none".into(), weights: "none".into() }
    }

    fn head_rows(&self) -> usize {
        HEAD as usize
    }

    fn most_rows(&self) -> usize {
        self.most_rows.unwrap_or(usize::MAX)
    }

    fn create_store(&mut self, capacity: u32) -> Result<StoreId, BackendError> {
        let taken: usize = self.stores.values().map(Vec::len).sum();
        if self.room.is_some_and(|room| taken as u32 + capacity > room) {
            return Err(BackendError::OutOfMemory { action: "making a store".into(), bytes: capacity.into() });
        }
        self.made += 1;
        self.stores.insert(StoreId(self.made), vec![None; capacity as usize]);
        Ok(StoreId(self.made))
    }

    fn release_store(&mut self, store: StoreId) {
        assert!(self.stores.remove(&store).is_some(), "{store:?} was released twice");
    }

    fn copy_slots(&mut self, from: StoreId, to: StoreId, slots: u32) -> bool {
        let source = self.stores[&from][..slots as usize].to_vec();
        assert!(source.iter().all(Option::is_some), "only what was computed is copied");
        self.stores.get_mut(&to).unwrap()[..slots as usize].copy_from_slice(&source);
        true
    }

    fn forward<'a>(&'a mut self, pass: &'a Pass<'a>) -> BackendFuture<'a, Vec<Answer>> {
        let capacity = |store| self.stores.get(&store).map(|slots| slots.len() as u32);
        pass.check(&architecture(), capacity).unwrap();
        assert!(pass.rows.len() <= self.most_rows());
        if self.lost_in == Some(self.passes.len()) {
            return Box::pin(async { Err(BackendError::DeviceLost("unplugged".into())) });
        }
        self.passes.push(pass.rows.len());
        for row in pass.rows {
            let slot = &mut self.stores.get_mut(&row.store).unwrap()[row.slot as usize];
            assert!(slot.is_none() && row.slot == row.position, "a row is computed once");
            *slot = Some(row.token);
        }
        if let Some(row) = pass.rows.iter().find(|row| Some(row.token) == self.poison) {
            let position = row.position;
            // As a device does that failed: what was written counts for nothing.
            for row in pass.rows {
                self.stores.get_mut(&row.store).unwrap()[row.slot as usize] = None;
            }
            return Box::pin(async move { Err(BackendError::NotFinite { position }) });
        }
        let answers = pass.select.iter().map(|select| self.answer(pass, select)).collect();
        Box::pin(async { Ok(answers) })
    }
}

pub fn run(backend: &mut Causal, prompt: &[u32], options: &DecodeOptions) -> Generation {
    let (a, v) = (architecture(), Arc::new(Vocabulary::of(&architecture())));
    let watch = &mut |_: &StepReport| ControlFlow::Continue(());
    let done = pollster::block_on(generate(backend, &a, &v, prompt, options, watch)).unwrap();
    assert!(backend.stores.is_empty(), "stores are given back");
    done
}

pub fn writes(max_tokens: usize) -> DecodeOptions {
    DecodeOptions { max_tokens, ignore_eos: true, ..DecodeOptions::default() }
}

/// What the backend's own distribution gives token after token.
pub fn expected(prompt: &[u32], count: usize) -> Vec<u32> {
    let mut text = prompt.to_vec();
    for _ in 0..count {
        let mut all = Causal::default();
        all.stores.insert(StoreId(0), text.iter().map(|t| Some(*t)).collect());
        let last = Row::of_canvas(&architecture(), StoreId(0), text.len() - 1, 0, text.len());
        let logits = all.logits(&last);
        let best = (0..HEAD).max_by(|a, b| logits[*a as usize].total_cmp(&logits[*b as usize]).then(b.cmp(a)));
        text.push(best.unwrap());
    }
    text
}
