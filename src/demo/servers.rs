//! The processes of the demo: two Redis servers and two sidecars, in one temporary directory.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Error, Result, bail, ensure};
use tempfile::TempDir;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

use super::client::{self, Client};
use crate::status::{PeerState, Status};

/// The names of the two sites.
const NAMES: [&str; 2] = ["hangzhou", "singapore"];
/// The programs that can be a site's Redis, in the order in which they are looked for.
const PROGRAMS: [&str; 2] = ["redis-server", "valkey-server"];
/// How long a Redis may take to answer its first PING.
const REDIS_WITHIN: Duration = Duration::from_secs(20);
/// How often a server is asked whether it is there yet.
const ASK: Duration = Duration::from_millis(50);
/// How much of a log is shown when its process is to blame, in lines.
const LOG_LINES: usize = 15;

/// One site: its name, where its servers listen, and its directory.
#[derive(Debug)]
pub(super) struct Site {
    /// The name in the configuration.
    pub(super) name: &'static str,
    /// The port of its Redis.
    pub(super) redis: u16,
    /// The port on which its sidecar waits for the other one.
    pub(super) link: u16,
    /// The port of its sidecar's HTTP server.
    pub(super) admin: u16,
    /// Its part of the temporary directory.
    dir: PathBuf,
}

impl Site {
    /// The configuration file of its sidecar.
    pub(super) fn config(&self) -> PathBuf {
        self.dir.join("tandem.toml")
    }

    /// Asks its sidecar.
    pub(super) async fn status(&self) -> Result<Status> {
        client::status(self.admin)
            .await
            .with_context(|| format!("ask the sidecar of {}", self.name))
    }

    fn log(&self, of: &str) -> PathBuf {
        self.dir.join(format!("{of}.log"))
    }
}

/// A child process, and the words that a message needs.
#[derive(Debug)]
struct Process {
    what: String,
    log: PathBuf,
    child: Child,
}

/// All processes and files of the demo.
#[derive(Debug)]
pub(super) struct Stage {
    /// The two sites.
    pub(super) sites: [Site; 2],
    redis: PathBuf,
    processes: Vec<Process>,
    dir: TempDir,
}

