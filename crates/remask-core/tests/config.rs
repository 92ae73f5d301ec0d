//! Configs from outside: what a config.json means in both of its spellings, what a wrong one is told,
//! and that none makes the parser panic.

// Helpers outside of a #[test] fail the test by a panic, as the tests themselves do.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use proptest::prelude::*;
use remask_core::Architecture;
use remask_core::families::{FAMILIES, parse_config};
use serde_json::{Value, json};

/// A small LLaDA config with the keys of the LLaDA-8B checkpoints.
fn llada() -> Value {
    json!({
        "architectures": ["LLaDAModelLM"], "model_type": "llada",
        "d_model": 64, "n_heads": 4, "n_kv_heads": 2, "n_layers": 3, "mlp_hidden_size": 160,
        "vocab_size": 200, "embedding_size": 211, "max_sequence_length": 256,
        "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms", "block_group_size": 1,
        "rope": true, "rope_theta": 500000.0, "rms_norm_eps": 1e-5, "weight_tying": false,
        "mask_token_id": 199, "eos_token_id": 198, "bos_token_id": 197, "pad_token_id": 198,
    })
}

/// The config above with `changes` made to it; null takes a key away.
fn with(changes: Value) -> Value {
    let mut config = llada();
    for (key, value) in changes.as_object().unwrap() {
        config[key] = value.clone();
    }
    config
}

fn parse(config: &Value) -> Result<Architecture, String> {
    parse_config("m/config.json", &config.to_string()).map(|(_, a)| a).map_err(|e| e.to_string())
}

#[test]
fn a_config_means_what_it_says() {
    let a = parse(&llada()).unwrap();
    let block = &a.blocks[2];
    let (at, rotary) = (&block.attention, &a.rotaries[block.attention.rotary.unwrap()]);
    assert_eq!((a.hidden, a.blocks.len(), block.feed_forward.hidden), (64, 3, 160));
    assert_eq!((a.vocab_size, a.embedding_rows), (200, 211));
    assert_eq!((at.heads, at.kv_heads, at.head_dim, at.scale), (4, 2, 16, 0.25));
    assert_eq!((rotary.theta, rotary.dims, a.final_norm.eps, a.max_positions), (5e5, 16, 1e-5, 256));
    assert_eq!((block.weights, block.cache, a.weight_sets(), a.cache_entries()), (2, 2, 3, 3));
    assert_eq!((a.tokens.mask, a.tokens.bos, a.tokens.pad), (Some(199), Some(197), Some(198)));
    assert_eq!((a.tokens.eos, a.tied_head, a.embedding_scale, a.logit_scale), (vec![198], false, 1.0, 1.0));
}

#[test]
fn both_spellings_mean_the_same() {
    let spellings = [
        ("d_model", "hidden_size"),
        ("n_heads", "num_attention_heads"),
        ("n_kv_heads", "num_key_value_heads"),
        ("n_layers", "num_hidden_layers"),
        ("mlp_hidden_size", "intermediate_size"),
        ("max_sequence_length", "max_position_embeddings"),
        ("weight_tying", "tie_word_embeddings"),
    ];
    let mut other = llada();
    for (ours, theirs) in spellings {
        other[theirs] = other[ours].take();
    }
    assert_eq!(parse(&other).unwrap(), parse(&llada()).unwrap());
    // Transformers writes a default `tie_word_embeddings` beside LLaDA's own key, which decides.
    assert!(!parse(&with(json!({"tie_word_embeddings": true}))).unwrap().tied_head);
}

#[test]
fn optional_keys_have_their_meaning() {
    let parse = |changes| parse(&with(changes)).unwrap();
    assert_eq!(parse(json!({"n_kv_heads": null})).blocks[0].attention.kv_heads, 4);
    assert_eq!(parse(json!({"multi_query_attention": true})).blocks[0].attention.kv_heads, 1);
    assert_eq!(parse(json!({"mlp_hidden_size": null, "mlp_ratio": 4})).blocks[0].feed_forward.hidden, 256);
    assert_eq!(parse(json!({"embedding_size": null})).embedding_rows, 200);
    assert_eq!(parse(json!({"scale_logits": true, "input_emb_norm": true})).logit_scale, 0.125);
    assert_eq!(parse(json!({"input_emb_norm": true})).embedding_scale, 8.0);
    assert_eq!(parse(json!({"eos_token_id": [198, 196]})).tokens.eos, [198, 196]);
    assert_eq!(parse(json!({"eos_token_id": null, "bos_token_id": null})).tokens.bos, None);
}

