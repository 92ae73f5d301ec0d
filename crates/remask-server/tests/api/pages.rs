//! The pages, and the document against what the server does.

use std::collections::BTreeSet;

use remask_server::ServerConfig;
use serde_json::{Value, json};

use crate::client::{Answer, Running, start, start_with};
use crate::scripted::Shared;

const FIREFOX: &str = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8";

fn with(config: ServerConfig) -> Running {
    start_with(Shared::default(), config, |engine| engine)
}

/// Addresses that a page or script names in `from`.
fn links(text: &str, from: &str) -> Vec<String> {
    text.split(from).skip(1).filter_map(|rest| rest.split(['"', '\'']).next().map(str::to_owned)).collect()
}

#[test]
fn pages_are_whole_strict_and_open() {
    let server = with(ServerConfig { api_keys: vec!["k".into()], ..ServerConfig::default() });
    assert_eq!(server.get("/v1/models").status, 401);
    let mut seen = BTreeSet::new();
    for page in ["/playground", "/docs"] {
        let answer = server.get(page);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/html; charset=utf-8")));
        let policy = answer.header("content-security-policy").unwrap().to_owned();
        assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && !policy.contains("http"), "{policy}");
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        let text = answer.text();
        assert!(text.starts_with("<!doctype html>") && text.contains("<html lang=\"en\">"));
        for bad in ["<script>", "style=", "onclick=", "onload=", "<style", "http://", "https://", "javascript:"] {
            assert!(!text.contains(bad), "{page} has {bad}");
        }
        seen.extend(links(&text, "href=\"").into_iter().chain(links(&text, "src=\"")).map(|to| format!("/{to}")));
    }
    let scripts: Vec<_> = seen.iter().filter(|path| path.ends_with(".js")).cloned().collect();
    for script in scripts {
        seen.extend(links(&server.get(&script).text(), "from './").into_iter().map(|name| format!("/assets/{name}")));
    }
    seen.retain(|path| !path.starts_with("/#"));
    assert!(seen.len() >= 9, "{seen:?}");
    for path in &seen {
        let answer = server.get(path);
        let kind = match path.rsplit('.').next().unwrap() {
            "js" => "text/javascript; charset=utf-8",
            "css" => "text/css; charset=utf-8",
            "svg" => "image/svg+xml",
            "json" => "application/json",
            _ => "text/html; charset=utf-8",
        };
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(kind)), "{path}");
        if kind.contains("javascript") {
            let text = answer.text();
            for bad in
                ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "localStorage", "http://"]
            {
                assert!(!text.contains(bad), "{path} has {bad}");
            }
        }
    }
    assert_eq!(server.get("/assets/nothing.js").error().0, 404);
    assert_eq!(server.get("/assets/..%2Fplayground.html").error().0, 404);
    let redoc = server.get("/redoc");
    assert_eq!((redoc.status, redoc.header("location")), (307, Some("docs")));
    assert_eq!(server.send("HEAD", "/playground", &[], "").status, 200);
}

#[test]
fn the_root_is_a_page_for_browsers_alone() {
    let server = start();
    let root = |server: &Running, accept: &str| server.send("GET", "/", &[("accept", accept)], "");
    let answer = root(&server, FIREFOX);
    assert_eq!((answer.status, answer.header("location")), (303, Some("playground")));
    assert!(answer.headers.iter().any(|(name, value)| name == "vary" && value == "Accept"));
    for accept in ["*/*", "application/json", "application/json, text/html;q=0.9", "text/html;q=0.1, */*"] {
        assert_eq!(root(&server, accept).ok()["docs"], "/docs", "{accept}");
    }
    assert_eq!(server.get("/").ok()["status"], "ready");
    let without = with(ServerConfig { playground: false, ..ServerConfig::default() });
    assert_eq!(root(&without, FIREFOX).ok()["name"], "Remask API Server");
    assert_eq!(without.get("/playground").error(), (404, Some("not_found".into()), None));
    assert_eq!((without.get("/docs").status, without.get("/openapi.json").status), (200, 200));
}

/// The document that a server gives.
struct Document(Value);

