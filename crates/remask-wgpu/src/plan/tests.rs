use remask_core::architecture::Rotary;
use remask_core::families::parse_config;
use remask_core::tensors::BlockRole;

use super::*;
use crate::order::Order;

/// A LLaDA model that matrix units suit, of so many layers.
fn architecture(layers: usize) -> Architecture {
    let config = format!(
        r#"{{"architectures": ["LLaDAModelLM"], "d_model": 1024, "n_layers": {layers}, "n_heads": 16,
        "mlp_hidden_size": 2048, "vocab_size": 2048, "max_sequence_length": 128, "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5, "weight_tying": false, "mask_token_id": 255, "eos_token_id": 254}}"#
    );
    parse_config("config.json", &config).unwrap().1
}

/// The weights of `a` as they lie for matrix units.
fn ordered(a: &Architecture, format: WeightFormat) -> ModelOutline {
    let mut outline = ModelOutline::uniform(1 << 30, a, format);
    for set in 0..a.weight_sets() {
        for role in outline::BLOCK_MATRICES {
            let mut matrix = outline.get(Role::Block(set, role)).unwrap().clone();
            matrix.order = if role == BlockRole::Up { Order::Paired } else { Order::Fragments };
            outline.insert(Role::Block(set, role), matrix);
        }
    }
    let mut head = outline.get(Role::Head).unwrap().clone();
    head.order = Order::Fragments;
    outline.insert(Role::Head, head);
    outline
}

struct Setting {
    profile: AdapterProfile,
    architecture: Architecture,
    weights: ModelOutline,
    arithmetic: Arithmetic,
    refused: HashMap<KernelSpec, String>,
    batch_invariant: bool,
}

impl Setting {
    fn matrix(architecture: Architecture) -> Self {
        Self {
            profile: AdapterProfile::made_up("DiscreteGpu", true),
            weights: ordered(&architecture, WeightFormat::F16),
            architecture,
            arithmetic: Arithmetic::Half,
            refused: HashMap::new(),
            batch_invariant: false,
        }
    }

    fn portable(kind: &str, architecture: Architecture) -> Self {
        Self {
            profile: AdapterProfile::made_up(kind, false),
            weights: ModelOutline::uniform(1 << 30, &architecture, WeightFormat::F16),
            architecture,
            arithmetic: Arithmetic::Full,
            refused: HashMap::new(),
            batch_invariant: false,
        }
    }

    fn plan(&self, rows: u32, selected: u32, logits: u32) -> Vec<Step> {
        let planner = Planner {
            profile: &self.profile,
            tuning: &Tuning::default(),
            refused: &self.refused,
            architecture: &self.architecture,
            weights: &self.weights,
            arithmetic: self.arithmetic,
            batch_invariant: self.batch_invariant,
            sizes: PassSizes { rows, selected, tiles: rows.div_ceil(16), logits },
            chunk: 1 << 20,
        };
        planner.pass().unwrap()
    }
}

fn shaders(steps: &[Step]) -> Vec<&'static str> {
    steps.iter().map(|step| step.spec.shader).collect()
}

#[test]
fn few_rows_on_matrix_units_take_five_dispatches_a_layer() {
    let [one, two] = [1, 2].map(|layers| Setting::matrix(architecture(layers)));
    for rows in [1, 8, 17, 32] {
        let [one, two] = [&one, &two].map(|s| s.plan(rows, 1, 0));
        assert_eq!(two.len() - one.len(), 5, "{rows} rows: {:?}", shaders(&two));
    }
    let [one, two] = [&one, &two].map(|s| s.plan(33, 1, 0));
    assert!(two.len() - one.len() > 5);
}

#[test]
fn a_refused_kernel_is_planned_around() {
    let mut setting = Setting::matrix(architecture(1));
    let few = setting.plan(8, 1, 0);
    let ends_in_rotary = |steps: &[Step]| steps.iter().any(|s| s.spec.label().contains("_rotary"));
    assert!(ends_in_rotary(&few));
    let refused = few.iter().find(|s| s.spec.label().contains("_rotary")).unwrap().spec.clone();
    setting.refused.insert(refused, "a test says so".to_owned());
    let without = setting.plan(8, 1, 0);
    assert!(!ends_in_rotary(&without) && shaders(&without).contains(&"rotary"));
}

