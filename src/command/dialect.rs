//! What a target knows, and how it is told what it does not know by name.
//!
//! A command that the target lacks is written in words that it has, where that says exactly the
//! same. Where it does not, the state of the keys is sent instead. Versions are those in which a
//! command or option first appeared.

use super::scanner::Command;
use crate::rdb::is_of_module;
use crate::redis::{Info, Version, put_command};

/// How a command was written for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// As so many commands; perhaps none, when it changes nothing.
    Commands(u32),
    /// Not at all: the target needs the state of the keys that it writes.
    State,
    /// Not at all: the target has nothing that could hold it.
    Nothing,
}

/// What a target knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// The version that it is compatible with.
    redis: Version,
    /// Its own version, when it is a Valkey.
    valkey: Option<Version>,
    /// The newest RDB version that it takes; see [`Info::takes_rdb`].
    rdb: u16,
}

impl Dialect {
    /// What the server of this INFO knows.
    #[must_use]
    pub fn of(info: &Info) -> Self {
        Self {
            redis: info.version,
            valkey: info.valkey(),
            rdb: info.rdb_version(),
        }
    }

    /// Since this version of Redis, and of Valkey; 0: never.
    fn since(&self, redis: (u32, u32), valkey: (u32, u32)) -> bool {
        let reached = |own: Version, (major, minor)| major > 0 && own.at_least(major, minor);
        match self.valkey {
            // What Redis had in 7.2, every Valkey has.
            Some(_) if redis <= (7, 2) && redis.0 > 0 => true,
            Some(own) => reached(own, valkey),
            None => reached(self.redis, redis),
        }
    }

    fn has_6_2(&self) -> bool {
        self.since((6, 2), (7, 2))
    }

    fn has_7_0(&self) -> bool {
        self.since((7, 0), (7, 2))
    }

    fn has_field_ttl(&self) -> bool {
        self.since((7, 4), (9, 0))
    }

