//! What FUNCTION DUMP gives: the sources of libraries, in the envelope of a value.

use super::cursor::Cursor;
use super::{Error, NO_TYPE, open};
use crate::rdb::opcode;

/// The sources of the libraries.
///
/// # Errors
/// The payload is malformed.
pub fn libraries(payload: &[u8]) -> Result<Vec<Vec<u8>>, Error> {
    let (_, body) = open(payload)?;
    let mut cursor = Cursor::new(body, 0, NO_TYPE);
    let mut sources = Vec::new();
    while cursor.left() > 0 {
        if cursor.byte()? != opcode::FUNCTION {
            return Err(cursor.malformed("something else than a library"));
        }
        sources.push(cursor.string()?.into_bytes().into_owned());
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdb::payload;

    #[test]
    fn each_library_is_found() {
        let dump = payload(245, b"\x03one\xf5\x03two", 10);
        let expected = vec![b"one".to_vec(), b"two".to_vec()];
        assert_eq!(libraries(&dump).unwrap(), expected);
        assert!(libraries(&payload(245, b"\x03one\x00", 10)).is_err());
        assert!(libraries(b"").is_err());
    }
}
