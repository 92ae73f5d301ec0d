//! Flags of dfastllm that have other names here, or mean nothing: deployments keep their command lines.

use clap::ArgMatches;
use clap::parser::ValueSource;

/// Theirs that are not simply another name of one of ours; hidden from the help.
#[derive(clap::Args)]
pub struct TheirArgs {
    #[arg(long, hide = true, ignore_case = true, value_parser = ["auto", "float16", "half", "bfloat16", "float32", "float"])]
    dtype: Option<String>,
    #[arg(long, hide = true, ignore_case = true, value_parser = ["8bit", "4bit"])]
    quantization: Option<String>,
    #[arg(long, hide = true, overrides_with = "disable_apd")]
    enable_apd: bool,
    #[arg(long, hide = true, overrides_with = "enable_apd")]
    disable_apd: bool,
    #[arg(long, hide = true)]
    apd_max_parallel: Option<u32>,
    #[arg(long, hide = true)]
    apd_threshold: Option<f32>,
    #[arg(long, hide = true)]
    revision: Option<String>,
    #[arg(long, hide = true)]
    trust_remote_code: bool,
    #[arg(long, hide = true)]
    tensor_parallel_size: Option<String>,
    #[arg(long, hide = true)]
    gpu_memory_utilization: Option<String>,
    #[arg(long, hide = true)]
    max_num_seqs: Option<String>,
    #[arg(long, hide = true)]
    workers: Option<String>,
    #[arg(long, hide = true, alias = "enable-compile")]
    compile: bool,
    #[arg(long, hide = true)]
    no_compile: bool,
    #[arg(long, hide = true)]
    compile_mode: Option<String>,
    #[arg(long, hide = true, alias = "enable-flash-attention")]
    flash_attention: bool,
    #[arg(long, hide = true)]
    no_flash_attention: bool,
}

/// Why settings of theirs mean nothing here, by flag and by variable.
pub const MEANINGLESS: &[(&str, &[&str], &str)] = &[
    ("revision", &["VDIFF_REVISION"], "models are files of this machine, nothing is downloaded"),
    ("trust-remote-code", &["VDIFF_TRUST_REMOTE_CODE"], "no code of a model is run"),
    (
        "tensor-parallel-size",
        &["VDIFF_TENSOR_PARALLEL_SIZE"],
        "a server uses one device; start one a device behind a load balancer",
    ),
    (
        "gpu-memory-utilization",
        &["VDIFF_GPU_MEMORY_UTILIZATION"],
        "memory for keys and values is given in GiB, by --kv-memory",
    ),
    (
        "max-num-seqs",
        &["VDIFF_MAX_NUM_SEQS"],
        "as many requests run as there is room for; --max-concurrent-requests allows fewer",
    ),
    ("workers", &["VDIFF_WORKERS"], "one process serves all connections"),
    ("compile", &["VDIFF_COMPILE"], "kernels are always compiled for the device, and kept"),
    ("no-compile", &[], "kernels are always compiled for the device, and kept"),
    ("compile-mode", &["VDIFF_COMPILE_MODE"], "kernels are always compiled for the device, and kept"),
    ("flash-attention", &["VDIFF_FLASH_ATTENTION"], "attention never keeps its whole matrix of scores"),
    ("no-flash-attention", &[], "attention never keeps its whole matrix of scores"),
    ("", &["VDIFF_DYNAMIC_QUANT"], "weights are quantised once, by --weights q8 or q4"),
    ("", &["VDIFF_MIXED_PRECISION"], "the device and --weights say in which precision is computed"),
    (
        "",
        &[
            "VDIFF_HYBRID_ENABLED",
            "VDIFF_HYBRID_MODE",
            "VDIFF_AR_VERIFIER_MODEL",
            "VDIFF_HYBRID_DRAFT_SIZE",
            "VDIFF_HYBRID_MAX_DRAFT",
            "VDIFF_HYBRID_THRESHOLD",
            "VDIFF_HYBRID_DIFF_WEIGHT",
            "VDIFF_HYBRID_AR_WEIGHT",
            "VDIFF_HYBRID_ADAPTIVE",
            "VDIFF_HYBRID_FALLBACK",
        ],
        "no second model verifies what the first wrote; --revise looks again at decided tokens",
    ),
];

/// The format of weights that a data type of theirs is; none for auto.
pub fn weights_of(dtype: &str) -> Option<Option<&'static str>> {
    Some(match dtype.to_ascii_lowercase().as_str() {
        "auto" => None,
        "float16" | "half" => Some("f16"),
        "bfloat16" => Some("bf16"),
        "float32" | "float" => Some("f32"),
        _ => return None,
    })
}

/// Their adaptive parallel decoding as a rule of ours.
pub fn acceptance(on: Option<bool>, most: Option<String>, threshold: Option<String>) -> Option<String> {
    match (on, &most, &threshold) {
        (None, None, None) => None,
        (Some(false), ..) => Some("quota".to_owned()),
        _ => {
            let or = |value: Option<String>, usual: &str| value.unwrap_or_else(|| usual.to_owned());
            Some(format!("parallel:{},{}", or(most, "8"), or(threshold, "0.3")))
        }
    }
}

fn given(matches: &ArgMatches, id: &str) -> bool {
    matches.value_source(id) == Some(ValueSource::CommandLine)
}

/// What their flags on a command line are among ours.
pub fn translated(matches: &ArgMatches) -> Vec<(&'static str, String)> {
    let text = |id: &str| matches.get_one::<String>(id).cloned();
    let mut ours = Vec::new();
    let quantised = text("quantization").map(|q| if q.eq_ignore_ascii_case("8bit") { "q8" } else { "q4" });
    let typed = || text("dtype").and_then(|dtype| weights_of(&dtype)).flatten();
    if let Some(weights) = quantised.or_else(typed) {
        ours.push(("weights", weights.to_owned()));
    }
    let on = match (given(matches, "enable_apd"), given(matches, "disable_apd")) {
        (true, _) => Some(true),
        (_, true) => Some(false),
        _ => None,
    };
    let most = matches.get_one::<u32>("apd_max_parallel").map(u32::to_string);
    let threshold = matches.get_one::<f32>("apd_threshold").map(f32::to_string);
    ours.extend(acceptance(on, most, threshold).map(|rule| ("accept", rule)));
    ours
}

/// Why flags on the command line mean nothing.
pub fn notes(matches: &ArgMatches) -> Vec<String> {
    let meant = MEANINGLESS.iter().filter(|(flag, ..)| !flag.is_empty() && given(matches, &flag.replace('-', "_")));
    meant.map(|(flag, _, why)| format!("--{flag} means nothing here: {why}")).collect()
}
