//! What may have removed a key: the excuse of reads that saw nothing, as absence carries no version.

use crate::history::{History, Operation, Outcome};
use bytes::Bytes;
use fulcrum_types::Index;
use std::collections::HashMap;

/// A removal that happened or may have happened.
#[derive(Clone, Copy)]
struct Removal {
    invoked: u64,
    /// Not known if the removal's outcome is not.
    version: Option<Index>,
}

/// Each key's removals, in the order in which they began.
pub(crate) struct Removals<'a> {
    keys: HashMap<&'a Bytes, Vec<Removal>>,
}

impl<'a> Removals<'a> {
    pub(crate) fn of(history: &'a History) -> Self {
        let mut keys: HashMap<&Bytes, Vec<Removal>> = HashMap::new();
        for operation in history.operations() {
            let happened = operation.is_written() || operation.outcome == Outcome::Unknown;
            if operation.call.writes() == Some(None) && happened {
                keys.entry(&operation.key).or_default().push(Removal {
                    invoked: operation.invoked,
                    version: operation.written_version(),
                });
            }
        }
        Removals { keys }
    }

    /// Whether `read` can have seen the effect of a removal at or after `version`.
    pub(crate) fn may_explain(&self, read: &Operation, version: Index) -> bool {
        self.newest_for(read) >= version
    }

    /// The newest version whose removal `read` can have seen; the greatest of all if that is not known.
    pub(crate) fn newest_for(&self, read: &Operation) -> Index {
        newest(self.of_key(&read.key), read.returned.unwrap_or(u64::MAX))
    }

    /// Whether some removal can have hidden `version` by the end of the history.
    pub(crate) fn could_hide(&self, key: &Bytes, version: Index) -> bool {
        newest(self.of_key(key), u64::MAX) >= version
    }

    fn of_key(&self, key: &Bytes) -> &[Removal] {
        self.keys.get(key).map_or(&[], Vec::as_slice)
    }
}

fn newest(removals: &[Removal], until: u64) -> Index {
    let begun = removals.iter().take_while(|r| r.invoked <= until);
    begun
        .map(|r| r.version.unwrap_or(Index(u64::MAX)))
        .max()
        .unwrap_or_default()
}
