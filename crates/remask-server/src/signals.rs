//! Runs a server until the system asks it to stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use remask::{Engine, EngineState};

use crate::app::App;
use crate::config::ServerConfig;
use crate::metrics::Metrics;
use crate::notify::notify;
use crate::serve::{Server, Stop};

/// Serves on the calling thread until a signal ends it: SIGTERM after the delay for those who send requests, SIGINT
/// without it, a second signal at once; SIGHUP has it read the file of keys again, where there is one. `listening` is told the address
/// before the models are loaded, `ready` when they are, and systemd as well.
///
/// # Errors
/// Where an address cannot be had, the file of keys cannot be read, or the models cannot be loaded.
pub fn serve(
    address: SocketAddr,
    engine: &Engine,
    config: ServerConfig,
    metrics: Arc<Metrics>,
    listening: impl FnOnce(SocketAddr),
    ready: impl FnOnce(SocketAddr),
) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut signals = Signals::new()?;
        let server = Server::bind(address, engine.handle().clone(), config, metrics).await?;
        let address = server.address()?;
        if let Some(metrics) = server.metrics_address()? {
            tracing::info!("metrics are at http://{metrics}/metrics");
        }
        on_hangup(server.app().clone())?;
        listening(address);
        let handle = engine.handle().clone();
        let mut loaded = std::pin::pin!(async move {
            loop {
                match handle.state() {
                    EngineState::Ready | EngineState::Failed(_) => return Ok(()),
                    EngineState::Stopped(problem) => return Err(io::Error::other(problem)),
                    EngineState::Loading { .. } => tokio::time::sleep(Duration::from_millis(10)).await,
                }
            }
        });
        let mut served = std::pin::pin!(server.run(async || {
            let wish = signals.next().await;
            notify("STOPPING=1");
            wish
        }));
        tokio::select! {
            () = &mut served => return Ok(()),
            outcome = &mut loaded => outcome?,
        }
        ready(address);
        notify("READY=1");
        served.await;
        Ok(())
    })
}

/// Reads the file of keys again whenever SIGHUP asks for it.
fn on_hangup(app: Arc<App>) -> io::Result<()> {
    #[cfg(unix)]
    // Without such a file the signal means what it always does: whoever started this has left.
    if app.config.api_key_file.is_some() {
        let mut hangup = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?;
        tokio::spawn(async move {
            while hangup.recv().await.is_some() {
                app.reload_keys();
            }
        });
    }
    #[cfg(not(unix))]
    drop(app);
    Ok(())
}

/// The system's wishes.
struct Signals {
    #[cfg(unix)]
    term: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    asked: bool,
}

impl Signals {
    fn new() -> io::Result<Self> {
        #[cfg(unix)]
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self {
            #[cfg(unix)]
            term: signal(SignalKind::terminate())?,
            #[cfg(unix)]
            interrupt: signal(SignalKind::interrupt())?,
            asked: false,
        })
    }

    async fn next(&mut self) -> Stop {
        #[cfg(unix)]
        let wish = tokio::select! {
            _ = self.term.recv() => Stop::Gently,
            _ = self.interrupt.recv() => Stop::Soon,
        };
        #[cfg(not(unix))]
        let wish = {
            // Without signals nothing but the end of the process stops it.
            if tokio::signal::ctrl_c().await.is_err() {
                std::future::pending::<()>().await;
            }
            Stop::Soon
        };
        if std::mem::replace(&mut self.asked, true) { Stop::Now } else { wish }
    }
}
