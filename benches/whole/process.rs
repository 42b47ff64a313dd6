//! Servers and sidecars as children: owned before anything can fail, ended when dropped.

use std::env;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::wire::Wire;

/// How long a process may take to answer.
const START: Duration = Duration::from_secs(20);
/// How long the last conflicts may take to be mended.
const SETTLING: Duration = Duration::from_secs(120);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// The options of every server, native or not: nothing is saved, a snapshot waits for nobody, and
/// no link that is away for a while loses its place.
const OPTIONS: &[(&str, &str)] = &[
    ("bind", "127.0.0.1"),
    ("save", ""),
    ("appendonly", "no"),
    ("repl-diskless-sync-delay", "0"),
    ("repl-backlog-size", "1gb"),
    ("client-output-buffer-limit", "replica 0 0 0"),
    ("repl-timeout", "600"),
];

/// A child that ends with its owner.
struct Process(Child);

impl Process {
    fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// What is in /proc about one process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pid(u32);

impl Pid {
    /// Time on a processor so far, of all threads that live.
    pub(crate) fn cpu(self) -> Result<Duration> {
        let mut nanos = 0;
        for task in fs::read_dir(format!("/proc/{}/task", self.0))? {
            // A thread may end meanwhile.
            let text = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let first = text.split_whitespace().next();
            nanos += first.and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        }
        Ok(Duration::from_nanos(nanos))
    }

    /// Resident memory now (`VmRSS`) or at its highest (`VmHWM`), in MiB.
    pub(crate) fn memory(self, field: &str) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0))?;
        let line = text.lines().find_map(|l| l.strip_prefix(field));
        let number = line.and_then(|l| l.trim_start_matches(':').split_whitespace().next());
        Ok(number
            .context("memory in /proc/PID/status")?
            .parse::<f64>()?
            / 1024.0)
    }
}

/// A Redis or Valkey server.
pub(crate) struct Server {
    pub(crate) port: u16,
    process: Process,
    _dir: TempDir,
}

impl Server {
    pub(crate) fn start(binary: &Path) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let port = free_port()?;
        let mut command = Command::new(binary);
        command.args([
            "--port",
            &port.to_string(),
            "--logfile",
            "server.log",
            "--dir",
        ]);
        command.arg(dir.path());
        for (name, value) in OPTIONS {
            command.arg(format!("--{name}"));
            let words = value.split(' ');
            command.args(words);
        }
        if knows_debug_option(binary)? {
            command.args(["--enable-debug-command", "yes"]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null());
        let process = Process(command.spawn().context("the server's binary runs")?);
        let server = Self {
            port,
            process,
            _dir: dir,
        };
        let pid = server.process.pid().to_string();
        wait("a server to answer", START, || {
            let answer = Wire::open(port).and_then(|mut wire| wire.info("server", "process_id"));
            Ok(answer.is_ok_and(|answered| answered.trim() == pid))
        })?;
        Ok(server)
    }

    pub(crate) fn wire(&self) -> Result<Wire> {
        Wire::open(self.port)
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid(self.process.pid())
    }

    pub(crate) fn keys(&self) -> Result<usize> {
        Ok(self.wire()?.ask(&["DBSIZE"])?.parse()?)
    }
}

/// A sidecar of one server.
pub(crate) struct Sidecar {
    admin: u16,
    process: Process,
    dir: TempDir,
}

/// What a sidecar is told.
pub(crate) struct Plan {
    pub(crate) site: &'static str,
    pub(crate) peer: &'static str,
    pub(crate) redis: u16,
    pub(crate) listen: u16,
    /// The one that waits has none.
    pub(crate) dial: Option<u16>,
    /// `[link] compression`.
    pub(crate) compression: &'static str,
}

