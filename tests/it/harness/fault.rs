//! A wire that fails on request: a TCP proxy that can cut, refuse, delay, stall, swallow, throttle
//! and truncate, each direction for itself.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::ports::free_port;

/// How long a pump waits for bytes before it looks at the faults again.
const LOOK: Duration = Duration::from_millis(5);
/// The most that is read at once.
const CHUNK: usize = 64 * 1024;
/// The most that is held back to be delivered later; beyond, nothing more is read.
const HELD: usize = 16 * 1024 * 1024;
/// No limit, for [`Lane::remaining`] and [`Lane::granted`].
const UNLIMITED: i64 = -1;

/// What one direction does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Mode {
    Pass,
    /// Nothing is read: the sender's buffers fill up.
    Stall,
    /// Everything is read and nothing arrives: half-open.
    Swallow,
}

/// One direction of all connections of a proxy.
#[derive(Debug)]
pub(crate) struct Lane {
    mode: AtomicU8,
    delay_ms: AtomicU64,
    /// Bytes a second; 0 is no limit.
    rate: AtomicU64,
    /// After so many more bytes the connection is closed.
    remaining: AtomicI64,
    /// So many more bytes pass until more are granted.
    granted: AtomicI64,
    /// The next byte that passes is another one on arrival.
    flips: AtomicBool,
    /// Held while somebody is told that one of these is another now.
    changing: Mutex<()>,
    changed: Condvar,
}

impl Lane {
    fn new() -> Self {
        Self {
            mode: AtomicU8::new(Mode::Pass as u8),
            delay_ms: AtomicU64::new(0),
            rate: AtomicU64::new(0),
            remaining: AtomicI64::new(UNLIMITED),
            granted: AtomicI64::new(UNLIMITED),
            flips: AtomicBool::new(false),
            changing: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Has the pumps look at the faults again.
    fn wake(&self) {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        self.changed.notify_all();
    }

    /// Waits while this holds, which only a fault or the end of the connection changes.
    fn wait_while(&self, holds: impl Fn() -> bool) {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.changed.wait_while(changing, |()| holds()));
    }

    /// Lets some time pass, which is the fault; less when this does not hold any more.
    fn pass_time(&self, span: Duration, holds: impl Fn() -> bool) {
        let changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        drop(
            self.changed
                .wait_timeout_while(changing, span, |()| holds()),
        );
    }

    /// Stops reading.
    pub(crate) fn stall(&self) {
        self.mode.store(Mode::Stall as u8, Ordering::SeqCst);
    }

    /// Reads everything, forwards nothing.
    pub(crate) fn swallow(&self) {
        self.mode.store(Mode::Swallow as u8, Ordering::SeqCst);
    }

    /// Delivers everything so much later.
    pub(crate) fn delay(&self, delay: Duration) {
        let ms = u64::try_from(delay.as_millis()).expect("a short delay");
        self.delay_ms.store(ms, Ordering::SeqCst);
    }

    /// Forwards at most so many bytes a second.
    pub(crate) fn throttle(&self, bytes_per_second: u64) {
        self.rate.store(bytes_per_second, Ordering::SeqCst);
    }

    /// Closes the connection once, after so many more bytes.
    pub(crate) fn truncate_after(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).expect("a length");
        self.remaining.store(bytes, Ordering::SeqCst);
    }

    /// Lets so many more bytes pass, and then nothing until it is called again: what is behind the
    /// wire goes at the speed of the test, whatever the machine's is.
    pub(crate) fn grant(&self, bytes: u64) {
        let bytes = i64::try_from(bytes).expect("a length");
        let left = self.granted.load(Ordering::SeqCst).max(0);
        self.granted.store(left + bytes, Ordering::SeqCst);
        self.wake();
    }

    /// Whether all that was granted has passed.
    pub(crate) fn is_used_up(&self) -> bool {
        self.granted.load(Ordering::SeqCst) == 0
    }

