//! What the commands do when all is well, and how `verify` says that it is not.

use std::fs::File;

use serde_json::{Value, json};

use super::{Scratch, WEIGHT, generate, golden, json_of, refused, remask, run, works};

#[test]
fn devices_are_listed() {
    assert!(works(remask(&["devices"])).out.starts_with("0: "));
    let devices = json_of(remask(&["devices", "--json"]));
    assert!(devices[0]["name"].is_string() && devices[0]["limits"].is_object(), "{devices}");
}

#[test]
fn bench_times_what_it_is_asked_for() {
    let bench = ["bench", "--shape", "tiny", "--rows", "1,5", "--repeats", "2"];
    let report = &json_of(remask(&[&bench[..], &["--json", "--weights", "q4"]].concat()))[0];
    let rows: Vec<_> = report["passes"].as_array().unwrap().iter().map(|p| p["rows"].clone()).collect();
    assert_eq!((rows, &report["backend"]["weights"]), (vec![json!(1), json!(5)], &json!("q4")));
    assert!(report["passes"][0]["median_ms"].as_f64().unwrap() > 0.0);
    assert!(works(remask(&bench)).out.contains("| rows | median ms |"));

    let model = golden("llada-mha");
    let both = ["bench", "--model", &model, "--backends", "wgpu,cpu", "--rows", "3", "--repeats", "1", "--generations"];
    let reports = json_of(remask(&[&both[..], &["--json"]].concat()));
    let [wgpu, cpu] = reports.as_array().unwrap().as_slice() else { panic!("{reports}") };
    assert_eq!((&wgpu["largest_logit_difference"], &wgpu["generations"][0]["parts_at"]), (&Value::Null, &Value::Null));
    assert!(cpu["largest_logit_difference"].as_f64().unwrap() < 1e-3, "{cpu}");
    assert_eq!(cpu["generations"][0]["parts_at"], Value::Null);
}

/// One tensor of what `inspect --json` shows.
fn tensor<'a>(shown: &'a Value, name: &str) -> &'a Value {
    shown["tensors"].as_array().unwrap().iter().find(|t| t["name"] == name).unwrap()
}

#[test]
fn inspect_shows_a_model() {
    let shown = json_of(remask(&["inspect", &golden("llada-mha"), "--json"]));
    assert_eq!((&shown["architecture"]["hidden"], &shown["tokenizer"]), (&json!(64), &json!(false)));
    assert_eq!(*tensor(&shown, WEIGHT), json!({"name": WEIGHT, "dtype": "F32", "shape": [160, 64], "bytes": 40960}));
    let text = works(remask(&["inspect", "tales-33m"])).out;
    assert!(text.contains("LLaDAModelLM") && text.contains("model.transformer.wte.weight.scale"), "{text}");
}

#[test]
fn verify_tells_right_from_wrong() {
    let copies = ["llada-mha", "llada-gqa-tied"].map(Scratch::of);
    // One short case is enough here; the goldens as a whole have tests of their own.
    for copy in &copies {
        copy.edit_json("golden.json", |golden| golden["cases"].as_array_mut().unwrap().truncate(1));
    }
    let [other, copy] = &copies;
    let reports = json_of(remask(&["verify", other.path(), copy.path(), "--json"]));
    for report in reports.as_array().unwrap() {
        assert_eq!((&report["logits_pass"], &report["cases"][0]["pass"]), (&json!(true), &json!(true)));
    }
    assert!(works(remask(&["verify", copy.path()])).out.contains("1 of 1 generations as the reference"));

    copy.edit_json("golden.json", |golden| golden["cases"][0]["expect"][7] = json!(0));
    let ran = run(remask(&["verify", copy.path()]));
    assert_eq!((ran.code, ran.err.as_str()), (Some(1), ""), "{}", ran.out);
    assert!(ran.out.contains("differ from position 7") && ran.out.contains("0 of 1"), "{}", ran.out);

    copy.take(other.path(), "golden.safetensors");
    refused("another's logits", &run(remask(&["verify", copy.path()])), &["logits are 211 wide"]);
    copy.edit("golden.json", Vec::clear);
    refused("no cases", &run(remask(&["verify", copy.path()])), &["golden.json"]);
    copy.remove("golden.json");
    refused("no file", &run(remask(&["verify", copy.path()])), &["cannot read", "golden.json"]);
}