    /// Writes a command, in canonical form, so that the target understands it.
    pub fn put(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Put {
        self.rewritten(command, out).unwrap_or_else(|| {
            out.extend_from_slice(command.raw());
            Put::Commands(1)
        })
    }

    /// None: it stays as it is. The first letter keeps common commands out of the comparisons.
    fn rewritten(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        match command.name().first().map(u8::to_ascii_uppercase)? {
            b'S' => self.set(command, out),
            b'L' => self.list(command, out),
            b'R' => self.restore_or_pop(command, out),
            b'H' => self.hash(command, out),
            b'X' => self.stream(command, out),
            b'Z' if !self.has_6_2() => {
                let conditional = command.is(b"ZADD") && has(command, 2, &[b"GT", b"LT"]);
                let stores = command.is(b"ZRANGESTORE") || command.is(b"ZDIFFSTORE");
                (conditional || stores).then_some(Put::State)
            }
            // All that store: before 6.2, GEORADIUS of a key that is not there leaves the
            // destination as it was, and has no ANY. Measured on 5.0 and 6.0.
            b'G' if !self.has_6_2() => {
                let store = [&b"GEOSEARCHSTORE"[..], b"GEORADIUS", b"GEORADIUSBYMEMBER"];
                matches_any(command, &store).then_some(Put::State)
            }
            b'C' if command.is(b"COPY") && !self.has_6_2() => Some(Put::State),
            b'F' => self.function_or_flush(command, out),
            b'B' if command.is(b"BITOP") => {
                let is_new = has_at(command, 1, &[b"DIFF", b"DIFF1", b"ANDOR", b"ONE"]);
                (is_new && !self.since((8, 2), (0, 0))).then_some(Put::State)
            }
            b'V' if matches_any(command, &[b"VADD", b"VREM", b"VSETATTR"]) => {
                (!self.since((8, 0), (0, 0))).then_some(Put::State)
            }
            b'A' if command
                .arg(0)
                .get(..2)
                .is_some_and(|n| n.eq_ignore_ascii_case(b"AR")) =>
            {
                (!self.since((8, 8), (0, 0))).then_some(Put::State)
            }
            _ => None,
        }
    }

    fn set(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        if command.is(b"SPUBLISH") {
            return (!self.has_7_0()).then_some(Put::Nothing);
        }
        if command.len() < 4 || !command.is(b"SET") || self.has_6_2() {
            return None;
        }
        if has_at(command, 3, &[b"KEEPTTL"]) {
            return (!self.since((6, 0), (7, 2))).then_some(Put::State);
        }
        if has_at(command, 3, &[b"PXAT"]) {
            put_command(out, &[b"SET", command.arg(1), command.arg(2)]);
            put_command(out, &[b"PEXPIREAT", command.arg(1), command.arg(4)]);
            return Some(Put::Commands(2));
        }
        None
    }

    fn function_or_flush(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        if command.is(b"FUNCTION") {
            return (!self.has_7_0()).then_some(Put::Nothing);
        }
        if self.has_6_2() || !has_at(command, 1, &[b"SYNC"]) {
            return None;
        }
        put_command(out, &[command.arg(0)]);
        Some(Put::Commands(1))
    }

    fn list(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        if self.has_6_2() {
            return None;
        }
        if command.is(b"LPOP") && command.len() > 2 {
            return pop(command, out);
        }
        if command.is(b"LMOVE") {
            let (from, to) = (command.arg(3), command.arg(4));
            if !from.eq_ignore_ascii_case(b"RIGHT") || !to.eq_ignore_ascii_case(b"LEFT") {
                return Some(Put::State);
            }
            put_command(out, &[b"RPOPLPUSH", command.arg(1), command.arg(2)]);
            return Some(Put::Commands(1));
        }
        None
    }

    fn restore_or_pop(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        if command.is(b"RPOP") && command.len() > 2 && !self.has_6_2() {
            return pop(command, out);
        }
        if command.is(b"RESTORE") {
            let payload = command.arg(3);
            // Redis 5.0 and 6.0 exit when they get a module's value that they do not know.
            if is_of_module(payload) && !self.has_6_2() {
                return Some(Put::State);
            }
            let version = dump_version(payload)?;
            return (!Info::takes_rdb(self.rdb, version)).then_some(Put::State);
        }
        None
    }

    fn hash(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        if matches_any(command, &[b"HPEXPIREAT", b"HPERSIST"]) {
            // The field goes when the origin says that it has expired.
            return (!self.has_field_ttl()).then_some(Put::Nothing);
        }
        if !command.is(b"HSETEX") || self.since((8, 0), (9, 0)) {
            return None;
        }
        let fields =
            (2..command.len()).find(|&at| command.arg(at).eq_ignore_ascii_case(b"FIELDS"))?;
        let key = command.arg(1);
        if self.has_field_ttl() && has_at(command, 2, &[b"KEEPTTL"]) {
            return Some(Put::State);
        }
        let mut args = vec![&b"HSET"[..], key];
        args.extend(command.args(fields + 2));
        put_command(out, &args);
        if !self.has_field_ttl() || !has_at(command, 2, &[b"PXAT"]) {
            return Some(Put::Commands(1));
        }
        let count = command.arg(fields + 1);
        let mut args = vec![&b"HPEXPIREAT"[..], key, command.arg(3), b"FIELDS", count];
        args.extend(command.args(fields + 2).step_by(2));
        put_command(out, &args);
        Some(Put::Commands(2))
    }

    fn stream(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        if command.is(b"XADD") || command.is(b"XTRIM") {
            return self.stream_write(command, out);
        }
        if command.is(b"XGROUP") && !self.has_7_0() {
            if has_at(command, 1, &[b"CREATECONSUMER"]) {
                return (!self.has_6_2()).then_some(Put::Nothing);
            }
            return without_option(command, 5, b"ENTRIESREAD", 2, out);
        }
        if command.is(b"XSETID") && !self.has_7_0() && command.len() > 3 {
            put_command(out, &[b"XSETID", command.arg(1), command.arg(2)]);
            return Some(Put::Commands(1));
        }
        if matches_any(command, &[b"XDELEX", b"XACKDEL"]) {
            return (!self.since((8, 2), (0, 0))).then_some(Put::State);
        }
        if matches_any(command, &[b"XCFGSET", b"XIDMPRECORD"]) {
            return (!self.since((8, 6), (0, 0))).then_some(Put::Nothing);
        }
        if command.is(b"XNACK") {
            return (!self.since((8, 8), (0, 0))).then_some(Put::State);
        }
        None
    }

    /// `XADD` and `XTRIM`: the options stand before the id or at the end.
    fn stream_write(&self, command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
        let end = options_end(command);
        let word = |name: &[u8]| (2..end).any(|at| command.arg(at).eq_ignore_ascii_case(name));
        if !self.since((8, 2), (0, 0)) && (word(b"DELREF") || word(b"ACKED")) {
            return Some(Put::State);
        }
        if !self.has_6_2() && word(b"MINID") {
            return Some(Put::State);
        }
        let drops = |name: &[u8]| {
            (name.eq_ignore_ascii_case(b"KEEPREF") && !self.since((8, 2), (0, 0)))
                || (name.eq_ignore_ascii_case(b"NOMKSTREAM") && !self.has_6_2())
        };
        if !(2..end).any(|at| drops(command.arg(at))) {
            return None;
        }
        let kept =
            (0..command.len()).filter(|at| !(2..end).contains(at) || !drops(command.arg(*at)));
        let args: Vec<&[u8]> = kept.map(|at| command.arg(at)).collect();
        put_command(out, &args);
        Some(Put::Commands(1))
    }
}

/// Where the options of `XADD` and `XTRIM` end.
fn options_end(command: &Command<'_>) -> usize {
    if command.is(b"XTRIM") {
        return command.len();
    }
    let mut at = 2;
    while at < command.len() {
        let word = command.arg(at);
        let is = |names: &[&[u8]]| names.iter().any(|n| word.eq_ignore_ascii_case(n));
        at += match () {
            () if is(&[b"NOMKSTREAM", b"KEEPREF", b"DELREF", b"ACKED"]) => 1,
            () if is(&[b"MAXLEN", b"MINID"]) => {
                2 + usize::from(matches!(command.arg(at + 1), b"=" | b"~"))
            }
            () if is(&[b"LIMIT"]) => 2,
            () => break,
        };
    }
    at
}

/// `LPOP k n` → `LTRIM k n -1`, `RPOP k n` → `LTRIM k 0 -(n+1)`: exactly the same, also where the
/// list has fewer.
fn pop(command: &Command<'_>, out: &mut Vec<u8>) -> Option<Put> {
    let count: u64 = std::str::from_utf8(command.arg(2)).ok()?.parse().ok()?;
    if count == 0 {
        return Some(Put::Commands(0));
    }
    let (start, stop) = if command.is(b"LPOP") {
        (count.to_string(), "-1".to_owned())
    } else {
        ("0".to_owned(), format!("-{}", count.checked_add(1)?))
    };
    put_command(
        out,
        &[b"LTRIM", command.arg(1), start.as_bytes(), stop.as_bytes()],
    );
    Some(Put::Commands(1))
}

/// The command without an option and its value; none when it has not got it.
fn without_option(
    command: &Command<'_>,
    from: usize,
    name: &[u8],
    length: usize,
    out: &mut Vec<u8>,
) -> Option<Put> {
    let at = (from..command.len()).find(|&at| command.arg(at).eq_ignore_ascii_case(name))?;
    let kept = (0..command.len()).filter(|i| !(at..at + length).contains(i));
    let args: Vec<&[u8]> = kept.map(|i| command.arg(i)).collect();
    put_command(out, &args);
    Some(Put::Commands(1))
}

/// The RDB version in the footer of a DUMP payload.
fn dump_version(payload: &[u8]) -> Option<u16> {
    let footer = payload.len().checked_sub(10)?;
    let version = payload.get(footer..footer + 2)?;
    Some(u16::from_le_bytes(version.try_into().ok()?))
}

fn matches_any(command: &Command<'_>, names: &[&[u8]]) -> bool {
    names.iter().any(|name| command.is(name))
}

/// Whether one of the words stands anywhere from a place on.
fn has(command: &Command<'_>, from: usize, words: &[&[u8]]) -> bool {
    (from..command.len()).any(|at| has_at(command, at, words))
}

/// Whether one of the words stands at a place.
fn has_at(command: &Command<'_>, at: usize, words: &[&[u8]]) -> bool {
    words
        .iter()
        .any(|word| command.arg(at).eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scanner::for_each;

    fn dialect(info: &str) -> Dialect {
        Dialect::of(&Info::parse(info))
    }

    fn told(dialect: &Dialect, line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut out, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        put_command(&mut raw, &args);
        let mut put = Put::Nothing;
        for_each(&raw, |command| put = dialect.put(&command, &mut out)).unwrap();
        for_each(&out, |command| {
            let words: Vec<_> = command.args(0).map(String::from_utf8_lossy).collect();
            lines.push(words.join(" "));
        })
        .unwrap();
        match put {
            Put::State => "state".to_owned(),
            Put::Nothing => "nothing".to_owned(),
            Put::Commands(count) => {
                assert_eq!(lines.len(), count as usize, "{line}");
                lines.join("; ")
            }
        }
    }

    #[test]
    fn an_old_server_is_told_in_its_own_words() {
        let old = dialect("redis_version:5.0.6\r\n");
        for (line, expected) in [
            ("SET k v PXAT 99", "SET k v; PEXPIREAT k 99"),
            ("SET k v", "SET k v"),
            ("SET k v KEEPTTL", "state"),
            ("LPOP l 3", "LTRIM l 3 -1"),
            ("RPOP l 3", "LTRIM l 0 -4"),
            ("RPOP l", "RPOP l"),
            ("LPOP l 0", ""),
            ("LMOVE a b RIGHT LEFT", "RPOPLPUSH a b"),
            ("lmove a b left left", "state"),
            ("COPY a b", "state"),
            ("ZADD z GT 3 m", "state"),
            ("ZADD z NX 3 m", "ZADD z NX 3 m"),
            ("GEOSEARCHSTORE d a FROMMEMBER m BYRADIUS 1 m", "state"),
            ("GEORADIUS a 1 2 3 km STORE d", "state"),
            ("HSETEX h KEEPTTL FIELDS 1 f v", "HSET h f v"),
            ("HSETEX h PXAT 9 FIELDS 2 f v g w", "HSET h f v g w"),
            ("HPEXPIREAT h 9 FIELDS 1 f", "nothing"),
            (
                "XADD x NOMKSTREAM MAXLEN = 5 1-1 NOMKSTREAM v",
                "XADD x MAXLEN = 5 1-1 NOMKSTREAM v",
            ),
            ("XADD x MINID = 5 1-1 f v", "state"),
            ("XADD x 1-1 MINID v", "XADD x 1-1 MINID v"),
            ("XGROUP CREATE x g 0 ENTRIESREAD 5", "XGROUP CREATE x g 0"),
            (
                "XGROUP CREATE x g 0 MKSTREAM",
                "XGROUP CREATE x g 0 MKSTREAM",
            ),
            ("XGROUP CREATECONSUMER x g c", "nothing"),
            (
                "XSETID x 5-1 ENTRIESADDED 3 MAXDELETEDID 1-1",
                "XSETID x 5-1",
            ),
            ("SPUBLISH c m", "nothing"),
            ("FUNCTION LOAD REPLACE #!lua", "nothing"),
            ("FLUSHALL SYNC", "FLUSHALL"),
            ("FLUSHDB ASYNC", "FLUSHDB ASYNC"),
            ("BITOP AND d a DIFF", "BITOP AND d a DIFF"),
            ("BITOP DIFF d a b", "state"),
            ("VADD v x", "state"),
        ] {
            assert_eq!(told(&old, line), expected, "{line}");
        }
    }

    #[test]
    fn each_server_has_what_its_version_has() {
        let valkey8 = dialect("redis_version:7.2.4\r\nvalkey_version:8.1.1\r\n");
        let valkey9 = dialect("redis_version:7.2.4\r\nvalkey_version:9.1.2\r\n");
        let redis8 = dialect("redis_version:8.6.3\r\n");
        let redis7 = dialect("redis_version:7.4.0\r\n");
        for (line, on) in [
            ("LPOP l 3", [true, true, true, true]),
            ("SET k v PXAT 9", [true, true, true, true]),
            ("HPEXPIREAT h 9 FIELDS 1 f", [false, true, true, true]),
            ("HSETEX h PXAT 9 FIELDS 1 f v", [false, true, true, false]),
            ("XDELEX x KEEPREF IDS 1 1-1", [false, false, true, false]),
            ("VADD v x", [false, false, true, false]),
            ("FUNCTION DELETE x", [true, true, true, true]),
        ] {
            for (dialect, same) in [valkey8, valkey9, redis8, redis7].iter().zip(on) {
                assert_eq!(told(dialect, line) == line, same, "{line} {dialect:?}");
            }
        }
        let keep = "HSETEX h KEEPTTL FIELDS 1 f v";
        assert_eq!(told(&redis7, keep), "state");
        let both = "HSET h f v; HPEXPIREAT h 9 FIELDS 1 f";
        assert_eq!(told(&redis7, "HSETEX h PXAT 9 FIELDS 1 f v"), both);
    }
}