    /// Changes one byte of the next portion.
    pub(crate) fn flip_a_byte(&self) {
        self.flips.store(true, Ordering::SeqCst);
    }

    /// Behaves again.
    pub(crate) fn pass(&self) {
        self.mode.store(Mode::Pass as u8, Ordering::SeqCst);
        self.delay(Duration::ZERO);
        self.throttle(0);
        self.remaining.store(UNLIMITED, Ordering::SeqCst);
        self.granted.store(UNLIMITED, Ordering::SeqCst);
        self.wake();
    }

    /// Takes note of what has passed.
    fn spend(&self, written: usize) {
        let written = i64::try_from(written).expect("a length");
        for limit in [&self.remaining, &self.granted] {
            let spend = |left: i64| (left >= 0).then(|| (left - written).max(0));
            // Without a limit there is nothing to note.
            limit
                .fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend)
                .ok();
        }
    }

    fn is(&self, mode: Mode) -> bool {
        self.mode.load(Ordering::SeqCst) == mode as u8
    }
}

/// A proxy before one loopback port. Ends with its connections when dropped.
pub(crate) struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target: u16,
    /// From the side that dials to the target.
    up: Lane,
    /// From the target to the side that dials.
    down: Lane,
    refusing: AtomicBool,
    ended: AtomicBool,
    /// Connections of an older generation are closed.
    generation: AtomicU64,
    accepted: AtomicU64,
}

impl FaultProxy {
    /// A proxy, without faults, before this port.
    pub(crate) fn to(target: u16) -> Self {
        let (listener, port) = listen();
        let shared = Arc::new(Shared {
            target,
            up: Lane::new(),
            down: Lane::new(),
            refusing: AtomicBool::new(false),
            ended: AtomicBool::new(false),
            generation: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        });
        let accepting = Arc::clone(&shared);
        thread::spawn(move || accept(&listener, &accepting));
        Self { port, shared }
    }

    /// Where to dial.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// The direction from the side that dials to the target.
    pub(crate) fn up(&self) -> &Lane {
        &self.shared.up
    }

    /// The direction from the target to the side that dials.
    pub(crate) fn down(&self) -> &Lane {
        &self.shared.down
    }

    /// Connections accepted and forwarded so far.
    pub(crate) fn accepted(&self) -> u64 {
        self.shared.accepted.load(Ordering::SeqCst)
    }

    /// Closes all connections; new ones are allowed.
    pub(crate) fn cut_once(&self) {
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        self.shared.up.wake();
        self.shared.down.wake();
    }

    /// Closes all connections, and every new one at once, until mended.
    pub(crate) fn cut(&self) {
        self.shared.refusing.store(true, Ordering::SeqCst);
        self.cut_once();
    }

    /// No faults from now on.
    pub(crate) fn mend(&self) {
        self.shared.up.pass();
        self.shared.down.pass();
        self.shared.refusing.store(false, Ordering::SeqCst);
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::SeqCst);
        self.cut();
        wake_acceptor(self.port);
    }
}

/// A listener on a free port.
pub(crate) fn listen() -> (TcpListener, u16) {
    // Another process may take the port between the look and the use.
    let (listener, port) = loop {
        let port = free_port();
        if let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            break (listener, port);
        }
    };
    (listener, port)
}

/// Has whoever waits for connections at a port see that it should end.
pub(crate) fn wake_acceptor(port: u16) {
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)));
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((dialler, _)) = listener.accept() {
        if shared.ended.load(Ordering::SeqCst) {
            return;
        }
        if shared.refusing.load(Ordering::SeqCst) {
            continue;
        }
        let Ok(target) = TcpStream::connect((Ipv4Addr::LOCALHOST, shared.target)) else {
            continue;
        };
        shared.accepted.fetch_add(1, Ordering::SeqCst);
        join(dialler, target, shared);
    }
}