#[test]
fn generate_reports_what_it_did() {
    let model = golden("llada-mha");
    let done = json_of(generate(&model, "--prompt-ids 1,2,3 --quality --early-stop=false --json"));
    let ids: Vec<u64> = serde_json::from_value(done["token_ids"].clone()).unwrap();
    // Without a tokenizer the ids are the text.
    assert_eq!(done["text"], json!(ids.iter().map(u64::to_string).collect::<Vec<_>>().join(",")));
    assert_eq!((&done["prompt_tokens"], &done["completion_tokens"]), (&json!(3), &json!(ids.len())));
    // Eight passes over eleven positions, asking about 8, 7, ... 1 of them.
    let counts = ["forward_passes", "rows_computed", "rows_selected"].map(|key| done[key].as_u64().unwrap());
    assert_eq!(counts, [8, 88, 36]);
    assert!(["stop", "length"].map(Value::from).contains(&done["finish_reason"]), "{done}");
    assert!(done["milliseconds"]["total"].as_f64().unwrap() >= done["milliseconds"]["first_pass"].as_f64().unwrap());
    assert_eq!((&done["weights"], &done["options"]["steps"], &done["notes"]), (&json!("f32"), &json!(8), &json!([])));
    assert!(done["adapter"].is_string() && done["backend"].is_string() && done["model"] == json!(model));
}

#[test]
fn caches_and_recursions_compute_fewer_rows() {
    let model = golden("llada-mha");
    let rows = |command| {
        let done = json_of(command);
        assert_eq!(done["rows_of_full_compute"], 88, "eight passes over eleven positions");
        (done["rows_computed"].as_u64().unwrap(), done["mor"].clone())
    };
    let settings = "--prompt-ids 1,2,3 --quality --early-stop=false --json";
    // One pass over everything, seven over the block of eight.
    assert_eq!(rows(generate(&model, &format!("{settings} --cache dual"))), (11 + 7 * 8, Value::Null));
    let (by_option, stats) = rows(generate(&model, &format!("{settings} --mor --mor-max-recursions 3")));
    assert!(by_option < 88 && stats["total_tokens_processed"] == json!(by_option), "{stats}");

    // The names of an earlier system stand for ours, which win.
    let mut command = generate(&model, settings);
    command.env("VDIFF_ENABLE_MOR", "1").env("VDIFF_MOR_MAX_RECURSIONS", "9").env("REMASK_MOR_MAX_RECURSIONS", "3");
    assert_eq!(rows(command), (by_option, stats));
    let wrong = run(generate(&model, "--prompt-ids 1 --mor --mor-min-recursions 5"));
    refused("more least than most", &wrong, &["5 to 3 recursions"]);
}

#[test]
fn steps_that_do_not_divide_are_noted() {
    let model = golden("llada-mha");
    for (steps, note) in [("3", "note: 3 steps over 2 blocks"), ("1", "note: 1 steps for 2 blocks: raised to 2")] {
        let ran = works(generate(&model, &format!("--prompt-ids 1 --quality --block-length 4 --steps {steps}")));
        assert!(ran.err.starts_with(note) && ran.err.lines().count() == 1, "{}", ran.err);
    }
}

#[test]
fn the_bundled_model_answers_in_plain_text() {
    let prompt = "What is the capital of France?";
    let ran = works(remask(&[
        "generate",
        prompt,
        "--max-tokens",
        "8",
        "--block-length",
        "8",
        "--threshold",
        "0.9",
        "--watch",
    ]));
    assert!(ran.out.starts_with("The capital of France is"), "{}", ran.out);
    assert_eq!(ran.err, "note: --watch needs a terminal; printing the text only\n");
    assert!(!ran.out.trim_end().contains(char::is_control), "{:?}", ran.out);
}

