//! Starts the engine and the server, and says what is going on.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use remask::{EngineState, Handle};
use remask_core::decode::Defaults;
use remask_server::{Metrics, ServerConfig};

use super::args::Args;
use super::cache;
use super::log::Voice;
use crate::Outcome;

pub fn run(args: &Args, voice: Voice, notes: &[String]) -> Outcome {
    notes.iter().for_each(|note| voice.say("note", note));
    if let Some(note) = cache::choose(args.cache_dir().map(AsRef::as_ref)) {
        voice.say("note", &note);
    }
    let config = ServerConfig { playground: args.playground(), ..args.config()? };
    say_settings(args, &config, voice)?;
    let has_keys = !config.api_keys.is_empty() || config.api_key_file.is_some();
    let metrics = Arc::new(Metrics::new(config.vllm_metrics));
    let engine = args.engine(&metrics)?;
    let handle = engine.handle().clone();
    let watcher = handle.clone();
    let listening = move |address: SocketAddr| {
        voice.say("listening", &format!("http://{address}"));
        std::thread::spawn(move || show_progress(&watcher, voice));
    };
    let ready = |address: SocketAddr| {
        for model in handle.models() {
            let (device, context, slots) = (&model.info, model.terms.context, model.slots);
            let place = format!("{} on {} ({})", model.name, device.adapter, device.backend);
            let room = format!("up to {context} tokens, {slots} slots for keys and values");
            voice.say("model", &format!("{place}, {room}"));
            model.notes.iter().for_each(|note| voice.say("note", note));
        }
        voice.say("ready", &curl(address, has_keys));
    };
    Ok(remask_server::serve(args.address(), &engine, config, metrics, listening, ready)?)
}

/// A line that asks the server something.
fn curl(mut address: SocketAddr, has_keys: bool) -> String {
    // What listens everywhere is reached here.
    if address.ip().is_unspecified() {
        let here = if address.is_ipv4() { IpAddr::V4(Ipv4Addr::LOCALHOST) } else { IpAddr::V6(Ipv6Addr::LOCALHOST) };
        address.set_ip(here);
    }
    let key = if has_keys { " -H 'Authorization: Bearer KEY'" } else { "" };
    let body = r#"{"messages": [{"role": "user", "content": "Tell me about a dog."}]}"#;
    format!("curl http://{address}/v1/chat/completions{key} -H 'Content-Type: application/json' -d '{body}'")
}

/// Says what is on, with its values.
fn say_settings(args: &Args, config: &ServerConfig, voice: Voice) -> Outcome {
    let switch = |on: bool| if on { "on" } else { "off" };
    let options = config.decode.resolve(&Defaults::default());
    let steps = config.decode.steps.map_or_else(|| "one a token".to_owned(), |steps| steps.to_string());
    let mut decoding = format!(
        "accept {}, block of {}, steps {steps}, cache {}, early stop {}, free tail {}",
        options.acceptance,
        options.block_length,
        options.cache,
        switch(options.early_stop),
        switch(options.free_tail),
    );
    if let Some(adaptive) = &options.adaptive_steps {
        decoding += &format!(", adaptive steps {}", serde_json::to_string(adaptive)?);
    }
    if let Some(revision) = &options.revision {
        decoding += &format!(", revise {}", serde_json::to_string(revision)?);
    }
    if options.cfg_scale != 0.0 {
        decoding += &format!(", guidance {}", options.cfg_scale);
    }
    voice.say("decoding", &decoding);
    let depth = options.mor.map_or_else(
        || "off".to_owned(),
        |mor| {
            let skip = mor.skip_threshold.map_or_else(|| "never skipped".to_owned(), |p| format!("skipped from {p}"));
            format!(
                "{} to {} passes by {}, easy from {}, hard up to {}, {skip}, statistics {}",
                mor.min_recursions,
                mor.max_recursions,
                format!("{:?}", mor.strategy).to_lowercase(),
                mor.confidence_high,
                mor.confidence_low,
                switch(config.log_stats || mor.log_stats),
            )
        },
    );
    voice.say("recompute depth", &depth);
    let rate = match config.rate_limit {
        0 => "off".to_owned(),
        most => format!("{most} requests in {} s", config.rate_window.as_secs_f64()),
    };
    let (timeout, body) = (config.request_timeout.as_secs_f64(), config.max_body >> 20);
    let limits = args.engine_limits();
    let connections = config.max_connections;
    voice.say(
        "limits",
        &format!("{limits}, {timeout} s a request, {body} MiB a body, {connections} connections, rate limit {rate}"),
    );
    let keys = config.api_keys.len() + usize::from(config.api_key_file.is_some());
    let origins = if config.allow_origins.is_empty() { "none".to_owned() } else { config.allow_origins.join(" ") };
    let (guarded, page) = (if keys == 0 { "open without a key" } else { "with a key" }, switch(config.playground));
    voice.say("access", &format!("{guarded}, pages of other origins {origins}, playground {page}"));
    if keys == 0 && !args.address().ip().is_loopback() {
        voice.say("note", "the server is open to the network without a key; --api-key closes it");
    }
    Ok(())
}

/// A bar for as long as models are being loaded; a line where nobody watches.
fn show_progress(engine: &Handle, voice: Voice) {
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("loading {msg} {bar:30} {bytes}/{total_bytes}") {
        bar.set_style(style);
    }
    let mut said = String::new();
    while let EngineState::Loading { model, loaded, total } = engine.state() {
        if bar.is_hidden() && model != said {
            voice.say("loading", &model);
            said.clone_from(&model);
        }
        bar.set_message(model);
        bar.set_length(total);
        bar.set_position(loaded);
        std::thread::sleep(Duration::from_millis(50));
    }
    bar.finish_and_clear();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_reaches_what_listens_everywhere() {
        let line = curl("0.0.0.0:81".parse().unwrap(), true);
        assert!(line.starts_with("curl http://127.0.0.1:81/v1/chat") && line.contains("Bearer KEY"), "{line}");
        assert!(curl("[::]:82".parse().unwrap(), false).starts_with("curl http://[::1]:82/v1"));
    }
}
