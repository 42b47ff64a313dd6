//! Keys that this server has evicted, and that the peers still have. Who writes such a key again in part,
//! here or there, does it to nothing here and to something there: its whole value is asked for.

use bytes::Bytes;

use super::Judge;
use super::asking::When;
use crate::command::{Act, Command, Touch, for_each_in, key_hash};
use crate::model::{Cursor, Key, Need, Seen, SiteId, is_reserved};

/// Commands that leave nothing of the value that was there.
const REPLACING: [&[u8]; 6] = [b"SET", b"SETEX", b"PSETEX", b"GETSET", b"MSET", b"RESTORE"];

impl Judge {
    /// The server has evicted a key, which the peers keep.
    pub fn on_evicted(&mut self, (db, name): &Key) {
        self.evicted.add(key_hash(*db, name));
    }

    /// We have written: before [`on_own`](Self::on_own). Every peer is asked for what it has of keys that were
    /// evicted here.
    pub fn on_own_commands(&mut self, commands: &[u8], (db, at): (u32, Cursor), touches: &[Touch]) {
        if !touches.iter().any(|touch| self.evicted.has(&touch.key)) {
            return;
        }
        let wrong = self.met(commands, db);
        if wrong.is_empty() {
            return;
        }
        let sites: Vec<SiteId> = self.origins.keys().cloned().collect();
        for site in sites {
            self.fetch(&site, wrong.clone(), at);
        }
    }

    /// A record of a peer has come back: that peer is asked.
    pub(super) fn on_their_commands(
        &mut self,
        site: &SiteId,
        commands: &[u8],
        (db, at): (u32, Cursor),
    ) {
        let wrong = self.met(commands, db);
        if !wrong.is_empty() {
            self.fetch(site, wrong, at);
        }
    }

    fn fetch(&mut self, site: &SiteId, keys: Vec<Key>, at: Cursor) {
        let known = self.wishes.len();
        self.wish(site, keys, (&Seen::default(), None), When::Now, at);
        let new = self.wishes.iter_mut().skip(known);
        new.for_each(|(_, _, wish)| wish.need = Need::Lacks);
    }

    /// The keys that these commands have written, and of which the whole is not here.
    fn met(&mut self, commands: &[u8], db: u32) -> Vec<Key> {
        let mut wrong = Vec::new();
        if self.evicted.is_empty() {
            return wrong;
        }
        let (catalog, evicted) = (&self.catalog, &mut self.evicted);
        let scanned = for_each_in(commands, db, |command, db| {
            let derives = catalog.derives(command);
            let (mut made, mut is_derived) = (Vec::new(), false);
            catalog.for_each_key(command, db, |db, name, act| {
                let hash = key_hash(db, name);
                let key = || (db, Bytes::copy_from_slice(name));
                if derives && act != Act::Read && !is_reserved(name) {
                    made.push(key());
                }
                if !evicted.has(&hash) {
                    return;
                }
                is_derived |= derives && matches!(act, Act::Read | Act::Move);
                match act {
                    // To nothing it does nothing.
                    Act::Read | Act::Expiry | Act::Remove => {}
                    Act::Delete => evicted.remove(&hash),
                    Act::Write if replaces(command) => evicted.remove(&hash),
                    _ => {
                        evicted.remove(&hash);
                        wrong.push(key());
                    }
                }
            });
            if is_derived {
                wrong.append(&mut made);
            }
        });
        debug_assert!(scanned.is_ok(), "it has been read before");
        wrong.sort();
        wrong.dedup();
        wrong
    }
}

/// Whether the keys that a command writes hold nothing else afterwards, and are there, whatever was there.
fn replaces(command: &Command<'_>) -> bool {
    const CONDITIONS: [&[u8]; 4] = [b"NX", b"XX", b"KEEPTTL", b"IFEQ"];
    let has = |word: &&[u8]| command.args(3).any(|arg| arg.eq_ignore_ascii_case(word));
    let is_set = command.is(b"SET");
    REPLACING.iter().any(|name| command.is(name)) && !(is_set && CONDITIONS.iter().any(has))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Site, key};

    /// What is wished for when site a, which has evicted these keys, writes these lines.
    fn wished_after_own(lines: &[&str]) -> String {
        let mut a = Site::new();
        for name in ["k", "h"] {
            a.judge.on_evicted(&key(name));
        }
        for line in lines {
            a.writes(10, 1, line);
        }
        a.wishes()
    }

    #[tokio::test]
    async fn what_is_written_in_part_is_asked_for() {
        for (lines, wishes) in [
            (&["INCR k"][..], "k"),
            (&["HSET h f 1", "HSET h g 1"], "h"),
            (&["SET k 1 KEEPTTL"], "k"),
            (&["SETNX k 1"], "k"),
            (&["RPUSH other 1"], ""),
            // Nothing is left of what was there.
            (&["SET k 1", "INCR k"], ""),
            (&["MSET k 1 h 2", "APPEND h 3"], ""),
            (&["DEL k", "INCR k"], ""),
            // Made of nothing here, and of something there.
            (&["SUNIONSTORE to k other"], "to"),
            (&["SUNIONSTORE k other to"], "k"),
        ] {
            assert_eq!(wished_after_own(lines), wishes, "{lines:?}");
        }
    }

    #[tokio::test]
    async fn what_the_peer_writes_in_part_is_asked_for() {
        for (line, wishes) in [
            ("INCR k", "k"),
            ("RENAME k to", "k to"),
            ("COPY k to", "to"),
            ("SET k 1 PXAT 5", ""),
            ("UNLINK k", ""),
            ("PEXPIREAT k 99", ""),
            ("HDEL k f", ""),
            ("INCR other", ""),
        ] {
            let mut a = Site::new();
            a.judge.on_evicted(&key("k"));
            a.applies((20, 1, 5), line).await;
            assert_eq!(a.wishes(), "", "not before it has come back");
            a.reads(20, 1, &[]);
            assert_eq!(a.wishes(), wishes, "{line}");
        }
    }
}
