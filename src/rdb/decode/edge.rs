//! Entries of listpacks whose end servers disagree about.
//!
//! After an entry stands its size once more, seven bits a byte. The greatest number that fits so
//! many bytes takes one more in Redis and in Valkey up to 8.1; in Valkey 9.1 it does not. Neither
//! finds what follows such an entry in a payload of the other: Valkey 9.1 refuses to RESTORE it;
//! Redis 8.0 and Valkey 8.1 take it, and crash at the next look at it (measured on the three).

use super::body;
use super::cursor::Cursor;
use super::error::Error;
use super::packed::{Form, Packed};
use crate::rdb::value::is_stream;

/// The sizes of such entries with what stands after them: of either kind, by how many bytes that
/// is.
const EDGES: [usize; 6] = [
    16_385,
    16_386,
    2_097_154,
    2_097_155,
    268_435_458,
    268_435_459,
];
/// No smaller structure has such an entry.
const SMALLEST: usize = EDGES[0] + 7;

/// Whether a payload has an entry whose end Valkey 9.1 and all others disagree about. Between the
/// two, such a value must not travel as it is: it can only be rebuilt with commands.
///
/// # Errors
/// The payload is malformed. All types are known here: those that have no listpacks have none of
/// these entries.
pub fn has_disputed_entry(payload: &[u8]) -> Result<bool, Error> {
    let (mut cursor, _, _) = body(payload)?;
    let type_byte = cursor.type_byte();
    match type_byte {
        16 | 17 | 20 => disputed(&mut cursor),
        25 => {
            cursor.take(8)?;
            disputed(&mut cursor)
        }
        18 => {
            for _ in 0..cursor.count(2)? {
                let found = match cursor.length()? {
                    2 => disputed(&mut cursor)?,
                    _ => cursor.skip_string().map(|()| false)?,
                };
                if found {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ if is_stream(type_byte) => {
            for _ in 0..cursor.count(2)? {
                cursor.skip_string()?;
                if disputed(&mut cursor)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// Consumes a listpack; whether it has such an entry.
fn disputed(cursor: &mut Cursor<'_>) -> Result<bool, Error> {
    let blob = cursor.blob()?;
    if blob.len() < SMALLEST {
        return Ok(false);
    }
    let wrong = |wrong| cursor.malformed(wrong);
    let mut packed = Packed::open(Form::Listpack, blob).map_err(wrong)?;
    while !packed.ended() {
        let from = packed.place();
        packed.next().map_err(wrong)?;
        if EDGES.contains(&packed.place().saturating_sub(from)) {
            return Ok(true);
        }
    }
    Ok(false)
}
