//! From bytes to commands, and from commands to what they mean.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

mod meaning;

use bytes::{Buf, BytesMut};

use self::meaning::Meaning;
pub(super) use self::meaning::fence;
use super::event::{DecodeError, Event, Write};
use super::filter::Filter;
use crate::command::Catalog;
use crate::command::scanner::Scanner;
use crate::model::{MAX_FRAME, Offset};

/// Follows a replication stream.
#[derive(Debug)]
pub struct Decoder {
    scanner: Scanner,
    meaning: Meaning,
    boundary: (Offset, u32),
}

impl Decoder {
    /// A decoder of what comes after `offset`, with database `db` selected there.
    #[must_use]
    pub fn new(offset: Offset, db: u32, catalog: Catalog, filter: Filter) -> Self {
        Self {
            scanner: Scanner::default(),
            meaning: Meaning::new(offset, db, catalog, filter),
            boundary: (offset, db),
        }
    }

    /// The commands that end here, further on in the stream, are evictions.
    pub fn expect_evictions(&mut self, ends: impl IntoIterator<Item = Offset>) {
        self.meaning.evictions.extend(ends);
    }

    /// The end of the last complete unit, and the database selected there: the only kind of place
    /// from which the stream may be resumed.
    #[must_use]
    pub const fn boundary(&self) -> (Offset, u32) {
        self.boundary
    }

    /// Where the next command begins; for error messages.
    #[must_use]
    pub const fn offset(&self) -> Offset {
        self.meaning.offset
    }

    /// Whether events of what has been read are still to be taken.
    #[must_use]
    pub fn has_events(&self) -> bool {
        !self.meaning.events.is_empty()
    }

    /// Takes the memory of a write that was read, for the next one.
    pub fn reuse(&mut self, room: Box<Write>) {
        self.meaning.reuse(room);
    }

    /// The next event in the buffer; none when more bytes are needed.
    ///
    /// # Errors
    /// The bytes are not a replication stream.
    pub fn next(
        &mut self,
        buffer: &mut BytesMut,
        now_ms: u64,
    ) -> Result<Option<Event>, DecodeError> {
        if self.meaning.events.is_empty() {
            let mut rest = &buffer[..];
            let result = self.read(&mut rest, now_ms);
            let read = buffer.len().saturating_sub(rest.len());
            buffer.advance(read);
            result?;
        }
        Ok(self.meaning.events.pop_front())
    }

    /// Reads up to the end of a command that is an event, and leaves what follows. Most commands of an echo
    /// are none: the buffer is told once that all of them are read.
    fn read(&mut self, rest: &mut &[u8], now_ms: u64) -> Result<(), DecodeError> {
        while self.meaning.events.is_empty() {
            if self.scanner.is_at_start() {
                // A chained replica gets bare newlines while its upstream is away; they do not
                // count in the offset.
                while let [b'\n', behind @ ..] = *rest {
                    *rest = behind;
                }
            }
            let Some(length) = self.scanner.scan(rest)? else {
                return match rest.len() > MAX_FRAME {
                    true => Err(DecodeError::TooLarge),
                    false => Ok(()),
                };
            };
            let (scanner, meaning) = (&mut self.scanner, &mut self.meaning);
            meaning.offset.0 = meaning.offset.0.saturating_add(length as u64);
            let result = meaning.on_command(&scanner.command(rest), now_ms);
            scanner.advance(rest);
            result?;
            if meaning.is_at_boundary() {
                self.boundary = (meaning.offset, meaning.db);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
