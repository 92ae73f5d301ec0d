//! A server for a test, and a client that hides nothing: it writes bytes and reads bytes.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::Duration;

use remask::{Engine, EngineBuilder, Source};
use remask_server::{App, Metrics, Server, ServerConfig, Stop};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::scripted::{Shared, folder};

/// A server that runs until it is dropped.
pub struct Running {
    pub address: SocketAddr,
    pub metrics_address: Option<SocketAddr>,
    pub script: Shared,
    pub app: Arc<App>,
    pub stop: UnboundedSender<Stop>,
    thread: Option<JoinHandle<()>>,
    _engine: Engine,
}

/// Where a server listens, where its metrics are, and what its requests share.
type Begun = (SocketAddr, Option<SocketAddr>, Arc<App>);

/// A server with defaults, ready.
pub fn start() -> Running {
    start_with(Shared::default(), ServerConfig::default(), |engine| engine)
}

/// A server, ready.
pub fn start_with(
    script: Shared,
    config: ServerConfig,
    engine: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Running {
    let running = start_loading(script, config, engine);
    until(|| running.app.is_ready());
    running
}

/// A server whose engine may still be loading.
pub fn start_loading(
    script: Shared,
    config: ServerConfig,
    configure: impl FnOnce(EngineBuilder) -> EngineBuilder,
) -> Running {
    let metrics = Arc::new(Metrics::new(config.vllm_metrics));
    let counted = metrics.clone();
    let builder = Engine::builder().model(Source::path(folder(), script.open()));
    let engine = configure(builder.observe(move |pass| counted.pass(pass))).start().unwrap();
    let (stop, mut stops) = unbounded_channel();
    let (ready, begun) = channel::<Begun>();
    let handle = engine.handle().clone();
    let thread = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(async move {
            let server = Server::bind(([127, 0, 0, 1], 0).into(), handle, config, metrics).await.unwrap();
            let metrics = server.metrics_address().unwrap();
            ready.send((server.address().unwrap(), metrics, server.app().clone())).unwrap();
            server.run(async || stops.recv().await.unwrap_or(Stop::Now)).await;
        });
    });
    let (address, metrics_address, app) = begun.recv().unwrap();
    Running { address, metrics_address, script, app, stop, thread: Some(thread), _engine: engine }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.script.lock().hold = false;
        let _ = self.stop.send(Stop::Now);
        let _ = self.stop.send(Stop::Now);
        self.join();
    }
}

impl Running {
    /// Waits until it has stopped.
    pub fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(300))).unwrap();
        stream
    }

    /// Sends a request and reads the answer to its end.
    pub fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(&head(method, path, headers, body)).unwrap();
        Answer::read(&mut stream)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "")
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        self.send("POST", path, &[("content-type", "application/json")], &body.to_string())
    }

    /// The value of a metric, summed over series whose labels hold `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.get("/metrics").text();
        let value = |line: &str| {
            let rest = line.strip_prefix(name)?;
            let (series, value) = rest.rsplit_once(' ')?;
            (series.is_empty() || series.starts_with('{')).then_some(())?;
            series.contains(labels).then(|| value.parse::<f64>().unwrap())
        };
        let found: Vec<_> = text.lines().filter_map(value).collect();
        assert!(!found.is_empty(), "{name} {labels} is not among\n{text}");
        found.iter().sum()
    }
}

/// A request as bytes; the connection is closed after it.
pub fn head(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nhost: here\r\nconnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("content-length: {}\r\n", body.len());
    }
    text += "\r\n";
    [text.as_bytes(), body.as_bytes()].concat()
}

/// What a server answered.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads until the connection ends.
    pub fn read(stream: &mut TcpStream) -> Self {
        let mut bytes = Vec::new();
        if let Err(problem) = stream.read_to_end(&mut bytes) {
            assert_eq!(problem.kind(), ErrorKind::ConnectionReset, "{problem}: {}", String::from_utf8_lossy(&bytes));
        }
        Self::parse(&bytes)
    }

    pub fn parse(bytes: &[u8]) -> Self {
        let end = bytes.windows(4).position(|w| w == b"\r\n\r\n");
        let end = end.unwrap_or_else(|| panic!("no answer: {:?}", String::from_utf8_lossy(bytes)));
        let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let header =
            |line: &str| line.split_once(':').map(|(n, v)| (n.to_ascii_lowercase(), v.trim().to_owned())).unwrap();
        let mut answer = Self { status, headers: lines.map(header).collect(), body: bytes[end + 4..].to_vec() };
        if answer.header("transfer-encoding") == Some("chunked") {
            answer.body = unchunk(&answer.body);
        }
        answer
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?} {}", self.text()))
    }

    /// The answer where it must be one.
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        self.json()
    }

    /// Code and field of an error.
    pub fn error(&self) -> (u16, Option<String>, Option<String>) {
        let error = &self.json()["error"];
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()) && error["type"].is_string(), "{error}");
        let text = |name: &str| error[name].as_str().map(str::to_owned);
        (self.status, text("code"), text("param"))
    }

    /// A stream's events; the last says that it is done.
    pub fn events(&self) -> Vec<Value> {
        let mut data = data(&self.body);
        assert_eq!(data.pop().as_deref(), Some("[DONE]"), "{}", self.text());
        data.iter().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// The data of server-sent events, each of which is text by itself.
pub fn data(body: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(body).unwrap();
    text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    loop {
        let Some(end) = body.windows(2).position(|w| w == b"\r\n") else { return whole };
        let size = usize::from_str_radix(std::str::from_utf8(&body[..end]).unwrap(), 16).unwrap();
        let from = end + 2;
        if size == 0 || body.len() < from + size {
            return whole;
        }
        whole.extend_from_slice(&body[from..from + size]);
        body = &body[(from + size + 2).min(body.len())..];
    }
}

/// Waits for what another thread does.
pub fn until(what: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    panic!("it has not happened");
}
