//! The program under test, as a child: its configuration, its life, its log and its HTTP answers.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use tandem::status::{PeerStatus, Status};
use tempfile::TempDir;

use super::ports::free_port;
use super::server::{keep_after_failure, signal, tail, wait_exit};
use super::wait::patience;

/// The binary that cargo built for these tests.
pub(crate) const TANDEM: &str = env!("CARGO_BIN_EXE_tandem");

/// Lines of a log shown with a failure.
const TAIL: usize = 40;

/// The configuration of one sidecar.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) site: String,
    pub(crate) redis_port: u16,
    /// How to find Redis, when not by its port.
    pub(crate) redis_url: Option<String>,
    /// More lines of `[redis]`.
    pub(crate) redis_extra: String,
    pub(crate) link_port: u16,
    /// More lines of `[link]`.
    pub(crate) link_extra: String,
    /// Name and port; no port: wait to be dialled.
    pub(crate) peers: Vec<(String, Option<u16>)>,
    pub(crate) initial: String,
    pub(crate) existing: String,
    pub(crate) databases: String,
    /// More lines of `[sync]`.
    pub(crate) sync_extra: String,
    pub(crate) journal_size: String,
    /// More lines of `[journal]`.
    pub(crate) journal_extra: String,
    /// Where the journal is, when not beside the configuration.
    pub(crate) journal: Option<PathBuf>,
    pub(crate) admin_port: u16,
    /// How large each of its files may grow. Beyond, writes fail as on a full disk, until
    /// [`Sidecar::limit_files`] lifts the limit.
    pub(crate) file_limit: Option<u64>,
    /// Variables of its environment.
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
}

impl Config {
    /// The usual configuration of a site without peers.
    pub(crate) fn new(site: &str, redis_port: u16) -> Self {
        Self {
            site: site.to_owned(),
            redis_port,
            redis_url: None,
            redis_extra: String::new(),
            link_port: free_port(),
            link_extra: String::new(),
            peers: Vec::new(),
            initial: "auto".to_owned(),
            existing: "refuse".to_owned(),
            databases: "\"all\"".to_owned(),
            sync_extra: String::new(),
            journal_size: "10GiB".to_owned(),
            journal_extra: String::new(),
            journal: None,
            admin_port: free_port(),
            file_limit: None,
            variables: Vec::new(),
        }
    }

    fn toml(&self, dir: &Path) -> String {
        let beside = dir.join("journal");
        let journal = self.journal.as_ref().unwrap_or(&beside).display();
        let by_port = || format!("redis://127.0.0.1:{}", self.redis_port);
        let url = self.redis_url.clone().unwrap_or_else(by_port);
        let mut text = format!(
            "site = \"{}\"\n[redis]\nurl = \"{url}\"\n{}\n\
             [link]\nlisten = \"127.0.0.1:{}\"\n{}\n",
            self.site, self.redis_extra, self.link_port, self.link_extra
        );
        for (name, port) in &self.peers {
            text.push_str(&format!("[[peer]]\nsite = \"{name}\"\n"));
            if let Some(port) = port {
                text.push_str(&format!("address = \"127.0.0.1:{port}\"\n"));
            }
        }
        text + &format!(
            "[sync]\ninitial = \"{}\"\nexisting = \"{}\"\ndatabases = {}\n{}\n\
             [journal]\ndir = \"{journal}\"\nmax_size = \"{}\"\n{}\n\
             [admin]\nlisten = \"127.0.0.1:{}\"\n",
            self.initial,
            self.existing,
            self.databases,
            self.sync_extra,
            self.journal_size,
            self.journal_extra,
            self.admin_port
        )
    }
}

/// One sidecar. Killed when dropped; its log is judged then, and shown when the test failed.
pub(crate) struct Sidecar {
    pub(crate) config: Config,
    dir: TempDir,
    child: Option<Child>,
    expected_errors: Mutex<Vec<String>>,
}

