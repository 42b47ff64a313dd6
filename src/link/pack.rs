//! Compression of what travels.
//!
//! All that a sidecar sends in a session is one stream of zstd, flushed whenever something is sent: what
//! repeats in later messages costs nearly nothing, however small they are. Frames, their numbers and
//! their checksums are inside it, so what is wrong with a stream is noticed as without it.

#![deny(clippy::indexing_slicing, clippy::arithmetic_side_effects)]

use std::time::{Duration, Instant};
use std::{fmt, io};

use bytes::{Buf, BytesMut};
use zstd::stream::raw::{CParameter, DParameter, Decoder, Encoder, InBuffer, Operation, OutBuffer};

/// How hard it tries: the level that is nearly as small as the ones above and twice as fast.
const LEVEL: i32 = 1;
/// How far back it looks, as a power of two, in bytes. More memory finds little more among writes.
const WINDOW: u32 = 19;
/// How long a block may take to arrive, which has 128 KiB at most. One whose size was falsified on the
/// way would never be complete.
const STUCK: Duration = Duration::from_secs(60);
/// How much room is made at once for what comes out.
const STEP: usize = 64 << 10;

/// Compresses one direction.
pub(super) struct Packer(Encoder<'static>);

impl Packer {
    /// # Errors
    /// There is no memory for it.
    pub(super) fn try_new() -> io::Result<Self> {
        let mut encoder = Encoder::new(LEVEL)?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW))?;
        Ok(Self(encoder))
    }

    /// Appends `plain` to `packed`, so that all of it can be read by who has got that.
    pub(super) fn pack(&mut self, plain: &[u8], packed: &mut Vec<u8>) -> io::Result<()> {
        let mut input = InBuffer::around(plain);
        while input.pos() < plain.len() {
            step(packed, |output| self.0.run(&mut input, output))?;
        }
        while step(packed, |output| self.0.flush(output))? > 0 {}
        Ok(())
    }
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Packer")
    }
}

/// Lets `run` append to a buffer; what it says is left to do.
fn step(
    packed: &mut Vec<u8>,
    run: impl FnOnce(&mut OutBuffer<'_, Vec<u8>>) -> io::Result<usize>,
) -> io::Result<usize> {
    packed.reserve(STEP);
    let end = packed.len();
    run(&mut OutBuffer::around_pos(packed, end))
}

/// Unpacks one direction.
pub(super) struct Unpacker {
    decoder: Decoder<'static>,
    /// What has come and is not unpacked.
    packed: BytesMut,
    /// Where the decoder writes.
    room: Vec<u8>,
    /// Since when what comes gives nothing.
    fruitless: Option<Instant>,
}

impl Unpacker {
    /// Unpacks what has been read already, and all that follows it.
    ///
    /// # Errors
    /// There is no memory for it.
    pub(super) fn try_new(packed: BytesMut) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        // A peer does not decide how much memory is taken here.
        decoder.set_parameter(DParameter::WindowLogMax(WINDOW))?;
        Ok(Self {
            decoder,
            packed,
            room: Vec::with_capacity(STEP),
            fruitless: None,
        })
    }

    /// Where what comes next goes.
    pub(super) const fn packed(&mut self) -> &mut BytesMut {
        &mut self.packed
    }

    /// Unpacks a part of what has come, a step however much comes out of it; false when nothing did, and
    /// more must come first.
    ///
    /// # Errors
    /// These are no bytes of a packer.
    pub(super) fn unpack(&mut self, plain: &mut BytesMut) -> io::Result<bool> {
        let mut input = InBuffer::around(&self.packed);
        self.room.clear();
        // Without input too: the decoder may have had no room for all that it had read.
        self.decoder
            .run(&mut input, &mut OutBuffer::around(&mut self.room))?;
        let read = input.pos();
        self.packed.advance(read);
        plain.extend_from_slice(&self.room);
        if !self.room.is_empty() {
            self.fruitless = None;
        } else if read > 0 && self.fruitless.get_or_insert_with(Instant::now).elapsed() > STUCK {
            return Err(io::Error::other("a block without an end"));
        }
        Ok(!self.room.is_empty() || (read > 0 && !self.packed.is_empty()))
    }
}

impl fmt::Debug for Unpacker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Unpacker({} bytes to come)", self.packed.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unpacks all that is there.
    fn unpacked(unpacker: &mut Unpacker) -> io::Result<Vec<u8>> {
        let mut plain = BytesMut::new();
        while unpacker.unpack(&mut plain)? {}
        Ok(plain.to_vec())
    }

    #[test]
    fn what_was_packed_comes_out_as_it_came_in_and_at_once() {
        let mut packer = Packer::try_new().unwrap();
        let mut unpacker = Unpacker::try_new(BytesMut::new()).unwrap();
        let mut sizes = Vec::new();
        for round in 0..200_usize {
            let plain = format!("SET user:{round} {{\"name\": \"somebody\", \"visits\": {round}}}");
            let plain = plain.repeat(if round == 100 { 50_000 } else { 1 });
            let mut packed = Vec::new();
            packer.pack(plain.as_bytes(), &mut packed).unwrap();
            // However it is cut.
            let mut found = Vec::new();
            for part in packed.chunks(1 + round * 7) {
                unpacker.packed().extend_from_slice(part);
                found.extend(unpacked(&mut unpacker).unwrap());
            }
            assert!(found == plain.as_bytes(), "round {round}");
            sizes.push((packed.len(), plain.len()));
        }
        let (packed, plain) = sizes[199];
        assert!(packed * 2 < plain, "{packed} of {plain}");
        let (packed, plain) = sizes[100];
        assert!(packed * 50 < plain, "{packed} of {plain}");
    }

    #[test]
    fn a_step_is_small_however_much_is_packed() {
        let (mut packer, mut packed) = (Packer::try_new().unwrap(), Vec::new());
        packer.pack(&vec![0; 100 << 20], &mut packed).unwrap();
        assert!(packed.len() < 100 << 10, "{}", packed.len());
        let mut unpacker = Unpacker::try_new(BytesMut::from(&packed[..])).unwrap();
        let (mut all, mut plain) = (0, BytesMut::new());
        while unpacker.unpack(&mut plain).unwrap() {
            assert!(plain.len() <= 2 * STEP, "{}", plain.len());
            all += plain.len();
            plain.clear();
        }
        assert_eq!(all, 100 << 20);
    }

    #[test]
    fn what_is_not_packed_is_refused() {
        for bad in [&b"no zstd at all"[..], &[0; 64]] {
            let mut unpacker = Unpacker::try_new(BytesMut::from(bad)).unwrap();
            assert!(unpacked(&mut unpacker).is_err());
        }
        // A window larger than anybody here uses.
        let mut encoder = Encoder::new(19).unwrap();
        encoder.set_parameter(CParameter::WindowLog(27)).unwrap();
        let mut packer = Packer(encoder);
        let mut packed = Vec::new();
        packer.pack(&vec![7; 1 << 20], &mut packed).unwrap();
        let mut unpacker = Unpacker::try_new(BytesMut::from(&packed[..])).unwrap();
        assert!(unpacked(&mut unpacker).is_err());
    }
}
