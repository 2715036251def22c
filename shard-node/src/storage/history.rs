//! Reading a group's log behind its back: entry by entry, with footnotes, as watches do.

use super::backend::{Reader, Space};
use super::codec;
use super::error::StorageError;
use super::footnotes;
use super::group::GroupStore;
use super::keys::log_key;
use super::store::Store;
use bytes::Bytes;
use fulcrum_types::{Entry, Index};
use std::collections::BTreeMap;

/// An entry and its footnote, if it has one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Noted {
    /// The entry.
    pub entry: Entry,
    /// What the state machine noted of it.
    pub footnote: Option<Bytes>,
}

impl GroupStore {
    /// The log is kept behind this index.
    #[must_use]
    pub fn kept_after(&self) -> Index {
        self.spare.kept_after()
    }

    /// From now on about so many bytes of log are kept for watches, beside what replication needs.
    pub fn keep_for_watches(&mut self, bytes: usize) {
        self.spare.keep(bytes);
    }

    /// The entries from `first`, which must lie behind [`GroupStore::kept_after`], through `last`, as far as the caller reads.
    pub fn entries<'a>(
        &self,
        store: &'a Store,
        first: Index,
        last: Index,
    ) -> Result<impl Iterator<Item = Result<Noted, StorageError>> + use<'a>, StorageError> {
        let group = self.group();
        let mut footnotes: BTreeMap<Index, Bytes> = footnotes::footnotes(store, group, first, last)?;
        let (start, end) = (log_key(group, first), log_key(group, last.next()));
        let mut due = first;
        let records = store.range(Space::Log, &start, &end);
        Ok(records.map(move |record| {
            let (_, value) = record?;
            let corrupt = |reason: String| StorageError::Corrupt {
                group,
                index: due,
                reason,
            };
            let entry = codec::decode_entry(&value).map_err(|e| corrupt(e.to_string()))?;
            let index = entry.position.index;
            if index != due {
                return Err(corrupt("missing".to_owned()));
            }
            due = index.next();
            let footnote = footnotes.remove(&index);
            Ok(Noted { entry, footnote })
        }))
    }
}
