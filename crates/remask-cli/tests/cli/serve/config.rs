//! Where settings come from: options, variables of ours and of dfastllm, a file.

use super::super::{Ran, refused, remask, run};

/// What a command line and variables come to.
fn printed(args: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = remask(&["serve"]);
    command.args(args).arg("--print-config").envs(variables.iter().copied());
    let ran = run(command);
    assert_eq!(ran.code, Some(0), "{args:?} {variables:?}: {}", ran.err);
    ran
}

fn has(ran: &Ran, line: &str) -> bool {
    ran.out.lines().any(|one| one == line)
}

#[test]
fn options_go_before_variables_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("remask.toml");
    let text = "port = 1\nmax_queue_size = 9\nclamp-max-tokens = true\nfast = true\napi-key = ['a', 'b']\n\
                [network]\nhost = '127.0.0.2'\n[mor]\nenabled = true\nmax-recursions = 5\n[limits]\nkv-memory = 0.5\n";
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    let ran = printed(&["--config", file], &[]);
    for line in [
        "port = 1",
        "max-queue-size = 9",
        "clamp-max-tokens = true",
        "preset = \"fast\"",
        "host = \"127.0.0.2\"",
        "mor = true",
        "mor-max-recursions = 5",
        "kv-memory = 0.5",
        "# api-key: several, not shown",
    ] {
        assert!(has(&ran, line), "{line} in\n{}", ran.out);
    }
    let ran = printed(
        &["--port", "3", "--quality"],
        &[("REMASK_CONFIG", file), ("REMASK_PORT", "2"), ("VDIFF_HOST", "127.0.0.3")],
    );
    for line in ["port = 3", "preset = \"quality\"", "host = \"127.0.0.3\"", "max-queue-size = 9"] {
        assert!(has(&ran, line), "{line} in\n{}", ran.out);
    }
    let ran = printed(
        &["--config", file],
        &[("REMASK_PORT", "2"), ("VDIFF_PORT", "7"), ("REMASK_CLAMP_MAX_TOKENS", "false")],
    );
    assert!(has(&ran, "port = 2") && has(&ran, "clamp-max-tokens = false"), "{}", ran.out);
}

#[test]
fn the_last_of_an_option_counts() {
    let ran = printed(&["--port", "1", "--log", "warn", "--port", "2"], &[]);
    assert!(has(&ran, "port = 2") && has(&ran, "log = \"warn\""), "{}", ran.out);
    let ran = printed(&["--model", "a=tales-33m", "--model", "b=tales-33m"], &[]);
    assert!(has(&ran, "model = [\"a=tales-33m\", \"b=tales-33m\"]"), "{}", ran.out);
}

#[test]
fn what_is_printed_can_be_read_again_and_shows_no_key() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("printed.toml");
    let args = ["--model", "a=tales-33m", "--model", "b=tales-33m", "--served-model-name", "0123,1e5"];
    let more = [
        "--api-key",
        "sesame",
        "--metrics-key",
        "simsala",
        "--accept",
        "parallel:4,0.5",
        "--adaptive-steps=0.9",
        "--log",
        "warn,remask_server=debug",
        "--trusted-proxies",
        "10.0.0.0/8",
        "--metrics-address",
        "127.0.0.1:9",
        "--request-timeout",
        "2.5",
        "--cache-dir",
        "/nowhere",
        "--log-stats",
        "--revise",
        "verify:0.6,1",
    ];
    let first = printed(&[&args[..], &more[..]].concat(), &[]);
    assert!(!first.out.contains("sesame") && !first.out.contains("simsala"), "{}", first.out);
    std::fs::write(&file, &first.out).unwrap();
    let second = printed(&["--config", file.to_str().unwrap()], &[]);
    // The folder that tests keep caches in is a variable, which goes before the file.
    let left_out = |line: &&str| line.contains("not shown") || line.starts_with("cache-dir");
    let without_keys = |text: &str| text.lines().filter(|line| !left_out(line)).map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(without_keys(&second.out), without_keys(&first.out));
    assert!(
        has(&second, "served-model-name = [\"0123\", \"1e5\"]") && has(&second, "request-timeout = 2.5"),
        "{}",
        second.out
    );
}

#[test]
fn mistakes_of_a_file_name_the_key_and_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("remask.toml");
    for (text, words) in [
        ("prot = 1", &["unknown key prot", "is port meant"][..]),
        ("[network]\nprot = 1", &["unknown key network.prot"]),
        ("port = 'x'", &["port = x", "invalid digit"]),
        ("log-format = 'xml'", &["log-format = xml", "text, json"]),
        ("clamp-max-tokens = 1", &["clamp-max-tokens must be true or false"]),
        ("port = 1\n[network]\nport = 2", &["port says again"]),
        ("port = [1]", &["port cannot be of type array"]),
        ("config = 'x'", &["unknown key config"]),
        ("dtype = 'float16'", &["unknown key dtype"]),
        ("port = ", &["line 1"]),
    ] {
        std::fs::write(&file, text).unwrap();
        let ran = run(remask(&["serve", "--print-config", "--config", file.to_str().unwrap()]));
        let all: Vec<_> = words.iter().copied().chain(["remask.toml: "]).collect();
        assert_eq!(ran.code, Some(1), "{text}: {}", ran.err);
        assert!(all.iter().all(|word| ran.err.contains(word)) && ran.out.is_empty(), "{text}: {}", ran.err);
    }
    let gone = run(remask(&["serve", "--config", "no/such/file.toml"]));
    refused("no file", &gone, &["no/such/file.toml"]);
}

