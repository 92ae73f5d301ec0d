//! A server of nobody in particular: any user, nothing that can be written to, no home.

use std::process::Command;

use serde_json::json;

use super::super::remask;
use super::{USUAL, start};

/// Makes every mount read only, `/tmp` too, and runs what follows.
const CONFINE: &str = "mount --make-rprivate / && \
    while read -r _ place _; do mount -o remount,bind,ro \"$place\" 2>/dev/null; done </proc/mounts; \
    touch /tmp/remask-probe 2>/dev/null && { echo '/tmp can still be written to' >&2; exit 9; }; \
    cd / && exec \"$@\"";

/// A command confined like that: as a user without an entry, name or home where this is root's process, otherwise as
/// who it is.
fn confined(command: &[&str]) -> Command {
    let is_root = Command::new("id").arg("-u").output().is_ok_and(|id| id.stdout == b"0\n");
    let mut confined = Command::new("unshare");
    confined.arg("--mount").args((!is_root).then_some("--map-root-user")).args(["sh", "-c", CONFINE, "sh"]);
    if is_root {
        confined.args(["setpriv", "--reuid=1000680000", "--regid=0", "--clear-groups", "--no-new-privs", "--"]);
    }
    confined.args(command).env_clear().env("PATH", std::env::var_os("PATH").unwrap());
    confined
}

#[test]
fn anybody_serves_from_a_root_that_cannot_be_written_to() {
    let binary = env!("CARGO_BIN_EXE_remask");
    let why = match confined(&["test", "-x", binary]).output() {
        Ok(ran) if ran.status.success() => None,
        Ok(ran) => Some(String::from_utf8_lossy(&ran.stderr).trim().to_owned()),
        Err(problem) => Some(problem.to_string()),
    };
    if let Some(why) = why {
        println!("passed over: nothing can be confined here like this: {why}");
        return;
    }
    let server = start(confined(&[&[binary, "serve"], &USUAL[..]].concat()));
    let answer = server.post("/v1/completions", &json!({"prompt": "Once", "max_tokens": 4}));
    assert_eq!(answer["usage"]["completion_tokens"], 4);
    let note = server.begun.iter().find(|line| line.starts_with("note: ") && line.contains("--cache-dir"));
    assert!(note.is_some_and(|note| note.contains("no folder can be written to")), "{:?}", server.begun);
}

#[test]
fn a_cache_goes_where_it_can() {
    let folder = tempfile::tempdir().unwrap();
    let temporary = folder.path().to_str().unwrap();
    let serve = |set: &[(&str, &str)], more: &[&str]| {
        let mut command = remask(&["serve"]);
        for name in ["HOME", "XDG_CACHE_HOME", "REMASK_CACHE_DIR", "TMPDIR", "REMASK_REAL"] {
            command.env_remove(name);
        }
        command.args(USUAL).args(more).envs(set.iter().copied());
        start(command).begun.iter().find(|line| line.starts_with("note: ")).cloned()
    };
    let note = serve(&[("TMPDIR", temporary)], &[]).unwrap();
    assert!(note.contains(&format!("kept in {temporary}/remask-cache")), "{note}");
    assert!(folder.path().join("remask-cache").is_dir());
    assert_eq!(serve(&[("XDG_CACHE_HOME", temporary)], &[]), None);
    assert!(folder.path().join("remask").is_dir());
    assert_eq!(serve(&[], &["--cache-dir", &format!("{temporary}/own/one")]), None);
    assert!(folder.path().join("own/one").is_dir());
    let note = serve(&[("REMASK_CACHE_DIR", "/proc/nothing")], &[]).unwrap();
    assert!(note.contains("/proc/nothing cannot be used"), "{note}");
    // What somebody else might have put there is not used.
    let theirs = folder.path().join("shared");
    std::fs::create_dir_all(theirs.join("remask-cache")).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o777);
    std::fs::set_permissions(theirs.join("remask-cache"), open).unwrap();
    let note = serve(&[("TMPDIR", theirs.to_str().unwrap())], &[]).unwrap();
    assert!(note.contains("belongs to somebody else"), "{note}");
}