impl Sidecar {
    /// Not started yet.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            config,
            dir: tempfile::tempdir().expect("a temporary directory"),
            child: None,
            expected_errors: Mutex::default(),
        }
    }

    /// Of site a, with a peer that does not exist, for this Redis; not started yet.
    pub(crate) fn alone(redis_port: u16, redis_extra: &str) -> Self {
        let mut config = Config::new("a", redis_port);
        config.peers = vec![("b".to_owned(), Some(free_port()))];
        config.redis_extra = redis_extra.to_owned();
        Self::new(config)
    }

    /// Starts it with its configuration as it is now.
    pub(crate) fn start(&mut self) {
        assert!(self.child.is_none(), "{} is running", self.config.site);
        let log = self.open_log();
        let mut command = match self.config.file_limit {
            Some(bytes) => limited(bytes),
            None => Command::new(TANDEM),
        };
        let child = command
            .args(["run", "--log-format", "text", "--config"])
            .arg(self.write_config())
            .envs(self.config.variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log)
            .spawn()
            .expect("tandem runs");
        self.child = Some(child);
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("kill");
            child.wait().expect("wait");
        }
    }

    /// SIGTERM; how it ended, and after how long.
    pub(crate) fn terminate(&mut self) -> (ExitStatus, Duration) {
        let start = Instant::now();
        self.signal("TERM");
        let status = self.wait_exit(patience(30));
        (status, start.elapsed())
    }

    /// Its number as a process, for who kills it from another thread.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running sidecar").id()
    }

    /// Sends it a signal by name.
    pub(crate) fn signal(&self, name: &str) {
        signal(self.child.as_ref().expect("a running sidecar"), name);
    }

    /// Changes the limit of a running sidecar that was started with one; none lifts it.
    pub(crate) fn limit_files(&self, bytes: Option<u64>) {
        let pid = self.pid();
        let status = Command::new("prlimit")
            .args(["--pid", &pid.to_string(), &file_size(bytes)])
            .status()
            .expect("prlimit runs");
        assert!(status.success(), "prlimit: {status}");
    }

    /// Waits until it ends by itself.
    pub(crate) fn wait_exit(&mut self, deadline: Duration) -> ExitStatus {
        let child = self.child.as_mut().expect("a running sidecar");
        let status = wait_exit(child, "the sidecar to end", deadline);
        self.child = None;
        status
    }

    /// Whether the process lives.
    pub(crate) fn is_alive(&mut self) -> bool {
        let child = self.child.as_mut();
        child.is_some_and(|c| c.try_wait().expect("wait").is_none())
    }

    /// The highest resident memory of the process so far, in KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        self.memory("VmHWM:")
    }

    /// Its resident memory now, in KiB.
    pub(crate) fn memory_kib(&self) -> u64 {
        self.memory("VmRSS:")
    }

    fn memory(&self, field: &str) -> u64 {
        let pid = self.pid();
        let text = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
        let line = text.lines().find_map(|l| l.strip_prefix(field));
        let number = line.and_then(|l| l.split_whitespace().next()?.parse().ok());
        number.expect("a field of /proc/PID/status")
    }

    /// How many files, connections among them, it has open.
    pub(crate) fn open_files(&self) -> u64 {
        let pid = self.pid();
        fs::read_dir(format!("/proc/{pid}/fd"))
            .expect("/proc")
            .count() as u64
    }

    /// What `GET /status` says.
    pub(crate) fn status(&self) -> Result<Status, String> {
        let (code, body) = self.http("/status")?;
        if code != 200 {
            return Err(format!("/status answers {code}: {body}"));
        }
        serde_json::from_str(&body).map_err(|e| format!("/status: {e} in {body}"))
    }

    /// What `GET /status` says of a peer.
    pub(crate) fn peer(&self, site: &str) -> Result<PeerStatus, String> {
        let status = self.status()?;
        let peer = status.peers.into_iter().find(|p| p.site == site);
        peer.ok_or_else(|| format!("/status has no peer {site}"))
    }

    /// Status code and body of a GET.
    pub(crate) fn http(&self, path: &str) -> Result<(u16, String), String> {
        get(self.config.admin_port, path).map_err(|e| format!("GET {path}: {e}"))
    }

    /// Runs `tandem <command> --config <this configuration>` to its end.
    pub(crate) fn command(&self, args: &[&str]) -> Output {
        Command::new(TANDEM)
            .args(args)
            .arg("--config")
            .arg(self.write_config())
            .stdin(Stdio::null())
            .output()
            .expect("tandem runs")
    }

    /// Its directory: configuration, log and journal.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Everything logged so far, by all lives.
    pub(crate) fn log(&self) -> String {
        let bytes = fs::read(self.dir.path().join("log")).unwrap_or_default();
        without_colours(&String::from_utf8_lossy(&bytes))
    }

    /// The end of the log.
    pub(crate) fn log_tail(&self) -> String {
        without_colours(&tail(&self.dir.path().join("log"), TAIL))
    }

    /// ERROR lines with this text are part of the test.
    pub(crate) fn expect_errors(&self, text: &str) {
        let mut expected = self.expected_errors.lock().expect("the list of errors");
        expected.push(text.to_owned());
    }

    /// Lines that no test should see: panics, and errors that it does not expect.
    fn unexpected_errors(&self) -> Vec<String> {
        let expected = self.expected_errors.lock().expect("the list of errors");
        let is_error = |line: &str| {
            let level = line.contains(" ERROR ") || line.contains("\"level\":\"ERROR\"");
            level && !expected.iter().any(|text| line.contains(text))
        };
        let log = self.log();
        log.lines()
            .filter(|line| is_error(line) || line.contains("panicked at"))
            .map(str::to_owned)
            .collect()
    }

    fn write_config(&self) -> PathBuf {
        let path = self.dir.path().join("tandem.toml");
        fs::write(&path, self.config.toml(self.dir.path())).expect("write the configuration");
        path
    }

    fn open_log(&self) -> File {
        let path = self.dir.path().join("log");
        let mut options = OpenOptions::new();
        options.create(true).append(true);
        options.open(path).expect("open the log")
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let status = self.status();
        self.kill();
        if thread::panicking() {
            let site = &self.config.site;
            println!("--- {site}: {status:#?}\n--- {site}, end of the log:");
            println!("{}", self.log_tail());
            keep_after_failure(&mut self.dir, &self.config.site);
            return;
        }
        let errors = self.unexpected_errors();
        assert!(
            errors.is_empty(),
            "errors in the log of {}:\n{}",
            self.config.site,
            errors.join("\n")
        );
    }
}

