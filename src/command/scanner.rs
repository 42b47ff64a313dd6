//! Finds the commands in a replication stream, however it is cut into reads.
//!
//! The stream is arrays of bulk strings and nothing else, so a scanner that remembers where it
//! stopped costs a few nanoseconds a command. (A general decoder parses an incomplete command
//! again from its start on every read: one RPUSH of 300,000 members stalls the stream for a
//! second.) Checked against `redis-protocol` by the property tests below.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::cell::Cell;
use std::ops::Range;

use bytes::Buf;

use super::table::{Row, row};

/// Redis's own limit on the arguments of one command.
pub const MAX_ARGS: usize = 1 << 20;
/// The largest argument. `proto-max-bulk-len` is 512 MiB by default and may be raised.
pub const MAX_ARG: usize = 1 << 30;
/// The longest `*<n>` or `$<n>` line.
const MAX_HEADER: usize = 32;

const _: () = assert!(
    MAX_ARGS > 99 && MAX_ARG > 99,
    "two digits are within the limits"
);

/// Why the bytes are not a replication stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Something else than `*` where a command must begin.
    #[error("a command must begin with '*', not with byte {0:#04x}")]
    NoCommand(u8),
    /// Something else than `$` where an argument must begin.
    #[error("an argument must begin with '$', not with byte {0:#04x}")]
    NoArgument(u8),
    /// A length that is no number or beyond the limits.
    #[error("malformed or excessive length")]
    Length,
    /// An argument that does not end where its length says.
    #[error("an argument does not end where its length says")]
    NoEnd,
}

/// Where the scanner is in the command at the front of the buffer.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The next byte to look at.
    at: usize,
    /// How many arguments the command has; none before its header is read.
    expected: Option<usize>,
    /// The argument being read, once its length is known.
    argument: Option<usize>,
    args: Vec<Range<usize>>,
}

/// One command: its bytes and where its arguments are in them.
#[derive(Debug)]
pub struct Command<'a> {
    raw: &'a [u8],
    args: &'a [Range<usize>],
    /// The first of them: nearly all that is asked is about it.
    name: &'a [u8],
    /// What the table says of it, once somebody has asked: of what comes back of a peer's, nobody does.
    row: Cell<Option<Option<&'static Row>>>,
}

impl<'a> Command<'a> {
    /// The command as it came.
    #[must_use]
    pub const fn raw(&self) -> &'a [u8] {
        self.raw
    }

    /// An argument; empty when there is none of that number. The name is number 0.
    #[must_use]
    #[inline]
    pub fn arg(&self, number: usize) -> &'a [u8] {
        self.args
            .get(number)
            .and_then(|r| self.raw.get(r.clone()))
            .unwrap_or_default()
    }

    /// Its name, as it is spelt; empty when it has none.
    #[must_use]
    pub const fn name(&self) -> &'a [u8] {
        self.name
    }

    /// What the table says of it: looked up once, for it is asked several times.
    #[inline]
    pub(super) fn row(&self) -> Option<&'static Row> {
        let found = self.row.get().unwrap_or_else(|| row(self.name));
        self.row.set(Some(found));
        found
    }

    /// How many arguments it has, the name included.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.args.len()
    }

    /// Whether it has no argument, not even a name.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.args.is_empty()
    }

    /// The arguments from one on.
    pub fn args(
        &self,
        from: usize,
    ) -> impl DoubleEndedIterator<Item = &'a [u8]> + ExactSizeIterator {
        let raw = self.raw;
        let rest = self.args.get(from..).unwrap_or_default();
        rest.iter()
            .map(move |r| raw.get(r.clone()).unwrap_or_default())
    }

    /// Whether the name is this one, which must be in upper case: servers and clients spell as
    /// they like.
    #[must_use]
    #[inline]
    pub fn is(&self, name: &[u8]) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