impl Stage {
    /// Chooses ports and makes the directories; starts nothing.
    pub(super) fn set(redis: PathBuf) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("tandem-demo-")
            .tempdir()
            .context("make a temporary directory")?;
        let mut ports = free_ports(3 * NAMES.len())?.into_iter();
        let mut site = |name: &'static str| -> Result<Site> {
            let mut port = || ports.next().context("choose a port");
            let site = Site {
                name,
                redis: port()?,
                link: port()?,
                admin: port()?,
                dir: dir.path().join(name),
            };
            fs::create_dir(&site.dir).context("make a directory")?;
            Ok(site)
        };
        let [first, second] = NAMES;
        Ok(Self {
            sites: [site(first)?, site(second)?],
            redis,
            processes: Vec::new(),
            dir,
        })
    }

    /// Starts both Redis servers and waits until they answer.
    pub(super) async fn start_redis(&mut self) -> Result<()> {
        for site in &self.sites {
            let mut command = Command::new(&self.redis);
            command
                .args(["--port", &site.redis.to_string(), "--bind", "127.0.0.1"])
                .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
                // Both are empty: nothing is gained by waiting for more replicas.
                .args(["--repl-diskless-sync-delay", "0"])
                .arg("--dir")
                .arg(&site.dir);
            let what = format!("the Redis of {}", site.name);
            let process = Process::start(what, command, site.log("redis"))?;
            self.processes.push(process);
        }
        let deadline = Instant::now() + REDIS_WITHIN;
        for index in 0..self.sites.len() {
            while !self.sites[index].redis_answers().await {
                self.check()?;
                ensure!(
                    Instant::now() < deadline,
                    "the Redis of {} does not answer on port {}",
                    self.sites[index].name,
                    self.sites[index].redis
                );
                sleep(ASK).await;
            }
        }
        Ok(())
    }

    /// Writes the configuration files and starts both sidecars.
    pub(super) fn start_sidecars(&mut self) -> Result<()> {
        let program = std::env::current_exe().context("find our own program")?;
        let [first, second] = &self.sites;
        // The first dials, the second waits to be dialled.
        for (site, config) in [
            (first, config(first, second, true)),
            (second, config(second, first, false)),
        ] {
            fs::write(site.config(), config).context("write a configuration file")?;
            let mut command = Command::new(&program);
            command.arg("run").arg("--config").arg(site.config());
            // A setting of the caller's own sidecar must not reach these.
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("TANDEM__") {
                    command.env_remove(name);
                }
            }
            let what = format!("the sidecar of {}", site.name);
            let process = Process::start(what, command, site.log("tandem"))?;
            self.processes.push(process);
        }
        Ok(())
    }

    /// Waits until both sidecars answer and both directions are incremental.
    pub(super) async fn wait_until_synchronizing(&mut self, within: Duration) -> Result<()> {
        let deadline = Instant::now() + within;
        for index in 0..self.sites.len() {
            loop {
                self.check()?;
                let seen = match self.sites[index].status().await {
                    Ok(status) if is_synchronizing(&status)? => break,
                    Ok(status) => describe(&status),
                    Err(error) => format!("{error:#}"),
                };
                ensure!(
                    Instant::now() < deadline,
                    "the sites are not synchronizing after {} s: {seen}",
                    within.as_secs()
                );
                sleep(ASK).await;
            }
        }
        Ok(())
    }

    /// Fails when a process has ended.
    pub(super) fn check(&mut self) -> Result<()> {
        for process in &mut self.processes {
            if let Some(status) = process.child.try_wait().context("watch a process")? {
                bail!("{} ended ({status})", process.what);
            }
        }
        Ok(())
    }

    /// Adds to an error what the sidecars, and whoever has ended, wrote last.
    pub(super) fn explain(&mut self, error: Error) -> Error {
        let mut text = format!("{error:#}");
        for process in &mut self.processes {
            let ended = matches!(process.child.try_wait(), Ok(Some(_)));
            if ended || process.log.ends_with("tandem.log") {
                let lines = tail(&process.log);
                text += &format!("\nThe last lines of {}:\n{lines}", process.what);
            }
        }
        Error::msg(text)
    }

    /// Ends all processes, sidecars first, and removes the directory.
    pub(super) async fn clear(mut self) -> Result<()> {
        while let Some(mut process) = self.processes.pop() {
            // An error means that it has already ended.
            drop(process.child.kill().await);
        }
        self.dir.close().context("remove the temporary directory")
    }
}

impl Site {
    async fn redis_answers(&self) -> bool {
        match Client::open(self.redis).await {
            Ok(mut client) => client.call(&["PING"]).await.is_ok(),
            Err(_) => false,
        }
    }
}

impl Process {
    fn start(what: String, mut command: Command, log: PathBuf) -> Result<Self> {
        let file = fs::File::create(&log).context("make a log file")?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("make a log file")?)
            .stderr(file)
            // Ctrl-C is for us; we end them in order. Dropping us early ends them too.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        Ok(Self { what, log, child })
    }
}

/// Finds the server to start, or says how to get one.
pub(super) fn find_redis(asked: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) = asked {
        ensure!(path.is_file(), "{} is not a file", path.display());
        return Ok(path.to_owned());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    // On Debian a user's PATH lacks /usr/sbin, where some packages put servers.
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    PROGRAMS
        .iter()
        .flat_map(|program| places.iter().map(move |place| place.join(program)))
        .find(|candidate| candidate.is_file())
        .with_context(|| {
            "neither redis-server nor valkey-server was found in PATH. Install one:\n\
             \x20 Debian, Ubuntu  apt-get install redis-server\n\
             \x20 Fedora, RHEL    dnf install valkey\n\
             \x20 Alpine          apk add redis\n\
             \x20 Arch            pacman -S valkey\n\
             \x20 macOS           brew install redis\n\
             or name one with --redis-server PATH"
        })
}

