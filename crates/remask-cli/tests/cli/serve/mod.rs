//! `remask serve` with the bundled model on the CPU.

mod anybody;
mod config;
mod signals;
mod theirs;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use super::remask;

/// A server, ended with the test.
struct Served {
    child: Child,
    address: String,
    /// What it said until it answered.
    begun: Vec<String>,
    lines: std::io::Lines<BufReader<std::process::ChildStderr>>,
}

impl Drop for Served {
    fn drop(&mut self) {
        // It has ended already where the test went well.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What every server of these tests is told.
const USUAL: [&str; 6] = ["--port", "0", "--backend", "cpu", "--shutdown-delay", "0"];

fn serve(more: &[&str]) -> Served {
    let mut command = remask(&["serve"]);
    command.args(USUAL).args(more);
    start(command)
}

/// Starts a server and waits until it answers.
fn start(mut command: std::process::Command) -> Served {
    let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut address, mut begun) = (String::new(), Vec::new());
    for line in lines.by_ref() {
        let line = line.unwrap();
        begun.push(line.clone());
        // As a line for people, or as part of an object.
        if let Some((_, found)) = line.split_once("http://").filter(|_| line.contains("listening")) {
            address = found.split('"').next().unwrap_or_default().to_owned();
        }
        if line.contains("curl http://") {
            break;
        }
    }
    assert!(!address.is_empty(), "it never said where it listens: {begun:?}");
    Served { child, address, begun, lines }
}

impl Served {
    fn send(&self, method: &str, path: &str, body: &str) -> String {
        self.send_with("authorization: Bearer k\r\n", method, path, body)
    }

    fn send_with(&self, headers: &str, method: &str, path: &str, body: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        let head = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{headers}");
        let length = body.len();
        write!(stream, "{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn post(&self, path: &str, body: &Value) -> Value {
        let answer = self.send("POST", path, &body.to_string());
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
    }
}

#[test]
fn the_bundled_model_is_served_and_drained() {
    let mut server = serve(&["--api-key", "k", "--served-model-name", "story"]);
    assert!(server.send("GET", "/v1/models", "").contains("\"story\""));
    let body = json!({"messages": [{"role": "user", "content": "Tell me about a dog."}], "max_tokens": 24});
    let answer = server.post("/v1/chat/completions", &body);
    let text = answer["choices"][0]["message"]["content"].as_str().unwrap();
    // As the command line writes it.
    let cli = remask(&["generate", "Tell me about a dog.", "--max-tokens", "24", "--backend", "cpu"]).output().unwrap();
    assert_eq!(text.trim(), String::from_utf8(cli.stdout).unwrap().trim());
    let mut streamed = body.clone();
    (streamed["stream"], streamed["n"]) = (json!(true), json!(2));
    let events = server.send("POST", "/v1/chat/completions", &streamed.to_string());
    assert!(events.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"), "{events}");
    let bodies: Vec<_> = (0..6)
        .map(|i| json!({"prompt": format!("Once there was a {i}"), "max_tokens": 6 + 3 * i, "temperature": 0.7, "seed": i}))
        .collect();
    let alone: Vec<_> = bodies.iter().map(|body| server.post("/v1/completions", body)["choices"].clone()).collect();
    let together: Vec<_> = std::thread::scope(|scope| {
        let asked: Vec<_> = bodies.iter().map(|body| scope.spawn(|| server.post("/v1/completions", body))).collect();
        asked.into_iter().map(|asked| asked.join().unwrap()["choices"].clone()).collect()
    });
    assert_eq!(alone, together, "an answer is the same alone and beside others");
    let metrics = server.send("GET", "/metrics", "");
    assert!(metrics.contains("dfastllm_request_success_total{model=\"tales-33m\"} 14"), "{metrics}");
    let pid = server.child.id().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    assert!(server.child.wait().unwrap().success());
    let log: Vec<_> = server.lines.by_ref().map(Result::unwrap).collect();
    assert!(log.iter().any(|line| line.contains("answered") && line.contains("outcome=\"success\"")), "{log:?}");
    assert!(!log.iter().any(|line| line.contains("dog") || line.contains("Bearer")), "no prompt and no key in the log");
}

#[test]
fn what_cannot_be_served_is_said() {
    for (args, words) in [
        (&["serve", "--port", "0", "--model", "no/such/model"][..], "no/such/model"),
        (&["serve", "--port", "0", "--request-timeout", "-1"], "'-1' for '--request-timeout"),
        (&["serve", "--port", "0", "--api-key-file", "no/such/file"], "no/such/file"),
        (&["serve", "--port", "0", "--model", "a=tales-33m", "--model", "a=tales-33m"], "two models are called a"),
    ] {
        let ran = super::run(remask(args));
        assert!(matches!(ran.code, Some(1 | 2)) && ran.err.contains(words), "{args:?}: {}", ran.err);
    }
}
