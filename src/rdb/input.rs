//! Bytes of a snapshot: buffered, counted, summed, and captured on demand.

use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::mem;

use crc_fast::{CrcAlgorithm, Digest};

use super::error::Error;

/// How much is read at once. Large enough that system calls cost nothing next to the parsing,
/// small enough to stay in the second-level cache.
pub(super) const BUFFER_SIZE: usize = 128 << 10;

/// A source of bytes with a window over it.
///
/// ```text
///   base              base+at          base+filled
///    |-- consumed ------|-- unread --------|
///          |-- captured-|
///          from
/// ```
pub(super) struct Input<R> {
    source: R,
    buffer: Box<[u8]>,
    /// The next byte. At most `filled`, which is at most the length of the buffer.
    at: usize,
    filled: usize,
    /// How many bytes went through the buffer before what is in it now.
    base: u64,
    /// The checksum of those bytes.
    crc: Digest,
    capture: Option<Capture>,
}

/// Bytes being kept while they are consumed. They stay in the buffer where possible, so that a
/// small value is copied once, into an allocation of its exact size.
struct Capture {
    /// The first captured byte that is in the buffer.
    from: usize,
    /// What comes before the captured bytes in the result.
    lead: Vec<u8>,
    /// The lead and the captured bytes that had to leave the buffer; empty while none had to.
    spilled: Vec<u8>,
    /// How many bytes are kept at most; had more come, none are kept.
    most: usize,
    is_over: bool,
}

impl<R: Read> Input<R> {
    pub(super) fn new(source: R, buffer_size: usize) -> Self {
        Self {
            source,
            buffer: vec![0; buffer_size.max(1)].into_boxed_slice(),
            at: 0,
            filled: 0,
            base: 0,
            crc: Digest::new(CrcAlgorithm::Crc64Redis),
            capture: None,
        }
    }

    /// How many bytes have been consumed.
    pub(super) fn offset(&self) -> u64 {
        self.base.saturating_add(self.at as u64)
    }

    /// The checksum of all bytes consumed.
    pub(super) fn checksum(&self) -> u64 {
        let mut crc = self.crc;
        crc.update(self.buffer.get(..self.at).unwrap_or_default());
        crc.finalize()
    }

    /// Names what is wrong with the bytes just consumed.
    pub(super) fn malformed(&self, what: &'static str) -> Error {
        Error::Malformed {
            what,
            offset: self.offset(),
        }
    }

