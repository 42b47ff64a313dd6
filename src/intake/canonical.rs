//! Canonical form: what a record says must not depend on when it is read.
//!
//! Redis before 7.0 streams relative expiries (`EXPIRE`, `SETEX`, `SET … EX`, `RESTORE` without
//! ABSTTL); they are made absolute when they are read. `SET … EX` and its like lose NX and XX: the
//! write took place, and the stream of a 6.2 or later does not show them either. Everything else
//! travels as it came.

use super::scanner::Command;
use crate::redis::put_command;

/// Writes the command to `out` in canonical form. `now_ms` is the wall clock in milliseconds.
pub fn canonical(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) {
    if rewrite(command, now_ms, out).is_none() {
        out.extend_from_slice(command.raw());
    }
}

/// The absolute time, in milliseconds, of an expiry that is `span` units from now.
fn absolute(span: &[u8], unit_ms: i64, now_ms: u64) -> Option<Vec<u8>> {
    let span: i64 = std::str::from_utf8(span).ok()?.parse().ok()?;
    let now = i64::try_from(now_ms).ok()?;
    let at = span.checked_mul(unit_ms)?.checked_add(now)?;
    Some(at.to_string().into_bytes())
}

fn rewrite(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<()> {
    // One look at the first letter keeps the common commands out of the comparisons.
    match command.arg(0).first().map(u8::to_ascii_uppercase)? {
        b'S' if command.is(b"SET") && command.len() > 4 => set(command, now_ms, out),
        b'S' if command.is(b"SETEX") => {
            set_with(command, absolute(command.arg(2), 1000, now_ms)?, out)
        }
        b'P' if command.is(b"PSETEX") => {
            set_with(command, absolute(command.arg(2), 1, now_ms)?, out)
        }
        b'E' if command.is(b"EXPIRE") => {
            expire(command, absolute(command.arg(2), 1000, now_ms)?, out)
        }
        b'P' if command.is(b"PEXPIRE") => {
            expire(command, absolute(command.arg(2), 1, now_ms)?, out)
        }
        b'R' if command.is(b"RESTORE") => restore(command, now_ms, out),
        _ => None,
    }
}

/// `SETEX k 10 v` → `SET k v PXAT ms`.
fn set_with(command: &Command<'_>, at: Vec<u8>, out: &mut Vec<u8>) -> Option<()> {
    put_command(out, &[b"SET", command.arg(1), command.arg(3), b"PXAT", &at]);
    Some(())
}

/// `EXPIRE k 10 [NX|XX|GT|LT]` → `PEXPIREAT k ms [NX|XX|GT|LT]`.
fn expire(command: &Command<'_>, at: Vec<u8>, out: &mut Vec<u8>) -> Option<()> {
    let mut args: Vec<&[u8]> = vec![b"PEXPIREAT", command.arg(1), &at];
    args.extend(command.args(3));
    put_command(out, &args);
    Some(())
}

/// `SET k v … EX 10 …` → `SET k v PXAT ms`.
fn set(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<()> {
    let option = |name: &[u8]| {
        let at = (3..command.len()).find(|&i| command.arg(i).eq_ignore_ascii_case(name))?;
        Some(command.arg(at + 1))
    };
    let at = match (option(b"EX"), option(b"PX")) {
        (Some(seconds), _) => absolute(seconds, 1000, now_ms)?,
        (None, Some(millis)) => absolute(millis, 1, now_ms)?,
        (None, None) => return None,
    };
    put_command(out, &[b"SET", command.arg(1), command.arg(2), b"PXAT", &at]);
    Some(())
}

/// `RESTORE k ttl payload …` → `RESTORE k ms payload … ABSTTL`.
fn restore(command: &Command<'_>, now_ms: u64, out: &mut Vec<u8>) -> Option<()> {
    let has_absolute = command.args(4).any(|a| a.eq_ignore_ascii_case(b"ABSTTL"));
    if has_absolute || command.arg(2) == b"0" {
        return None;
    }
    let at = absolute(command.arg(2), 1, now_ms)?;
    let mut args: Vec<&[u8]> = vec![b"RESTORE", command.arg(1), &at, command.arg(3)];
    args.extend(command.args(4));
    args.push(b"ABSTTL");
    put_command(out, &args);
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intake::scanner::for_each;

    fn form(line: &str) -> String {
        let args: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
        let (mut raw, mut out, mut words) = (Vec::new(), Vec::new(), Vec::new());
        put_command(&mut raw, &args);
        for_each(&raw, |command| canonical(&command, 1_000_000, &mut out)).unwrap();
        for_each(&out, |command| {
            words.extend(command.args(0).map(<[u8]>::to_vec));
        })
        .unwrap();
        let words: Vec<_> = words.iter().map(|w| String::from_utf8_lossy(w)).collect();
        words.join(" ")
    }

    #[test]
    fn relative_times_become_absolute_and_nothing_else_changes() {
        for (line, expected) in [
            ("SETEX k 10 v", "SET k v PXAT 1010000"),
            ("psetex k 10 v", "SET k v PXAT 1000010"),
            ("set k v ex 10 nx", "SET k v PXAT 1010000"),
            ("SET k v NX PX 10", "SET k v PXAT 1000010"),
            ("EXPIRE k 5 GT", "PEXPIREAT k 1005000 GT"),
            ("PEXPIRE k -5", "PEXPIREAT k 999995"),
            (
                "RESTORE k 5 x REPLACE",
                "RESTORE k 1000005 x REPLACE ABSTTL",
            ),
            ("RESTORE k 0 x", "RESTORE k 0 x"),
            ("RESTORE k 5 x ABSTTL", "RESTORE k 5 x ABSTTL"),
            ("set k v", "set k v"),
            ("SET k v KEEPTTL", "SET k v KEEPTTL"),
            ("SET ex px NX", "SET ex px NX"),
            ("SET k EX PXAT 7", "SET k EX PXAT 7"),
            ("PEXPIREAT k 7", "PEXPIREAT k 7"),
            ("EXPIRE k soon", "EXPIRE k soon"),
            (
                "EXPIRE k 9223372036854775807",
                "EXPIRE k 9223372036854775807",
            ),
        ] {
            assert_eq!(form(line), expected, "{line}");
        }
    }
}
