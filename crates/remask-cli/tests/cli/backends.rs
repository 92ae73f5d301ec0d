//! Which backend runs a model, on machines with and without a Vulkan driver.

use std::process::Command;

use serde_json::json;

use super::{generate, golden, json_of, refused, remask, run};

/// Hides every driver from the Vulkan loader, and every API from wgpu where there is no loader.
fn without_drivers(mut command: Command) -> Command {
    for variable in ["VK_DRIVER_FILES", "VK_ICD_FILENAMES"] {
        command.env(variable, "/nonexistent/driver.json");
    }
    command.env_remove("REMASK_ADAPTER").env_remove("REMASK_BACKEND");
    command
}

#[test]
fn without_a_driver_the_cpu_answers() {
    let model = golden("llada-mha");
    let settings = "--prompt-ids 1,2,3 --json";
    let done = json_of(without_drivers(generate(&model, settings)));
    assert!(done["backend"].as_str().unwrap().starts_with("cpu"), "{}", done["backend"]);
    // The same text as where the CPU is asked for by name, and by the variable.
    assert_eq!(json_of(generate(&model, &format!("{settings} --backend cpu")))["token_ids"], done["token_ids"]);
    let mut by_variable = generate(&model, settings);
    by_variable.env("REMASK_BACKEND", "burn-flex");
    let by_variable = json_of(by_variable);
    assert_eq!((&by_variable["token_ids"], &by_variable["backend"]), (&done["token_ids"], &json!("burn-flex")));

    let asked = run(without_drivers(generate(&model, &format!("{settings} --backend wgpu"))));
    refused("wgpu without a driver", &asked, &["no usable GPU adapter"]);
}

#[test]
fn goldens_pass_on_every_backend_that_is_asked_for() {
    for (backend, name) in [("wgpu", "wgpu"), ("cpu", "cpu"), ("burn-flex", "burn-flex")] {
        let reports = json_of(remask(&["verify", &golden("llada-gqa-tied"), "--backend", backend, "--json"]));
        assert!(reports[0]["backend"]["backend"].as_str().unwrap().starts_with(name), "{}", reports[0]["backend"]);
        assert_eq!(reports[0]["logits_pass"], json!(true), "{backend}");
    }
}

#[test]
fn int8_weights_run_on_the_cpu() {
    let model = "tales-33m";
    let settings = "--backend cpu --block-length 8 --json";
    let mut command = generate(model, settings);
    command.arg("What is the capital of France?");
    let done = json_of(command);
    assert!(done["text"].as_str().unwrap().starts_with("The capital of France is"), "{}", done["text"]);
    assert_eq!(done["weights"], json!("q8"));
}
