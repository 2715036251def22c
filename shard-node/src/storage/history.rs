//! Reading a group's log behind its back: entry by entry, with footnotes, as watches do.

use super::error::StorageError;
use super::footnotes;
use super::group::GroupStore;
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
        let mut footnotes: BTreeMap<Index, Bytes> = footnotes::footnotes(store, self.group(), first, last)?;
        let entries = self.log.entries(store, first, last)?;
        Ok(entries.map(move |entry| {
            let entry = entry?;
            let footnote = footnotes.remove(&entry.position.index);
            Ok(Noted { entry, footnote })
        }))
    }
}