impl Document {
    fn of(server: &Running) -> Self {
        Self(server.get("/openapi.json").ok())
    }

    fn resolve<'a>(&'a self, schema: &'a Value) -> &'a Value {
        match schema["$ref"].as_str() {
            Some(target) => self.resolve(self.0.pointer(target.strip_prefix('#').unwrap()).unwrap()),
            None => schema,
        }
    }

    /// Every operation: path, method, and what the document says of it.
    fn operations(&self) -> Vec<(String, String, &Value)> {
        let mut found = Vec::new();
        for (path, item) in self.0["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
                found.push((path.clone(), method.to_ascii_uppercase(), operation));
            }
        }
        found
    }

    /// Why a value is not what the schema says, if it is not. Members that the schema lacks count.
    fn problem(&self, schema: &Value, value: &Value, at: &str) -> Option<String> {
        let schema = self.resolve(schema);
        for any in ["anyOf", "oneOf"] {
            if let Some(options) = schema[any].as_array() {
                let problems: Vec<_> = options.iter().map(|one| self.problem(one, value, at)).collect();
                return if problems.iter().any(Option::is_none) {
                    None
                } else {
                    problems.into_iter().flatten().next_back()
                };
            }
        }
        let fits = |kind: &str| match kind {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "integer" => value.is_u64() || value.is_i64(),
            "number" => value.is_number(),
            "boolean" => value.is_boolean(),
            "null" => value.is_null(),
            _ => panic!("{kind}"),
        };
        let good = match &schema["type"] {
            Value::String(kind) => fits(kind),
            Value::Array(kinds) => kinds.iter().any(|kind| fits(kind.as_str().unwrap())),
            _ => true,
        };
        if !good {
            return Some(format!("{at} is {value}, which is no {}", schema["type"]));
        }
        if schema.get("const").is_some_and(|only| only != value) {
            return Some(format!("{at} is {value}, not {}", schema["const"]));
        }
        if schema["enum"].as_array().is_some_and(|all| !all.contains(value)) {
            return Some(format!("{at} is {value}, not one of {}", schema["enum"]));
        }
        if let (Some(object), Some(known)) = (value.as_object(), schema["properties"].as_object()) {
            for (name, inner) in object {
                let at = format!("{at}.{name}");
                let Some(schema) = known.get(name) else { return Some(format!("{at} is not in the document")) };
                if let Some(problem) = self.problem(schema, inner, &at) {
                    return Some(problem);
                }
            }
            for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                if !object.contains_key(name) {
                    return Some(format!("{at} lacks {name}"));
                }
            }
        }
        let items = value.as_array().into_iter().flatten().enumerate();
        items
            .filter(|_| schema.get("items").is_some())
            .find_map(|(i, inner)| self.problem(&schema["items"], inner, &format!("{at}[{i}]")))
    }

    fn schema(&self, path: &str, method: &str, status: u16, kind: &str) -> &Value {
        let operation = &self.0["paths"][path][method.to_ascii_lowercase()];
        let answer = self.resolve(&operation["responses"][status.to_string()]);
        let schema = &answer["content"][kind]["schema"];
        assert!(!schema.is_null(), "{method} {path} {status} {kind} is not in the document");
        schema
    }

    /// Holds an answer of JSON against the document.
    fn check(&self, path: &str, method: &str, answer: &Answer) {
        let schema = self.schema(path, method, answer.status, "application/json");
        assert_eq!(self.problem(schema, &answer.json(), path), None);
    }

    /// Properties of a schema and of those that it is made of.
    fn properties(&self, schema: &Value) -> Vec<(String, Value)> {
        let schema = self.resolve(schema);
        let own = schema["properties"].as_object().into_iter().flatten();
        let mut found: Vec<_> = own.map(|(name, inner)| (name.clone(), inner.clone())).collect();
        found.extend(schema["allOf"].as_array().into_iter().flatten().flat_map(|part| self.properties(part)));
        found
    }
}

