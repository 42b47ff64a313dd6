//! Canonical form: what a record says must not depend on when it is read, nor on conditions.
//!
//! Redis before 7.0 streams relative expiries (`EXPIRE`, `SETEX`, `SET … EX`, `RESTORE` without
//! ABSTTL); they are made absolute when they are read. A command that stands in the stream took
//! place, so its conditions held (NX, XX, IFEQ, GT…), and they are left out where they are about
//! the whole command: at the peer they could fail for one key and so keep all others from being
//! written. Everything else travels as it came.

use super::scanner::Command;
use super::table::Form;
use crate::rdb::decode::libraries;
use crate::redis::put_command;

/// Writes the command to `out` in canonical form; how many commands that are. None at all for an
/// `XADD` that the server recognised as a duplicate (8.8 streams it). `now_ms` is the wall clock in
/// milliseconds.
pub fn canonical(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> u32 {
    let form = command.row().map_or(Form::Plain, |row| row.form);
    rewrite(form, command, now_ms, out).unwrap_or_else(|| {
        out.extend_from_slice(command.raw());
        1
    })
}

/// The moment, in milliseconds since 1970, at which its first key expires after a command in canonical form; none
/// if it says nothing of that. One before 1970 is 1970.
#[must_use]
pub fn moment(command: &Command<'_>) -> Option<u64> {
    let at = match command.row()?.form {
        Form::Set => option_time(command, 3..command.len(), 0)?,
        Form::ExpireAt(unit) => absolute(command.arg(2), unit, 0)?,
        Form::Restore if command.arg(2) != b"0" => absolute(command.arg(2), 1, 0)?,
        _ => return None,
    };
    let at: i64 = std::str::from_utf8(&at).ok()?.parse().ok()?;
    Some(u64::try_from(at).unwrap_or(0))
}

/// How many commands it became; none when it stays as it is.
fn rewrite(form: Form, command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<u32> {
    match form {
        Form::Plain => None,
        Form::Set => set(command, now_ms, out),
        Form::SetEx(unit) => {
            let at = absolute(command.arg(2), unit, now_ms)?;
            one(out, &[b"SET", command.arg(1), command.arg(3), b"PXAT", &at])
        }
        Form::Named(name) => named(name, command, out),
        Form::SetEach => set_each(command, now_ms, out),
        Form::Expire(unit) => {
            let at = absolute(command.arg(2), unit, now_ms)?;
            one(out, &[b"PEXPIREAT", command.arg(1), &at])
        }
        Form::ExpireAt(unit) => {
            let at = absolute(command.arg(2), unit, 0)?;
            one(out, &[b"PEXPIREAT", command.arg(1), &at])
        }
        Form::Restore => restore(command, now_ms, out),
        Form::Delete => one(out, &[b"DEL", command.arg(1)]),
        Form::ZAdd => zadd(command, out),
        Form::HashTake => {
            let mut args = vec![&b"HDEL"[..], command.arg(1)];
            args.extend(command.args(4));
            one(out, &args)
        }
        Form::HashSet => hash_set(command, now_ms, out),
        Form::HashExpire(unit) => {
            hash_expire(command, absolute(command.arg(2), unit, now_ms)?, out)
        }
        Form::HashExpireAt(unit) => hash_expire(command, absolute(command.arg(2), unit, 0)?, out),
        Form::XAdd => xadd(command, out),
        Form::XTrim => without_limit(command, 2..command.len(), out),
        Form::Function => function(command, out),
    }
}

fn one(out: &mut Vec<u8>, args: &[&[u8]]) -> Option<u32> {
    put_command(out, args);
    Some(1)
}

fn named(name: &str, command: &Command<'_>, out: &mut Vec<u8>) -> Option<u32> {
    let mut args = vec![name.as_bytes()];
    args.extend(command.args(1));
    one(out, &args)
}

/// The absolute time, in milliseconds, of an expiry that is `span` units from now.
fn absolute(span: &[u8], unit_ms: u16, now_ms: u64) -> Option<Vec<u8>> {
    let span: i64 = std::str::from_utf8(span).ok()?.parse().ok()?;
    let now = i64::try_from(now_ms).ok()?;
    let at = span.checked_mul(i64::from(unit_ms))?.checked_add(now)?;
    Some(at.to_string().into_bytes())
}

/// What follows one of these words among the options from `from` to `to`, as an absolute time.
fn option_time(
    command: &Command<'_>,
    options: std::ops::Range<usize>,
    now_ms: u64,
) -> Option<Vec<u8>> {
    const UNITS: [(&[u8], u16, bool); 4] = [
        (b"EX", 1000, true),
        (b"PX", 1, true),
        (b"EXAT", 1000, false),
        (b"PXAT", 1, false),
    ];
    for at in options {
        let word = command.arg(at);
        let found = UNITS.iter().find(|u| word.eq_ignore_ascii_case(u.0));
        if let Some((_, unit, relative)) = found {
            let now = if *relative { now_ms } else { 0 };
            return absolute(command.arg(at + 1), *unit, now);
        }
    }
    None
}

fn has_word(command: &Command<'_>, options: std::ops::Range<usize>, word: &[u8]) -> bool {
    options
        .into_iter()
        .any(|at| command.arg(at).eq_ignore_ascii_case(word))
}

/// `SET k v …` → `SET k v [PXAT ms | KEEPTTL]`.
fn set(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<u32> {
    let options = 3..command.len();
    if options.is_empty() {
        return None;
    }
    let mut args = vec![&b"SET"[..], command.arg(1), command.arg(2)];
    let at = option_time(command, options.clone(), now_ms);
    if let Some(at) = &at {
        args.extend([&b"PXAT"[..], at]);
    } else if has_word(command, options, b"KEEPTTL") {
        args.push(b"KEEPTTL");
    }
    one(out, &args)
}

/// `MSETEX n k v … [PXAT ms | KEEPTTL …]` → SET of each.
fn set_each(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<u32> {
    let count: usize = std::str::from_utf8(command.arg(1)).ok()?.parse().ok()?;
    let end = count.checked_mul(2)?.checked_add(2)?;
    if end > command.len() {
        return None;
    }
    let at = option_time(command, end..command.len(), now_ms);
    let keeps = has_word(command, end..command.len(), b"KEEPTTL");
    for pair in (2..end).step_by(2) {
        let mut args = vec![&b"SET"[..], command.arg(pair), command.arg(pair + 1)];
        match &at {
            Some(at) => args.extend([&b"PXAT"[..], at]),
            None if keeps => args.push(b"KEEPTTL"),
            None => {}
        }
        put_command(out, &args);
    }
    u32::try_from(count).ok()
}

/// `RESTORE k ttl payload …` → `RESTORE k ms payload … ABSTTL`.
fn restore(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<u32> {
    let is_absolute = has_word(command, 4..command.len(), b"ABSTTL") || command.arg(2) == b"0";
    let at = absolute(command.arg(2), 1, if is_absolute { 0 } else { now_ms })?;
    let mut args: Vec<&[u8]> = vec![b"RESTORE", command.arg(1), &at, command.arg(3)];
    args.extend(command.args(4));
    if !is_absolute {
        args.push(b"ABSTTL");
    }
    one(out, &args)
}

/// `ZADD k … INCR s m` → `ZINCRBY k s m`; other forms stay, for their conditions are about single
/// members.
fn zadd(command: &Command<'_>, out: &mut Vec<u8>) -> Option<u32> {
    const OPTIONS: [&[u8]; 6] = [b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"];
    let is_option = |at: &usize| {
        OPTIONS
            .iter()
            .any(|word| command.arg(*at).eq_ignore_ascii_case(word))
    };
    let end = (2..command.len()).find(|at| !is_option(at))?;
    if !has_word(command, 2..end, b"INCR") {
        return None;
    }
    let (score, member) = (command.arg(end), command.arg(end + 1));
    one(out, &[b"ZINCRBY", command.arg(1), score, member])
}

/// `HSETEX k … FIELDS n f v …` → `HSETEX k [PXAT ms | KEEPTTL] FIELDS n f v …`.
fn hash_set(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<u32> {
    let fields = (2..command.len()).find(|&at| command.arg(at).eq_ignore_ascii_case(b"FIELDS"))?;
    let mut args = vec![&b"HSETEX"[..], command.arg(1)];
    let at = option_time(command, 2..fields, now_ms);
    if let Some(at) = &at {
        args.extend([&b"PXAT"[..], at]);
    } else if has_word(command, 2..fields, b"KEEPTTL") {
        args.push(b"KEEPTTL");
    }
    args.extend(command.args(fields));
    one(out, &args)
}

/// `HEXPIRE k s … FIELDS …` → `HPEXPIREAT k ms … FIELDS …`.
fn hash_expire(command: &Command<'_>, at: Vec<u8>, out: &mut Vec<u8>) -> Option<u32> {
    let mut args: Vec<&[u8]> = vec![b"HPEXPIREAT", command.arg(1), &at];
    args.extend(command.args(3));
    one(out, &args)
}

/// `XADD k … IDMPAUTO p id …` → `XADD k … id …`; nothing for a duplicate, which has `*` where the
/// others have their id.
fn xadd(command: &Command<'_>, out: &mut Vec<u8>) -> Option<u32> {
    let mut at = 2;
    let mut without = 0..0;
    loop {
        let word = command.arg(at);
        let is = |name: &[u8]| word.eq_ignore_ascii_case(name);
        at += match () {
            () if is(b"NOMKSTREAM") || is(b"KEEPREF") || is(b"DELREF") || is(b"ACKED") => 1,
            () if is(b"IDMPAUTO") || is(b"IDMP") => {
                let length = if is(b"IDMP") { 3 } else { 2 };
                without = at..at + length;
                length
            }
            () if is(b"MAXLEN") || is(b"MINID") => {
                let sign = matches!(command.arg(at + 1), b"=" | b"~");
                2 + usize::from(sign)
            }
            () if is(b"LIMIT") => 2,
            () => break,
        };
        if at >= command.len() {
            return None;
        }
    }
    if without.is_empty() {
        return without_limit(command, 2..at, out);
    }
    if command.arg(at) == b"*" {
        return Some(0);
    }
    one(out, &left(command, &without))
}

/// Without LIMIT, which belongs to `~`: the server streams `MAXLEN ~ n LIMIT c` as `MAXLEN = m LIMIT
/// c`, with the length that it came to, and takes that from a client for an error (6.2 to 9.1).
fn without_limit(
    command: &Command<'_>,
    options: std::ops::Range<usize>,
    out: &mut Vec<u8>,
) -> Option<u32> {
    let find = |word: &[u8]| {
        options
            .clone()
            .find(|at| command.arg(*at).eq_ignore_ascii_case(word))
    };
    find(b"=")?;
    let limit = find(b"LIMIT")?;
    one(out, &left(command, &(limit..limit + 2)))
}

/// The arguments without some.
fn left<'a>(command: &Command<'a>, without: &std::ops::Range<usize>) -> Vec<&'a [u8]> {
    let kept = (0..command.len()).filter(|at| !without.contains(at));
    kept.map(|at| command.arg(at)).collect()
}

/// `FUNCTION LOAD` and `FUNCTION RESTORE` → `FUNCTION LOAD REPLACE`: what is there already is
/// replaced, and a source, unlike a payload, is of no version.
fn function(command: &Command<'_>, out: &mut Vec<u8>) -> Option<u32> {
    let subcommand = command.arg(1);
    let last = command.arg(command.len().saturating_sub(1));
    if subcommand.eq_ignore_ascii_case(b"LOAD") {
        return one(out, &[b"FUNCTION", b"LOAD", b"REPLACE", last]);
    }
    if !subcommand.eq_ignore_ascii_case(b"RESTORE") {
        return None;
    }
    let libraries = libraries(command.arg(2)).ok()?;
    let mut count = 0;
    if command.arg(3).eq_ignore_ascii_case(b"FLUSH") {
        put_command(out, &[b"FUNCTION", b"FLUSH"]);
        count = 1;
    }
    for source in &libraries {
        put_command(out, &[b"FUNCTION", b"LOAD", b"REPLACE", source]);
        count += 1;
    }
    Some(count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scanner::for_each;

    fn form(line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut out, mut lines) = (Vec::new(), Vec::new(), Vec::new());
        put_command(&mut raw, &args);
        let mut count = 0;
        for_each(&raw, |command| {
            count = canonical(&command, 1_000_000, &mut out);
        })
        .unwrap();
        for_each(&out, |command| {
            let words: Vec<_> = command.args(0).map(String::from_utf8_lossy).collect();
            lines.push(words.join(" "));
        })
        .unwrap();
        assert_eq!(lines.len(), count as usize, "{line}");
        lines.join("; ")
    }

    #[test]
    fn times_become_absolute() {
        for (line, expected) in [
            ("SETEX k 10 v", "SET k v PXAT 1010000"),
            ("psetex k 10 v", "SET k v PXAT 1000010"),
            ("set k v ex 10 nx", "SET k v PXAT 1010000"),
            ("SET k v NX PX 10", "SET k v PXAT 1000010"),
            ("SET k v EXAT 7", "SET k v PXAT 7000"),
            ("EXPIRE k 5 GT", "PEXPIREAT k 1005000"),
            ("PEXPIRE k -5", "PEXPIREAT k 999995"),
            ("EXPIREAT k 5", "PEXPIREAT k 5000"),
            ("PEXPIREAT k 7 NX", "PEXPIREAT k 7"),
            (
                "RESTORE k 5 x REPLACE",
                "RESTORE k 1000005 x REPLACE ABSTTL",
            ),
            ("RESTORE k 0 x", "RESTORE k 0 x"),
            ("restore-asking k 5 x ABSTTL", "RESTORE k 5 x ABSTTL"),
            (
                "HEXPIRE h 5 NX FIELDS 1 f",
                "HPEXPIREAT h 1005000 NX FIELDS 1 f",
            ),
            ("HEXPIREAT h 5 FIELDS 1 f", "HPEXPIREAT h 5000 FIELDS 1 f"),
            (
                "HSETEX h FNX EX 1 FIELDS 1 f v",
                "HSETEX h PXAT 1001000 FIELDS 1 f v",
            ),
            (
                "MSETEX 2 a 1 b 2 NX EX 1",
                "SET a 1 PXAT 1001000; SET b 2 PXAT 1001000",
            ),
        ] {
            assert_eq!(form(line), expected, "{line}");
        }
    }

    #[test]
    fn conditions_that_held_are_left_out() {
        for (line, expected) in [
            ("SETNX k v", "SETNX k v"),
            ("GETSET k v", "SET k v"),
            ("SET k v IFEQ x KEEPTTL", "SET k v KEEPTTL"),
            ("SET k v XX GET", "SET k v"),
            ("MSETNX a 1 b 2", "MSET a 1 b 2"),
            ("RENAMENX a b", "RENAME a b"),
            ("HSETNX h f v", "HSET h f v"),
            ("DELIFEQ k v", "DEL k"),
            ("DELEX k", "DEL k"),
            ("ZADD z NX INCR 3 m", "ZINCRBY z 3 m"),
            ("HGETDEL h FIELDS 2 f g", "HDEL h f g"),
            (
                "HSETEX h KEEPTTL FXX FIELDS 1 f v",
                "HSETEX h KEEPTTL FIELDS 1 f v",
            ),
            ("MSETEX 1 a 1 KEEPTTL", "SET a 1 KEEPTTL"),
            ("FUNCTION LOAD #!lua", "FUNCTION LOAD REPLACE #!lua"),
            (
                "XADD x NOMKSTREAM IDMPAUTO p MAXLEN = 5 1-1 f v",
                "XADD x NOMKSTREAM MAXLEN = 5 1-1 f v",
            ),
            ("XADD x IDMP p i 1-1 f v", "XADD x 1-1 f v"),
            ("XADD x IDMPAUTO p * f v", ""),
            (
                "XADD x MAXLEN = 5 LIMIT 9 1-1 LIMIT 3",
                "XADD x MAXLEN = 5 1-1 LIMIT 3",
            ),
            ("XTRIM x MINID = 5 LIMIT 9", "XTRIM x MINID = 5"),
        ] {
            assert_eq!(form(line), expected, "{line}");
        }
    }

    #[test]
    fn canonical_commands_say_when_their_key_expires() {
        for (line, expected) in [
            ("SET k v PXAT 7", Some(7)),
            ("SET k v KEEPTTL", None),
            ("SET k PXAT", None),
            ("PEXPIREAT k 9", Some(9)),
            ("PEXPIREAT k -9", Some(0)),
            ("RESTORE k 5 x ABSTTL", Some(5)),
            ("RESTORE k 0 x", None),
            ("PERSIST k", None),
            ("HSETEX h PXAT 7 FIELDS 1 f v", None),
        ] {
            let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
            let (mut raw, mut found) = (Vec::new(), None);
            put_command(&mut raw, &args);
            for_each(&raw, |command| found = moment(&command)).unwrap();
            assert_eq!(found, expected, "{line}");
        }
    }

    #[test]
    fn everything_else_travels_as_it_came() {
        for line in [
            "set k v",
            "SET ex px",
            "PERSIST k",
            "EXPIRE k soon",
            "EXPIRE k 9223372036854775807",
            "ZADD z GT CH 3 m",
            "ZADD z 3 INCR",
            "LPUSHX l a",
            "XADD x MAXLEN ~ 5 1-1 f v",
            "XADD x 1-1 IDMPAUTO v",
            "XADD x MAXLEN",
            "XTRIM x MAXLEN ~ 5 LIMIT 9",
            "MSETEX 9 a 1",
            "FUNCTION RESTORE malformed FLUSH",
            "FUNCTION DELETE lib",
            "SOMETHING.NEW a b",
        ] {
            assert_eq!(form(line), line);
        }
    }
}
