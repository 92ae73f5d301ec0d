//! The bits of a row's answer do not depend on the other rows of its pass, nor on their number or order: with real
//! kernels, on every adapter, for every golden model. Kernels are chosen by numbers of rows, on a GPU by others than on
//! a software adapter: both choices are tested.

use std::path::Path;

use remask_core::checkpoint::WeightFormat;
use remask_core::random::Key;
use remask_core::{Answer, Backend, Model, Pass, Row, Select, StoreId, TokenSet, Want};
use remask_testkit::model::{WIDE, made_up};
use remask_wgpu::kernels::gemm_matrix::MatrixTile;
use remask_wgpu::{Gpu, LimitChoice, WgpuBackend, adapters};

/// Rows of positions of a canvas whose tokens depend on `seed`.
fn rows(model: &Model, store: StoreId, seed: u32, length: usize, positions: impl Iterator<Item = usize>) -> Vec<Row> {
    let token = |p: usize| (p as u32 * 31 + seed * 17) % 90;
    positions.map(|p| Row::of_canvas(&model.architecture, store, p, token(p), length)).collect()
}

/// Asks for the candidates of some rows, with noise, and for the logits of one. Returns the bits of the answers.
fn ask(backend: &mut dyn Backend, rows: &[Row], of: StoreId) -> Vec<Vec<u32>> {
    let mut suppressed = TokenSet::new(backend.head_rows());
    suppressed.insert(7);
    let suppressed = [TokenSet::new(backend.head_rows()).into(), suppressed.into()];
    let want = Want::Candidate { temperature: 0.6, key: Key([3, 9]), suppressed: 1 };
    let mut select: Vec<_> = (0..rows.len()).map(|row| Select { want, ..Select::likeliest(row, row) }).collect();
    select.iter_mut().for_each(|s| s.position = rows[s.row as usize].position);
    let asked = |s: &&Select| rows[s.row as usize].store == of;
    let last = *select.iter().filter(asked).max_by_key(|s| s.position).unwrap();
    select.push(Select { want: Want::Logits, ..last });
    let answers =
        pollster::block_on(backend.forward(&Pass { rows, select: &select, suppressed: &suppressed })).unwrap();
    let bits = |answer: &Answer| match answer {
        Answer::Candidate(c) => vec![c.token, c.probability.to_bits(), c.entropy.to_bits(), c.margin.to_bits()],
        Answer::Logits(logits) => logits.iter().map(|l| l.to_bits()).collect(),
    };
    // By position, whatever the order of the rows was.
    let mut own: Vec<_> = select.iter().zip(&answers).filter(|(s, _)| asked(s)).collect();
    own.sort_by_key(|(s, _)| (s.want == Want::Logits, s.position));
    own.iter().map(|(_, answer)| bits(answer)).collect()
}

/// As `assert_eq`, naming only the first answer that differs.
#[track_caller]
fn assert_same(found: &[Vec<u32>], expected: &[Vec<u32>], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let differ = found.iter().zip(expected).position(|(f, e)| f != e);
    assert_eq!(differ, None, "{what}: the first answer that differs");
}