#[test]
fn every_operation_of_the_document_exists_and_no_other_method() {
    let server = start();
    let document = Document::of(&server);
    let operations = document.operations();
    assert!(operations.len() >= 24);
    for (path, item) in document.0["paths"].as_object().unwrap() {
        let real = path.replace("{id}", "tales-33m").replace("{name}", "page.css");
        let refused = server.send("PATCH", &real, &[], "");
        assert_eq!(refused.error().0, 405, "{path}");
        let allowed: BTreeSet<_> = refused.header("allow").unwrap().split(',').map(|m| m.trim().to_owned()).collect();
        let methods = item.as_object().unwrap().keys().filter(|name| *name != "parameters");
        let mut methods: BTreeSet<_> = methods.map(|method| method.to_ascii_uppercase()).collect();
        if methods.contains("GET") {
            methods.insert("HEAD".to_owned());
        }
        assert_eq!(allowed, methods, "{path}");
        for method in methods.iter().filter(|method| *method != "HEAD") {
            let answer = server.send(method, &real, &[], "");
            let documented = &item[method.to_ascii_lowercase()]["responses"];
            assert!(documented.get(answer.status.to_string()).is_some(), "{method} {real}: {}", answer.status);
            assert!(answer.status != 404 || documented["200"].is_null() || path == "/v1/requests/{id}", "{real}");
        }
    }
}

#[test]
fn what_needs_a_key_is_documented_so() {
    let server = with(ServerConfig { api_keys: vec!["k".into()], ..ServerConfig::default() });
    let document = Document::of(&server);
    for (path, method, operation) in document.operations() {
        let real = path.replace("{id}", "x").replace("{name}", "page.css");
        let closed = server.send(&method, &real, &[], "").status == 401;
        let security = operation.get("security").unwrap_or(&document.0["security"]).as_array().unwrap();
        let open = security.is_empty() || security.contains(&json!({}));
        assert_eq!(closed, !open, "{method} {path}");
        assert!(!closed || operation["responses"].get("401").is_some(), "{method} {path}");
    }
}

#[test]
fn answers_are_as_documented() {
    let server = start();
    let document = Document::of(&server);
    for (path, real) in [
        ("/", "/"),
        ("/health", "/health"),
        ("/health/live", "/health/live"),
        ("/health/ready", "/health/ready"),
        ("/version", "/version"),
        ("/v1/models", "/v1/models"),
        ("/v1/models/{id}", "/v1/models/tales-33m"),
        ("/v1/engine/stats", "/v1/engine/stats"),
        ("/v1/engine/health", "/v1/engine/health"),
        ("/v1/models/{id}", "/v1/models/none"),
        ("/playground", "/playground?x"),
    ] {
        let answer = server.get(real);
        if path != "/playground" {
            document.check(path, "GET", &answer);
        }
    }
    document.check("/v1/requests/{id}", "DELETE", &server.send("DELETE", "/v1/requests/none", &[], ""));
    document.check("/v1/responses/{id}", "GET", &server.get("/v1/responses/none"));
    let canvas = json!([{"text": "Once"}, {"holes": 4}, {"text": " end."}]);
    let messages = json!([{"role": "user", "content": "Hi"}]);
    for (path, body) in [
        ("/v1/completions", json!({"prompt": "Once", "max_tokens": 12, "logprobs": 2, "n": 2})),
        ("/v1/completions", json!({"max_tokens": 12, "remask": {"preset": "quality", "canvas": canvas}})),
        ("/v1/completions", json!({"prompt": "Once", "temperature": 9})),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 12, "logprobs": true, "top_logprobs": 2})),
        ("/v1/responses", json!({"input": "Hi", "max_output_tokens": 12, "metadata": {"a": "b"}})),
        ("/infill", json!({"input_prefix": "Once", "input_suffix": " end.", "n_predict": 8})),
        ("/tokenize", json!({"prompt": "Once", "return_token_strs": true})),
        ("/tokenize", json!({"messages": messages})),
        ("/detokenize", json!({"tokens": [1, 2]})),
    ] {
        document.check(path, "POST", &server.post(path, &body));
    }
    // The examples of the document are requests that work.
    for (path, method, operation) in document.operations() {
        let example = &operation["requestBody"]["content"]["application/json"]["example"];
        if !example.is_null() {
            let answer = server.send(&method, &path, &[("content-type", "application/json")], &example.to_string());
            assert_eq!(answer.status, 200, "{path}: {}", answer.text());
            document.check(&path, &method, &answer);
        }
    }
    let ours = json!({"step_events": true, "preset": "quality", "mor": true});
    for (path, mut body) in [
        ("/v1/completions", json!({"prompt": "Once", "logprobs": 1})),
        ("/v1/chat/completions", json!({"messages": messages, "logprobs": true})),
    ] {
        for (name, value) in [("stream", json!(true)), ("max_tokens", json!(6)), ("remask", ours.clone())] {
            body[name] = value;
        }
        body["stream_options"] = json!({"include_usage": true});
        let events = server.post(path, &body).events();
        assert!(events.iter().any(|event| event["remask"]["event"] == "step"));
        for event in events {
            let schema = document.schema(path, "POST", 200, "text/event-stream");
            assert_eq!(document.problem(schema, &event, path), None, "{event}");
        }
    }
    let body = json!({"input": "Hi", "max_output_tokens": 12, "stream": true});
    let text = server.post("/v1/responses", &body).text();
    let events: Vec<Value> =
        text.lines().filter_map(|line| line.strip_prefix("data: ")).map(|l| serde_json::from_str(l).unwrap()).collect();
    assert!(events.len() > 8);
    for event in events {
        let schema = document.schema("/v1/responses", "POST", 200, "text/event-stream");
        assert_eq!(document.problem(schema, &event, "event"), None, "{event}");
    }
}