impl Scanner {
    /// Looks for the end of the command at the front of the buffer. The length of the command when
    /// it is complete; then use [`command`](Self::command) and [`advance`](Self::advance).
    ///
    /// # Errors
    /// The bytes are no command.
    pub fn scan(&mut self, buffer: &[u8]) -> Result<Option<usize>, ScanError> {
        // What is still to be looked at: always the end of the buffer.
        let mut rest = buffer.get(self.at..).unwrap_or_default();
        let place = |rest: &[u8]| buffer.len().wrapping_sub(rest.len());
        let expected = match self.expected {
            Some(expected) => expected,
            None => match header(rest, b'*', MAX_ARGS) {
                Ok(Some((count, behind))) => {
                    rest = behind;
                    self.at = place(rest);
                    *self.expected.insert(count)
                }
                Ok(None) => return Ok(None),
                Err(byte) => return Err(byte.map_or(ScanError::Length, ScanError::NoCommand)),
            },
        };
        let mut argument = self.argument.take();
        while self.args.len() < expected {
            let length = match argument.take() {
                Some(length) => length,
                None => match header(rest, b'$', MAX_ARG) {
                    Ok(Some((length, behind))) => {
                        rest = behind;
                        length
                    }
                    Ok(None) => {
                        self.at = place(rest);
                        return Ok(None);
                    }
                    Err(byte) => return Err(byte.map_or(ScanError::Length, ScanError::NoArgument)),
                },
            };
            let begin = place(rest);
            match rest.get(length..) {
                Some([b'\r', b'\n', behind @ ..]) => rest = behind,
                Some([_, _, ..]) => return Err(ScanError::NoEnd),
                Some(_) | None => {
                    (self.argument, self.at) = (Some(length), begin);
                    return Ok(None);
                }
            }
            self.args.push(begin..begin.wrapping_add(length));
        }
        self.at = place(rest);
        Ok(Some(self.at))
    }

    /// The complete command at the front of the buffer.
    #[must_use]
    pub fn command<'a>(&'a self, buffer: &'a [u8]) -> Command<'a> {
        let (raw, args) = (buffer.get(..self.at).unwrap_or_default(), &self.args[..]);
        let name = args.first().and_then(|range| raw.get(range.clone()));
        Command {
            raw,
            args,
            name: name.unwrap_or_default(),
            row: Cell::new(None),
        }
    }

    /// Drops the complete command from the front of the buffer.
    pub fn advance(&mut self, buffer: &mut impl Buf) {
        buffer.advance(self.at.min(buffer.remaining()));
        self.reset();
    }

    /// Walks over the complete commands of a piece of stream, as [`for_each`], in memory of its own
    /// for whoever does so often.
    ///
    /// # Errors
    /// The bytes are no commands, or end within one.
    pub fn for_each(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Command<'_>),
    ) -> Result<(), ScanError> {
        self.reset();
        while !bytes.is_empty() {
            let length = self.scan(bytes)?.ok_or(ScanError::NoEnd)?;
            each(self.command(bytes));
            bytes = bytes.get(length..).unwrap_or_default();
            self.reset();
        }
        Ok(())
    }

    /// Whether the front of the buffer is the beginning of a command of which nothing was read.
    #[must_use]
    pub const fn is_at_start(&self) -> bool {
        self.at == 0
    }

    fn reset(&mut self) {
        self.at = 0;
        self.expected = None;
        self.argument = None;
        self.args.clear();
    }
}

/// Walks over the complete commands of a piece of stream.
///
/// # Errors
/// The bytes are no commands, or end within one.
pub fn for_each(bytes: &[u8], each: impl FnMut(Command<'_>)) -> Result<(), ScanError> {
    Scanner::default().for_each(bytes, each)
}

/// Reads `<kind><number>\r\n` at the front: the number, and what stands behind it; none when it is not
/// all there. The error is the wrong first byte, or none when the number is wrong.
#[inline]
fn header(rest: &[u8], kind: u8, limit: usize) -> Result<Option<(usize, &[u8])>, Option<u8>> {
    match rest {
        // Nearly all lengths have one digit or two, and no such length is beyond the limit.
        [first, one @ b'0'..=b'9', b'\r', b'\n', behind @ ..] if *first == kind => {
            Ok(Some((digit(*one), behind)))
        }
        [
            first,
            ten @ b'0'..=b'9',
            one @ b'0'..=b'9',
            b'\r',
            b'\n',
            behind @ ..,
        ] if *first == kind => {
            let number = digit(*ten).wrapping_mul(10).wrapping_add(digit(*one));
            Ok(Some((number, behind)))
        }
        _ => long_header(rest, kind, limit),
    }
}

/// The same for any number.
#[inline(never)]
fn long_header(rest: &[u8], kind: u8, limit: usize) -> Result<Option<(usize, &[u8])>, Option<u8>> {
    let Some((&first, digits)) = rest.split_first() else {
        return Ok(None);
    };
    if first != kind {
        return Err(Some(first));
    }
    let mut number = 0_usize;
    for (i, &byte) in digits.iter().enumerate() {
        match byte {
            b'0'..=b'9' => {
                number = number.saturating_mul(10).saturating_add(digit(byte));
            }
            b'\r' if i > 0 && number <= limit => {
                return match digits.get(i.saturating_add(1)..) {
                    Some([b'\n', behind @ ..]) => Ok(Some((number, behind))),
                    Some([_, ..]) => Err(None),
                    Some([]) | None => Ok(None),
                };
            }
            _ => return Err(None),
        }
        if i > MAX_HEADER || number > limit {
            return Err(None);
        }
    }
    Ok(None)
}

/// The number that a digit stands for.
fn digit(byte: u8) -> usize {
    usize::from(byte.wrapping_sub(b'0'))
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "the numbers of tests are small"
)]
mod tests {
    use bytes::BytesMut;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use redis_protocol::resp2::decode::decode_range;
    use redis_protocol::resp2::types::RangeFrame;

