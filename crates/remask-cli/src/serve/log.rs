//! What a server says, and how.

use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

use super::args::LogFormat;
use crate::report::tell;

/// The filter of a level, which is about this program's own parts, or of a text that is one.
pub fn filter(text: &str) -> Result<EnvFilter, String> {
    let level = match text.trim().to_ascii_lowercase().as_str() {
        "trace" => "trace",
        "debug" => "debug",
        "info" => "info",
        "warn" | "warning" => "warn",
        "error" | "critical" | "fatal" => "error",
        "off" | "none" => "off",
        // A name alone would let everything of a part through that there may not be.
        word if !word.contains(['=', ',']) && !word.starts_with("remask") => {
            return Err("it must be trace, debug, info, warn, error or off, or a filter such as \
                        warn,remask_server=debug"
                .to_owned());
        }
        _ => return EnvFilter::try_new(text).map_err(|problem| problem.to_string()),
    };
    let others = if matches!(level, "error" | "off") { level } else { "warn" };
    EnvFilter::try_new(format!("{others},remask={level}")).map_err(|problem| problem.to_string())
}

/// Lines that wait for the log's reader; where there are more, the newest are lost.
const LINES: usize = 16_384;

/// Sets up the log. It is written by a thread of its own: a reader that has stopped would otherwise stop every request.
/// What is left is written when what is returned is dropped.
pub fn begin(filter: EnvFilter, format: LogFormat) -> WorkerGuard {
    let writer = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES);
    let (writer, guard) = writer.finish(std::io::stderr());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
    guard
}

/// Says things beside the log: lines for people, or objects as the log's.
#[derive(Clone, Copy)]
pub struct Voice(pub LogFormat);

impl Voice {
    /// Says one of a kind.
    pub fn say(self, kind: &str, text: &str) {
        match self.0 {
            LogFormat::Text => tell(kind, text),
            LogFormat::Json => tracing::info!(kind, "{text}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_of_any_spelling_are_filters() {
        for (text, shown) in [
            ("INFO", "remask=info,warn"),
            ("warning", "remask=warn,warn"),
            ("critical", "error,remask=error"),
            ("remask_wgpu=debug", "remask_wgpu=debug"),
        ] {
            let mut parts: Vec<_> = filter(text).unwrap().to_string().split(',').map(str::to_owned).collect();
            parts.sort();
            assert_eq!(parts.join(","), shown);
        }
        assert!(filter("loud").is_err() && filter("remask=loud").is_err() && filter("").is_err());
    }
}
