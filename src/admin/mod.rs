//! The HTTP interface for operators.
//!
//! | route      | answers                                                                        |
//! |------------|--------------------------------------------------------------------------------|
//! | `/`        | one line that names the others                                                 |
//! | `/metrics` | the metrics, in the text format of Prometheus                                  |
//! | `/livez`   | 200 as long as this process can answer at all                                  |
//! | `/readyz`  | 200 if the local Redis can be used, else 503 and why; never a matter of peers.  |
//! |            | 503 too while another sidecar of this site works and this one stands by        |
//! | `/status`  | the whole [`Status`](crate::status::Status) as JSON                            |
//! | `/repair`  | POST only: has the applier of `?peer=NAME` fetch the states of keys, see [`Repairs`] |
//!
//! It runs on its own thread with its own runtime, so that it answers while the data path is
//! stuck, and it is the last to stop. Nothing asks who the caller is; what it shows holds no key,
//! no value and no secret. What changes something, `/repair`, is open to this machine only, unless the
//! configuration says otherwise.

pub mod client;
mod connection;
pub mod render;
mod repair;
mod routes;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::runtime;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use self::connection::Connections;
pub use self::repair::{MAX_REPAIR_BODY, MAX_REPAIR_KEYS, RepairKey, Repairs};
use crate::status::Board;

/// Listens, and does not answer yet.
#[derive(Debug)]
pub struct Bound {
    start: oneshot::Sender<(Arc<Board>, Repairs)>,
    handle: Handle,
}

/// The running interface.
#[derive(Debug)]
pub struct Handle {
    local_addr: SocketAddr,
    stop: CancellationToken,
    thread: JoinHandle<()>,
}

/// Why the interface could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, or not of this machine.
    #[error(
        "cannot listen on {listen} for operators; \
         stop what uses it, or set listen in [admin] to another address"
    )]
    Listen {
        /// The address.
        listen: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The system gives us no thread or no events.
    #[error("cannot start the thread that answers operators")]
    Start(#[source] io::Error),
}

/// How long answers under way may take when we stop: they are small, and nobody waits for them.
const DRAIN: Duration = Duration::from_secs(1);

/// Takes the address, so that a port in use is an error at the start and not later.
///
/// # Errors
/// The address cannot be taken, or the system has no thread for it.
pub fn bind(listen: SocketAddr) -> Result<Bound, Error> {
    let refused = |source| Error::Listen { listen, source };
    let listener = std::net::TcpListener::bind(listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let local_addr = listener.local_addr().map_err(refused)?;
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::Start)?;
    let listener = {
        let _entered = runtime.enter();
        TcpListener::from_std(listener).map_err(Error::Start)?
    };
    let (start, started) = oneshot::channel();
    let stop = CancellationToken::new();
    let token = stop.clone();
    let thread = thread::Builder::new()
        .name("tandem-admin".to_owned())
        .spawn(move || {
            runtime.block_on(async {
                if let Ok((board, repairs)) = started.await {
                    serve(listener, board, repairs, &token).await;
                }
            });
        })
        .map_err(Error::Start)?;
    let handle = Handle {
        local_addr,
        stop,
        thread,
    };
    Ok(Bound { start, handle })
}

impl Bound {
    /// Begins to answer, from this board, and to take these orders.
    #[must_use]
    pub fn spawn(self, board: Arc<Board>, repairs: Repairs) -> Handle {
        if self.start.send((board, repairs)).is_err() {
            tracing::error!("the thread that answers operators has ended");
        }
        self.handle
    }

    /// Where it listens: with port 0 asked for, the port that was given.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.handle.local_addr
    }
}

impl Handle {
    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Stops it. Blocks for as long as answers under way take, a second at most.
    pub fn stop(self) {
        self.stop.cancel();
        if self.thread.join().is_err() {
            tracing::error!("the thread that answers operators had panicked");
        }
    }
}

async fn serve(
    listener: TcpListener,
    board: Arc<Board>,
    repairs: Repairs,
    stop: &CancellationToken,
) {
    let routes = match routes::routes(board, repairs) {
        Ok(routes) => routes,
        Err(error) => {
            tracing::error!(%error, "the metrics are broken");
            return;
        }
    };
    let drained = stop.clone().cancelled_owned();
    let server = axum::serve(Connections::new(listener), routes).with_graceful_shutdown(drained);
    let late = async {
        stop.cancelled().await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        result = server => {
            if let Err(error) = result {
                tracing::error!(%error, "the interface for operators has ended");
            }
        }
        () = late => {}
    }
}

#[cfg(test)]
mod tests;