/// The program, under a soft limit for its files, which needs no privilege to be lifted again. The
/// signal that comes with a write beyond the limit would end it: it is ignored, so that only the
/// write fails.
fn limited(bytes: u64) -> Command {
    let mut command = Command::new("prlimit");
    let ignoring = "trap '' XFSZ; exec \"$0\" \"$@\"";
    command.args([&file_size(Some(bytes)), "--", "sh", "-c", ignoring, TANDEM]);
    command
}

/// The option of prlimit that sets the soft limit.
fn file_size(bytes: Option<u64>) -> String {
    bytes.map_or_else(
        || "--fsize=unlimited:".to_owned(),
        |bytes| format!("--fsize={bytes}:"),
    )
}

/// A GET of HTTP/1.0, so that the body ends with the connection.
fn get(port: u16, path: &str) -> Result<(u16, String), String> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let text = |e: std::io::Error| e.to_string();
    let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(2)).map_err(text)?;
    let timeout = Some(Duration::from_secs(5));
    stream.set_read_timeout(timeout).map_err(text)?;
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    stream.write_all(request.as_bytes()).map_err(text)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(text)?;
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| format!("no head in {answer:?}"))?;
    let code = head.split(' ').nth(1).and_then(|c| c.parse().ok());
    Ok((code.ok_or("no status code")?, body.to_owned()))
}

/// Leaves out the escape sequences of colours.
fn without_colours(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut parts = text.split('\u{1b}');
    plain.push_str(parts.next().unwrap_or_default());
    for part in parts {
        plain.push_str(part.split_once('m').map_or(part, |(_, rest)| rest));
    }
    plain
}
