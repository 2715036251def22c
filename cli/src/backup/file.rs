//! A data file, byte by byte. All numbers are little endian.
//!
//! Head: [`MAGIC`], the group (8 bytes), the file's number in it (4). A block: its kind (1), length as it stands (4), length of its
//! records (4), their number (4), CRC-32 of all of that and of the content (4), the content. The last block is an end: no content, and the
//! number of all records (8) in its place.

use super::Record;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use fulcrum_common::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use std::io::{self, Read, Write};

/// How a data file begins.
pub const MAGIC: &[u8; 8] = b"FULCBAK1";
/// Length of the head.
pub const HEAD: usize = 8 + 8 + 4;
/// Length of what stands before a block's content.
pub const BLOCK_HEAD: usize = 1 + 4 + 4 + 4 + 4;
/// Records are gathered for a block until they have so many bytes.
pub const BLOCK_BYTES: usize = 256 * 1024;
/// Nothing larger is believed: a block ends with the record that fills it.
const BLOCK_BYTES_MAX: usize = BLOCK_BYTES + RECORD_HEAD + MAX_KEY_BYTES + MAX_VALUE_BYTES;
const RECORD_HEAD: usize = 4 + 4 + 8;

const RECORDS: u8 = 1;
const END: u8 = 2;

/// What is wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// It ends too early, or a length in it is wrong.
    #[error("it is cut short")]
    Short,
    /// Something follows its end.
    #[error("something follows its end")]
    Long,
    /// It does not begin as data files do.
    #[error("it does not begin as a data file of this format does")]
    Head,
    /// It belongs elsewhere.
    #[error("it is file {number} of group {group}, and stands in another one's place")]
    Misplaced {
        /// The group that it names.
        group: u64,
        /// Its number in that.
        number: u32,
    },
    /// The checksum of a block does not match.
    #[error("block {0} does not match its checksum")]
    Block(u64),
    /// A block's content makes no sense.
    #[error("block {0} makes no sense")]
    Content(u64),
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(String),
}

/// What the file with that number of a group is called.
#[must_use]
pub fn name(group: u64, number: u32) -> String {
    format!("group-{group}-{number:05}.data")
}

/// The head of a file.
#[must_use]
pub fn head(group: u64, number: u32) -> Bytes {
    let mut head = BytesMut::with_capacity(HEAD);
    head.put_slice(MAGIC);
    head.put_u64_le(group);
    head.put_u32_le(number);
    head.freeze()
}

/// Checks a head: whose file it is.
pub fn check_head(mut head: &[u8], group: u64, number: u32) -> Result<(), Damage> {
    if head.len() < HEAD {
        return Err(Damage::Short);
    }
    if !head.starts_with(MAGIC) {
        return Err(Damage::Head);
    }
    head.advance(MAGIC.len());
    let found = (head.get_u64_le(), head.get_u32_le());
    if found != (group, number) {
        return Err(Damage::Misplaced {
            group: found.0,
            number: found.1,
        });
    }
    Ok(())
}

/// Adds a record to the content of a block.
pub fn put_record(content: &mut BytesMut, record: &Record) {
    content.put_u32_le(u32::try_from(record.key.len()).unwrap_or(u32::MAX));
    content.put_u32_le(u32::try_from(record.value.len()).unwrap_or(u32::MAX));
    content.put_u64_le(record.expires_at_ms);
    content.put_slice(&record.key);
    content.put_slice(&record.value);
}

fn block(kind: u8, content: &[u8], records_bytes: usize, count: u32) -> Bytes {
    let mut block = BytesMut::with_capacity(BLOCK_HEAD + content.len());
    block.put_u8(kind);
    block.put_u32_le(u32::try_from(content.len()).unwrap_or(u32::MAX));
    block.put_u32_le(u32::try_from(records_bytes).unwrap_or(u32::MAX));
    block.put_u32_le(count);
    let checksum = checksum(&block, content);
    block.put_u32_le(checksum);
    block.put_slice(content);
    block.freeze()
}

fn checksum(head: &[u8], content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(head);
    hasher.update(content);
    hasher.finalize()
}

/// A block of records.
pub fn records(content: &[u8], count: u32) -> io::Result<Bytes> {
    let mut encoder = DeflateEncoder::new(Vec::with_capacity(content.len() / 2), Compression::fast());
    encoder.write_all(content)?;
    Ok(block(RECORDS, &encoder.finish()?, content.len(), count))
}

/// The end of a file.
#[must_use]
pub fn end(total: u64) -> Bytes {
    block(END, &total.to_le_bytes(), 0, 0)
}

/// What stands in a file next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Block {
    /// Records.
    Records(Vec<Record>),
    /// The end, and the number of all records.
    End(u64),
}

/// Reads block `number`, counted from 1.
pub fn read(input: &mut impl Read, number: u64) -> Result<Block, Damage> {
    let mut head = [0; BLOCK_HEAD];
    fill(input, &mut head)?;
    let mut fields = &head[..];
    let kind = fields.get_u8();
    let length = fields.get_u32_le() as usize;
    let records_bytes = fields.get_u32_le() as usize;
    let count = fields.get_u32_le();
    let stored = fields.get_u32_le();
    // Content that does not shrink grows a little.
    if length > BLOCK_BYTES_MAX + BLOCK_BYTES_MAX / 100 || records_bytes > BLOCK_BYTES_MAX {
        return Err(Damage::Block(number));
    }
    let mut content = vec![0; length];
    fill(input, &mut content)?;
    if checksum(&head[..BLOCK_HEAD - 4], &content) != stored {
        return Err(Damage::Block(number));
    }
    match kind {
        RECORDS => unpack(&content, records_bytes, count)
            .map(Block::Records)
            .ok_or(Damage::Content(number)),
        END => match <[u8; 8]>::try_from(&content[..]) {
            Ok(total) => Ok(Block::End(u64::from_le_bytes(total))),
            Err(_) => Err(Damage::Content(number)),
        },
        _ => Err(Damage::Content(number)),
    }
}

fn fill(input: &mut impl Read, buffer: &mut [u8]) -> Result<(), Damage> {
    input.read_exact(buffer).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Damage::Short,
        _ => Damage::Io(error.to_string()),
    })
}

fn unpack(content: &[u8], records_bytes: usize, count: u32) -> Option<Vec<Record>> {
    let mut plain = Vec::with_capacity(records_bytes);
    let mut decoder = DeflateDecoder::new(content).take(records_bytes as u64 + 1);
    decoder.read_to_end(&mut plain).ok()?;
    if plain.len() != records_bytes {
        return None;
    }
    let mut plain = Bytes::from(plain);
    let mut records = Vec::new();
    while plain.has_remaining() {
        if plain.remaining() < RECORD_HEAD {
            return None;
        }
        let (key, value) = (plain.get_u32_le() as usize, plain.get_u32_le() as usize);
        let expires_at_ms = plain.get_u64_le();
        if key.checked_add(value)? > plain.remaining() {
            return None;
        }
        records.push(Record {
            key: plain.split_to(key),
            value: plain.split_to(value),
            expires_at_ms,
        });
    }
    (records.len() == count as usize).then_some(records)
}
