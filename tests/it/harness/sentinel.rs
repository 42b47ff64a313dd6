//! A primary with a replica, and a Sentinel that promotes it when it is told to.

use std::fs;
use std::mem;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use super::client::Client;
use super::fault::FaultProxy;
use super::ports::free_port;
use super::server::{Server, signal, tail};
use super::wait::{patience, wait_for};

/// How long a primary may be silent before the Sentinel takes it for dead, and how long a replica may
/// follow a primary by another address than the Sentinel's before it is mended: longer than any test.
/// On a busy machine a live primary was taken for dead, and the clients went on writing to it.
const NEVER: Duration = Duration::from_secs(300);

/// What surrounds a primary, which belongs to somebody else.
pub(crate) struct Group {
    sentinel: Child,
    port: u16,
    dir: TempDir,
    /// The replica; after a failover, what was the primary.
    pub(crate) other: Server,
    /// Between the primary and the replica.
    pub(crate) wire: FaultProxy,
}

impl Group {
    /// A replica of this server, in sync, and a Sentinel that knows both.
    pub(crate) fn around(primary: &Server, options: &[&str]) -> Self {
        let wire = FaultProxy::to(primary.port());
        let other = Server::start(options);
        follow(&other, &wire);
        let (dir, port) = (tempfile::tempdir().expect("a directory"), free_port());
        let config = dir.path().join("sentinel.conf");
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nlogfile sentinel.log\n\
             sentinel monitor main 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds main {}\nsentinel failover-timeout main {}\n",
            dir.path().display(),
            primary.port(),
            NEVER.as_millis(),
            NEVER.as_millis()
        );
        fs::write(&config, text).expect("write the configuration");
        let sentinel = Command::new(primary.binary())
            .arg(&config)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server's binary runs");
        let group = Self {
            sentinel,
            port,
            dir,
            other,
            wire,
        };
        wait_for("the Sentinel to know the replica", patience(30), || {
            let Ok(mut client) = Client::try_connect(port) else {
                return false;
            };
            let list: Vec<redis::Value> = client.ask("SENTINEL REPLICAS main");
            list.len() == 1 && format!("{list:?}").contains(&group.other.port().to_string())
        });
        group.wait_following(primary);
        group
    }

    /// Has the other server follow the primary at the end of the wire.
    pub(crate) fn follow(&self) {
        follow(&self.other, &self.wire);
    }

    /// Waits until the replica gets the stream, which it does only when it has acknowledged the
    /// snapshot: that may take a second.
    pub(crate) fn wait_following(&self, primary: &Server) {
        let begin = primary.client().offset();
        wait_for("the replica to get the stream", patience(30), || {
            primary.client().run("PUBLISH nobody nothing");
            self.other.client().offset() > begin
        });
    }

    /// The URL under which a client finds the primary.
    pub(crate) fn url(&self) -> String {
        // The first one is not there: the next is asked.
        format!(
            "redis+sentinel://127.0.0.1:{},127.0.0.1:{}/main",
            free_port(),
            self.port
        )
    }

    /// Has the replica promoted, and makes it the primary: `primary` is the one that was until now, and
    /// is `other` from now on.
    pub(crate) fn fail_over(&mut self, primary: &mut Server) {
        let port = self.other.port().to_string();
        wait_for("the Sentinel to find a replica", patience(60), || {
            let mut client = Client::try_connect(self.port).expect("the Sentinel");
            client.try_run("SENTINEL FAILOVER main").is_ok()
        });
        wait_for("the replica to be promoted", patience(60), || {
            let mut client = Client::try_connect(self.port).expect("the Sentinel");
            let named: Vec<String> = client.ask("SENTINEL get-master-addr-by-name main");
            named.get(1) == Some(&port) && says(&self.other, "role", "master")
        });
        mem::swap(primary, &mut self.other);
    }

    /// The end of what the Sentinel says.
    pub(crate) fn log_tail(&self) -> String {
        tail(&self.dir.path().join("sentinel.log"), 20)
    }
}

fn follow(replica: &Server, wire: &FaultProxy) {
    let follow = format!("REPLICAOF 127.0.0.1 {}", wire.port());
    wait_for("the replica to be in sync", patience(60), || {
        let follows = says(replica, "master_port", &wire.port().to_string());
        // A Sentinel may tell it to follow the primary without the wire, and closes our connection then.
        if !follows && let Ok(mut client) = Client::try_connect(replica.port()) {
            client.try_run(&follow).ok();
        }
        follows && says(replica, "master_link_status", "up")
    });
}

/// Whether a server says so of its replication. The Sentinel closes all connections when it changes
/// the role of a server.
pub(crate) fn says(server: &Server, field: &str, value: &str) -> bool {
    let answer = Client::try_connect(server.port()).and_then(|mut client| {
        let text: redis::Value = client.try_run("INFO replication")?;
        redis::from_redis_value::<String>(text).map_err(Into::into)
    });
    answer.is_ok_and(|text| text.lines().any(|line| line == format!("{field}:{value}")))
}

impl Drop for Group {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- the Sentinel:\n{}", self.log_tail());
        }
        // It may hang on a signal of the test.
        signal(&self.sentinel, "CONT");
        drop(self.sentinel.kill());
        drop(self.sentinel.wait());
    }
}
