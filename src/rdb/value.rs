//! Where a value ends: walks over the body of every type without decoding what is in it.
//!
//! All loops run as often as the snapshot says, but each turn consumes at least one byte, so a
//! false count ends at the end of the bytes.

use std::io::Read;

use super::error::Error;
use super::input::Input;

/// The double of a sorted set in the old text form: longer "lengths" are infinities and NaN.
const TEXT_DOUBLE_MAX: u8 = 252;
/// The id of an entry of a stream.
pub(super) const STREAM_ID: usize = 16;
/// Binary numbers: doubles, and instants in milliseconds.
const FIXED: u64 = 8;

// What a stream has more of, by the type that brought it.
pub(super) const STREAM_FIRST: u8 = 15;
const STREAM_2: u8 = 19;
const STREAM_3: u8 = 21;
pub(super) const STREAM_4: u8 = 26;
pub(super) const STREAM_5: u8 = 27;

/// Whether a type is one of those of streams.
pub(super) const fn is_stream(type_byte: u8) -> bool {
    matches!(
        type_byte,
        STREAM_FIRST | STREAM_2 | STREAM_3 | STREAM_4 | STREAM_5
    )
}

/// Whether a value of a type is one string, or a structure packed into one.
pub(super) const fn is_one_string(type_byte: u8) -> bool {
    matches!(type_byte, 0 | 9..=13 | 16 | 17 | 20)
}

impl<R: Read> Input<R> {
    /// Consumes the body of a value of a type that [`lowest_version`](super::lowest_version)
    /// knows.
    pub(super) fn skip_value(&mut self, type_byte: u8) -> Result<(), Error> {
        match type_byte {
            _ if is_one_string(type_byte) => self.skip_string(),
            // Lists and sets; packed lists one after the other.
            1 | 2 | 14 => {
                let count = self.length()?;
                self.skip_strings(count)
            }
            3 => self.skip_scores_as_text(),
            4 => {
                for _ in 0..self.length()? {
                    self.skip_strings(2)?;
                }
                Ok(())
            }
            5 => {
                for _ in 0..self.length()? {
                    self.skip_string()?;
                    self.skip(FIXED)?;
                }
                Ok(())
            }
            7 => {
                self.length()?;
                self.skip_module_data()
            }
            18 => {
                for _ in 0..self.length()? {
                    self.length()?;
                    self.skip_string()?;
                }
                Ok(())
            }
            _ if is_stream(type_byte) => self.skip_stream(type_byte),
            22 => self.skip_hash_expiring(),
            24 => self.skip_hash_metadata(),
            25 => {
                self.skip(FIXED)?;
                self.skip_string()
            }
            28 => self.skip_array(),
            _ => Err(self.malformed("value of an unknown type")),
        }
    }

    /// Consumes one element of a collection of plain elements, or one node of a stream.
    pub(super) fn skip_element(&mut self, type_byte: u8) -> Result<(), Error> {
        match type_byte {
            1 | 2 | 14 => self.skip_string(),
            5 => {
                self.skip_string()?;
                self.skip(FIXED)
            }
            18 => {
                self.length()?;
                self.skip_string()
            }
            22 => {
                self.skip_strings(2)?;
                self.skip(FIXED)
            }
            24 => {
                self.length()?;
                self.skip_strings(2)
            }
            // Names and values of a hash, first ids and entries of a stream.
            _ => self.skip_strings(2),
        }
    }

    /// Consumes what a module saved: numbers and strings, each with its kind, until an end.
    pub(super) fn skip_module_data(&mut self) -> Result<(), Error> {
        loop {
            match self.length()? {
                0 => return Ok(()),
                1 | 2 => {
                    self.length()?;
                }
                3 => self.skip(4)?,
                4 => self.skip(8)?,
                5 => self.skip_string()?,
                _ => return Err(self.malformed("unknown kind of module data")),
            }
        }
    }

    /// A sorted set of old: members with scores as text.
    fn skip_scores_as_text(&mut self) -> Result<(), Error> {
        for _ in 0..self.length()? {
            self.skip_string()?;
            let length = self.byte()?;
            if length <= TEXT_DOUBLE_MAX {
                self.skip(u64::from(length))?;
            }
        }
        Ok(())
    }

    /// A hash whose fields have instants of expiry, as Valkey saves it.
    fn skip_hash_expiring(&mut self) -> Result<(), Error> {
        for _ in 0..self.length()? {
            self.skip_strings(2)?;
            self.skip(FIXED)?;
        }
        Ok(())
    }