#[test]
fn nothing_is_computed_past_the_last_keys_where_nothing_is_asked() {
    for setting in [Setting::matrix(architecture(2)), Setting::portable("Cpu", architecture(2))] {
        for rows in [8, 100] {
            let (asked, unasked) = (setting.plan(rows, 1, 0), setting.plan(rows, 0, 0));
            assert!(unasked.len() + 3 < asked.len());
            assert_eq!(asked[..unasked.len()], unasked[..], "the same dispatches, and then no more");
            let last = unasked.last().unwrap();
            assert!(last.slots.contains(&Slot::Keys(1)) && last.slots.contains(&Slot::Values(1)));
        }
    }
}

#[test]
fn candidates_come_the_same_way_beside_logits() {
    for setting in [Setting::matrix(architecture(1)), Setting::portable("DiscreteGpu", architecture(1))] {
        let (alone, both, logits) = (setting.plan(40, 4, 0), setting.plan(40, 4, 2), setting.plan(40, 0, 2));
        assert_eq!(both[..alone.len()], alone[..]);
        let end = &both[alone.len()..];
        assert_eq!(end, &logits[logits.len() - end.len()..]);
        assert!(end.last().unwrap().slots.contains(&Slot::Logits));
    }
}

/// Tensors that are stacked and kept in different formats are parts of their own.
#[test]
fn parts_of_different_formats_have_kernels_of_their_own() {
    let mut setting = Setting::portable("DiscreteGpu", architecture(1));
    let role = Role::Block(0, BlockRole::Qkv);
    let mut matrix = setting.weights.get(role).unwrap().clone();
    let part = |first, rows, format| PartOutline { first, rows, format };
    matrix.parts = vec![part(0, 2048, WeightFormat::Q4), part(2048, 1024, WeightFormat::Q8)];
    setting.weights.insert(role, matrix);
    for rows in [1, 100] {
        let steps = setting.plan(rows, 1, 0);
        let of = |i| steps.iter().find(|s| s.slots[0] == Slot::Matrix(role, i)).unwrap();
        assert!(of(0).spec.label().contains("_q4_") && of(1).spec.label().contains("_q8_"));
        assert_eq!(of(0).slots[1..], of(1).slots[1..]);
    }
}

/// Blocks that repeat a set of weights, and have a cache entry and a rotary table of their own.
#[test]
fn blocks_name_what_they_use() {
    let mut a = architecture(2);
    let other = Rotary { theta: 1e6, ..a.rotaries[0].clone() };
    a.rotaries.push(other);
    a.blocks[1].weights = 0;
    a.blocks[1].attention.rotary = Some(1);
    for setting in [Setting::matrix(a.clone()), Setting::portable("Cpu", a)] {
        for rows in [8, 100] {
            let steps = setting.plan(rows, 1, 0);
            let turned: Vec<_> = steps
                .iter()
                .filter(|s| s.slots.contains(&Slot::Rows) && s.slots.iter().any(|s| matches!(s, Slot::Rotary(_))))
                .collect();
            assert_eq!(turned.len(), 2);
            for (i, step) in turned.iter().enumerate() {
                assert!(step.slots.contains(&Slot::Rotary(i)) && step.slots.contains(&Slot::Keys(i)));
            }
            let sets = steps.iter().flat_map(|s| &s.slots).filter_map(|s| match s {
                Slot::Matrix(Role::Block(set, _), _) | Slot::Vector(Role::Block(set, _)) => Some(*set),
                _ => None,
            });
            assert!(sets.clone().count() > 8 && sets.into_iter().all(|set| set == 0));
        }
    }
}

/// Where the bits of a row may not depend on others, no product is cut into splits, few rows take the dispatches that
/// many do, and selections are over the same strips.
#[test]
fn one_order_of_sums_for_any_number_of_rows() {
    let setting = Setting { batch_invariant: true, ..Setting::matrix(architecture(2)) };
    let many = setting.plan(1000, 300, 1);
    for (rows, selected) in [(1, 1), (8, 8), (20, 20), (33, 3), (64, 64), (300, 100)] {
        let steps = setting.plan(rows, selected, 1);
        assert_eq!(shaders(&steps), shaders(&many), "{rows} rows");
        for step in &steps {
            let label = step.spec.label();
            assert!(!label.contains("SPLITS2") && !label.contains("SPLITS4") && !label.contains("SPLITS8"), "{label}");
            assert!(!label.contains("DEPTH2") && !label.contains("_MEET"), "{label}");
        }
        let of = |steps: &[Step], shader| steps.iter().find(|s| s.spec.shader == shader).unwrap().spec.clone();
        for shader in ["attention_matrix", "norm", "rotary", "select_strips"] {
            assert_eq!(of(&steps, shader), of(&many, shader));
        }
    }
}
