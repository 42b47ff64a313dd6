//! Plain `SET`s, one behind the other, as one `MSET`: pure.
//!
//! In a transaction the server queues each command, answers it, and writes it into its own stream, which takes it
//! longer than to set a key. Of an `MSET` it does each of these once. What is set, and what clients are told of it
//! (a `set` event for each key), is the same on every version, and neither of the two can fail by what is there.

use crate::command::Command;
use crate::redis::put_head;

/// How a plain `SET` begins, in the protocol's form. Its name in any spelling, its key and its value follow.
const HEAD: &[u8] = b"*3\r\n$3\r\n";
/// Its name.
const NAME: &[u8] = b"SET\r\n";
/// The name of what several are.
const MSET: &[u8] = b"$4\r\nMSET\r\n";

/// The last command of a body, when more may join it.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// Where in the body it begins.
    at: usize,
    /// How many keys it sets; 0: it is none that others may join.
    keys: usize,
    /// What stands before the first of them; in the body with as many arguments as it has.
    head: Vec<u8>,
    /// Where in it the last digit of their number is.
    digits: usize,
}

impl Run {
    /// Nothing joins what is there.
    pub(super) const fn end(&mut self) {
        self.keys = 0;
    }

    /// Puts a plain `SET`; how many commands more the body has then. None when it is something else, and nothing was
    /// put.
    #[inline]
    pub(super) fn put(&mut self, command: &Command<'_>, body: &mut Vec<u8>) -> Option<u32> {
        let rest = command.raw().strip_prefix(HEAD)?;
        let (name, pair) = rest.split_at_checked(NAME.len())?;
        if !name.eq_ignore_ascii_case(NAME) {
            return None;
        }
        self.keys += 1;
        if self.keys == 1 {
            self.at = body.len();
            self.head.clear();
            self.head.extend_from_slice(HEAD);
            self.head.extend_from_slice(NAME);
            body.extend_from_slice(command.raw());
            return Some(1);
        }
        self.count(body);
        body.extend_from_slice(pair);
        Some(0)
    }

    /// Has the head say how many arguments there are: two more.
    #[inline]
    fn count(&mut self, body: &mut Vec<u8>) {
        let last = self.at + self.digits;
        match body.get_mut(last) {
            Some(digit) if self.keys > 2 && *digit < b'9' => *digit += 2,
            _ => self.begin_anew(body),
        }
    }

    /// Writes the head anew. It grows by a byte at 2, 5, 50 and 500 keys: what is behind it is moved.
    fn begin_anew(&mut self, body: &mut Vec<u8>) {
        let known = self.at..self.at + self.head.len();
        self.head.clear();
        put_head(&mut self.head, 1 + 2 * self.keys);
        // Behind a `*`, and before the end of the line.
        self.digits = self.head.len() - 3;
        self.head.extend_from_slice(MSET);
        drop(body.splice(known, self.head.iter().copied()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::scanner;
    use crate::redis::put_command;

    #[test]
    fn any_number_of_plain_sets_is_one_command() {
        for name in [&b"SET"[..], b"set"] {
            let (mut run, mut body) = (Run::default(), Vec::new());
            let mut expected = vec![b"MSET".to_vec()];
            for n in 1..=1200 {
                let (key, value) = (format!("key:{n}"), "v".repeat(n % 150));
                let mut raw = Vec::new();
                put_command(&mut raw, &[name, key.as_bytes(), value.as_bytes()]);
                let mut put = None;
                scanner::for_each(&raw, |command| put = run.put(&command, &mut body)).unwrap();
                assert_eq!(put, Some(u32::from(n == 1)));
                expected.extend([key.into_bytes(), value.into_bytes()]);
                let mut found: Vec<Vec<Vec<u8>>> = Vec::new();
                scanner::for_each(&body, |c| {
                    found.push(c.args(0).map(<[u8]>::to_vec).collect());
                })
                .unwrap();
                if n == 1 {
                    assert_eq!(body, raw, "alone it stays as it is");
                } else {
                    assert_eq!(found, [expected.clone()], "{n}");
                }
            }
        }
    }

    #[test]
    fn what_has_options_is_put_by_others() {
        let (mut run, mut body) = (Run::default(), Vec::new());
        let others: [&[&[u8]]; 5] = [
            &[b"SET", b"k", b"v", b"NX"],
            &[b"SET", b"k"],
            &[b"SET"],
            &[b"GET", b"k", b"v"],
            &[b"SETNX", b"k", b"v"],
        ];
        for args in others {
            let mut raw = Vec::new();
            put_command(&mut raw, args);
            scanner::for_each(&raw, |c| assert_eq!(run.put(&c, &mut body), None)).unwrap();
        }
        assert!(body.is_empty());
    }
}