    /// A hash whose fields have instants of expiry, as Redis saves it: relative to the earliest.
    fn skip_hash_metadata(&mut self) -> Result<(), Error> {
        self.skip(FIXED)?;
        for _ in 0..self.length()? {
            self.length()?;
            self.skip_strings(2)?;
        }
        Ok(())
    }

    fn skip_stream(&mut self, type_byte: u8) -> Result<(), Error> {
        // Packed entries under their first id.
        for _ in 0..self.length()? {
            self.skip_strings(2)?;
        }
        self.skip_stream_tail(type_byte)
    }

    /// What a stream has behind its nodes.
    pub(super) fn skip_stream_tail(&mut self, type_byte: u8) -> Result<(), Error> {
        self.skip_stream_numbers(type_byte)?;
        self.skip_stream_groups(type_byte)?;
        if type_byte >= STREAM_4 {
            self.skip_stream_producers()?;
        }
        Ok(())
    }

    /// Consumes what stands between the nodes and the groups.
    pub(super) fn skip_stream_numbers(&mut self, type_byte: u8) -> Result<(), Error> {
        // How many entries there are, and the last id.
        self.skip_lengths(3)?;
        if type_byte >= STREAM_2 {
            // First id, greatest deleted id, how many were ever added.
            self.skip_lengths(5)?;
        }
        Ok(())
    }

    pub(super) fn skip_stream_groups(&mut self, type_byte: u8) -> Result<(), Error> {
        for _ in 0..self.length()? {
            self.skip_stream_group(type_byte)?;
        }
        Ok(())
    }

    fn skip_stream_group(&mut self, type_byte: u8) -> Result<(), Error> {
        self.skip_stream_group_head(type_byte)?;
        self.skip_stream_group_rest(type_byte)
    }

    /// Consumes what a group has behind its head.
    pub(super) fn skip_stream_group_rest(&mut self, type_byte: u8) -> Result<(), Error> {
        for _ in 0..self.length()? {
            self.stream_pending_id()?;
        }
        for _ in 0..self.length()? {
            self.skip_stream_consumer_head(type_byte)?;
            self.skip_stream_ids()?;
        }
        if type_byte >= STREAM_5 {
            // Entries that consumers gave back.
            self.skip_stream_ids()?;
        }
        Ok(())
    }

    /// Consumes what a group has before its pending entries.
    pub(super) fn skip_stream_group_head(&mut self, type_byte: u8) -> Result<(), Error> {
        // Name, last delivered id, how many were read.
        self.skip_string()?;
        self.skip_lengths(if type_byte >= STREAM_2 { 3 } else { 2 })
    }

    /// Consumes a pending entry of a group: id, when delivered, how often. Gives the id.
    pub(super) fn stream_pending_id(&mut self) -> Result<[u8; STREAM_ID], Error> {
        let id = self.array()?;
        self.skip(FIXED)?;
        self.length()?;
        Ok(id)
    }

    /// Consumes what a consumer has before the ids of its pending entries.
    pub(super) fn skip_stream_consumer_head(&mut self, type_byte: u8) -> Result<(), Error> {
        // Name, when seen, when active.
        self.skip_string()?;
        let instants = if type_byte >= STREAM_3 { 2 } else { 1 };
        self.skip(FIXED.saturating_mul(instants))
    }

    fn skip_stream_ids(&mut self) -> Result<(), Error> {
        for _ in 0..self.length()? {
            self.skip(STREAM_ID as u64)?;
        }
        Ok(())
    }

    /// What a stream remembers of its producers to refuse what they add twice.
    pub(super) fn skip_stream_producers(&mut self) -> Result<(), Error> {
        self.skip_lengths(2)?;
        for _ in 0..self.length()? {
            self.skip_string()?;
            for _ in 0..self.length()? {
                self.skip_string()?;
                self.skip_lengths(2)?;
            }
        }
        self.skip_lengths(2)
    }

    /// A sparse array: for each element its index, a kind, and a number or a string.
    fn skip_array(&mut self) -> Result<(), Error> {
        let count = self.length()?;
        if self.length()? != 0 {
            self.length()?;
        }
        for _ in 0..count {
            self.length()?;
            match self.length()? {
                1 | 2 => self.skip(FIXED)?,
                _ => self.skip_string()?,
            }
        }
        Ok(())
    }
}
