//! Listens, and stops as it should.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use remask::Handle;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

use crate::app::{App, Phase};
use crate::config::{MAX_HEAD, MOST_HEADERS, ServerConfig};
use crate::connection::{Answering, Patient};
use crate::gate::Peer;
use crate::linger::Lingering;
use crate::metrics::Metrics;
use crate::routes::{metrics_router, router};

/// How the server is asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After the delay in which whoever sends requests gets to know.
    Gently,
    /// Without the delay.
    Soon,
    /// At once.
    Now,
}

/// A server that listens.
pub struct Server {
    app: Arc<App>,
    listener: TcpListener,
    metrics: Option<TcpListener>,
}

impl Server {
    /// Begins to listen. The engine may still be loading. `metrics` is what the engine's passes are counted with.
    ///
    /// # Errors
    /// Where an address cannot be had, or the file of keys cannot be read.
    pub async fn bind(
        address: SocketAddr,
        engine: Handle,
        config: ServerConfig,
        metrics: Arc<Metrics>,
    ) -> io::Result<Self> {
        let app = Arc::new(App::new(engine, config, metrics)?);
        let bind = async |address: SocketAddr| {
            let named = |problem: io::Error| io::Error::new(problem.kind(), format!("{address}: {problem}"));
            TcpListener::bind(address).await.map_err(named)
        };
        let listener = bind(address).await?;
        let metrics = match app.config.metrics_address {
            Some(address) => Some(bind(address).await?),
            None => None,
        };
        Ok(Self { app, listener, metrics })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Where it gives its metrics, where that is an address of their own.
    ///
    /// # Errors
    /// Where the system does not say.
    pub fn metrics_address(&self) -> io::Result<Option<SocketAddr>> {
        self.metrics.as_ref().map(TcpListener::local_addr).transpose()
    }

    /// What all requests share.
    #[must_use]
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Answers until it is asked to stop, and returns when it has: `stop` is asked again while it is about to.
    pub async fn run(self, mut stop: impl AsyncFnMut() -> Stop) {
        let Self { app, listener, metrics } = self;
        let (closing, closed) = watch::channel(false);
        // Whoever watches is answered to the end.
        if let Some(metrics) = metrics {
            drop(tokio::spawn(accept(app.clone(), metrics, metrics_router(&app), closed.clone())));
        }
        let accept = tokio::spawn(accept(app.clone(), listener, router(&app), closed));
        let mut wish = stop().await;
        if wish == Stop::Gently {
            app.phase.send_replace(Phase::Leaving);
            tokio::select! {
                () = tokio::time::sleep(app.config.shutdown_delay) => {}
                next = stop() => wish = next,
            }
        }
        if wish != Stop::Now {
            app.phase.send_replace(Phase::Draining);
            tokio::select! {
                () = until_idle(&app) => {}
                () = tokio::time::sleep(app.config.drain_timeout) => {}
                _ = stop() => {}
            }
        }
        // Those still under way are told so; a moment for the words to reach their readers.
        app.phase.send_replace(Phase::Ending);
        let _ = tokio::time::timeout(Duration::from_secs(2), until_idle(&app)).await;
        closing.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(2), accept).await;
    }
}

/// Waits until the server closes.
async fn is_closed(closed: &mut watch::Receiver<bool>) {
    // A sender that is gone has closed as well.
    let _ = closed.wait_for(|closed| *closed).await;
}

/// Waits until no request is under way.
async fn until_idle(app: &App) {
    use std::sync::atomic::Ordering::Relaxed;
    while app.requests_under_way() > 0 || app.counts.active.load(Relaxed) > 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Accepts connections until the server closes, and waits for their ends.
async fn accept(app: Arc<App>, listener: TcpListener, router: Router, mut closed: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(app.config.max_connections));
    loop {
        let place = tokio::select! {
            // The semaphore is never closed.
            Ok(place) = places.clone().acquire_owned() => place,
            () = is_closed(&mut closed) => break,
        };
        let (stream, peer) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(problem) => {
                    // Too few file descriptors, say: those that are open will close.
                    tracing::warn!("cannot accept a connection: {problem}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            () = is_closed(&mut closed) => break,
        };
        let (app, router, closed) = (app.clone(), router.clone(), closed.clone());
        tokio::spawn(async move {
            converse(&app, router, stream, peer, closed).await;
            drop(place);
        });
    }
    drop(listener);
    let all = u32::try_from(app.config.max_connections).unwrap_or(u32::MAX);
    let _ = places.acquire_many(all).await;
}

/// Answers a connection's requests.
async fn converse(app: &App, router: Router, stream: TcpStream, peer: SocketAddr, mut closed: watch::Receiver<bool>) {
    // Tokens go out as they come.
    let _ = stream.set_nodelay(true);
    let config = &app.config;
    let answering = Answering::default();
    let io = Patient::new(stream, answering.clone(), config.head_timeout, config.write_timeout);
    let service = service_fn(move |request: hyper::Request<Incoming>| {
        let (router, answered) = (router.clone(), answering.begin());
        async move {
            let mut request: Request = request.map(|body| Body::new(Lingering::new(Body::new(body))));
            request.extensions_mut().insert(Peer(peer));
            router.oneshot(request).await.map(|response| answered.with(response))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(config.keep_alive)
        .max_buf_size(MAX_HEAD)
        // Their size is what is limited.
        .max_headers(MOST_HEADERS)
        .serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = is_closed(&mut closed) => {
            connection.as_mut().graceful_shutdown();
            connection.as_mut().await
        }
    };
    if let Err(problem) = outcome {
        tracing::debug!(%peer, "the connection ended: {problem}");
    }
}
