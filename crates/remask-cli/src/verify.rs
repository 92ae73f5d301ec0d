//! `remask verify`: does this device compute what the reference implementations computed?

use std::io::{Write, stdout};
use std::path::PathBuf;

use remask_core::Model;
use remask_core::golden::{CaseResult, Golden, LOGIT_TOLERANCE, LogitError, check_case, check_logits};
use serde::Serialize;

use crate::model_args::{DeviceArgs, explain};
use crate::report::table;
use crate::{Failure, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// Golden folders: a model with golden.json and golden.safetensors (see the README)
    #[arg(required = true, value_name = "DIR")]
    folders: Vec<PathBuf>,
    /// Check this checkpoint or GGUF file of the golden's model in place of the folder's own
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    #[command(flatten)]
    device: DeviceArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What one folder came to.
#[derive(Serialize)]
struct FolderReport {
    folder: String,
    backend: remask_core::backend::BackendInfo,
    logits: LogitError,
    logits_pass: bool,
    cases: Vec<CaseReport>,
}

#[derive(Serialize)]
struct CaseReport {
    label: String,
    pass: bool,
    /// `None` where this build does not have the case's decoder.
    result: Option<CaseResult>,
}

impl FolderReport {
    fn ran(&self) -> usize {
        self.cases.iter().filter(|case| case.result.is_some()).count()
    }

    /// What was left out proves nothing: where none of the cases ran, the folder does not pass.
    fn passes(&self) -> bool {
        self.logits_pass && self.cases.iter().all(|c| c.pass) && (self.cases.is_empty() || self.ran() > 0)
    }
}

pub fn run(args: &Args) -> Outcome {
    let mut reports = Vec::new();
    for folder in &args.folders {
        let name = folder.display().to_string();
        let named = |e: Failure| match e {
            Failure::Message(words) if !words.contains(&name) => Failure::Message(format!("{name}: {words}")),
            other => other,
        };
        let report = check(args, folder).map_err(named)?;
        if !args.json {
            print(&report)?;
        }
        reports.push(report);
    }
    if args.json {
        writeln!(stdout(), "{}", serde_json::to_string_pretty(&reports)?)?;
    }
    if reports.iter().all(FolderReport::passes) { Ok(()) } else { Err(Failure::Reported) }
}

fn check(args: &Args, folder: &std::path::Path) -> Result<FolderReport, Failure> {
    let model = Model::open(args.model.as_deref().unwrap_or(folder))?;
    let golden = Golden::open(folder)?;
    let mut backend = args.device.load(&model)?;
    let failed = |e| explain(e, &model);
    let logits = pollster::block_on(check_logits(backend.as_mut(), &model, &golden)).map_err(failed)?;
    let mut cases = Vec::new();
    for case in &golden.cases {
        let named = |e| Failure::Message(format!("{}: case {}: {}", folder.display(), case.label(), failed(e)));
        let result = pollster::block_on(check_case(backend.as_mut(), &model, case)).map_err(named)?;
        cases.push(CaseReport { label: case.label(), pass: result.as_ref().is_none_or(CaseResult::passes), result });
    }
    let backend = backend.info();
    Ok(FolderReport { folder: folder.display().to_string(), backend, logits, logits_pass: logits.passes(), cases })
}

fn print(report: &FolderReport) -> std::io::Result<()> {
    let mut out = stdout();
    let word = |pass: bool| if pass { "ok" } else { "DIFFERS" };
    let info = &report.backend;
    writeln!(out, "{}  [{}, {}, {} weights]", report.folder, info.adapter, info.backend, info.weights)?;
    writeln!(
        out,
        "  logits: largest error {:.2e} (at most {:.0e}), relative L2 {:.2e} (at most {:.0e}): {}",
        report.logits.max_abs,
        LOGIT_TOLERANCE.0,
        report.logits.relative_l2,
        LOGIT_TOLERANCE.1,
        word(report.logits_pass)
    )?;
    let mut rows = vec![["  case (length/block/steps)", "ids", "passes", "reference", ""].map(str::to_owned).to_vec()];
    for case in &report.cases {
        let cells = match &case.result {
            None => [
                format!("  {}", case.label),
                "skipped: not in this build".into(),
                String::new(),
                String::new(),
                String::new(),
            ],
            Some(r) => [
                format!("  {}", case.label),
                r.first_difference.map_or("identical".into(), |p| format!("differ from position {p}")),
                r.forward_passes.to_string(),
                r.reference_passes.map_or("-".into(), |p| p.to_string()),
                word(case.pass).to_owned(),
            ],
        };
        rows.push(cells.to_vec());
    }
    write!(out, "{}", table(&rows))?;
    let (ran, all) = (report.ran(), report.cases.len());
    let passed = report.cases.iter().filter(|c| c.result.is_some() && c.pass).count();
    let nothing = if ran == 0 && all > 0 { ": no generation was compared, which counts as DIFFERS" } else { "" };
    writeln!(out, "  {passed} of {ran} generations as the reference, {} skipped{nothing}\n", all - ran)
}
