//! Subscribers that hear what is published at one site.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use redis::Value;

use crate::harness::{Client, Site};

/// A channel and what was said in it.
pub(crate) type Message = (Vec<u8>, Vec<u8>);

/// Hears everything in the channels of the cases until its server ends.
pub(crate) struct Listener {
    heard: Arc<Mutex<Vec<Message>>>,
}

impl Listener {
    /// Subscribes to all channels of both sites' cases, and to these shard channels.
    pub(crate) fn on(site: &Site, shard_channels: &[String]) -> Self {
        let listener = Self {
            heard: Arc::default(),
        };
        listener.subscribe(site.client(), "PSUBSCRIBE", &["a:*".into(), "b:*".into()]);
        if !shard_channels.is_empty() {
            listener.subscribe(site.client(), "SSUBSCRIBE", shard_channels);
        }
        listener
    }

    /// What was heard in channels that begin so, in order.
    pub(crate) fn heard(&self, prefix: &str) -> Vec<Message> {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let own = heard.iter().filter(|m| m.0.starts_with(prefix.as_bytes()));
        own.cloned().collect()
    }

    fn subscribe(&self, mut client: Client, command: &str, channels: &[String]) {
        let mut packed = redis::cmd(command);
        packed.arg(channels);
        let connection = client.connection();
        connection.set_read_timeout(None).expect("no timeout");
        let packed = packed.get_packed_command();
        connection.send_packed_command(&packed).expect("write");
        for _ in channels {
            connection.recv_response().expect("a confirmation");
        }
        let heard = Arc::clone(&self.heard);
        thread::spawn(move || {
            while let Ok(value) = client.connection().recv_response() {
                if let Some(message) = message(value) {
                    let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
                    heard.push(message);
                }
            }
        });
    }
}

/// `[kind, (pattern,) channel, payload]`.
fn message(value: Value) -> Option<Message> {
    let Value::Array(mut parts) = value else {
        return None;
    };
    let payload = parts.pop()?;
    let channel = parts.pop()?;
    match (channel, payload) {
        (Value::BulkString(channel), Value::BulkString(payload)) => Some((channel, payload)),
        _ => None,
    }
}