    use super::*;
    use crate::redis::put_command;

    fn scan_all(chunks: &[&[u8]]) -> Result<Vec<Vec<Vec<u8>>>, ScanError> {
        let (mut scanner, mut buffer, mut found) = (Scanner::default(), BytesMut::new(), vec![]);
        for chunk in chunks {
            buffer.extend_from_slice(chunk);
            while let Some(length) = scanner.scan(&buffer)? {
                let command = scanner.command(&buffer);
                assert_eq!(command.raw().len(), length);
                found.push(command.args(0).map(<[u8]>::to_vec).collect());
                scanner.advance(&mut buffer);
            }
        }
        Ok(found)
    }

    #[test]
    fn what_is_no_command_is_refused() {
        for (bad, error) in [
            (&b"+OK\r\n"[..], ScanError::NoCommand(b'+')),
            (b"*1\r\n:1\r\n", ScanError::NoArgument(b':')),
            (b"*1\r\n$3\r\nabcd\r\n", ScanError::NoEnd),
            (b"*x\r\n", ScanError::Length),
            (b"*\r\n", ScanError::Length),
            (b"*-1\r\n", ScanError::Length),
            (b"*1\r\n$-1\r\n", ScanError::Length),
            (b"*1\rx", ScanError::Length),
            (b"*1048577\r\n", ScanError::Length),
            (b"*1\r\n$99999999999\r\n", ScanError::Length),
            (
                b"*00000000000000000000000000000000000001\r\n",
                ScanError::Length,
            ),
        ] {
            assert_eq!(
                scan_all(&[bad]),
                Err(error),
                "{:?}",
                String::from_utf8_lossy(bad)
            );
        }
    }

    #[test]
    fn a_large_command_in_small_reads_is_not_read_again_and_again() {
        let members: Vec<Vec<u8>> = (0..200_000).map(|i| format!("m{i}").into_bytes()).collect();
        let args: Vec<&[u8]> = [&b"RPUSH"[..], b"k"]
            .into_iter()
            .chain(members.iter().map(|m| &m[..]))
            .collect();
        let mut bytes = Vec::new();
        put_command(&mut bytes, &args);
        let mut looked_at = 0;
        let mut scanner = Scanner::default();
        let mut end = 0;
        while end < bytes.len() {
            let before = scanner.at;
            end = (end + 1000).min(bytes.len());
            if scanner.scan(&bytes[..end]).unwrap().is_some() {
                assert_eq!(scanner.command(&bytes).len(), 200_002);
            }
            looked_at += scanner.at - before;
        }
        assert!(looked_at <= bytes.len());
    }

    proptest! {
        #[test]
        fn agrees_with_redis_protocol(
            commands in vec(vec(vec(any::<u8>(), 0..40), 1..6), 1..8),
            step in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for command in &commands {
                let args: Vec<&[u8]> = command.iter().map(|a| &a[..]).collect();
                put_command(&mut bytes, &args);
            }
            let chunks: Vec<&[u8]> = bytes.chunks(step).collect();
            prop_assert_eq!(&scan_all(&chunks).unwrap(), &commands);

            let (mut at, mut oracle) = (0, vec![]);
            while let Ok(Some((RangeFrame::Array(items), length))) = decode_range(&bytes[at..]) {
                let arg = |f: &RangeFrame| match f {
                    RangeFrame::BulkString((from, to)) => bytes[at + from..at + to].to_vec(),
                    other => panic!("{other:?}"),
                };
                oracle.push(items.iter().map(arg).collect::<Vec<_>>());
                at += length;
            }
            prop_assert_eq!(oracle, commands);
        }

        #[test]
        fn any_bytes_are_read_without_panic(bytes: Vec<u8>, step in 1_usize..9) {
            drop(scan_all(&bytes.chunks(step).collect::<Vec<_>>()));
        }

        #[test]
        fn damaged_commands_are_read_without_panic(at in 0_usize..60, byte: u8) {
            let mut bytes = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n*1\r\n$4\r\nPING\r\n".to_vec();
            if let Some(b) = bytes.get_mut(at) { *b = byte; }
            drop(scan_all(&[&bytes]));
        }
    }
}
