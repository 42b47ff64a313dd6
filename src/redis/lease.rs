//! The right to write into a Redis in the name of a site. Of several sidecars of one site, one has it.
//!
//! The lease is a connection, named `tandem:<site>:lease:<instance>`, on which its holder says PING each
//! second. Nothing is written into the data for it: the replication stream of a quiet server stays
//! quiet. What ends with the holder, its process or its network, ends the lease: the server closes the
//! connection, or shows in CLIENT LIST for how long it has been silent (`idle`, measured on 5.0 to 8.6
//! and Valkey 8.0 to 9.1; in whole seconds).
//!
//! Whoever takes it over first ends all connections there on which the site writes. Nothing that was sent
//! on them is executed afterwards, so what is then in the marks is what has been applied. And a holder
//! that was only asleep cannot come back: it knows itself, by the clock, that its time is over
//! ([`Lease::open`]), before the server shows so to others.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::info;

use super::connection::{Connection, Error};
use super::settings::Settings;
use crate::model::{InstanceId, SiteId};

/// For how long the holder may be silent. A server that answers nobody for longer, because a script
/// runs, gives it away only if it does not hear the holder's PING first when it is back.
pub const LEASE: Duration = Duration::from_secs(10);

/// How often the holder says that it is there.
const RENEWAL: Duration = Duration::from_secs(1);

/// How often who stands by looks: CLIENT LIST costs the server a microsecond for each client. With
/// [`LEASE`], a second of rounding and a second look it takes over before twice the lease is over.
pub const LOOK: Duration = Duration::from_secs(2);

/// From how many silent seconds on the holder counts as gone: the server rounds to whole seconds.
const SILENT: u64 = LEASE.as_secs() + 1;

/// The roles of connections that need no lease: they do not write.
const READING: [&str; 4] = ["standby", "replica", "facts", "snapshot"];

/// The name of a connection in CLIENT LIST.
#[must_use]
pub fn connection_name(site: &SiteId, role: &str) -> String {
    format!("tandem:{site}:{role}")
}

/// The lease, for those who write.
#[derive(Clone, Debug)]
pub struct Lease {
    state: watch::Receiver<State>,
}

/// What its keeper knows of it.
#[derive(Clone, Debug, Default)]
struct State {
    /// Until when it is held.
    until: Option<Instant>,
    /// What the server has refused: address, command, message.
    refused: Option<[String; 3]>,
}

impl State {
    fn is_held(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }
}

impl Lease {
    /// Opens a connection to write on. When this returns it can be found by its name, so whoever takes
    /// the lease later ends it.
    ///
    /// # Errors
    /// The lease is not held, or the server cannot be reached.
    pub async fn open(&self, settings: &Settings, name: &str) -> Result<Connection, Error> {
        self.check(settings)?;
        let connection = Connection::open(settings, name).await?;
        // That may have taken long, or this process may have been asleep.
        self.check(settings)?;
        Ok(connection)
    }

    fn check(&self, settings: &Settings) -> Result<(), Error> {
        let state = self.state.borrow();
        if state.is_held() {
            return Ok(());
        }
        Err(match &state.refused {
            Some([address, command, message]) => Error::Refused {
                address: address.clone(),
                command: command.clone(),
                message: message.clone(),
            },
            None => Error::NoLease {
                address: settings.address.to_string(),
            },
        })
    }
}

/// Who has the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// We.
    Held,
    /// Another sidecar: its instance, and where it comes from.
    Other(String),
}

/// Takes the lease, and keeps it.
#[derive(Debug)]
pub struct LeaseKeeper {
    settings: Settings,
    site: SiteId,
    instance: InstanceId,
    state: watch::Sender<State>,
    connection: Option<Connection>,
    /// A holder that was silent when last looked: the id of its connection.
    silent: Option<String>,
}

impl LeaseKeeper {
    /// For a site's Redis. The lease is not held yet.
    #[must_use]
    pub fn new(settings: Settings, site: SiteId, instance: InstanceId) -> (Self, Lease) {
        let (sender, state) = watch::channel(State::default());
        let keeper = Self {
            settings,
            site,
            instance,
            state: sender,
            connection: None,
            silent: None,
        };
        (keeper, Lease { state })
    }