#[test]
fn wrong_configs_are_refused_by_key() {
    let long: Vec<u32> = (0..100_000).collect();
    let table: Vec<(Value, &[&str])> = vec![
        // Missing.
        (json!({"architectures": null}), &["architectures: missing", "LLaDAModelLM"]),
        (json!({"architectures": []}), &["architectures: missing"]),
        (json!({"architectures": "LLaDAModelLM"}), &["architectures: missing", "a list"]),
        (json!({"d_model": null}), &["d_model: missing", "whole number"]),
        (json!({"n_heads": null}), &["n_heads: missing"]),
        (json!({"n_layers": null}), &["n_layers: missing"]),
        (json!({"mlp_hidden_size": null}), &["mlp_ratio: missing"]),
        (json!({"vocab_size": null}), &["vocab_size: missing"]),
        (json!({"max_sequence_length": null}), &["max_sequence_length: missing"]),
        (json!({"rope_theta": null}), &["rope_theta: missing", "a number"]),
        (json!({"rms_norm_eps": null}), &["rms_norm_eps: missing"]),
        (json!({"weight_tying": null}), &["weight_tying: missing", "true or false"]),
        (json!({"mask_token_id": null}), &["mask_token_id: missing", "diffusion"]),
        (json!({"mask_token_id": []}), &["mask_token_id: missing"]),
        // Mistyped.
        (json!({"d_model": "64"}), &["d_model: expected a whole number", "\"64\""]),
        (json!({"d_model": 64.5}), &["d_model: expected a whole number", "64.5"]),
        (json!({"d_model": null, "hidden_size": -64}), &["hidden_size: expected a whole number", "-64"]),
        (json!({"n_layers": [3]}), &["n_layers: expected a whole number", "[3]"]),
        (json!({"n_kv_heads": true}), &["n_kv_heads: expected a whole number", "true"]),
        (json!({"rope_theta": "big"}), &["rope_theta: expected a number", "\"big\""]),
        (json!({"weight_tying": 1}), &["weight_tying: expected true or false", "1"]),
        (json!({"alibi": "no"}), &["alibi: expected true or false", "\"no\""]),
        (json!({"block_type": 7}), &["block_type: expected a text", "7"]),
        (json!({"mask_token_id": -1}), &["mask_token_id: expected a token id", "-1"]),
        (json!({"eos_token_id": [1, 1u64 << 32]}), &["eos_token_id: expected a token id", "4294967296"]),
        (json!({"eos_token_id": {"id": long}}), &["eos_token_id: expected a token id", "[0,1,2,3"]),
        // Refused by name, since ignoring them would give another model's answers.
        (json!({"alibi": true}), &["alibi = true is not supported"]),
        (json!({"include_bias": true}), &["include_bias = true is not supported"]),
        (json!({"include_qkv_bias": true}), &["include_qkv_bias = true is not supported"]),
        (json!({"bias_for_layer_norm": true}), &["bias_for_layer_norm = true is not supported"]),
        (json!({"attention_layer_norm": true}), &["attention_layer_norm = true is not supported"]),
        (json!({"layer_norm_type": "default"}), &["layer_norm_type = \"default\" is not supported", "rms"]),
        (json!({"block_type": "sequential"}), &["block_type = \"sequential\" is not supported", "llama"]),
        (json!({"activation_type": "gelu"}), &["activation_type = \"gelu\" is not supported", "silu"]),
        (json!({"rope": false}), &["rope = false is not supported"]),
        (json!({"block_group_size": 2}), &["block_group_size is not supported"]),
        (json!({"architectures": ["Llama"]}), &["architecture \"Llama\" is not supported", "LLaDAModelLM"]),
        (json!({"architectures": ["Two\nlines"]}), &["architecture \"Two\\nlines\" is not supported"]),
        (json!({"architectures": ["x".repeat(5000)]}), &["architecture \"xxx", "is not supported"]),
        (json!({"block_type": "y".repeat(5000)}), &["block_type = \"yyy", "llama"]),
        // Sizes that contradict each other.
        (json!({"n_heads": 5}), &["n_heads: 5 heads do not divide", "64"]),
        (json!({"n_heads": 0}), &["n_heads: 0 heads do not divide"]),
        (json!({"n_kv_heads": 3}), &["4 query heads", "3 key/value heads"]),
        (json!({"n_kv_heads": 0}), &["key/value heads: 0 is outside"]),
        (json!({"n_kv_heads": 8}), &["4 query heads", "8 key/value heads"]),
        (json!({"d_model": 36}), &["rotary: 9", "even"]),
        (json!({"embedding_size": 199}), &["embedding_size: 199 rows", "200"]),
        (json!({"mask_token_id": 211}), &["mask_token_id: 211", "211 embedding rows"]),
        (json!({"eos_token_id": [1, 300]}), &["eos_token_id: 300", "211"]),
        (json!({"bos_token_id": 211}), &["bos_token_id: 211", "211"]),
        (json!({"pad_token_id": u32::MAX}), &["pad_token_id: 4294967295", "211"]),
        // Numbers that no model has.
        (json!({"n_layers": 0}), &["n_layers: 0 layers"]),
        (json!({"n_layers": 5000}), &["layers: 5000", "4096"]),
        (json!({"max_sequence_length": 0}), &["maximum positions: 0 is outside"]),
        (json!({"vocab_size": u64::MAX, "embedding_size": null}), &["vocab_size: 18446744073709551615 is outside"]),
        (json!({"embedding_size": 1u64 << 40}), &["embedding rows: 1099511627776 is outside"]),
        (json!({"d_model": 1u64 << 62}), &["hidden size: 4611686018427387904 is outside"]),
        (json!({"mlp_hidden_size": null, "mlp_ratio": u64::MAX}), &["mlp_ratio: the MLP width overflows"]),
        (json!({"rope_theta": 0}), &["rope_theta: 0 must be positive"]),
        (json!({"rope_theta": -1e4}), &["rope_theta: -10000 must be positive"]),
        (json!({"rms_norm_eps": -1.0}), &["eps: -1"]),
        (json!({"rms_norm_eps": 1e300}), &["eps: inf"]),
    ];
    for (changes, words) in table {
        let shown: String = changes.to_string().chars().take(80).collect();
        let Err(message) = parse(&with(changes)) else { panic!("{shown}: accepted") };
        assert!(message.starts_with("m/config.json: "), "{shown}: {message}");
        for word in words {
            assert!(message.contains(word), "{shown}: no {word:?} in: {message}");
        }
        assert!(message.lines().count() == 1 && message.len() < 300, "{shown}: {message}");
    }
}