fn check(backend: &mut WgpuBackend, model: &Model, name: &str, length: usize) {
    let [a, b] = [(); 2].map(|()| backend.create_store(length as u32).unwrap());
    let whole = |store, seed| rows(model, store, seed, length, 0..length);
    let alone = ask(backend, &whole(a, 1), a);
    // Beside the rows of another request, before and after them.
    let [before, after] = [[whole(a, 1), whole(b, 2)].concat(), [whole(b, 2), whole(a, 1)].concat()];
    assert_same(&ask(backend, &before, a), &alone, &format!("{name}: before another request's rows"));
    assert_same(&ask(backend, &after, a), &alone, &format!("{name}: after another request's rows"));
    let few = [rows(model, b, 2, length, 0..3), whole(a, 1)].concat();
    assert_same(&ask(backend, &few, a), &alone, &format!("{name}: after three rows of another request"));
    // In another order.
    let mut backwards = whole(a, 1);
    backwards.reverse();
    assert_same(&ask(backend, &backwards, a), &alone, &format!("{name}: backwards"));
    // Over what is stored, so many rows at a time.
    for count in [1, 2, 3, 5, 8, 9, 13, 17, 33, 65, 130].into_iter().filter(|count| *count < length) {
        let from = length - count;
        let mut found = ask(backend, &rows(model, a, 1, length, from..length), a);
        let logits = found.pop().unwrap();
        assert_same(&[logits], &alone[length..], &format!("{name}: logits of the last of {count} rows"));
        assert_same(&found, &alone[from..length], &format!("{name}: {count} rows"));
    }
    // In a store elsewhere, and for rows that see what is before them, in pieces.
    let c = backend.create_store(length as u32).unwrap();
    assert_same(&ask(backend, &whole(c, 1), c), &alone, &format!("{name}: in another store"));
    if !model.architecture.is_diffusion() {
        let d = backend.create_store(length as u32).unwrap();
        for piece in [0..1, 1..10, 10..12] {
            let rows = rows(model, d, 1, length, piece);
            let pass = Pass { rows: &rows, select: &[], suppressed: &[] };
            assert_eq!(pollster::block_on(backend.forward(&pass)).unwrap(), []);
        }
        let found = ask(backend, &rows(model, d, 1, length, 12..length), d);
        assert_same(&found, &alone[12..], &format!("{name}: in pieces"));
        // Over what was copied, in a store that no pass has seen and whose slots the arena may not have yet.
        let e = backend.create_store(length as u32 + 40).unwrap();
        assert!(backend.copy_slots(d, e, 12));
        let found = ask(backend, &rows(model, e, 1, length, 12..length), e);
        assert_same(&found, &alone[12..], &format!("{name}: over copied slots"));
        backend.release_store(e);
        backend.release_store(d);
    }
    [a, b, c].into_iter().for_each(|store| backend.release_store(store));
}

fn check_all(kind: Option<&str>) {
    let adapters = pollster::block_on(adapters());
    assert!(!adapters.is_empty(), "no adapter, nothing was tested: install mesa-vulkan-drivers and libvulkan1");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden");
    for adapter in &adapters {
        for folder in root
            .read_dir()
            .unwrap()
            .map(|e| e.unwrap().path())
            .filter(|p| p.join("config.json").exists() && !p.ends_with("gpt2"))
        {
            let model = Model::open(&folder).unwrap();
            let mut gpu = pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::WebGpuDefault)).unwrap();
            if let Some(kind) = kind {
                gpu.profile.kind = kind.to_owned();
            }
            let mut backend = pollster::block_on(WgpuBackend::load(gpu, &model, None, &mut |_| ())).unwrap();
            let name = format!("{} on {}", folder.display(), adapter.get_info().name);
            check(&mut backend, &model, &name, 21);
        }
    }
}

#[test]
fn rows_do_not_depend_on_their_company() {
    check_all(None);
}

#[test]
fn nor_by_the_kernels_of_a_gpu() {
    check_all(Some("DiscreteGpu"));
}

/// On matrix units it takes a mode. Says how many adapters have such units; software adapters have none.
#[test]
fn nor_on_matrix_units_where_that_is_asked_for() {
    let gated = WIDE.replace("\"max_sequence_length\": 128", "\"max_sequence_length\": 256");
    let deep = gated.replace("\"mlp_hidden_size\": 256", "\"mlp_hidden_size\": 4096");
    let mut ran = 0;
    for adapter in &pollster::block_on(adapters()) {
        let open = || pollster::block_on(Gpu::from_adapter(adapter, LimitChoice::Adapter)).unwrap();
        if !MatrixTile::supported(&open().profile) {
            continue;
        }
        for (config, format) in [(&gated, WeightFormat::F16), (&deep, WeightFormat::Q8), (&deep, WeightFormat::Q4)] {
            let model = made_up(config, |_, _| ());
            let mut backend = pollster::block_on(WgpuBackend::load(open(), &model, Some(format), &mut |_| ())).unwrap();
            backend.set_batch_invariant(true);
            check(&mut backend, &model, &format!("{format} on {}", adapter.get_info().name), 200);
        }
        ran += 1;
    }
    println!("{ran} adapters with matrix units");
}