    /// Looks who has the lease, and takes it if nobody has. Not cancel safe: begin anew.
    ///
    /// # Errors
    /// The server cannot be reached or asked; nothing is known.
    pub async fn take(&mut self) -> Result<Standing, Error> {
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => Connection::open(&self.settings, &self.name("standby")).await?,
        };
        let taken = match timeout(LEASE, self.take_on(&mut connection)).await {
            Ok(taken) => taken,
            Err(_) => Err(connection.timed_out()),
        };
        if let Err(Error::Refused {
            address,
            command,
            message,
        }) = &taken
        {
            let refused = Some([address, command, message].map(Clone::clone));
            self.state.send_modify(|state| state.refused = refused);
        }
        if taken.is_ok() {
            self.connection = Some(connection);
        }
        taken
    }

    async fn take_on(&mut self, connection: &mut Connection) -> Result<Standing, Error> {
        let own = connection.ask(&[b"CLIENT", b"ID"]).await?.integer();
        let own = own.unwrap_or(0).to_string();
        let prefix = self.name("");
        let found = others(connection, &prefix, &own).await?;
        if let Some(holder) = found.iter().find(|client| client.holds.is_some()) {
            if !self.is_gone(holder) {
                return Ok(Standing::Other(holder.to_string()));
            }
            kill(connection, &holder.id).await?;
        }
        let (lease, standby) = (
            self.name(&format!("lease:{}", self.instance)),
            self.name("standby"),
        );
        connection
            .ask(&[b"CLIENT", b"SETNAME", lease.as_bytes()])
            .await?;
        // Of two that take it at once the later one sees the other here, or each does: then each steps
        // back, and the next looks come at different times.
        let asked = Instant::now();
        let found = others(connection, &prefix, &own).await?;
        if let Some(other) = found.iter().find(|client| client.holds.is_some()) {
            connection
                .ask(&[b"CLIENT", b"SETNAME", standby.as_bytes()])
                .await?;
            return Ok(Standing::Other(other.to_string()));
        }
        // Whose lease only broke off for a moment ends nobody: what writes is its own.
        let is_new = !self.state.borrow().is_held();
        for client in found.iter().filter(|client| is_new && client.writes) {
            kill(connection, &client.id).await?;
        }
        self.silent = None;
        self.state.send_replace(State {
            until: Some(asked + LEASE),
            refused: None,
        });
        Ok(Standing::Held)
    }

    /// Keeps the lease, through broken connections and servers that come and go, until another has it;
    /// says who.
    pub async fn keep(mut self, stop: CancellationToken) -> Option<String> {
        loop {
            let held = tokio::select! {
                () = stop.cancelled() => return None,
                held = self.renew() => held,
            };
            match held {
                Ok(Standing::Other(other)) => return Some(other),
                Ok(Standing::Held) => {}
                // The intake says loudly when the server is away.
                Err(_) => self.connection = None,
            }
            tokio::select! {
                () = stop.cancelled() => return None,
                () = sleep(RENEWAL) => {}
            }
        }
    }

    async fn renew(&mut self) -> Result<Standing, Error> {
        let Some(connection) = &mut self.connection else {
            return self.take().await;
        };
        let asked = Instant::now();
        // A server that refuses even that (MISCONF, BUSY, LOADING) has heard it all the same.
        let answer = timeout(LEASE, connection.call(&[b"PING"])).await;
        answer.unwrap_or_else(|_| Err(connection.timed_out()))?;
        let until = Some(asked + LEASE);
        self.state.send_modify(|state| state.until = until);
        Ok(Standing::Held)
    }

    /// Whether a holder is gone: it is an earlier connection of ours, or has been silent for too long
    /// at two looks. At the first one the server may have been away itself, with its PING not read yet.
    fn is_gone(&mut self, holder: &Client) -> bool {
        if holder.holds == Some(self.instance) {
            return true;
        }
        if holder.silent < SILENT {
            self.silent = None;
            return false;
        }
        let looked = self.silent.replace(holder.id.clone());
        let is_gone = looked.as_ref() == Some(&holder.id);
        if is_gone {
            info!(holder = %holder, seconds = holder.silent, "the holder of the lease is silent; taking it over");
        }
        is_gone
    }

    fn name(&self, role: &str) -> String {
        connection_name(&self.site, role)
    }
}

/// A connection of a sidecar, as CLIENT LIST shows it.
#[derive(Debug, PartialEq, Eq)]
struct Client {
    id: String,
    name: String,
    from: String,
    /// How long it has said nothing, in whole seconds.
    silent: u64,
    /// Whose lease it is.
    holds: Option<InstanceId>,
    /// Whether it was opened with the lease, to write.
    writes: bool,
}

