//! A server of OpenAI's routes that invents its answers, and can be wrong in one way at a time.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    None,
    Unhealthy,
    NotLoaded,
    NotListed,
    KindsDiffer,
    NoCompletionText,
    NoChatRole,
    LengthsIgnored,
    HardUnanswered,
    StreamsDiffer,
    NoUsageInStreams,
    NoDone,
    BrokenStreams,
    ErrorEvents,
    StopIgnored,
    SeedIgnored,
    NoTextInStreams,
    DepthIgnored,
    DepthAlways,
    BadFieldTaken,
    UnknownModelTaken,
    ErrorsAreTexts,
    ContextIgnored,
    KeyIgnored,
    MetricsStill,
    MemoryZero,
    LeaversIgnored,
    CancelIgnored,
    Refuses,
    Batches,
}

/// What it counts.
#[derive(Default)]
struct Counts {
    requests: u64,
    tokens: u64,
    running: u64,
    aborted: u64,
    cancelled: HashSet<String>,
}

struct Inside {
    fault: Fault,
    counts: Mutex<Counts>,
    over: AtomicBool,
}

/// One that runs until it is dropped.
pub struct Fake {
    pub url: String,
    address: std::net::SocketAddr,
    inside: Arc<Inside>,
}

impl Fake {
    pub fn start(fault: Fault) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inside = Arc::new(Inside { fault, counts: Mutex::default(), over: AtomicBool::new(false) });
        let of = inside.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if of.over.load(Ordering::SeqCst) {
                    return;
                }
                let (of, stream) = (of.clone(), stream.unwrap());
                std::thread::spawn(move || {
                    stream.set_nodelay(true).unwrap();
                    // A client may leave at any time.
                    let _ = of.answer(stream);
                });
            }
        });
        Self { url: format!("http://{address}"), address, inside }
    }

    /// Requests for answers so far.
    pub fn requests(&self) -> u64 {
        self.inside.counts.lock().unwrap().requests
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.inside.over.store(true, Ordering::SeqCst);
        // Wakes the listener up.
        let _ = TcpStream::connect(self.address);
    }
}

struct Request {
    method: String,
    path: String,
    id: String,
    key: bool,
    body: Value,
}

fn read(stream: &TcpStream) -> std::io::Result<Request> {
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ').map(str::to_owned);
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (mut length, mut id, mut key) = (0, String::new(), false);
    loop {
        let mut header = String::new();
        reader.read_line(&mut header)?;
        let Some((name, value)) = header.split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "x-request-id" => value.trim().clone_into(&mut id),
            "authorization" => key = value.trim() == "Bearer k",
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(Request { method, path, id, key, body: serde_json::from_slice(&body).unwrap_or_default() })
}

fn whole(status: u16, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
    )
}

fn send(mut stream: &TcpStream, status: u16, kind: &str, body: &str) -> std::io::Result<()> {
    stream.write_all(whole(status, kind, body).as_bytes())
}

fn event(data: &Value) -> String {
    format!("data: {data}\n\n")
}

fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

impl Inside {
    fn is(&self, fault: Fault) -> bool {
        self.fault == fault
    }