#[test]
fn text_that_is_no_config_is_refused() {
    let deep = "[".repeat(100_000);
    for (text, word) in [
        ("", "not valid JSON"),
        ("{\"d_model\": 64", "not valid JSON"),
        ("{\"rope_theta\": 1e999}", "not valid JSON"),
        (deep.as_str(), "not valid JSON"),
        ("[]", "expected a JSON object"),
        ("null", "expected a JSON object"),
        ("{}", "architectures: missing"),
    ] {
        let Err(message) = parse_config("m/config.json", text).map(|_| ()) else { panic!("accepted") };
        let message = message.to_string();
        assert!(message.starts_with("m/config.json: ") && message.contains(word), "{message}");
    }
}

/// Any JSON value that fits a line, extremes preferred.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        (0u32..64).prop_map(|shift| Value::from(1u64 << shift)),
        (0u64..300).prop_map(Value::from),
        ".{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(2, 8, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(".{0,4}", inner, 0..4).prop_map(|m| m.into_iter().collect()),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let more = ["multi_query_attention", "mlp_ratio", "hidden_size", "num_attention_heads", "alibi", "scale_logits"];
    let known = llada().as_object().unwrap().keys().cloned().chain(more.map(str::to_owned)).collect::<Vec<_>>();
    proptest::sample::select(known)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever is accepted can be counted, named and decoded without an overflow.
    #[test]
    fn any_values_at_any_keys_never_panic(changes in proptest::collection::hash_map(any_key(), any_json(), 1..5)) {
        if let Ok((family, a)) = parse_config("m/config.json", &with(changes.into_iter().collect()).to_string()) {
            prop_assert!(a.parameters() > 0);
            prop_assert!(!(family.tensors)(&a, &|_| false).is_empty());
            prop_assert!(a.tokens.mask.is_some_and(|id| (id as usize) < a.embedding_rows));
        }
    }

    #[test]
    fn any_text_never_panics(text in ".{0,200}") {
        let _ = parse_config("m/config.json", &text);
    }
}

#[test]
fn every_family_has_one_file_and_its_goldens() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for family in FAMILIES {
        assert!(!family.goldens.is_empty(), "{:?} has no golden", family.architectures);
        for name in family.goldens {
            let golden = here.join("../../tests/golden").join(name);
            let config = std::fs::read_to_string(golden.join("config.json")).unwrap();
            let (found, a) = parse_config(name, &config).unwrap();
            // The golden must lead to the family that it is to pin.
            assert!(std::ptr::eq(found, family), "{name} is of another family: {}", a.name);
            for file in ["model.safetensors", "golden.json", "golden.safetensors"] {
                assert!(golden.join(file).is_file(), "{name} has no {file}");
            }
        }
    }
    let mut names: Vec<_> = FAMILIES.iter().flat_map(|f| f.architectures).collect();
    names.sort();
    assert!(names.windows(2).all(|w| w[0] != w[1]), "an architecture leads to two families: {names:?}");
    let files = here.join("src/families").read_dir().unwrap().map(|e| e.unwrap().file_name());
    let families = files.filter(|f| f != "mod.rs" && f != "keys.rs" && f != "rotary.rs").count();
    assert_eq!(families, FAMILIES.len(), "one file a family under src/families");
}
