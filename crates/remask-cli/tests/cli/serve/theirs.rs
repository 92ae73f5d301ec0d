//! What docs/coming-from-dfastllm.md says of dfastllm's names is so.

use super::super::{Ran, remask, run};
use super::{Served, serve};

const PAGE: &str = include_str!("../../../../../docs/coming-from-dfastllm.md");

/// The rows of the table below a heading, as cells.
fn table(heading: &str) -> Vec<Vec<String>> {
    let section = PAGE.split(&format!("\n## {heading}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2);
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

fn code(cell: &str) -> &str {
    cell.split('`').nth(1).unwrap_or("")
}

fn printed(args: &[&str], variable: Option<(&str, &str)>) -> Ran {
    let mut command = remask(&["serve"]);
    command.args(args).arg("--print-config").envs(variable);
    run(command)
}

/// Checks that what was accepted came to a line, or to a note that names it.
fn comes_to(theirs: &str, line: &str, ran: &Ran) {
    assert_eq!(ran.code, Some(0), "{theirs}: {}", ran.err);
    if line.is_empty() {
        let name = theirs.split([' ', '=']).next().unwrap();
        let together = ["VDIFF_ATTENTION_CACHE_INTERVAL"];
        // Names of flags that stand for others are said as those.
        let said = match name {
            "-tp" => "--tensor-parallel-size",
            "--enable-compile" => "--compile",
            "--enable-flash-attention" => "--flash-attention",
            other => other,
        };
        assert!(
            together.contains(&name) || ran.err.contains(&format!("note: {said} means nothing here")),
            "{theirs}: {}",
            ran.err
        );
    } else {
        assert!(ran.out.lines().any(|one| one == line), "{theirs}: no {line} in\n{}", ran.out);
    }
}

#[test]
fn flags_and_variables_come_to_what_the_page_says() {
    let flags = table("Flags");
    assert!(flags.len() > 35);
    for row in &flags {
        let theirs = code(&row[0]);
        let words: Vec<_> = theirs.split(' ').collect();
        comes_to(theirs, code(&row[1]), &printed(&words, None));
    }
    let variables = table("Variables");
    assert!(variables.len() > 50);
    for row in &variables {
        let theirs = code(&row[0]);
        comes_to(theirs, code(&row[1]), &printed(&[], theirs.split_once('=')));
    }
}

#[test]
fn profiles_are_configurations() {
    let folder = tempfile::tempdir().unwrap();
    let profiles: Vec<_> = PAGE.split("```toml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(profiles.len(), 3);
    for (profile, most) in profiles.iter().zip([2, 4, 8]) {
        let file = folder.path().join("profile.toml");
        std::fs::write(&file, profile).unwrap();
        let ran = printed(&["--config", file.to_str().unwrap()], None);
        comes_to(profile, &format!("mor-max-recursions = {most}"), &ran);
        comes_to(profile, "mor = true", &ran);
    }
}

#[test]
fn routes_and_metrics_are_there() {
    let server: Served = serve(&[]);
    for row in table("Routes") {
        let (method, path) = code(&row[0]).split_once(' ').unwrap();
        let answer = server.send(method, path, "");
        let wanted = if method == "GET" { "HTTP/1.1 200" } else { "HTTP/1.1 4" };
        assert!(answer.starts_with(wanted) && !answer.contains("there is no route"), "{method} {path}: {answer}");
    }
    let metrics = server.send("GET", "/metrics", "");
    let rows = table("Metrics");
    assert_eq!(rows.len(), 19);
    for row in rows {
        let name = code(&row[0]);
        let found = |line: &str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', '_']));
        assert!(metrics.lines().any(found), "{name} is not there");
    }
}