#[test]
fn presets_start_and_options_go_before_them() {
    let model = golden("llada-mha");
    let options = |line: &str| json_of(generate(&model, &format!("--prompt-ids 1,2 --json {line}")))["options"].clone();
    let quality = options("--quality");
    assert_eq!((&quality["acceptance"]["quota"], &quality["cache"]), (&json!("low_confidence"), &json!("none")));
    let own = options("--fast --cache delayed:3 --accept entropy:0.5 --mor=false --revise verify:0.5");
    assert_eq!((&own["cache"]["delayed"]["refresh"], &own["mor"]), (&json!(3), &Value::Null));
    assert_eq!((&own["acceptance"]["entropy_bound"], &own["revision"]["verify"]["rounds"]), (&json!(0.5), &json!(1)));
    assert_eq!(options(""), options("--balanced"));
}

#[test]
fn blanks_are_filled_and_the_rest_stays() {
    let ran = works(remask(&["fill", "The [MASK] sat on the [MASK]."]));
    let words: Vec<_> = ran.out.trim_end().trim_end_matches('.').split(' ').collect();
    assert_eq!((words[0], &words[2..5], words.len()), ("The", &["sat", "on", "the"][..], 6), "{}", ran.out);
    let done = json_of(remask(&["fill", "--json", r"A little [MASK:1-2] said \[MASK] twice."]));
    assert_eq!((&done["blanks"], done["tried"].as_array().unwrap().len()), (&json!(1), 2));
    let text = done["text"].as_str().unwrap();
    assert!(text.starts_with("A little ") && text.ends_with(" said [MASK] twice."), "{text}");
    let best = done["tried"].as_array().unwrap().iter().map(|t| t["fit"].as_f64().unwrap()).fold(f64::MIN, f64::max);
    assert_eq!(done["fit"].as_f64(), Some(best));
    refused("no blank", &run(remask(&["fill", "nothing"])), &["no [MASK]"]);
    refused("no length", &run(remask(&["fill", "[MASK:0]"])), &["[MASK:0] is no blank"]);
    refused("many", &run(remask(&["fill", "[MASK:1-9] [MASK:1-9]"])), &["more than 64 ways"]);
}

#[test]
fn settings_are_compared_on_questions() {
    let scratch = Scratch::of("llada-mha");
    std::fs::write(
        scratch.file("q.jsonl"),
        "{\"prompt\": \"What is the capital of France?\", \"response\": \"The capital of France is Paris.\"}\n\n\
         {\"prompt\": \"Tell me a story.\"}\n",
    )
    .unwrap();
    let file = |name: &str| scratch.file(name).display().to_string();
    let (questions, out, plot) = (file("q.jsonl"), file("out.json"), file("plot.svg"));
    let common = ["eval", "--questions", &questions, "--max-tokens", "8", "--likelihood-samples", "2"];
    let mut command = remask(&common);
    command.args(["--json", &out, "--plot", &plot]);
    command.args(["--setting", "full=--quality --early-stop=false", "--setting", "fast 1=--fast --block-length 8"]);
    let ran = works(command);
    assert!(ran.out.contains("100.0 %") && ran.out.lines().count() == 6, "{}", ran.out);
    let report: Value = serde_json::from_slice(&std::fs::read(&out).unwrap()).unwrap();
    let [full, fast] = report["settings"].as_array().unwrap().as_slice() else { panic!("{report}") };
    // Eight tokens may be too few for the answer: what counts is that it is judged by the words.
    let right = full["answers"][0]["text"] == "The capital of France is Paris.";
    let accuracy = if right { 1.0 } else { 0.0 };
    assert_eq!((&full["accuracy"], &full["same"], &full["passes"]), (&json!(accuracy), &json!(1.0), &json!(8.0)));
    assert!(fast["rows"].as_f64() < full["rows"].as_f64() && fast["curve"] == "fast", "{fast}");
    assert!(full["nll"].as_f64().unwrap() > 0.0, "{full}");
    assert!(std::fs::read_to_string(&plot).unwrap().contains("</svg>"));

    std::fs::write(scratch.file("q.jsonl"), "{\"prompt\": 3}").unwrap();
    refused("no question", &run(remask(&common)), &["q.jsonl, line 1", "\"prompt\": TEXT"]);
    std::fs::write(scratch.file("q.jsonl"), "").unwrap();
    refused("nothing", &run(remask(&common)), &["no questions"]);
}