    fn answer(&self, stream: TcpStream) -> std::io::Result<()> {
        let request = read(&stream)?;
        let json = |status, body: Value| send(&stream, status, "application/json", &body.to_string());
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/health") if self.is(Fault::Unhealthy) => json(503, json!({"detail": "broken"})),
            ("GET", "/health") => json(
                200,
                json!({
                    "status": "healthy", "state": "ready", "model_loaded": !self.is(Fault::NotLoaded), "device": "none",
                }),
            ),
            ("GET", "/version") => json(200, json!({"version": "1", "model_type": "diffusion-llm"})),
            ("GET", "/v1/models") => {
                let id = if self.is(Fault::NotListed) { "other" } else { "fake" };
                json(200, json!({"object": "list", "data": [{"id": id, "owned_by": "nobody", "max_model_len": 2048}]}))
            }
            ("GET", "/v1/engine/stats") => json(
                200,
                json!({
                    "is_diffusion_model": !self.is(Fault::KindsDiffer),
                    "peak_memory_mb": if self.is(Fault::MemoryZero) { 0 } else { 3 },
                }),
            ),
            ("GET", "/metrics") => send(&stream, 200, "text/plain", &self.metrics()),
            ("DELETE", path) => {
                if !self.is(Fault::CancelIgnored) {
                    let id = path.trim_start_matches("/v1/requests/").to_owned();
                    self.counts.lock().unwrap().cancelled.insert(id);
                }
                json(200, json!({"status": "cancelled"}))
            }
            ("POST", "/v1/completions" | "/v1/chat/completions") => self.generate(&stream, &request),
            _ => json(404, json!({"error": {"message": "no such route", "type": "invalid_request_error"}})),
        }
    }

    fn metrics(&self) -> String {
        let counts = self.counts.lock().unwrap();
        let tokens = if self.is(Fault::MetricsStill) { 0 } else { counts.tokens };
        let memory = if self.is(Fault::MemoryZero) { 0 } else { 1 << 20 };
        format!(
            "# TYPE dfastllm_generation_tokens_total counter\ndfastllm_generation_tokens_total{{model=\"fake\"}} {tokens}\n\
             dfastllm_num_requests_running{{model=\"fake\"}} {}\ndfastllm_gpu_memory_usage_bytes {memory}\n\
             remask_requests_total{{model=\"fake\",outcome=\"aborted\"}} {}\n",
            counts.running, counts.aborted
        )
    }

    /// Why a request is not answered.
    fn refusal(&self, request: &Request, prompt: &str) -> Option<(u16, &'static str)> {
        let body = &request.body;
        let most = body["max_tokens"].as_u64().unwrap_or(0);
        if !request.key && !self.is(Fault::KeyIgnored) {
            Some((401, "the key is missing"))
        } else if !body["temperature"].is_number() && !self.is(Fault::BadFieldTaken) {
            Some((400, "temperature must be a number"))
        } else if body["model"] != "fake" && !self.is(Fault::UnknownModelTaken) {
            Some((404, "no such model"))
        } else if most + 3 > 2048 && !self.is(Fault::ContextIgnored) {
            Some((400, "too long"))
        } else if self.is(Fault::HardUnanswered) && prompt.contains("quantum") {
            Some((500, "too hard"))
        } else if self.is(Fault::Refuses) && self.counts.lock().unwrap().running > 4 {
            Some((429, "too many"))
        } else {
            None
        }
    }

    fn generate(&self, stream: &TcpStream, request: &Request) -> std::io::Result<()> {
        let body = &request.body;
        let chat = request.path.contains("chat");
        let prompt = if chat { &body["messages"][0]["content"] } else { &body["prompt"] }.to_string();
        if let Some((status, message)) = self.refusal(request, &prompt) {
            if self.is(Fault::ErrorsAreTexts) {
                return send(stream, status, "text/plain", message);
            }
            let error = json!({"error": {"message": message, "type": "invalid_request_error", "code": null}});
            return send(stream, status, "application/json", &error.to_string());
        }
        {
            let mut counts = self.counts.lock().unwrap();
            counts.requests += 1;
            counts.running += 1;
        }
        if matches!(self.fault, Fault::Batches | Fault::Refuses) {
            // Long enough for requests that are sent together to meet.
            std::thread::sleep(Duration::from_millis(60));
        }
        let beside = self.counts.lock().unwrap().running > 1;
        let (pieces, finish) = self.pieces(body, &prompt, beside);
        let last = self.reply(stream, request, chat, &pieces, finish);
        {
            let mut counts = self.counts.lock().unwrap();
            counts.tokens += pieces.len() as u64;
            if last.is_ok() {
                counts.running -= 1;
            } else if !self.is(Fault::LeaversIgnored) {
                counts.running -= 1;
                counts.aborted += 1;
            }
        }
        // Whoever has the whole answer finds it counted.
        let mut stream = stream;
        stream.write_all(last?.as_bytes())
    }

    /// The pieces of an answer, one a token, and why it ends.
    fn pieces(&self, body: &Value, prompt: &str, beside: bool) -> (Vec<String>, &'static str) {
        let drawn = body["temperature"].as_f64().is_some_and(|temperature| temperature > 0.0);
        let mut seed = if drawn { body["seed"].to_string() } else { String::new() };
        if self.is(Fault::SeedIgnored) && drawn {
            seed = self.counts.lock().unwrap().requests.to_string();
        }
        if self.is(Fault::Batches) && beside {
            seed += "beside";
        }
        let most = if self.is(Fault::LengthsIgnored) { 16 } else { body["max_tokens"].as_u64().unwrap() };
        let piece = |at| format!(" w{}", hash(&format!("{prompt} {seed} {at}")) % 900 + 100);
        let mut pieces: Vec<_> = (0..most).map(piece).collect();
        let stop = body["stop"][0].as_str().filter(|_| !self.is(Fault::StopIgnored));
        let Some(end) = stop.and_then(|stop| pieces.concat().find(stop)) else { return (pieces, "length") };
        let text = pieces.concat()[..end].to_owned();
        pieces.truncate(end.div_ceil(5));
        let before: usize = pieces.iter().rev().skip(1).map(String::len).sum();
        if let Some(last) = pieces.last_mut() {
            text[before..].clone_into(last);
        }
        (pieces, "stop")
    }

    /// Sends all but the last of an answer, which it returns.
    fn reply(
        &self,
        mut stream: &TcpStream,
        request: &Request,
        chat: bool,
        pieces: &[String],
        finish: &str,
    ) -> std::io::Result<String> {
        let tokens = pieces.len();
        let usage = json!({"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": tokens + 3});
        let on = request.body["remask"]["mor"].as_bool().unwrap_or(true) && !self.is(Fault::DepthIgnored);
        let mor = (on || self.is(Fault::DepthAlways)).then(|| json!({"avg_recursions": 1.5, "easy": tokens}));
        let cost = json!({"rows_computed": tokens * 4, "forward_passes": tokens, "mor": mor});
        if request.body["stream"] != true {
            let empty = self.is(Fault::NoCompletionText) && !chat;
            let text = if empty { String::new() } else { pieces.concat() };
            let role = if self.is(Fault::NoChatRole) { "tool" } else { "assistant" };
            let choice = if chat { json!({"message": {"role": role, "content": text}}) } else { json!({"text": text}) };
            let object = if chat { "chat.completion" } else { "text_completion" };
            let mut answer = json!({"id": "x", "object": object, "model": "fake", "choices": [choice], "usage": usage});
            answer["choices"][0]["finish_reason"] = json!(finish);
            answer["remask"] = cost;
            return Ok(whole(200, "application/json", &answer.to_string()));
        }
        stream
            .write_all(b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n: ping\n\n")?;
        // Long answers are there to be left.
        let long = tokens > 200;
        let mut last = String::new();
        for (at, piece) in pieces.iter().enumerate() {
            if long {
                std::thread::sleep(Duration::from_millis(5));
                stream.write_all(event(&json!({"choices": []})).as_bytes())?;
            }
            if self.counts.lock().unwrap().cancelled.contains(&request.id) {
                return Ok(event(&json!({"error": {"message": "ended", "type": "x", "code": "cancelled"}})));
            }
            if self.is(Fault::ErrorEvents) && at == 2 && !long {
                return Ok(event(&json!({"error": {"message": "lost", "type": "x", "code": "device_lost"}})));
            }
            if self.is(Fault::BrokenStreams) && at == 2 && !long {
                return Ok(last);
            }
            if self.is(Fault::NoTextInStreams) || (self.is(Fault::StreamsDiffer) && at == 1) {
                continue;
            }
            let choice = if chat { json!({"delta": {"content": piece}}) } else { json!({"text": piece}) };
            stream.write_all(event(&json!({"choices": [choice], "usage": null})).as_bytes())?;
        }
        last += &event(&json!({"choices": [{"delta": {}, "finish_reason": finish}]}));
        if !self.is(Fault::NoUsageInStreams) {
            last += &event(&json!({"choices": [], "usage": usage, "remask": cost}));
        }
        if !self.is(Fault::NoDone) {
            last += "data: [DONE]\n\n";
        }
        Ok(last)
    }
}
