//! A step of a generation as JavaScript sees it: typed arrays over the positions of the canvas.

use js_sys::{Array, Float32Array, JsString, Object, Reflect, Uint8Array, Uint32Array};
use remask_core::{Canvas, Cell, Generation, Model, StepReport};
use wasm_bindgen::JsValue;

/// The text of each position of a canvas that shows `tokens`; their numbers where the model has no tokenizer.
fn texts(model: &Model, tokens: &[Option<u32>]) -> Array {
    let pieces = model.tokenizer.as_ref().and_then(|t| t.pieces(tokens, false).ok());
    let numbers = || tokens.iter().map(|id| id.map_or_else(String::new, |id| format!("{id} "))).collect();
    pieces.unwrap_or_else(numbers).into_iter().map(|text| JsValue::from(JsString::from(text))).collect()
}

/// Sets properties of a fresh object, which cannot fail.
fn object(properties: &[(&str, JsValue)]) -> Object {
    let object = Object::new();
    for (key, value) in properties {
        let _ = Reflect::set(&object, &(*key).into(), value);
    }
    object
}

/// Numbers of [`Cell`] kinds in `states`.
fn state(cell: &Cell) -> u8 {
    match cell {
        Cell::Given => 0,
        Cell::Hole => 1,
        Cell::Decided { .. } => 2,
    }
}

/// The canvas by itself: what a watcher sees before the first pass.
pub fn canvas_object(model: &Model, canvas: &Canvas) -> Object {
    let states: Vec<_> = canvas.cells().iter().map(state).collect();
    object(&[
        ("pass", 0.into()),
        ("tokens", Uint32Array::from(canvas.tokens()).into()),
        ("texts", texts(model, &shown(canvas)).into()),
        ("states", Uint8Array::from(&states[..]).into()),
    ])
}

/// The tokens that a canvas shows: nothing in holes.
fn shown(canvas: &Canvas) -> Vec<Option<u32>> {
    canvas.tokens().iter().enumerate().map(|(position, id)| (!canvas.is_hole(position)).then_some(*id)).collect()
}

/// A step: the canvas with what the model would put into its holes, what was decided, the text so far and
/// what it has cost.
pub fn step_object(model: &Model, report: &StepReport, costs: &Costs, text: &str) -> Object {
    let canvas = report.canvas;
    let (mut tokens, mut shown) = (canvas.tokens().to_vec(), shown(canvas));
    let mut probabilities: Vec<_> = canvas
        .cells()
        .iter()
        .map(|cell| if let Cell::Decided { probability, .. } = cell { *probability } else { 0.0 })
        .collect();
    let decided_at = |cell: &Cell| if let Cell::Decided { step, .. } = cell { step + 1 } else { 0 };
    let decided_at: Vec<_> = canvas.cells().iter().map(decided_at).collect();
    let mut states: Vec<_> = canvas.cells().iter().map(state).collect();
    for proposal in report.candidates.iter().filter(|s| canvas.is_hole(s.position)) {
        tokens[proposal.position] = proposal.candidate.token;
        shown[proposal.position] = Some(proposal.candidate.token);
        probabilities[proposal.position] = proposal.candidate.probability;
        states[proposal.position] = 3;
    }
    let positions = |list: &mut dyn Iterator<Item = usize>| -> JsValue {
        Uint32Array::from(&list.map(|p| p as u32).collect::<Vec<_>>()[..]).into()
    };
    object(&[
        ("pass", (report.step + 1).into()),
        ("block", positions(&mut [report.block.start, report.block.end].into_iter())),
        ("tokens", Uint32Array::from(&tokens[..]).into()),
        ("texts", texts(model, &shown).into()),
        ("states", Uint8Array::from(&states[..]).into()),
        ("probabilities", Float32Array::from(&probabilities[..]).into()),
        ("depths", Uint32Array::from(&costs.depth[..]).into()),
        ("decidedAt", Uint32Array::from(&decided_at[..]).into()),
        ("remasked", positions(&mut report.remasked.iter().copied())),
        ("decided", positions(&mut report.committed.iter().chain(report.revised).map(|s| s.position))),
        ("computed", positions(&mut report.computed.iter().copied())),
        ("text", text.into()),
        ("rowsComputed", (costs.rows_computed as f64).into()),
        ("rowsOfFullCompute", (costs.rows_of_full_compute as f64).into()),
    ])
}

/// What a generation has cost.
#[derive(Debug, Clone, Default)]
pub struct Costs {
    /// Rows computed.
    pub rows_computed: u64,
    /// Rows whose candidates were computed.
    pub rows_selected: u64,
    /// Rows that full compute would have computed.
    pub rows_of_full_compute: u64,
    /// Passes that each position took part in while it was a hole.
    pub depth: Vec<u32>,
}

impl Costs {
    /// These and those of `run`.
    pub fn with(&self, run: &Generation) -> Self {
        let earlier = |position| self.depth.get(position).copied().unwrap_or(0);
        Self {
            rows_computed: self.rows_computed + run.rows_computed,
            rows_selected: self.rows_selected + run.rows_selected,
            rows_of_full_compute: self.rows_of_full_compute + run.rows_of_full_compute,
            depth: run.depth.iter().enumerate().map(|(position, depth)| depth + earlier(position)).collect(),
        }
    }

    /// These, with the rows of all of several canvases that were decided together.
    pub fn among(self, all: &[Self]) -> Self {
        Self {
            rows_computed: all.iter().map(|c| c.rows_computed).sum(),
            rows_selected: all.iter().map(|c| c.rows_selected).sum(),
            rows_of_full_compute: all.iter().map(|c| c.rows_of_full_compute).sum(),
            ..self
        }
    }
}