#[test]
fn a_prompt_may_come_from_standard_input() {
    let copy = Scratch::of("llada-mha");
    let vocab: Value = (0..211).map(|i| (format!("w{i}"), json!(i))).collect();
    let tokenizer = json!({
        "version": "1.0", "pre_tokenizer": {"type": "Whitespace"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": "w0"},
    });
    std::fs::write(copy.file("tokenizer.json"), tokenizer.to_string()).unwrap();
    std::fs::write(copy.file("prompt"), "w1 w2 w3").unwrap();
    let mut command = generate(copy.path(), "--raw --json");
    command.stdin(File::open(copy.file("prompt")).unwrap());
    let done = json_of(command);
    assert_eq!(done["prompt_tokens"], 3);
    assert!(done["text"].as_str().unwrap().starts_with('w'), "{done}");
}

#[test]
fn a_synthetic_model_generates_the_same_text_for_the_same_seed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_str().unwrap();
    works(remask(&["synth", path, "--shape", "tiny", "--shard-bytes", "20000"]));
    assert!(json_of(remask(&["inspect", path, "--json"]))["files"].as_array().unwrap().len() > 2);
    let text = |seed| works(generate(path, &format!("--prompt-ids 1,2,3 --temperature 1 --seed {seed}"))).out;
    let first = text(7);
    assert_eq!(first, text(7));
    assert_ne!(first, text(8));
}

#[test]
fn a_quantized_model_runs() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name).display().to_string();
    works(remask(&["quantize", &golden("llada-mha"), &out("q8")]));
    works(generate(&out("q8"), "--prompt-ids 1,2,3"));
    let shown = json_of(remask(&["inspect", &out("q8"), "--json"]));
    assert_eq!(tensor(&shown, WEIGHT)["dtype"], "I8");
    let again = run(remask(&["quantize", &golden("llada-mha"), &out("q8")]));
    refused("again", &again, &["model.safetensors exists already"]);
    // A bundled model becomes a whole folder too, with its config and tokenizer.
    works(remask(&["quantize", "tales-33m", &out("tales")]));
    assert_eq!(json_of(remask(&["inspect", &out("tales"), "--json"]))["tokenizer"], json!(true));
}

