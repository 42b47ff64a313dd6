//! A real Redis or Valkey server, unmodified, as a child on a loopback port.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::client::{Client, words};
use super::ports::free_port;
use super::wait::{patience, wait_for, wait_until};

/// How often another port is tried when a foreign process took the chosen one.
const START_ATTEMPTS: usize = 3;

/// A server, its directory and its port. Killed when dropped.
pub(crate) struct Server {
    binary: PathBuf,
    options: Vec<String>,
    dir: TempDir,
    port: u16,
    child: Option<Child>,
}

impl Server {
    /// The server under test with these options (`name value` each).
    pub(crate) fn start(options: &[&str]) -> Self {
        Self::start_binary(default_binary(), options)
    }

    /// A server of this version, which [`versions`] has named.
    pub(crate) fn version(name: &str, options: &[&str]) -> Self {
        let dir = versions_dir().expect("TANDEM_SERVERS");
        Self::start_binary(dir.join(name).join("bin/redis-server"), options)
    }

    fn start_binary(binary: PathBuf, options: &[&str]) -> Self {
        let all = DEFAULTS.iter().chain(options);
        let mut lines: Vec<String> = all.map(|option| format!("--{option}")).collect();
        if version_of(&binary) >= (7, 0) {
            lines.push("--enable-debug-command yes".to_owned());
            lines.push("--enable-module-command yes".to_owned());
        }
        let mut server = Self {
            binary,
            options: lines,
            dir: tempfile::tempdir().expect("a temporary directory"),
            port: 0,
            child: None,
        };
        for _ in 0..START_ATTEMPTS {
            server.port = free_port();
            if server.try_restart() {
                return server;
            }
        }
        panic!("the server did not start:\n{}", server.log_tail(20));
    }

    /// The program.
    pub(crate) fn binary(&self) -> &Path {
        &self.binary
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("a running server"), name);
    }

    /// Its port.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A new client of it, which must be alive, unless the test has killed it and will start it
    /// again.
    pub(crate) fn client(&self) -> Client {
        Client::connect_while(self.port, || self.expect_alive())
    }

    /// Becomes a replica, and waits until it has all that the primary has.
    pub(crate) fn follow(&self, primary: &Self) {
        let mut client = self.client();
        client.run(&format!("REPLICAOF 127.0.0.1 {}", primary.port()));
        wait_for("the replica to follow", patience(30), || {
            let status = client.info("replication", "master_link_status");
            status.as_deref() == Some("up")
        });
    }

    /// Fails at once, with the end of its log, when it has died though no test told it to.
    pub(crate) fn expect_alive(&self) {
        if let Some(how) = self.collapse() {
            let name = self.binary.display();
            panic!(
                "the server {name} on port {} {how}; it said:\n{}\n{}",
                self.port,
                tail(&self.dir.path().join(STDERR), 20),
                self.last_words()
            );
        }
    }

    /// The beginning of its report of a crash, which is long, or else the end of its log.
    fn last_words(&self) -> String {
        let log = self.log_tail(usize::MAX);
        let report = log.find("BUG REPORT START").map(|at| log.split_at(at).1);
        report.map_or_else(
            || self.log_tail(40),
            |report| report.lines().take(40).collect::<Vec<_>>().join("\n"),
        )
    }

    /// How it came to an end that nobody asked for.
    fn collapse(&self) -> Option<&'static str> {
        let pid = self.child.as_ref()?.id();
        // Its state stands behind its name, which is in brackets.
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest);
        if state.is_none_or(|s| s.starts_with(['Z', 'X'])) {
            return Some("has ended");
        }
        // What allocators say before they abort. The server's report of a crash allocates, too, and
        // then it may hang for ever.
        let said = tail(&self.dir.path().join(STDERR), 20);
        let broken = ["corrupted", "invalid", "free()", "malloc"];
        let aborts = broken.iter().any(|word| said.contains(word));
        aborts.then_some("has corrupted its memory")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// Starts it again, on the same port with what is in its directory, and waits until it answers.
    pub(crate) fn restart(&mut self) {
        self.kill();
        assert!(
            self.try_restart(),
            "the server did not start again:\n{}",
            self.log_tail(20)
        );
    }

    /// Sends SHUTDOWN and says how long the server took to end.
    pub(crate) fn shutdown(&mut self, how: &str) -> Duration {
        let mut client = self.client();
        let start = Instant::now();
        // The server closes the connection instead of answering.
        drop(client.try_run(&format!("SHUTDOWN {how}")));
        let mut child = self.child.take().expect("a running server");
        let status = wait_exit(&mut child, "the server to shut down", patience(30));
        assert!(status.success(), "SHUTDOWN ended with {status}");
        start.elapsed()
    }

    /// The end of its log.
    pub(crate) fn log_tail(&self, lines: usize) -> String {
        tail(&self.dir.path().join("server.log"), lines)
    }

    fn try_restart(&mut self) -> bool {
        let mut command = Command::new(&self.binary);
        command
            .args(["--port", &self.port.to_string()])
            .args(["--dir", &self.dir.path().display().to_string()])
            .args(["--logfile", "server.log"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(self.dir.path().join(STDERR)).expect("a file"));
        for option in &self.options {
            let args = words(option).into_iter();
            command.args(args.map(|arg| String::from_utf8(arg).expect("text")));
        }
        // Owned before anything can fail: what we start, we end.
        let child = self
            .child
            .insert(command.spawn().expect("the server's binary runs"));
        let answered = wait_until("a server to answer or to end", patience(30), || {
            if child.try_wait().expect("wait").is_some() {
                return Ok(false);
            }
            let mut client = Client::try_connect(self.port).map_err(|e| e.to_string())?;
            match client.try_run("PING").map_err(|e| e.to_string()) {
                // A server with a password answers too; its INFO is not for us.
                Err(error) if error.contains("NOAUTH") => return Ok(true),
                answer => answer?,
            };
            // Another process may have taken the port meanwhile and be the one that answers.
            let pid: u32 = client
                .info_number("server", "process_id")
                .try_into()
                .expect("a process id");
            Ok(pid == child.id())
        });
        if !answered {
            self.kill();
        }
        answered
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        keep_after_failure(&mut self.dir, "a server");
    }
}