/// Starts the two pumps of a connection.
fn join(dialler: TcpStream, target: TcpStream, shared: &Arc<Shared>) {
    let generation = shared.generation.load(Ordering::SeqCst);
    for stream in [&dialler, &target] {
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(LOOK)).expect("a timeout");
        let stuck = Some(Duration::from_millis(100));
        stream.set_write_timeout(stuck).expect("a timeout");
    }
    let second = |s: &TcpStream| s.try_clone().expect("a second handle");
    let ends = [
        (second(&dialler), second(&target), true),
        (target, dialler, false),
    ];
    for (from, to, is_up) in ends {
        let shared = Arc::clone(shared);
        thread::spawn(move || {
            let lane = if is_up { &shared.up } else { &shared.down };
            let alive = || shared.generation.load(Ordering::SeqCst) == generation;
            if !pump(&from, &to, lane, &alive) {
                drop(from.shutdown(Shutdown::Both));
                drop(to.shutdown(Shutdown::Both));
            }
        });
    }
}

/// Moves bytes until the end; true when only this direction has ended, in good order.
fn pump(mut from: &TcpStream, to: &TcpStream, lane: &Lane, alive: &dyn Fn() -> bool) -> bool {
    let mut buffer = vec![0; CHUNK];
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut held = 0;
    let mut at_end = false;
    while alive() {
        lane.wait_while(|| lane.is(Mode::Stall) && alive());
        while waiting
            .front()
            .is_some_and(|(due, _)| *due <= Instant::now())
        {
            let (_, bytes) = waiting.pop_front().expect("a first one");
            held -= bytes.len();
            if !deliver(to, &bytes, lane, alive) {
                return false;
            }
        }
        if at_end && waiting.is_empty() {
            drop(to.shutdown(Shutdown::Write));
            return true;
        }
        if at_end || held > HELD {
            let due = waiting.front().map_or_else(Instant::now, |(due, _)| *due);
            lane.pass_time(due.saturating_duration_since(Instant::now()), alive);
            continue;
        }
        match from.read(&mut buffer) {
            Ok(0) => at_end = true,
            Ok(_) if lane.is(Mode::Swallow) => {}
            Ok(count) => {
                if lane.flips.swap(false, Ordering::SeqCst) {
                    buffer[count / 2] ^= 0x10;
                }
                let delay = Duration::from_millis(lane.delay_ms.load(Ordering::SeqCst));
                held += count;
                waiting.push_back((Instant::now() + delay, buffer[..count].to_vec()));
            }
            Err(error) if is_timeout(&error) => {}
            Err(_) => return false,
        }
    }
    false
}

/// Writes what the lane lets through; false when the connection has to be closed.
fn deliver(mut to: &TcpStream, bytes: &[u8], lane: &Lane, alive: &dyn Fn() -> bool) -> bool {
    let mut left = bytes;
    while !left.is_empty() {
        if !alive() {
            return false;
        }
        let rate = lane.rate.load(Ordering::SeqCst);
        let remaining = lane.remaining.load(Ordering::SeqCst);
        let granted = lane.granted.load(Ordering::SeqCst);
        if granted == 0 {
            lane.wait_while(|| lane.is_used_up() && alive());
            continue;
        }
        let mut count = left.len();
        if rate > 0 {
            // Twenty portions a second.
            count = count.min(usize::try_from(rate / 20).expect("a length").max(1));
        }
        if remaining >= 0 {
            count = count.min(usize::try_from(remaining).expect("a length"));
        }
        if granted > 0 {
            count = count.min(usize::try_from(granted).expect("a length"));
        }
        if count == 0 {
            // The fault happens once; the next connection is whole.
            lane.remaining.store(UNLIMITED, Ordering::SeqCst);
            return false;
        }
        let written = match to.write(&left[..count]) {
            Ok(written) => written,
            Err(error) if is_timeout(&error) => continue,
            Err(_) => return false,
        };
        left = &left[written..];
        lane.spend(written);
        if rate > 0 {
            let share = Duration::from_secs_f64(written as f64 / rate as f64);
            lane.pass_time(share, alive);
        }
    }
    true
}

pub(crate) fn is_timeout(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
    )
}