impl Client {
    /// Reads a line of CLIENT LIST; none if the name does not begin like this.
    fn parse(line: &str, prefix: &str) -> Option<Self> {
        let field = |key: &str| {
            let mut words = line.split(' ');
            words.find_map(|word| word.strip_prefix(key)?.strip_prefix('='))
        };
        let name = field("name")?;
        let role = name.strip_prefix(prefix)?;
        let instance = role.strip_prefix("lease:");
        Some(Self {
            id: field("id")?.to_owned(),
            name: name.to_owned(),
            from: field("addr").unwrap_or_default().to_owned(),
            silent: field("idle")
                .and_then(|idle| idle.parse().ok())
                .unwrap_or(0),
            writes: !READING.contains(&role) && instance.is_none(),
            holds: instance
                .and_then(|i| u64::from_str_radix(i, 16).ok())
                .map(InstanceId::new),
        })
    }
}

impl std::fmt::Display for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.holds {
            Some(instance) => write!(f, "{instance} at {}", self.from),
            None => f.write_str(&self.from),
        }
    }
}

/// All other connections whose names begin like this.
async fn others(
    connection: &mut Connection,
    prefix: &str,
    own: &str,
) -> Result<Vec<Client>, Error> {
    let list = connection.ask(&[b"CLIENT", b"LIST"]).await?.text();
    let clients = list.lines().filter_map(|line| Client::parse(line, prefix));
    Ok(clients.filter(|client| client.id != own).collect())
}

/// Ends a connection; an error means that it is gone already.
async fn kill(connection: &mut Connection, id: &str) -> Result<(), Error> {
    let kill = [&b"CLIENT"[..], b"KILL", b"ID", id.as_bytes()];
    let reply = connection.call(&kill).await?;
    match reply.error() {
        Some(message) if message.starts_with("NOPERM") => {
            connection.accepted("CLIENT", reply).map(drop)
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = "id=7 addr=10.0.0.3:5123 laddr=10.0.0.1:6379 fd=8 name=tandem:a:lease:00000000000000ff \
                        age=17 idle=12 flags=N db=0 sub=0";

    fn keeper() -> LeaseKeeper {
        let settings = "redis://127.0.0.1:1".parse().expect("a URL");
        let site = SiteId::try_new("a").expect("a name");
        LeaseKeeper::new(settings, site, InstanceId::new(1)).0
    }

    #[test]
    fn the_connections_of_a_site_are_known_by_their_names() {
        let found = Client::parse(LINE, "tandem:a:").expect("one of ours");
        assert_eq!((found.id.as_str(), found.silent), ("7", 12));
        assert_eq!(
            (found.holds, found.writes),
            (Some(InstanceId::new(255)), false)
        );
        assert_eq!(
            found.to_string(),
            format!("{} at 10.0.0.3:5123", InstanceId::new(255))
        );
        assert_eq!(Client::parse(LINE, "tandem:b:"), None);
        for (role, writes) in [("apply:b", true), ("self", true), ("replica", false)] {
            let other = LINE.replace("lease:00000000000000ff", role);
            let found = Client::parse(&other, "tandem:a:").expect("one of ours");
            assert_eq!((found.holds, found.writes), (None, writes), "{role}");
        }
        assert_eq!(Client::parse("id=1 name=", "tandem:a:"), None);
    }

    #[test]
    fn a_silent_holder_is_gone_at_the_second_look() {
        let mut keeper = keeper();
        let holder = Client::parse(LINE, "tandem:a:").expect("one of ours");
        assert!(!keeper.is_gone(&holder));
        assert!(keeper.is_gone(&holder));
        // One that speaks again, or another one, is looked at anew.
        let mut alive = Client::parse(LINE, "tandem:a:").expect("one of ours");
        alive.silent = SILENT - 1;
        assert!(!keeper.is_gone(&alive));
        assert!(!keeper.is_gone(&holder));
        let mut another = Client::parse(LINE, "tandem:a:").expect("one of ours");
        another.id = "8".to_owned();
        assert!(!keeper.is_gone(&another));
        // What is left of ourselves is not waited for.
        another.holds = Some(InstanceId::new(1));
        another.silent = 0;
        assert!(keeper.is_gone(&another));
    }

    #[tokio::test]
    async fn nobody_writes_without_the_lease() {
        let mut keeper = keeper();
        let lease = Lease {
            state: keeper.state.subscribe(),
        };
        let settings = keeper.settings.clone();
        let open = async || {
            lease
                .open(&settings, "x")
                .await
                .expect_err("nobody listens")
        };
        assert!(matches!(open().await, Error::NoLease { .. }));
        let until = Some(Instant::now() + LEASE);
        keeper.state.send_modify(|state| state.until = until);
        assert!(matches!(open().await, Error::Connect { .. }));
        let until = Instant::now().checked_sub(Duration::from_millis(1));
        keeper.state.send_modify(|state| state.until = until);
        assert!(matches!(open().await, Error::NoLease { .. }));
        assert!(matches!(keeper.take().await, Err(Error::Connect { .. })));
    }
}