/// With `TANDEM_KEEP` set, a failed test leaves its directories, so that they can be looked at.
pub(crate) fn keep_after_failure(dir: &mut TempDir, of: &str) {
    if thread::panicking() && env::var_os("TANDEM_KEEP").is_some() {
        dir.disable_cleanup(true);
        println!("--- the directory of {of}: {}", dir.path().display());
    }
}

/// Where a server leaves what does not go to its log.
const STDERR: &str = "server.err";

/// What every server of the tests starts with; a later option of the same name wins.
const DEFAULTS: &[&str] = &[
    "bind 127.0.0.1",
    "save \"\"",
    "appendonly no",
    "databases 16",
    "repl-diskless-sync-delay 0",
];

/// The names of the versions in `TANDEM_SERVERS`, sorted; none when it is not set.
pub(crate) fn versions() -> Vec<String> {
    let entries = versions_dir().map(|dir| fs::read_dir(dir).expect("TANDEM_SERVERS"));
    let mut names: Vec<String> = entries
        .into_iter()
        .flatten()
        .map(|entry| entry.expect("a directory entry"))
        .filter(|entry| entry.path().join("bin/redis-server").exists())
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

fn versions_dir() -> Option<PathBuf> {
    env::var_os("TANDEM_SERVERS").map(PathBuf::from)
}

/// The server that the whole run is about: the one asked for, or the one installed.
fn default_binary() -> PathBuf {
    if let Some(asked) = env::var_os("TANDEM_REDIS_SERVER") {
        return PathBuf::from(asked);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    // On Debian a user's PATH lacks /usr/sbin, where some packages put servers.
    let mut places: Vec<PathBuf> = env::split_paths(&path).collect();
    places.extend(["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from));
    ["redis-server", "valkey-server"]
        .iter()
        .flat_map(|program| places.iter().map(move |place| place.join(program)))
        .find(|candidate| candidate.is_file())
        .expect("redis-server or valkey-server in PATH; make ensure installs one")
}

/// `(major, minor)` of `--version`.
fn version_of(binary: &Path) -> (u32, u32) {
    let output = Command::new(binary)
        .arg("--version")
        .output()
        .unwrap_or_else(|error| panic!("{}: {error}", binary.display()));
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text
        .split_once(" v=")
        .map_or("", |(_, tail)| tail.split(' ').next().unwrap_or_default());
    numbers(version)
}

/// The first two numbers of a version.
pub(crate) fn numbers(version: &str) -> (u32, u32) {
    let mut numbers = version.split('.').map(|n| n.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// Waits for a child to end.
pub(crate) fn wait_exit(child: &mut Child, what: &str, deadline: Duration) -> ExitStatus {
    let mut status = None;
    wait_for(what, deadline, || {
        status = child.try_wait().expect("wait");
        status.is_some()
    });
    status.expect("it has ended")
}

/// Sends a signal by name, to a child of ours only. A shell has `kill` built in; the program is
/// not on every system.
pub(crate) fn signal(child: &Child, name: &str) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -s {name} {}", child.id())])
        .status()
        .expect("a shell runs");
    assert!(status.success(), "kill -s {name}: {status}");
}

/// The last lines of a file.
pub(crate) fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
