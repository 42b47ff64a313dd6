//! The link's port: lets peers in.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

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
    let doors = Arc::new(doors);
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

async fn let_in(stream: TcpStream, from: String, doors: &HashMap<SiteId, mpsc::Sender<Incoming>>) {
    let mut wire = match Wire::new(stream, from.clone()) {
        Ok(wire) => wire,
        Err(error) => return warn!(%from, %error, "cannot use a peer's connection"),
    };
    let hello = match wire.greeted().await {
        Ok(hello) => hello,
        Err(error) => {
            wire.refuse(error.to_string()).await;
            return warn!(%from, %error, "a connection to the link's port is no peer's");
        }
    };
    let door = SiteId::try_new(&hello.site)
        .ok()
        .and_then(|site| doors.get(&site));
    let Some(door) = door else {
        warn!(%from, site = hello.site, "a site that is not configured wants to connect");
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