#[test]
fn inspect_reads_every_weight_where_it_is_asked_to() {
    let problems = |path: &str| json_of(remask(&["inspect", path, "--check", "--json"]))["problems"].clone();
    assert_eq!(problems(&golden("llada-mha")), json!([]));
    assert_eq!(json_of(remask(&["inspect", &golden("llada-mha"), "--json"]))["problems"], Value::Null);
    let copy = Scratch::of("llada-mha");
    copy.edit("model.safetensors", |bytes| {
        let end = bytes.len();
        bytes[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    });
    let found = problems(copy.path());
    assert_eq!(found[0][1], json!("holds NaN or infinite weights"), "{found}");
    assert!(works(remask(&["inspect", copy.path(), "--check"])).out.contains("holds NaN"));
}

#[test]
fn compiled_kernels_are_kept_where_the_driver_can() {
    let devices = json_of(remask(&["devices", "--json"]));
    let home = tempfile::tempdir().unwrap();
    let bench = |variable: &str| {
        let mut command = remask(&["bench", "--shape", "tiny", "--rows", "1", "--repeats", "1", "--adapter", "0"]);
        command.env("REMASK_CACHE_DIR", variable).env("HOME", home.path()).env_remove("XDG_CACHE_HOME");
        works(command)
    };
    bench("");
    assert_eq!(home.path().read_dir().unwrap().count(), 0, "none were wanted");
    let own = home.path().join("own");
    for _ in 0..2 {
        bench(own.to_str().unwrap());
        let kept = own.join("pipelines").read_dir().map_or(0, Iterator::count);
        assert_eq!(kept, usize::from(devices[0]["pipeline_cache"] == true));
    }
}

#[test]
fn a_gguf_file_is_a_model() {
    let folder = golden("llada-gqa-tied");
    let file = format!("{folder}/model.gguf");
    let shown = json_of(remask(&["inspect", &file, "--check", "--json"]));
    assert_eq!(
        *tensor(&shown, "blk.1.attn_k.weight"),
        json!({"name": "blk.1.attn_k.weight", "dtype": "F32", "shape": [32, 96], "bytes": 12288})
    );
    assert_eq!(
        (&shown["problems"], &shown["requantization"], &shown["tokenizer"]),
        (&json!([]), &Value::Null, &json!(false))
    );

    let ids = |model: &str| json_of(generate(model, "--prompt-ids 1,2,3 --json"))["token_ids"].clone();
    assert_eq!(ids(&file), ids(&folder));
    let reports = json_of(remask(&["verify", &folder, "--model", &file, "--json"]));
    assert_eq!(reports[0]["logits_pass"], json!(true));

    // Quantised it becomes a model folder like any other.
    let out = tempfile::tempdir().unwrap();
    let folders = ["a", "b"].map(|name| out.path().join(name).display().to_string());
    for (from, to) in [&file, &folder].into_iter().zip(&folders) {
        works(remask(&["quantize", from, to]));
    }
    let data = folders.each_ref().map(|f| {
        let file = std::fs::read(format!("{f}/model.safetensors")).unwrap();
        let header = u64::from_le_bytes(file[..8].try_into().unwrap()) as usize;
        file[8 + header..].to_vec()
    });
    assert!(data[0] == data[1], "the same weights in the same order");
    assert_eq!(ids(&folders[0]), ids(&folders[1]));
    refused(
        "no tokenizer there",
        &run(generate(&file, "--prompt-ids 1 --tokenizer /nonexistent.json")),
        &["/nonexistent.json"],
    );
}

#[test]
fn what_is_tuned_is_kept_and_used() {
    let cache = tempfile::tempdir().unwrap();
    let with_cache = |line: &str| {
        let mut command = remask(&line.split(' ').collect::<Vec<_>>());
        command.env("REMASK_CACHE_DIR", cache.path()).env("REMASK_LOG", "remask_wgpu=debug");
        run(command)
    };
    let tuned = with_cache("tune --shape tiny --weights q8 --rows 1,8 --adapter 0");
    assert_eq!(tuned.code, Some(0), "{}", tuned.err);
    assert!(tuned.out.contains("64 -> 192") && tuned.out.contains("8 layers and rows in"), "{}", tuned.out);
    let bench = "bench --shape tiny --weights q8 --rows 1,8 --repeats 1 --adapter 0";
    assert!(with_cache(bench).err.contains("8 tuned layers from"));
    // A damaged file is no reason to stop.
    let file = cache.path().join("tuning").read_dir().unwrap().next().unwrap().unwrap().path();
    std::fs::write(&file, "damaged").unwrap();
    let ran = with_cache(bench);
    assert!(ran.code == Some(0) && ran.err.contains("no tuning from"), "{}", ran.err);
    refused("rows", &run(remask(&["tune", "--rows", "3"])), &["3 rows", "powers of two"]);
}
