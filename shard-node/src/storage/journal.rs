//! Telling a torn tail from lost data in the engine's journals, before the engine opens them.
//!
//! **Why.** The engine reads a journal up to the first byte that it cannot make sense of and cuts the rest without a word, be
//! it the torn last batch or everything behind a damaged sector. And a torn batch whose end reached the disk before its middle
//! fails the whole open. After this check neither happens: what is left for the engine are whole batches.
//!
//! **The protocol.** Every batch carries a [`Mark`]: its running number, and the number through which all is known to be
//! synced. The [`Watermark`] beside the store repeats the latter after each sync, without a sync of its own: it is exact
//! after the end of the process, and may be behind, never ahead, after the end of the machine. At an open, all batches are
//! read and checked. Let L be the last whole one before any damage, and S the highest number that the watermark, or any mark
//! behind the damage, says was synced:
//!
//! - L >= S: what is damaged was never synced. It is the tail, and is cut.
//! - L < S: acknowledged data is missing. The open is refused, and nothing is changed.
//!
//! Sealed journals were synced as a whole, so damage in one is always of the second kind. A gap in the numbers counts as
//! damage. The number that the engine itself has recovered is held against S once more when it is open ([`Mark::check`]).
//!
//! **What cannot be told.** If the machine (not only the process) lost power, the watermark is old: damage to the very last
//! synced batches, with no batch behind them, looks like a torn tail. Nor is a journal's absence seen if its batches are
//! older than all others. A value that holds a copy of a mark of this very store, with a number from its future, would be
//! taken for one; it could only refuse an open, not lose anything. Format: that of `fjall` 3.

use super::directory::Directory;
use super::error::StorageError;
use super::record::Decoder;
use super::watermark::Watermark;
use bytes::{BufMut, Bytes, BytesMut};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::xxh3_64;

/// Key of the mark in a batch: long enough not to be met by chance.
pub(super) const MARK_KEY: &[u8; 16] = b"fulcrum:batch:01";
const MARK_BYTES: usize = 8 + 8 + 8 + 4;

const START: u8 = 1;
const ITEM: u8 = 2;
const END: u8 = 3;
const CLEAR: u8 = 4;
const START_BYTES: usize = 1 + 4 + 8;
const END_BYTES: usize = 1 + 8 + TRAILER.len();
const TRAILER: &[u8; 4] = b"FJL\x03";
const PAGE: usize = 4096;

/// What a batch says of itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Mark {
    /// Its number. One more than that of the batch before it.
    pub(super) number: u64,
    /// All batches through this were synced when it was written.
    pub(super) synced: u64,
    /// The engine's own number for it is not below this.
    pub(super) sequence: u64,
}

impl Mark {
    /// The mark as a value. `tag` binds it to this store.
    pub(super) fn encode(&self, tag: u64) -> Bytes {
        let mut buffer = BytesMut::with_capacity(MARK_BYTES);
        buffer.put_u64(self.number);
        buffer.put_u64(self.synced);
        buffer.put_u64(self.sequence);
        let checksum = checksum(tag, &buffer);
        buffer.put_u32(checksum);
        buffer.freeze()
    }

    /// The mark at the start of `bytes`, if there is one of this store.
    pub(super) fn decode(bytes: &[u8], tag: u64) -> Option<Self> {
        let record = bytes.get(..MARK_BYTES)?;
        let (content, stored) = record.split_at(MARK_BYTES - 4);
        if checksum(tag, content).to_be_bytes() != stored {
            return None;
        }
        let mut decoder = Decoder::new(Bytes::copy_from_slice(content));
        Some(Mark {
            number: decoder.u64().ok()?,
            synced: decoder.u64().ok()?,
            sequence: decoder.u64().ok()?,
        })
    }

    /// Holds what the engine has recovered against what was synced.
    pub(super) fn check(found: Option<Mark>, synced: u64, directory: &Directory) -> Result<u64, StorageError> {
        let last = found.unwrap_or_default().number;
        if last < synced {
            let reason = format!("it ends with batch {last}, but all through batch {synced} was synced");
            return Err(directory.corrupt(&directory.engine(), reason));
        }
        Ok(last)
    }
}

/// The checksum of a record that belongs to the store with this tag.
pub(super) fn checksum(tag: u64, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&tag.to_be_bytes());
    hasher.update(content);
    hasher.finalize()
}

/// Checks all journals and cuts a torn tail.
pub(super) fn repair(directory: &Directory, watermark: &mut Watermark) -> Result<(), StorageError> {
    let journals = list(&directory.engine()).map_err(|e| directory.io_error(e))?;
    let mut chain = Chain::default();
    for (position, path) in journals.iter().enumerate() {
        let bytes = fs::read(path).map_err(|e| directory.io_error(e))?;
        let end = chain.follow(&bytes, directory.tag());
        let rest = &bytes[end..];
        if is_blank(rest) {
            continue;
        }
        let refuse = |reason: String| Err(directory.corrupt(path, format!("at byte {end}: {reason}")));
        if position + 1 < journals.len() {
            return refuse("a finished journal does not end here".into());
        }
        let marks = marks_in(rest, directory.tag());
        let synced = marks.iter().map(|mark| mark.synced).max().unwrap_or_default();
        let synced = synced.max(watermark.through());
        let lost = match (chain.last, marks.first()) {
            (Some(last), _) => last < synced,
            (None, Some(first)) => first.number <= synced,
            // Only the engine's tables can tell: the cut must not take the evidence with it.
            (None, None) => false,
        };
        if lost {
            return refuse(format!(
                "batches through {synced} were synced, not all of them are whole"
            ));
        }
        watermark.settle(synced).map_err(|e| directory.io_error(e))?;
        cut(path, end).map_err(|e| directory.io_error(e))?;
        tracing::warn!(journal = %path.display(), at = end, "cut a torn tail that was never synced");
    }
    Ok(())
}

