//! The link's port: lets peers in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;

use super::Error;
use crate::link::Wire;
use crate::model::SiteId;
use crate::peer::Incoming;
use crate::status::Ration;

/// Connections that may be greeting at once; a stranger must not use up descriptors.
const MAX_GREETING: usize = 32;

/// Takes the address of the link.
pub(super) async fn listen(address: std::net::SocketAddr) -> Result<TcpListener, Error> {
    TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen {
            address: address.to_string(),
            source,
        })
}

/// Lets peers in.
pub(super) async fn accept(
    listener: TcpListener,
    doors: HashMap<SiteId, mpsc::Sender<Incoming>>,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let doors = Arc::new(Doors {
        peers: doors,
        strangers: Ration::default(),
    });
    let greeting = Arc::new(Semaphore::new(MAX_GREETING));
    loop {
        let Ok(permit) = Arc::clone(&greeting).acquire_owned().await else {
            return;
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let (stream, from) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                warn!(%error, "cannot accept a peer's connection");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (doors, stop) = (Arc::clone(&doors), stop.clone());
        tasks.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                () = let_in(stream, from.to_string(), &doors) => {}
            }
        });
    }
}

/// Where peers go in.
struct Doors {
    peers: HashMap<SiteId, mpsc::Sender<Incoming>>,
    /// What is told of those that are none.
    strangers: Ration,
}

async fn let_in(stream: TcpStream, from: String, doors: &Doors) {
    let mut wire = match Wire::new(stream, from.clone()) {
        Ok(wire) => wire,
        Err(error) => return warn!(%from, %error, "cannot use a peer's connection"),
    };
    let hello = match wire.greeted().await {
        Ok(hello) => hello,
        Err(error) => {
            wire.refuse(error.to_string()).await;
            if let Some(left_out) = doors.strangers.take(Instant::now()) {
                warn!(%from, %error, left_out, "a connection to the link's port is no peer's");
            }
            return;
        }
    };
    let door = SiteId::try_new(&hello.site)
        .ok()
        .and_then(|site| doors.peers.get(&site));
    let Some(door) = door else {
        if let Some(left_out) = doors.strangers.take(Instant::now()) {
            warn!(%from, site = hello.site, left_out, "a site that is not configured wants to connect");
        }
        return wire
            .refuse(format!(
                "there is no [[peer]] with site = {:?} here",
                hello.site
            ))
            .await;
    };
    if let Err(refused) = door.try_send(Incoming { wire, hello }) {
        let mpsc::error::TrySendError::Full(mut incoming) = refused else {
            return;
        };
        incoming
            .wire
            .refuse("too many connections of this site wait already".to_owned())
            .await;
    }
}
