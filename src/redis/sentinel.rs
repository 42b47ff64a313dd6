//! Finding the primary that Sentinels watch over, or one of its replicas.
//!
//! As the protocol for clients of Sentinel says: ask one Sentinel after the other where the primary
//! is, connect there, and believe it only when that server says itself that it is one. During a
//! failover it may not be one yet, or any more.

use std::fmt;
use std::future::pending;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, timeout};

use super::connection::{Connection, Error};
use super::reply::Reply;
use super::settings::{Address, Login, Settings};

/// How long one Sentinel may take before the next is asked: it answers in a millisecond.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// How often they are asked whether the server is still the same: a failover takes seconds, and a
/// primary that hangs says nothing at all.
const PERIOD: Duration = Duration::from_secs(1);

/// What Sentinels call a replica that they cannot recommend.
const UNFIT: [&str; 4] = ["s_down", "o_down", "disconnected", "master_down"];

/// Which server is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The one that takes writes.
    Primary,
    /// One that follows it; while there is none, the primary.
    Replica,
}

/// Sentinels, and the server they are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sentinels {
    /// Where they listen; at least one.
    pub addresses: Vec<Address>,
    /// The name under which they watch over the primary.
    pub name: String,
    /// The server that is meant.
    pub role: Role,
}

impl fmt::Display for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Primary => "primary",
            Role::Replica => "a replica of",
        };
        write!(f, "{role} {:?} of the Sentinels at ", self.name)?;
        for (i, address) in self.addresses.iter().enumerate() {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}

impl Sentinels {
    /// Those that are asked for the primary.
    #[must_use]
    pub const fn new(addresses: Vec<Address>, name: String) -> Self {
        Self {
            addresses,
            name,
            role: Role::Primary,
        }
    }

    /// The same, asked for another server.
    #[must_use]
    pub fn naming(self, role: Role) -> Self {
        Self { role, ..self }
    }

    /// Where the server is; `known`, if that will still do.
    async fn find(&self, login: &Login, known: Option<&Address>) -> Result<Address, Error> {
        let mut reasons = Vec::new();
        for address in &self.addresses {
            let asked = timeout(ANSWER_TIMEOUT, self.ask(address, login, known)).await;
            reasons.push(match asked {
                Ok(Ok(Some(found))) => return Ok(found),
                Ok(Ok(None)) => format!("{address} knows no {:?}", self.name),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("{address} does not answer"),
            });
        }
        Err(Error::NotFound {
            sentinels: self.to_string(),
            reasons: reasons.join("; "),
        })
    }

    async fn ask(
        &self,
        sentinel: &Address,
        login: &Login,
        known: Option<&Address>,
    ) -> Result<Option<Address>, Error> {
        let settings = Settings {
            address: sentinel.clone(),
            username: login.username.clone(),
            password: login.password.clone(),
            sentinel: Login::NONE,
        };
        let mut connection = Connection::log_in(&settings).await?;
        let name = self.name.as_bytes();
        let question: [&[u8]; 3] = [b"SENTINEL", b"get-master-addr-by-name", name];
        let answer = connection.ask(&question).await?.array();
        let [host, port] = answer.as_slice() else {
            return Ok(None);
        };
        let Some(primary) = address(host, port) else {
            return Ok(None);
        };
        if self.role == Role::Primary {
            return Ok(Some(primary));
        }
        let question: [&[u8]; 3] = [b"SENTINEL", b"replicas", name];
        let replicas = connection.ask(&question).await?.array();
        let fit: Vec<Address> = replicas.into_iter().filter_map(fit_replica).collect();
        let known = known.filter(|known| fit.contains(known)).cloned();
        Ok(known.or_else(|| fit.into_iter().next()).or(Some(primary)))
    }
}

fn address(host: &Reply, port: &Reply) -> Option<Address> {
    let (host, port) = (host.text(), port.text().parse().ok()?);
    Some(Address::Tcp { host, port })
}

/// The address of a replica, given as names and values one after the other, if it follows its
/// primary.
fn fit_replica(fields: Reply) -> Option<Address> {
    let fields = fields.array();
    let pairs = fields.as_chunks::<2>().0;
    let field = |name: &str| Some(&pairs.iter().find(|[n, _]| n.text() == name)?[1]);
    let flags = field("flags")?.text();
    let is_unfit = flags.split(',').any(|flag| UNFIT.contains(&flag));
    let follows = field("master-link-status")?.text() == "ok";
    match follows && !is_unfit {
        true => address(field("ip")?, field("port")?),
        false => None,
    }
}

impl Settings {
    /// Where the server is now.
    ///
    /// # Errors
    /// No Sentinel says so.
    pub(super) async fn resolve(&self) -> Result<Address, Error> {
        match &self.address {
            Address::Sentinel(sentinels) => sentinels.find(&self.sentinel, None).await,
            address => Ok(address.clone()),
        }
    }

    /// Waits until another server should be used than the one at `known`, and says which. Sentinels
    /// that do not answer say nothing new; an address that is given never changes. Cancel safe.
    pub async fn moved(&self, known: &Address) -> Address {
        let Address::Sentinel(sentinels) = &self.address else {
            return pending().await;
        };
        let mut tick = interval(PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if let Ok(now) = sentinels.find(&self.sentinel, Some(known)).await
                && now != *known
            {
                return now;
            }
        }
    }

    /// Whether the server must be a primary, for Sentinels have said that it is.
    pub(super) const fn wants_primary(&self) -> bool {
        matches!(&self.address, Address::Sentinel(sentinels) if matches!(sentinels.role, Role::Primary))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(port: &str, flags: &str, link: &str) -> Reply {
        let fields = [
            "name",
            "r",
            "ip",
            "h",
            "port",
            port,
            "flags",
            flags,
            "master-link-status",
            link,
        ];
        let bulk = |text: &str| Reply::Bulk(bytes::Bytes::copy_from_slice(text.as_bytes()));
        Reply::Array(fields.into_iter().map(bulk).collect())
    }

    #[test]
    fn a_replica_that_does_not_follow_is_not_read_from() {
        let (host, port) = ("h".to_owned(), 7);
        let found = Some(Address::Tcp { host, port });
        assert_eq!(fit_replica(replica("7", "slave", "ok")), found);
        assert_eq!(fit_replica(replica("7", "slave", "err")), None);
        assert_eq!(fit_replica(replica("7", "s_down,slave", "ok")), None);
        assert_eq!(fit_replica(replica("7", "slave,disconnected", "ok")), None);
        assert_eq!(fit_replica(replica("70000", "slave", "ok")), None);
        assert_eq!(fit_replica(Reply::Nil), None);
    }
}