impl Sidecar {
    pub(crate) fn start(binary: &Path, plan: &Plan) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let admin = free_port()?;
        let address = plan
            .dial
            .map(|port| format!("address = \"127.0.0.1:{port}\"\n"));
        let text = format!(
            "site = \"{}\"\n[redis]\nurl = \"redis://127.0.0.1:{}\"\n\
             [link]\nlisten = \"127.0.0.1:{}\"\ncompression = \"{}\"\n[[peer]]\nsite = \"{}\"\n{}\
             [journal]\ndir = \"{}\"\nmax_size = \"10GiB\"\n[admin]\nlisten = \"127.0.0.1:{admin}\"\n",
            plan.site,
            plan.redis,
            plan.listen,
            plan.compression,
            plan.peer,
            address.unwrap_or_default(),
            dir.path().join("journal").display(),
        );
        let config = dir.path().join("tandem.toml");
        fs::write(&config, text)?;
        let log = File::create(dir.path().join("log"))?;
        let mut command = Command::new(binary);
        command.args(["run", "--log-format", "text", "--config"]);
        command.arg(&config).stdin(Stdio::null());
        command.stdout(log.try_clone()?).stderr(log);
        let process = Process(command.spawn().context("tandem runs")?);
        Ok(Self {
            admin,
            process,
            dir,
        })
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid(self.process.pid())
    }

    /// Whether the link is in incremental sync; an error when it is stopped.
    pub(crate) fn is_synchronizing(&mut self) -> Result<bool> {
        if let Some(status) = self.process.0.try_wait()? {
            bail!("a sidecar ended, {status}: {}", self.log());
        }
        let Ok(status) = self.status() else {
            return Ok(false);
        };
        let state = status.pointer("/peers/0/state").and_then(Value::as_str);
        ensure!(state != Some("stopped"), "a link is stopped: {status}");
        Ok(state == Some("synchronizing"))
    }

    /// Once everything is settled: how many conflicts were mended within so many seconds, a bound of
    /// the histogram, and how many in all.
    pub(crate) fn mended(&self, seconds: f64) -> Result<(u64, u64)> {
        wait("the sites to settle", SETTLING, || {
            let status = self.status()?;
            Ok(status.pointer("/settled").and_then(Value::as_bool) == Some(true))
        })?;
        let text = self.get("/metrics")?;
        let value = |start: &str| {
            let mut lines = text.lines().filter(|line| line.starts_with(start));
            lines.find_map(|line| line.rsplit(' ').next()?.parse().ok())
        };
        let metric = "tandem_peer_conflict_mended_seconds";
        let peer = text.split_once("tandem_peer_settled{").context("a peer")?.1;
        let peer = peer.split_once('}').context("a label")?.0;
        let within = value(&format!("{metric}_bucket{{{peer},le=\"{seconds}\"}}"));
        let count = value(&format!("{metric}_count{{{peer}}}"));
        Ok((within.context("the bucket")?, count.context("the count")?))
    }

    fn status(&self) -> Result<Value> {
        Ok(serde_json::from_str(&self.get("/status")?)?)
    }

    fn get(&self, path: &str) -> Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.admin))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .context("an answer with a body")?;
        Ok(body.to_owned())
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

/// A port that was free a moment ago.
pub(crate) fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok(listener.local_addr()?.port())
}

/// Looks until it holds.
pub(crate) fn wait(
    what: &str,
    patience: Duration,
    mut holds: impl FnMut() -> Result<bool>,
) -> Result<()> {
    let start = Instant::now();
    while !holds()? {
        ensure!(start.elapsed() < patience, "waited {patience:?} for {what}");
        thread::sleep(LOOK);
    }
    Ok(())
}

/// The server asked for with `TANDEM_REDIS_SERVER`, or the one installed.
pub(crate) fn server_binary() -> Result<PathBuf> {
    if let Some(asked) = env::var_os("TANDEM_REDIS_SERVER") {
        return Ok(asked.into());
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|program| places.iter().map(move |place| place.join(program)))
        .find(|candidate| candidate.is_file())
        .context("redis-server or valkey-server in PATH; make ensure installs one")
}

/// What the server says of itself.
pub(crate) fn version(binary: &Path) -> Result<String> {
    let output = Command::new(binary).arg("--version").output()?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// From 7.0 on DEBUG must be allowed.
fn knows_debug_option(binary: &Path) -> Result<bool> {
    let text = version(binary)?;
    let major = text
        .split_once(" v=")
        .and_then(|(_, v)| v.split('.').next()?.parse().ok());
    Ok(major.unwrap_or(0_u32) >= 7)
}
