//! Two servers joined by Tandem or by the server's own replication, behind the same few calls.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process::{Pid, Plan, Server, Sidecar, free_port, wait};
use crate::proxy::Proxy;
use crate::wire::Wire;

/// How long a link may take to come up, and a load to arrive.
const PATIENCE: Duration = Duration::from_secs(900);
/// Between two looks for the last write at the other side.
const LOOK: Duration = Duration::from_millis(1);
/// Written last: who has it has everything before it.
const END: &str = "bench:end";

/// The two things that are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arm {
    Tandem,
    Native,
}

/// The programs.
pub(crate) struct Programs {
    pub(crate) server: PathBuf,
    pub(crate) tandem: PathBuf,
}

/// Writes are made at `near` and arrive at `far`.
pub(crate) struct Pair {
    // The sidecars end before their servers.
    pub(crate) sidecars: Vec<Sidecar>,
    pub(crate) near: Server,
    pub(crate) far: Server,
    pub(crate) proxy: Option<Proxy>,
    link: u16,
    /// What sidecars do with what they send: see `[link] compression`.
    compression: &'static str,
}

impl Pair {
    /// Two empty servers in sync.
    pub(crate) fn start(programs: &Programs, arm: Arm) -> Result<Self> {
        let mut pair = Self::apart(programs)?;
        pair.join(programs, arm)?;
        pair.flows()?;
        Ok(pair)
    }

    /// The same with a wire of our own between them, that delays in each direction.
    pub(crate) fn proxied(programs: &Programs, arm: Arm, delay: Duration) -> Result<Self> {
        let mut pair = Self::apart(programs)?;
        let target = match arm {
            Arm::Tandem => pair.link,
            Arm::Native => pair.near.port,
        };
        pair.proxy = Some(Proxy::to(target, delay)?);
        pair.join(programs, arm)?;
        pair.flows()?;
        Ok(pair)
    }

    /// Two servers that know nothing of each other.
    pub(crate) fn apart(programs: &Programs) -> Result<Self> {
        Ok(Self {
            sidecars: Vec::new(),
            near: Server::start(&programs.server)?,
            far: Server::start(&programs.server)?,
            proxy: None,
            link: free_port()?,
            compression: "none",
        })
    }

    /// What the sidecars send is compressed.
    pub(crate) fn compressed(programs: &Programs) -> Result<Self> {
        let mut pair = Self::apart(programs)?;
        pair.compression = "zstd";
        pair.proxy = Some(Proxy::to(pair.link, Duration::ZERO)?);
        pair.join(programs, Arm::Tandem)?;
        pair.flows()?;
        Ok(pair)
    }

    /// Brings them into sync, and waits until they are.
    pub(crate) fn join(&mut self, programs: &Programs, arm: Arm) -> Result<()> {
        let proxy = self.proxy.as_ref().map(Proxy::port);
        if arm == Arm::Native {
            let port = proxy.unwrap_or(self.near.port).to_string();
            let mut far = self.far.wire()?;
            far.ask(&["REPLICAOF", "127.0.0.1", &port])?;
            return wait("the replica", PATIENCE, || {
                Ok(far.info("replication", "master_link_status")? == "up")
            });
        }
        let near = Plan {
            site: "near",
            peer: "far",
            redis: self.near.port,
            listen: free_port()?,
            dial: Some(proxy.unwrap_or(self.link)),
            compression: self.compression,
        };
        let far = Plan {
            site: "far",
            peer: "near",
            redis: self.far.port,
            listen: self.link,
            dial: None,
            compression: self.compression,
        };
        for plan in [near, far] {
            self.sidecars.push(Sidecar::start(&programs.tandem, &plan)?);
        }
        wait("the sidecars", PATIENCE, || self.is_joined())
    }

    /// A server keeps its stream back until the replica has acknowledged the snapshot, up to a
    /// second after it calls the link up and the replica online. That second belongs to no load:
    /// a first write has to arrive.
    fn flows(&self) -> Result<()> {
        let ready = "bench:ready";
        self.near.wire()?.ask(&["SET", ready, "1"])?;
        let mut far = self.far.wire()?;
        wait("the first write", PATIENCE, || {
            Ok(far.ask(&["EXISTS", ready])? == "1")
        })
    }

    fn is_joined(&mut self) -> Result<bool> {
        for sidecar in &mut self.sidecars {
            if !sidecar.is_synchronizing()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Writes the last key at the near side.
    pub(crate) fn end(&self) -> Result<()> {
        self.near.wire()?.ask(&["SET", END, "1"]).map(drop)
    }

    /// Waits until the far side has all of it.
    pub(crate) fn arrived(&self) -> Result<()> {
        arrived(&mut self.far.wire()?)
    }

    /// The processes that carry the writes: both sidecars, or none, for a replica does it itself.
    pub(crate) fn carriers(&self) -> Result<Duration> {
        let mut sum = Duration::ZERO;
        for sidecar in &self.sidecars {
            sum += sidecar.pid().cpu()?;
        }
        Ok(sum)
    }

    /// Each sidecar's process.
    pub(crate) fn pids(&self) -> Vec<Pid> {
        self.sidecars.iter().map(Sidecar::pid).collect()
    }

    /// The wire between them.
    pub(crate) fn proxy(&self) -> Result<&Proxy> {
        self.proxy.as_ref().context("a pair with a proxy")
    }
}

/// Waits until this side has the last key.
pub(crate) fn arrived(wire: &mut Wire) -> Result<()> {
    let start = Instant::now();
    while wire.ask(&["EXISTS", END])? != "1" {
        anyhow::ensure!(start.elapsed() < PATIENCE, "the last write did not arrive");
        thread::sleep(LOOK);
    }
    Ok(())
}
