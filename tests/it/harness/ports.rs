//! Free loopback ports, below the ephemeral range, without races between threads or processes.
//!
//! A process takes ports in blocks; it owns a block while it listens on the block's first port.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// The first port of the first block.
const FIRST: u16 = 10_000;
/// Ports in a block; the first one is the lock.
const BLOCK: u16 = 50;
/// How many blocks there are: all end below 32768, where ephemeral ports begin.
const BLOCKS: u16 = 440;

const _: () = assert!(FIRST as u32 + BLOCK as u32 * BLOCKS as u32 <= 32_768);

/// The block that is being used up. Listeners of used blocks are kept: their ports are in use.
struct Blocks {
    locks: Vec<TcpListener>,
    next: u16,
    end: u16,
}

static OWNED: Mutex<Blocks> = Mutex::new(Blocks {
    locks: Vec::new(),
    next: 0,
    end: 0,
});

/// A port on which nothing listens and which no other test will be given.
pub(crate) fn free_port() -> u16 {
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        if owned.next == owned.end {
            owned.take_block();
        }
        let port = owned.next;
        owned.next += 1;
        if listen(port).is_some() {
            return port;
        }
    }
}

impl Blocks {
    fn take_block(&mut self) {
        let start = u16::try_from(std::process::id() % u32::from(BLOCKS)).expect("below BLOCKS");
        for step in 0..BLOCKS {
            let first = FIRST + (start + step) % BLOCKS * BLOCK;
            if let Some(lock) = listen(first) {
                self.locks.push(lock);
                self.next = first + 1;
                self.end = first + BLOCK;
                return;
            }
        }
        panic!("all {BLOCKS} blocks of test ports are taken");
    }
}

fn listen(port: u16) -> Option<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()
}
