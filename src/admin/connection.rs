//! Connections with bounds: how many there are, and how long one may be silent. Without them, a
//! caller that never ends could take the file descriptors that the data path needs.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::serve::Listener;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};

/// A listener with at most [`MAX_CONNECTIONS`] open; others wait to be accepted.
#[derive(Debug)]
pub(super) struct Connections {
    listener: TcpListener,
    free: Arc<Semaphore>,
}

/// A connection that ends when nothing moves for [`IDLE`].
#[derive(Debug)]
pub(super) struct Connection {
    stream: TcpStream,
    silence: Pin<Box<Sleep>>,
    /// Given back when the connection is dropped.
    _permit: Option<OwnedSemaphorePermit>,
}

/// How many may be open: some Prometheus servers, probes, and people.
const MAX_CONNECTIONS: usize = 64;

/// How long nothing may move: longer than most scrape intervals, so that a scraper keeps its
/// connection, and short enough that a caller who went away does not hold a place for long.
const IDLE: Duration = Duration::from_secs(75);

impl Connections {
    pub(super) fn new(listener: TcpListener) -> Self {
        Self {
            listener,
            free: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
        }
    }
}

impl Listener for Connections {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // Never closed, so there is always a permit to wait for.
        let permit = Arc::clone(&self.free).acquire_owned().await.ok();
        // The one of axum: it waits and goes on where the system is out of descriptors.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        let connection = Connection {
            stream,
            silence: Box::pin(tokio::time::sleep(IDLE)),
            _permit: permit,
        };
        (connection, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Connection {
    /// Notes that something moved, or that nothing has for too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        moved: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if moved.is_ready() {
            self.silence.as_mut().reset(Instant::now() + IDLE);
            return moved;
        }
        ready!(self.silence.as_mut().poll(cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let moved = Pin::new(&mut self.stream).poll_read(cx, buffer);
        self.watched(cx, moved)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let moved = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.watched(cx, moved)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    async fn listening() -> (Connections, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Connections::new(listener), address)
    }

    fn run(test: impl Future<Output = ()>) {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().unwrap();
        runtime.block_on(test);
    }

    #[test]
    fn a_caller_too_many_waits_until_another_leaves() {
        run(async {
            let (mut connections, address) = listening().await;
            let mut callers = Vec::new();
            let mut accepted = Vec::new();
            for _ in 0..MAX_CONNECTIONS {
                callers.push(TcpStream::connect(address).await.unwrap());
                accepted.push(connections.accept().await);
            }
            callers.push(TcpStream::connect(address).await.unwrap());
            let wait = Duration::from_millis(50);
            assert!(
                tokio::time::timeout(wait, connections.accept())
                    .await
                    .is_err()
            );
            accepted.pop();
            connections.accept().await;
        });
    }

    #[test]
    fn a_silent_caller_is_sent_away() {
        run(async {
            let (mut connections, address) = listening().await;
            let _caller = TcpStream::connect(address).await.unwrap();
            let (mut connection, _) = connections.accept().await;
            connection.silence.as_mut().reset(Instant::now());
            let error = connection.read_u8().await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        });
    }
}