#[test]
fn a_wrong_value_of_a_variable_names_it() {
    for (name, value, words) in [
        ("REMASK_PORT", "x", "invalid digit"),
        ("VDIFF_PORT", "70000", "not in 0..=65535"),
        ("VDIFF_ENABLE_MOR", "maybe", "value was not a boolean"),
        ("VDIFF_ENABLE_APD", "maybe", "it must be true or false"),
        ("VDIFF_APD_THRESHOLD", "7", "threshold"),
        ("VDIFF_MOR_STRATEGY", "luck", "it must be one of confidence"),
        ("VDIFF_DTYPE", "int3", "it must be auto, float16"),
        ("VDIFF_LOG_LEVEL", "loud", "it must be trace, debug"),
        ("REMASK_LOG", "loud", "it must be trace, debug"),
        ("VDIFF_HOST", "nowhere", "it must be an IP address"),
        ("REMASK_TRUSTED_PROXIES", "10.0.0.0/99", "it must be an address or a network"),
        ("REMASK_LOG_FORMAT", "xml", "it must be one of text, json"),
        ("VDIFF_CONFIDENCE_THRESHOLD", "2", "0 to 1"),
        ("VDIFF_MOR_CONF_HIGH", "2", "it must be from 0 to 1"),
        ("VDIFF_REQUEST_TIMEOUT", "-1", "negative"),
        ("REMASK_KV_MEMORY", "0", "more than 0"),
        ("REMASK_IGNORE_TOOLS", "perhaps", "value was not a boolean"),
    ] {
        let mut command = remask(&["serve", "--print-config"]);
        command.env(name, value);
        let ran = run(command);
        refused(name, &ran, &[&format!("{name}={value}: "), words]);
    }
    // What the command line says goes before; a wrong variable that is not used is nobody's affair.
    let mut command = remask(&["serve", "--port", "x"]);
    command.env("REMASK_PORT", "x");
    let ran = run(command);
    assert!(ran.code == Some(2) && ran.err.contains("'--port <PORT>'"), "{}", ran.err);
    let mut command = remask(&["generate", "--print-config"]);
    command.env("REMASK_LOG", "loud");
    assert_ne!(run(command).code, Some(0));
}

#[test]
fn variables_that_change_nothing_are_said() {
    let set = [
        ("VDIFF_WORKERS", "4"),
        ("VDIFF_NO_SUCH_THING", "1"),
        ("REMASK_APIKEY", "sesame"),
        ("REMASK_PORT_80_TCP", "x"),
        ("REMASK_PORT", "tcp://10.0.0.1:8080"),
    ];
    let ran = printed(&["--revision", "main", "--trust-remote-code"], &set);
    for note in [
        "note: VDIFF_WORKERS means nothing here: ",
        "note: VDIFF_NO_SUCH_THING is set, but no setting",
        "note: REMASK_PORT=tcp://10.0.0.1:8080 describes a service",
        "note: REMASK_APIKEY is set, but no setting of this server; is REMASK_API_KEY meant?",
        "note: --revision means nothing here: ",
        "note: --trust-remote-code means nothing here: ",
    ] {
        assert!(ran.err.contains(note), "{note} in {}", ran.err);
    }
    assert!(!ran.err.contains("TCP is set") && !ran.err.contains("sesame"), "{}", ran.err);
    assert!(has(&ran, "port = 8080"), "{}", ran.out);
}

#[test]
fn every_option_has_a_variable() {
    let help = run(remask(&["serve", "-h"])).out;
    let lines: Vec<_> = help.lines().collect();
    // Options stand in front of what is said of them.
    let begins = |line: &&str| line.starts_with("  -") || line.starts_with("      --");
    let begun: Vec<_> = lines.iter().enumerate().filter(|(_, line)| begins(line)).map(|(index, _)| index).collect();
    let without = begun.iter().enumerate().filter(|(nth, from)| {
        let to = begun.get(nth + 1).copied().unwrap_or(lines.len());
        !lines[**from..to].concat().contains("[env: ")
    });
    let words: Vec<_> =
        without.filter_map(|(_, from)| lines[*from].split_whitespace().find(|word| word.starts_with("--"))).collect();
    // The presets are REMASK_PRESET's values, and a threshold is REMASK_ACCEPT's.
    let known = ["--print-config", "--fast", "--balanced", "--quality", "--threshold", "--help", "--version"];
    assert_eq!(words.iter().filter(|word| !known.contains(word)).collect::<Vec<_>>(), Vec::<&&str>::new());
    assert_eq!(words.len(), known.len(), "{words:?}");
}