/// The journals of a store, oldest first.
fn list(store: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(store) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut journals = Vec::new();
    for entry in entries {
        let path = entry?.path();
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let (Some("jnl"), Some(number)) = (path.extension().and_then(|e| e.to_str()), number) {
            journals.push((number, path));
        }
    }
    journals.sort();
    Ok(journals.into_iter().map(|(_, path)| path).collect())
}

fn cut(path: &Path, end: usize) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(end as u64)?;
    file.sync_all()
}

/// The engine makes its journals large ahead of time: zeros were never written.
fn is_blank(bytes: &[u8]) -> bool {
    bytes.chunks(PAGE).all(|chunk| *chunk == [0; PAGE][..chunk.len()])
}

/// All marks in `bytes`, also those of batches that are not whole: what they say was true when they were written.
fn marks_in(bytes: &[u8], tag: u64) -> Vec<Mark> {
    let mut marks = Vec::new();
    let mut from = 0;
    while let Some(found) = find(&bytes[from..], MARK_KEY) {
        from += found + MARK_KEY.len();
        marks.extend(Mark::decode(&bytes[from..], tag));
    }
    marks
}

/// Where `key` is in `bytes`.
fn find(bytes: &[u8], key: &[u8; 16]) -> Option<usize> {
    let mut from = 0;
    loop {
        from += bytes[from..].iter().position(|byte| *byte == key[0])?;
        if bytes[from..].starts_with(key) {
            return Some(from);
        }
        from += 1;
    }
}

/// The batches of all journals, in order.
#[derive(Default)]
struct Chain {
    /// Number of the last batch, if there was any.
    last: Option<u64>,
    /// The engine's number for it.
    sequence: u64,
}

impl Chain {
    /// Follows the batches at the start of `bytes` that are whole and in order. Returns where they end.
    fn follow(&mut self, bytes: &[u8], tag: u64) -> usize {
        let mut end = 0;
        while let Some(batch) = RawBatch::read(&bytes[end..], tag) {
            if let Some(mark) = batch.mark {
                let due = self.last.map_or(mark.number, |last| last + 1);
                if mark.number != due || batch.sequence < mark.sequence.max(self.sequence) {
                    break;
                }
                self.last = Some(mark.number);
                self.sequence = batch.sequence;
            }
            end += batch.length;
        }
        end
    }
}

/// A batch as it stands in a journal.
struct RawBatch {
    length: usize,
    sequence: u64,
    mark: Option<Mark>,
}

impl RawBatch {
    /// The batch at the start of `bytes`, if it is whole.
    fn read(bytes: &[u8], tag: u64) -> Option<Self> {
        let mut rest = bytes;
        let mut start = rest.split_off(..START_BYTES)?;
        if number::<1>(&mut start)? != u64::from(START) {
            return None;
        }
        let count = number::<4>(&mut start)?;
        let sequence = number::<8>(&mut start)?;
        let items = rest;
        let mut mark = None;
        for _ in 0..count {
            let (key, value) = read_item(&mut rest)?;
            if key == MARK_KEY {
                mark = Some(Mark::decode(value, tag)?);
            }
        }
        let items = &items[..items.len() - rest.len()];
        let mut end = rest.split_off(..END_BYTES)?;
        let whole = number::<1>(&mut end)? == u64::from(END)
            && number::<8>(&mut end)? == xxh3_64(items)
            && end == TRAILER
            && sequence >> 63 == 0;
        whole.then_some(RawBatch {
            length: bytes.len() - rest.len(),
            sequence,
            mark,
        })
    }
}

/// Key and value of the item at the start of `rest`; both empty if it has none.
fn read_item<'a>(rest: &mut &'a [u8]) -> Option<(&'a [u8], &'a [u8])> {
    let kind = *rest.split_off_first()?;
    if kind == CLEAR {
        rest.split_off(..8)?;
        return Some((&[], &[]));
    }
    if kind != ITEM {
        return None;
    }
    // Kind of value, compression, and the number of the engine's keyspace.
    rest.split_off(..1 + 1 + 8)?;
    let key_length = usize::try_from(number::<2>(rest)?).ok()?;
    let _uncompressed = number::<4>(rest)?;
    let value_length = usize::try_from(number::<4>(rest)?).ok()?;
    Some((rest.split_off(..key_length)?, rest.split_off(..value_length)?))
}

/// A number of `N` bytes, the lowest first.
fn number<const N: usize>(rest: &mut &[u8]) -> Option<u64> {
    let bytes = rest.split_off(..N)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}
