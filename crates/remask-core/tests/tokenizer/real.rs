//! Published tokenizers, where scripts/fetch-real.sh has put them and `REMASK_REAL` says where that is.

use std::path::{Path, PathBuf};

use remask_core::TextTokenizer;
use remask_core::checkpoint::{Bytes, Checkpoint};
use remask_core::tokenizer::TokenizerFiles;

use super::{agrees, json, plain, user};

fn folder() -> Option<PathBuf> {
    std::env::var_os("REMASK_REAL").map(PathBuf::from)
}

fn of_path(path: &Path) -> TextTokenizer {
    let config = path.with_file_name("tokenizer_config.json");
    let config = config.is_file().then(|| std::fs::read_to_string(config).unwrap());
    TokenizerFiles::of_path(path).unwrap().read("", config.as_deref()).unwrap().unwrap()
}

fn of_gguf(path: &Path) -> remask_core::Result<TextTokenizer> {
    let (_, metadata) = Checkpoint::from_gguf(&path.display().to_string(), Bytes::map(path).unwrap()).unwrap();
    Ok(TextTokenizer::from_gguf(&metadata)?.unwrap())
}

#[test]
fn published_files_have_the_ids_of_their_references() {
    let Some(folder) = folder() else { return };
    let expected = json("real.json");
    let mut differences = Vec::new();
    for (name, ids) in expected.as_object().unwrap().iter().filter(|(name, _)| *name != "texts") {
        if !folder.join(name).exists() {
            println!("{name} is not there: nothing was compared");
            continue;
        }
        let begun = std::time::Instant::now();
        let tokenizer = of_path(&folder.join(name));
        println!("{name}: read in {:?}", begun.elapsed());
        differences.extend(agrees(name, &tokenizer, ids, &expected["texts"]));
    }
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}

/// Vocabularies of whole models in GGUF; Gemma's is not fetched, since its terms are not open.
#[test]
fn vocabularies_of_models_have_the_ids_of_their_references() {
    let Some(folder) = folder() else { return };
    let expected = json("real-gguf.json");
    for (name, texts) in expected.as_object().unwrap() {
        if !folder.join(name).exists() {
            continue;
        }
        let tokenizer = of_gguf(&folder.join(name)).unwrap();
        for case in texts["raw"].as_array().unwrap() {
            let (text, ids): (String, Vec<u32>) = serde_json::from_value(case.clone()).unwrap();
            assert_eq!(tokenizer.encode_raw(&text, None).unwrap(), ids, "{name}: {text:?}");
        }
        for case in texts["rendered"].as_array().unwrap() {
            let (text, ids): (String, Vec<u32>) = serde_json::from_value(case.clone()).unwrap();
            assert_eq!(tokenizer.encode(&plain(&text)).unwrap(), ids, "{name}: {text:?}");
        }
    }
}

/// llama.cpp's own vocabularies with its test texts.
#[test]
fn vocabularies_of_llama_cpp_have_its_ids() {
    let Some(folder) = folder().map(|folder| folder.join("llama.cpp")).filter(|folder| folder.exists()) else { return };
    let (mut differences, mut compared) = (Vec::new(), 0);
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let texts = path.with_extension("gguf.inp");
        if path.extension().is_none_or(|end| end != "gguf") || !texts.exists() {
            continue;
        }
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let tokenizer = of_gguf(&path).unwrap();
        let texts = std::fs::read_to_string(texts).unwrap();
        let ids = std::fs::read_to_string(path.with_extension("gguf.out")).unwrap();
        for (text, ids) in texts.split("\n__ggml_vocab_test__\n").zip(ids.lines()) {
            let ids: Vec<u32> = ids.split_whitespace().map(|id| id.parse().unwrap()).collect();
            let found = tokenizer.encode(&user(text)).unwrap();
            compared += 1;
            if found != ids {
                let pieces =
                    |ids: &[u32]| ids.iter().map(|i| tokenizer.token(*i).unwrap_or_default()).collect::<Vec<_>>();
                differences.push(format!("{name}: {text:?}\n  {:?}, not\n  {:?}", pieces(&found), pieces(&ids)));
            }
        }
    }
    assert!(compared > 500, "only {compared} texts were compared");
    assert!(differences.is_empty(), "{} differences\n{}", differences.len(), differences.join("\n"));
}
