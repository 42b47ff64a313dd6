//! A wire of our own between the sites: it counts, delays, and can be cut.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Read at once.
const CHUNK: usize = 64 * 1024;
/// Portions on their way in one direction: room for 100 MB, far more than a socket's buffers.
const ON_THE_WAY: usize = 1600;

/// A proxy before one port of this machine; ends with its connections when dropped.
pub(crate) struct Proxy {
    port: u16,
    shared: Arc<Shared>,
}

struct Shared {
    target: u16,
    delay: Duration,
    cut: AtomicBool,
    ended: AtomicBool,
    bytes: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
    /// When the last connection was let through.
    accepted: Mutex<Option<Instant>>,
}

impl Proxy {
    /// A proxy that delivers everything so much later in each direction.
    pub(crate) fn to(target: u16, delay: Duration) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            target,
            delay,
            cut: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            bytes: AtomicU64::new(0),
            open: Mutex::new(Vec::new()),
            accepted: Mutex::new(None),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { port, shared })
    }

    /// Where to dial.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Bytes so far, both directions together.
    pub(crate) fn bytes(&self) -> u64 {
        self.shared.bytes.load(Ordering::Relaxed)
    }

    /// Closes what is open and whatever dials.
    pub(crate) fn cut(&self) {
        self.shared.cut.store(true, Ordering::SeqCst);
        self.shared.close();
    }

    /// Lets connections through again.
    pub(crate) fn mend(&self) {
        self.shared.cut.store(false, Ordering::SeqCst);
    }

    /// When the last connection was let through.
    pub(crate) fn accepted(&self) -> Option<Instant> {
        let accepted = self.shared.accepted.lock();
        *accepted.unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.shared.close();
        // Wakes the thread that accepts.
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
    }
}

impl Shared {
    fn close(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        for stream in open.drain(..) {
            // Closed already is as good.
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn join(self: &Arc<Self>, near: TcpStream) -> Result<()> {
        let far = TcpStream::connect((Ipv4Addr::LOCALHOST, self.target))?;
        for stream in [&near, &far] {
            stream.set_nodelay(true)?;
        }
        let ends = [near.try_clone()?, far.try_clone()?];
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.extend(ends);
        drop(open);
        let now = Some(Instant::now());
        *self.accepted.lock().unwrap_or_else(PoisonError::into_inner) = now;
        for (from, to) in [(near.try_clone()?, far.try_clone()?), (far, near)] {
            let shared = Arc::clone(self);
            if self.delay.is_zero() {
                thread::spawn(move || pump(from, to, &shared));
                continue;
            }
            let (sender, receiver) = sync_channel(ON_THE_WAY);
            thread::spawn(move || take(from, &sender, &shared));
            thread::spawn(move || deliver(&receiver, to));
        }
        Ok(())
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    for near in listener.incoming().flatten() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        if !shared.cut.load(Ordering::SeqCst) {
            // Who cannot be connected is hung up on, and dials again.
            drop(shared.join(near));
        }
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, shared: &Shared) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count) = from.read(&mut chunk) {
        let part = chunk.get(..count).unwrap_or_default();
        if count == 0 || to.write_all(part).is_err() {
            break;
        }
        shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
    drop(to.shutdown(Shutdown::Both));
}

fn take(mut from: TcpStream, sender: &SyncSender<(Instant, Vec<u8>)>, shared: &Shared) {
    let mut chunk = vec![0; CHUNK];
    while let Ok(count) = from.read(&mut chunk) {
        let part = chunk.get(..count).unwrap_or_default().to_vec();
        if count == 0 || sender.send((Instant::now() + shared.delay, part)).is_err() {
            break;
        }
        shared.bytes.fetch_add(count as u64, Ordering::Relaxed);
    }
}

fn deliver(receiver: &Receiver<(Instant, Vec<u8>)>, mut to: TcpStream) {
    while let Ok((due, part)) = receiver.recv() {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if to.write_all(&part).is_err() {
            break;
        }
    }
    drop(to.shutdown(Shutdown::Both));
}