#[test]
fn every_documented_field_is_read() {
    let server = start();
    let document = Document::of(&server);
    let mut checked = 0;
    for (path, valid) in [
        ("/v1/completions", json!({"prompt": "Once", "max_tokens": 2})),
        ("/v1/chat/completions", json!({"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 2})),
        ("/v1/responses", json!({"input": "Hi", "max_output_tokens": 2})),
        ("/infill", json!({"input_prefix": "Once", "input_suffix": "end", "n_predict": 2})),
        ("/tokenize", json!({"prompt": "Once"})),
        ("/detokenize", json!({"tokens": [1]})),
    ] {
        let operation = &document.0["paths"][path]["post"];
        let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
        for (name, property) in document.properties(schema) {
            // A field that nothing is done with takes anything; one that has another's place is read where that is not.
            if (path, name.as_str()) == ("/v1/responses", "metadata") {
                continue;
            }
            let mut body = valid.clone();
            match (path, name.as_str()) {
                ("/tokenize", "content" | "messages") => drop(body.as_object_mut().unwrap().remove("prompt")),
                (
                    "/tokenize",
                    "add_generation_prompt" | "continue_final_message" | "chat_template_kwargs" | "chat_template",
                ) => {
                    body = json!({"messages": [{"role": "user", "content": "Hi"}]});
                }
                ("/v1/chat/completions", "max_tokens") => drop(body.as_object_mut().unwrap().remove("max_tokens")),
                _ => {}
            }
            // Nothing that it may be.
            let wrong = [json!(true), json!("\u{1}"), json!([{"no": 1}])];
            let wrong = wrong.into_iter().find(|wrong| document.problem(&property, wrong, "").is_some()).unwrap();
            body[&name] = wrong.clone();
            let answer = server.post(path, &body);
            assert_eq!(answer.status, 400, "{path} {name} {wrong}: {}", answer.text());
            let (_, _, param) = answer.error();
            let named = param.is_some_and(|param| param == name || param.starts_with(&format!("{name}.")));
            assert!(named || (path, name.as_str()) == ("/v1/responses", "input"), "{path} {name}: {}", answer.text());
            // And null is as good as left out, unless it is needed.
            if document.problem(&property, &Value::Null, "").is_none() && valid.get(&name).is_none() {
                let mut body = valid.clone();
                body[&name] = Value::Null;
                assert_eq!(server.post(path, &body).status, 200, "{path} {name} null");
            }
            checked += 1;
        }
    }
    assert!(checked > 100, "{checked}");
}