/// Ports on which nothing listens now. They are taken below 32768, where Linux does not choose
/// the local ports of connections, so that none is taken before its server starts.
fn free_ports(count: usize) -> Result<Vec<u16>> {
    let mut held = Vec::with_capacity(count);
    for _ in 0..1000 {
        let port = rand::random_range(20_000..32_000);
        if let Ok(listener) = TcpListener::bind(("127.0.0.1", port)) {
            held.push((port, listener));
        }
        if held.len() == count {
            return Ok(held.into_iter().map(|(port, _)| port).collect());
        }
    }
    bail!("found no {count} free ports on 127.0.0.1")
}

/// The configuration file of a site.
fn config(site: &Site, peer: &Site, dials: bool) -> String {
    let address = if dials {
        format!("address = \"127.0.0.1:{}\"\n", peer.link)
    } else {
        String::new()
    };
    format!(
        "site = \"{site}\"\n\
         [redis]\n\
         url = \"redis://127.0.0.1:{redis}\"\n\
         [link]\n\
         listen = \"127.0.0.1:{link}\"\n\
         [[peer]]\n\
         site = \"{peer}\"\n\
         {address}\
         [sync]\n\
         initial = \"auto\"\n\
         databases = \"all\"\n\
         [journal]\n\
         dir = {journal:?}\n\
         max_size = \"1GiB\"\n\
         [admin]\n\
         listen = \"127.0.0.1:{admin}\"\n",
        site = site.name,
        redis = site.redis,
        link = site.link,
        peer = peer.name,
        journal = site.dir.join("journal").display().to_string(),
        admin = site.admin,
    )
}

/// Whether all peers are; a stopped one is an error, since it would stay so.
fn is_synchronizing(status: &Status) -> Result<bool> {
    for peer in &status.peers {
        if let Some(stop) = &peer.stop {
            bail!(
                "{} stopped the link with {}: {}. {}",
                status.site,
                peer.site,
                stop.detail,
                stop.remedy
            );
        }
    }
    let synchronizing = |state| state == PeerState::Synchronizing;
    Ok(!status.peers.is_empty() && status.peers.iter().all(|p| synchronizing(p.state)))
}

/// What a status says that explains a wait.
pub(super) fn describe(status: &Status) -> String {
    let mut words = vec![format!(
        "{}: offset {}, {}settled",
        status.site,
        status.redis.offset,
        if status.settled { "" } else { "not " }
    )];
    words.extend(status.redis.error.clone());
    for peer in &status.peers {
        words.push(format!(
            "{} is {:?}, {} bytes and {:.1} s behind",
            peer.site, peer.state, peer.lag_bytes, peer.lag_seconds
        ));
        words.extend(peer.error.clone());
        words.extend(peer.waiting.clone());
    }
    words.join("; ")
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_distinct() {
        let mut ports = free_ports(6).unwrap();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 6);
    }

    #[test]
    fn configurations_name_each_other() {
        let stage = Stage::set(PathBuf::from("redis-server")).unwrap();
        let [first, second] = &stage.sites;
        let dialling: toml::Table = config(first, second, true).parse().unwrap();
        let waiting: toml::Table = config(second, first, false).parse().unwrap();
        let peer = |table: &toml::Table| table["peer"][0].clone();
        let address = peer(&dialling)["address"].as_str().unwrap().to_owned();
        assert_eq!(Some(address.as_str()), waiting["link"]["listen"].as_str());
        assert_eq!(peer(&dialling)["site"], waiting["site"]);
        assert!(peer(&waiting).get("address").is_none());
    }

    #[test]
    fn a_missing_server_is_explained() {
        let error = find_redis(Some(Path::new("/nowhere/redis-server"))).unwrap_err();
        assert!(error.to_string().contains("/nowhere/redis-server"));
    }
}
