//! Footnotes of log entries: where what an entry did differs from what its command says.
//!
//! The state machine writes one in the batch of the entry's state, and only if there is something to say. It is read together
//! with the entry, by watches, and goes with it. It is no part of the state: which entries a replica still has is its own affair.

use super::backend::{Reader, Space};
use super::error::StorageError;
use super::keys::footnote_key;
use super::record::{Malformed, seal, unseal};
use super::store::Store;
use bytes::{Buf, BufMut, Bytes};
use fulcrum_types::{GroupId, Index};
use std::collections::BTreeMap;

/// Stages an entry's footnote.
pub fn put_footnote(store: &mut Store, group: GroupId, index: Index, content: &[u8]) {
    let record = seal(content.len(), |buffer| buffer.put_slice(content));
    store.put(Space::Meta, footnote_key(group, index), record);
}

/// The footnotes of the entries from `first` to `last`.
pub(super) fn footnotes(
    reader: &impl Reader,
    group: GroupId,
    first: Index,
    last: Index,
) -> Result<BTreeMap<Index, Bytes>, StorageError> {
    let (start, end) = (footnote_key(group, first), footnote_key(group, last.next()));
    let mut found = BTreeMap::new();
    for record in reader.range(Space::Meta, &start, &end) {
        let (key, value) = record?;
        let index = index_of(&key, start.len()).map_err(|e| corrupt(group, first, e))?;
        let content = unseal(&value).map_err(|e| corrupt(group, index, e))?;
        found.insert(index, content);
    }
    Ok(found)
}

/// Removes the footnotes of the entries from `first` to `last`.
pub(super) fn forget(store: &mut Store, group: GroupId, first: Index, last: Index) -> Result<(), StorageError> {
    let (start, end) = (footnote_key(group, first), footnote_key(group, last.next()));
    let doomed: Vec<Bytes> = store
        .range(Space::Meta, &start, &end)
        .map(|record| record.map(|(key, _)| key))
        .collect::<Result<_, _>>()?;
    for key in doomed {
        store.delete(Space::Meta, key);
    }
    Ok(())
}

fn index_of(key: &Bytes, length: usize) -> Result<Index, Malformed> {
    if key.len() != length {
        return Err(Malformed::TooLong);
    }
    let mut own = key.slice(length - 8..);
    Ok(Index(own.get_u64()))
}

fn corrupt(group: GroupId, index: Index, reason: Malformed) -> StorageError {
    StorageError::Corrupt {
        group,
        index,
        reason: format!("footnote: {reason}"),
    }
}
