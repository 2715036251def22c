//! How records look on disk: a format version, a checksum, then the content; and the small codec that contents share.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Format of the records of this program.
const FORMAT: u8 = 1;
const HEADER: usize = 1 + 4;

/// Why bytes could not be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end too early.
    #[error("too short")]
    TooShort,
    /// There is more than there should be.
    #[error("too long")]
    TooLong,
    /// The checksum does not match.
    #[error("checksum mismatch")]
    Checksum,
    /// Written by a newer program.
    #[error("unknown format {0}")]
    Format(u8),
    /// A tag that means nothing.
    #[error("unknown tag {0}")]
    Tag(u8),
    /// A number or a length out of bounds.
    #[error("number out of bounds")]
    Number,
}

/// Makes a record: `fill` writes the content.
pub(super) fn seal(capacity: usize, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
    let mut buffer = BytesMut::with_capacity(HEADER + capacity);
    buffer.put_u8(FORMAT);
    buffer.put_u32(0);
    fill(&mut buffer);
    let checksum = crc32fast::hash(&buffer[HEADER..]);
    buffer[1..HEADER].copy_from_slice(&checksum.to_be_bytes());
    buffer.freeze()
}

/// The content of a record, if it is whole.
pub(super) fn unseal(record: &Bytes) -> Result<Bytes, Malformed> {
    if record.len() < HEADER {
        return Err(Malformed::TooShort);
    }
    if record[0] != FORMAT {
        return Err(Malformed::Format(record[0]));
    }
    let content = record.slice(HEADER..);
    let stored = u32::from_be_bytes([record[1], record[2], record[3], record[4]]);
    if crc32fast::hash(&content) != stored {
        return Err(Malformed::Checksum);
    }
    Ok(content)
}

/// Writes a number in as few bytes as it needs.
pub fn put_varint(buffer: &mut impl BufMut, mut value: u64) {
    while value >= 0x80 {
        buffer.put_u8((value as u8) | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// Writes bytes with their length before them.
pub fn put_bytes(buffer: &mut impl BufMut, bytes: &[u8]) {
    put_varint(buffer, bytes.len() as u64);
    buffer.put_slice(bytes);
}

/// Reads what the functions above wrote. Never panics, never allocates by what a length claims.
pub struct Decoder {
    rest: Bytes,
}

impl Decoder {
    /// Reads from the start of `bytes`; byte strings read from it share its memory.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Decoder { rest: bytes }
    }

    /// One byte.
    pub fn u8(&mut self) -> Result<u8, Malformed> {
        self.rest.try_get_u8().map_err(|_| Malformed::TooShort)
    }

    /// Eight bytes, big endian.
    pub fn u64(&mut self) -> Result<u64, Malformed> {
        self.rest.try_get_u64().map_err(|_| Malformed::TooShort)
    }

    /// A number written by [`put_varint`].
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::Number);
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Malformed::Number)
    }

    /// Bytes written by [`put_bytes`].
    pub fn bytes(&mut self) -> Result<Bytes, Malformed> {
        let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Number)?;
        if length > self.rest.len() {
            return Err(Malformed::TooShort);
        }
        Ok(self.rest.split_to(length))
    }

    /// Everything not read yet.
    pub fn rest(&mut self) -> Bytes {
        std::mem::take(&mut self.rest)
    }

    /// Number of bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// Checks that everything was read.
    pub fn finish(self) -> Result<(), Malformed> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(Malformed::TooLong)
        }
    }
}
