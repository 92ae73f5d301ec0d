//! The bits of a row on the CPU depend neither on the other rows of its pass nor on their number or order.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a panic here is a failed test")]

use std::collections::BTreeMap;
use std::path::Path;

use remask_burn::CpuBackend;
use remask_core::checkpoint::WeightFormat;
use remask_core::decode::Work;
use remask_core::random::{Key, threefry};
use remask_core::scheduler::{forward, logits};
use remask_core::{Backend, Model, Row, Select, StoreId, TokenSet};

/// Rows enough for several tasks of a product and of attention.
const LENGTH: usize = 101;

/// Grouped heads, windows, biases, both kinds of norm, parts side by side; heads of 12, 16 and 24.
const FOLDERS: [&str; 6] = ["gpt2", "phi2", "mistral-window", "qwen3", "gemma3-alternating", "llada-gqa-tied"];

fn open(folder: &str) -> Model {
    Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(folder)).unwrap()
}

fn draw(seed: u32, index: u32, below: usize) -> usize {
    threefry(Key([seed, 0xBA7C]), [index, 0])[0] as usize % below
}

/// A text's rows, every one seeing what the model lets it see.
fn rows(model: &Model, store: StoreId, seed: u32, length: usize) -> Vec<Row> {
    let a = &model.architecture;
    let token = |position| draw(seed, position as u32, a.vocab_size) as u32;
    (0..length).map(|position| Row::of_canvas(a, store, position, token(position), length)).collect()
}

/// Bits of the logits of some rows, by store and position.
type Bits = BTreeMap<(StoreId, u32), Vec<u32>>;

fn compute(backend: &mut dyn Backend, rows: &[Row]) -> Bits {
    let select = (0..rows.len()).map(|i| Select::logits(i, rows[i].position as usize)).collect();
    let work = Work { rows: rows.to_vec(), select, suppressed: Vec::new(), full_rows: 0 };
    let found = pollster::block_on(logits(backend, &work)).unwrap();
    let bits = found.chunks(backend.head_rows()).map(|row| row.iter().map(|v| v.to_bits()).collect());
    rows.iter().map(|row| (row.store, row.position)).zip(bits).collect()
}

#[track_caller]
fn assert_part_of(whole: &Bits, part: &Bits, what: &str) {
    for (row, bits) in part {
        assert!(whole[row] == *bits, "{what}: position {} comes to other bits", row.1);
    }
}

fn shuffled(mut rows: Vec<Row>, seed: u32) -> Vec<Row> {
    for i in (1..rows.len()).rev() {
        rows.swap(i, draw(seed, i as u32, i + 1));
    }
    rows
}

fn check(folder: &str, format: Option<WeightFormat>) {
    let model = open(folder);
    let backend = &mut CpuBackend::load(&model, format, &mut |_| ()).unwrap();
    let [a, b] = [0, 1].map(|_| backend.create_store(LENGTH as u32).unwrap());
    let (own, others) = (rows(&model, a, 1, LENGTH), rows(&model, b, 2, LENGTH - 30));
    let what = |how: &str| format!("{folder} {format:?}, {how}");

    let mut whole = compute(backend, &own);
    whole.extend(compute(backend, &others));
    // Over what is kept now, any of the rows can be computed again.
    for count in (1..14).chain([17, 33, 47, 48, 49, 64, 100]) {
        let some = shuffled(own.clone(), count as u32);
        assert_part_of(&whole, &compute(backend, &some[..count]), &what(&format!("{count} of the rows")));
    }
    let both = [own.clone(), others.clone()].concat();
    assert_part_of(&whole, &compute(backend, &both), &what("beside another text"));
    assert_part_of(&whole, &compute(backend, &shuffled(both, 5)), &what("mixed with another text"));
    if model.architecture.is_diffusion() {
        return;
    }
    // A causal model sees what came before: from an empty store in pieces, down to a row at a time.
    for pieces in [1, 3, 50] {
        let store = backend.create_store(LENGTH as u32).unwrap();
        let again: Vec<_> = own.iter().map(|row| Row { store, ..*row }).collect();
        for piece in again.chunks(pieces) {
            let found = compute(backend, piece);
            let found = found.into_iter().map(|((_, position), bits)| ((a, position), bits)).collect();
            assert_part_of(&whole, &found, &what(&format!("in pieces of {pieces}")));
        }
        backend.release_store(store);
    }
}

#[test]
fn logits_have_the_same_bits_in_any_company() {
    for folder in FOLDERS {
        check(folder, None);
    }
}

#[test]
fn so_they_have_in_every_format() {
    for format in [WeightFormat::F16, WeightFormat::Bf16, WeightFormat::Q8, WeightFormat::Q4] {
        check("mistral-window", Some(format));
    }
}

/// Candidates are answered from the same bits, whoever else asks for what.
#[test]
fn candidates_are_the_same_beside_logits() {
    let model = open("llada-gqa-tied");
    let backend = &mut CpuBackend::load(&model, None, &mut |_| ()).unwrap();
    let store = backend.create_store(LENGTH as u32).unwrap();
    let rows = rows(&model, store, 3, LENGTH);
    let suppressed = vec![TokenSet::new(backend.head_rows()).into()];
    let mut run = |select: Vec<Select>| {
        let work = Work { rows: rows.clone(), select, suppressed: suppressed.clone(), full_rows: 0 };
        pollster::block_on(forward(backend, &work)).unwrap()
    };
    let all = run((0..LENGTH).map(|i| Select::likeliest(i, i)).collect());
    let mixed = (0..LENGTH).map(|i| if i % 3 == 0 { Select::logits(i, i) } else { Select::likeliest(i, i) }).collect();
    for (i, answer) in run(mixed).into_iter().enumerate() {
        assert_eq!(answer.candidate(), all[i].candidate().filter(|_| i % 3 != 0), "row {i}");
        assert_eq!(answer.logits().is_some(), i % 3 == 0);
    }
    assert!(run(Vec::new()).is_empty());
}

/// Keys and values that were copied are as good as those that were computed.
#[test]
fn copied_slots_give_the_same_bits() {
    for folder in FOLDERS {
        let model = open(folder);
        if model.architecture.is_diffusion() {
            continue;
        }
        let mut backend = CpuBackend::load(&model, None, &mut |_| ()).unwrap();
        let [first, second] = [90, LENGTH].map(|slots| backend.create_store(slots as u32).unwrap());
        let text = rows(&model, first, 1, 90);
        compute(&mut backend, &text);
        for count in [1, 37, 80] {
            assert!(backend.copy_slots(first, second, count));
            let rest = rows(&model, second, 1, 90).split_off(count as usize);
            let found = compute(&mut backend, &rest);
            let own: Bits = compute(&mut backend, &text[count as usize..]);
            let own = own.into_iter().map(|((_, position), bits)| ((second, position), bits)).collect();
            assert_part_of(&own, &found, &format!("{folder}: behind {count} copied slots"));
        }
        assert!(!backend.copy_slots(first, second, 91), "more than there are");
    }
}
