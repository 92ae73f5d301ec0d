//! A connection that does not wait for ever: for a request's head, or for a reader who takes nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep, sleep_until};

/// Requests of a connection that are being answered.
#[derive(Debug, Clone, Default)]
pub struct Answering(Arc<AtomicUsize>);

impl Answering {
    /// One more, until the response's body is gone.
    #[must_use]
    pub fn begin(&self) -> Answered {
        self.0.fetch_add(1, Ordering::AcqRel);
        Answered(self.clone())
    }

    fn any(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub struct Answered(Answering);

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Answered {
    /// Lets the response carry it to its end.
    #[must_use]
    pub fn with(self, response: Response) -> Response {
        response.map(|body| {
            Body::new(body.map_frame(move |frame| {
                // The body owns it for as long as it is sent.
                let _held = &self;
                frame.map_data(|data: Bytes| data)
            }))
        })
    }
}

/// A stream with limits on waiting.
pub struct Patient<S> {
    inner: S,
    answering: Answering,
    head_timeout: Duration,
    write_timeout: Duration,
    /// When the head of a request that has begun must be there.
    head: Option<Pin<Box<Sleep>>>,
    /// When the reader must have taken something.
    write: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// A connection that waits for so long.
    pub fn new(inner: S, answering: Answering, head_timeout: Duration, write_timeout: Duration) -> Self {
        Self { inner, answering, head_timeout, write_timeout, head: None, write: None }
    }

    /// Whether a write waits, and has for too long.
    fn watch_write<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.write = None;
            return poll;
        }
        let timeout = self.write_timeout;
        let timer = self.write.get_or_insert_with(|| Box::pin(sleep(timeout)));
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the reader takes nothing"))),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buf);
        if self.answering.any() {
            // What is read now is a body; its time is limited where it is read.
            self.head = None;
            return poll;
        }
        if poll.is_ready() && buf.filled().len() > before && self.head.is_none() {
            self.head = Some(Box::pin(sleep_until(Instant::now() + self.head_timeout)));
        }
        let late = poll.is_pending() && self.head.as_mut().is_some_and(|timer| timer.as_mut().poll(cx).is_ready());
        if late {
            let problem = "the request's head did not arrive in time";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, problem)));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, buf);
        self.watch_write(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        self.watch_write(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let poll = Pin::new(&mut self.inner).poll_flush(cx);
        self.watch_write(cx, poll)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
