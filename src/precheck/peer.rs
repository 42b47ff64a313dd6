//! A peer: whether its sidecar answers where it should.

use std::time::Duration;

use tokio::time::timeout;

use super::report::Line;
use crate::config::{Link, Peer};
use crate::link::{Error, Wire};

/// How long a peer may take to answer: a sidecar answers a stranger at once, so this is for the
/// network.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// What stands in the other sidecar's log for each look.
const WHY: &str = "only tandem check, which looks who answers here";

/// Looks who answers at a peer's address.
pub(super) async fn check(peer: &Peer, link: &Link) -> Line {
    let name = format!("peer {}", peer.site);
    let Some(address) = &peer.address else {
        let here = link.listen.map(|a| a.to_string()).unwrap_or_default();
        return Line::skip(&name, format!("no address: it dials this site, at {here}"));
    };
    let answer = timeout(ANSWER_TIMEOUT, probe(address)).await;
    judge(&name, address, answer.ok())
}

/// Greets, and refuses a session in the same breath: a Tandem greets back and refuses too.
async fn probe(address: &str) -> Result<(), Error> {
    let mut wire = Wire::dial(address).await?;
    wire.refuse(WHY.to_owned()).await;
    wire.greeted().await.map(drop)
}

/// What an answer means; none: there was none in time.
fn judge(name: &str, address: &str, answer: Option<Result<(), Error>>) -> Line {
    let not_yet = "start its sidecar, or correct the address under [[peer]]";
    match answer {
        Some(Ok(()) | Err(Error::Refused { .. })) => {
            Line::pass(name, format!("a tandem answers at {address}"))
        }
        // It may be started after this one: then the link comes up by itself.
        Some(Err(error @ Error::Connect { .. })) => Line::warn(name, error.to_string(), not_yet),
        // So do proxies behind which nothing runs yet.
        Some(Err(Error::Broken { .. })) => {
            let found = format!("what answers at {address} closes the connection without a word");
            Line::warn(name, found, not_yet)
        }
        None => {
            let seconds = ANSWER_TIMEOUT.as_secs();
            let found = format!("no tandem answered at {address} within {seconds} s");
            Line::warn(name, found, not_yet)
        }
        // These name their remedy themselves.
        Some(Err(error)) => Line::fail(name, error.to_string(), ""),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::super::report::Level;
    use super::*;
    use crate::model::SiteId;

    /// What is said of a server that reads a little and answers this.
    async fn said_of(answer: &'static [u8]) -> Line {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer {
            site: SiteId::try_new("b").unwrap(),
            address: Some(listener.local_addr().unwrap().to_string()),
        };
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 10);
            stream.write_all(answer).await.unwrap();
        };
        let link = Link {
            listen: None,
            compression: crate::config::Compression::None,
        };
        tokio::join!(check(&peer, &link), serving).0
    }

    #[tokio::test]
    async fn strangers_are_told_from_absent_peers() {
        for (answer, level) in [
            (&b"-ERR unknown command\r\n"[..], Level::Fail),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Level::Fail),
            (b"TANDEM\r\n\x07\x09", Level::Fail),
            (b"", Level::Warn),
        ] {
            let line = said_of(answer).await;
            assert_eq!(line.level(), level, "{line}");
        }
    }

    #[tokio::test]
    async fn a_peer_that_is_not_there_is_a_warning() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let line = judge("peer b", &address, Some(probe(&address).await));
        assert_eq!(line.level(), Level::Warn, "{line}");
    }

    #[tokio::test]
    async fn a_tandem_is_known_by_its_greeting() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let serving = async {
            let (stream, from) = listener.accept().await.unwrap();
            let mut wire = Wire::new(stream, from.to_string()).unwrap();
            let error = wire.greeted().await.unwrap_err();
            wire.refuse(error.to_string()).await;
            error.to_string()
        };
        let (answer, logged) = tokio::join!(probe(&address), serving);
        let line = judge("peer b", &address, Some(answer));
        assert_eq!(line.level(), Level::Pass, "{line}");
        assert!(logged.contains("tandem check"), "{logged}");
    }
}