    /// Consumes one byte.
    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        let [byte] = self.array()?;
        Ok(byte)
    }

    /// Consumes a few bytes.
    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        if let Some(&bytes) = self.unread().first_chunk() {
            self.at = self.at.saturating_add(N);
            return Ok(bytes);
        }
        self.array_across_refill()
    }

    #[cold]
    fn array_across_refill<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let mut bytes = [0; N];
        for byte in &mut bytes {
            while self.unread().is_empty() {
                self.fill()?;
            }
            *byte = self.unread().first().copied().unwrap_or_default();
            self.at = self.at.saturating_add(1);
        }
        Ok(bytes)
    }

    /// Consumes bytes unseen.
    #[inline]
    pub(super) fn skip(&mut self, count: u64) -> Result<(), Error> {
        let mut left = count;
        loop {
            let here = self.unread().len();
            if left <= here as u64 {
                // Not narrowed: `left` is at most `here`.
                self.at = self
                    .at
                    .saturating_add(usize::try_from(left).unwrap_or(here));
                return Ok(());
            }
            left = left.saturating_sub(here as u64);
            self.at = self.filled;
            self.fill()?;
        }
    }

    /// Consumes bytes into an allocation, which grows as they arrive: `count` is only a claim.
    pub(super) fn bytes(&mut self, count: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let mut left = count;
        loop {
            let unread = self.unread();
            let wanted = usize::try_from(left).unwrap_or(usize::MAX);
            let part = unread.get(..wanted).unwrap_or(unread);
            if bytes.is_empty() {
                // Of the exact size, which most strings need no more than.
                bytes = part.to_vec();
            } else {
                bytes.extend_from_slice(part);
            }
            left = left.saturating_sub(part.len() as u64);
            self.at = self.at.saturating_add(part.len());
            if left == 0 {
                return Ok(bytes);
            }
            self.fill()?;
        }
    }

    /// Keeps what is consumed from here on; `lead` is put before it.
    pub(super) fn start_capture(&mut self, lead: Vec<u8>) {
        self.capture = Some(Capture {
            from: self.at,
            lead,
            spilled: Vec::new(),
            most: usize::MAX,
            is_over: false,
        });
    }

    /// Keeps what is consumed from here on, as long as it is no more than so many bytes (and what
    /// is in the buffer); see [`end_capture_within`](Self::end_capture_within).
    pub(super) fn start_capture_within(&mut self, most: usize) {
        self.start_capture(Vec::new());
        if let Some(capture) = &mut self.capture {
            capture.most = most;
        }
    }

    /// What was captured; none when that was too much.
    pub(super) fn end_capture_within(&mut self) -> Option<Vec<u8>> {
        let is_over = |c: &Capture| c.is_over || self.captured() > c.most;
        let is_over = self.capture.as_ref().is_some_and(is_over);
        let bytes = self.end_capture(0);
        (!is_over).then_some(bytes)
    }

    /// How many bytes were captured, those put before them included.
    pub(super) fn captured(&self) -> usize {
        let Some(capture) = &self.capture else {
            return 0;
        };
        let kept = match capture.spilled.is_empty() {
            true => capture.lead.len(),
            false => capture.spilled.len(),
        };
        kept.saturating_add(self.at.saturating_sub(capture.from))
    }

    /// What was captured, with room for `tail` more bytes.
    pub(super) fn end_capture(&mut self, tail: usize) -> Vec<u8> {
        let Some(capture) = self.capture.take() else {
            return Vec::new();
        };
        let last = self.buffer.get(capture.from..self.at).unwrap_or_default();
        let mut bytes = capture.spilled;
        let lead = if bytes.is_empty() {
            capture.lead
        } else {
            Vec::new()
        };
        let more = lead.len().saturating_add(last.len()).saturating_add(tail);
        bytes.reserve_exact(more);
        bytes.extend_from_slice(&lead);
        bytes.extend_from_slice(last);
        bytes
    }

    /// Consumes so many bytes, if they are in the buffer.
    #[inline]
    pub(super) fn take_here(&mut self, count: usize) -> Option<&[u8]> {
        let end = self
            .at
            .checked_add(count)
            .filter(|end| *end <= self.filled)?;
        let from = mem::replace(&mut self.at, end);
        self.buffer.get(from..end)
    }

    /// What is consumed by this, which stays within the buffer; where it gives none, nothing is.
    pub(super) fn all_here(
        &mut self,
        consume: impl FnOnce(&mut Self) -> Option<()>,
    ) -> Option<&[u8]> {
        let from = self.at;
        if consume(self).is_none() {
            self.at = from;
            return None;
        }
        self.buffer.get(from..self.at)
    }

    pub(super) fn unread(&self) -> &[u8] {
        self.buffer.get(self.at..self.filled).unwrap_or_default()
    }

    /// Replaces the buffer, all of which must have been consumed, by at least one new byte.
    #[cold]
    fn fill(&mut self) -> Result<(), Error> {
        let consumed = self.buffer.get(..self.filled).unwrap_or_default();
        self.crc.update(consumed);
        if let Some(capture) = &mut self.capture {
            if capture.spilled.is_empty() {
                capture.spilled = mem::take(&mut capture.lead);
            }
            let leaving = consumed.get(capture.from..).unwrap_or_default();
            capture.spilled.extend_from_slice(leaving);
            capture.from = 0;
            capture.is_over |= capture.spilled.len() > capture.most;
            if capture.is_over {
                capture.spilled = Vec::new();
            }
        }
        self.base = self.base.saturating_add(self.filled as u64);
        self.at = 0;
        self.filled = 0;
        loop {
            match self.source.read(&mut self.buffer) {
                Ok(0) => return Err(Error::Truncated { offset: self.base }),
                Ok(count) => {
                    // A source that claims more than it was given room for is not believed.
                    self.filled = count.min(self.buffer.len());
                    return Ok(());
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

impl<R: Read + Seek> Input<R> {
    /// Goes on at another offset of the source. The checksum is of no use from then on.
    pub(super) fn go_to(&mut self, offset: u64) -> Result<(), Error> {
        let at = offset.checked_sub(self.base).map(usize::try_from);
        if let Some(Ok(at)) = at
            && at <= self.filled
        {
            self.at = at;
            return Ok(());
        }
        self.source.seek(SeekFrom::Start(offset))?;
        self.base = offset;
        self.at = 0;
        self.filled = 0;
        Ok(())
    }
}
