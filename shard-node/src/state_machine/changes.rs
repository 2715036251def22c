//! What an applied entry changed, told from the entry and its footnote alone.
//!
//! A change is what a reader could have noticed: a value that was set, deleted, or went when its time was up. Its order within
//! the entry is that of the writes, then that of the expiries. The writes of a transaction over several groups become changes
//! where they become visible: with the entry that resolves it, whose footnote holds them.

use super::command::{Command, CommandError};
use super::expiry;
use super::footnote::{Became, Footnote};
use super::value::Content;
use crate::storage::Noted;
use bytes::Bytes;
use fulcrum_types::{Change, ChangeKind, Entry, Mutation, Payload, Version, Versioned, WriteOp};

/// The changes that an applied entry made, in order.
///
/// # Errors
/// The entry or its footnote is damaged.
pub fn changes_of(noted: &Noted) -> Result<Vec<Change>, CommandError> {
    let entry = &noted.entry;
    let footnote = noted.footnote.clone().map(Footnote::decode).transpose()?;
    let footnote = footnote.unwrap_or_default();
    let mut made = Made {
        entry,
        changes: Vec::new(),
    };
    if let (Payload::Command(bytes), false) = (&entry.payload, footnote.nothing) {
        made.writes(Command::decode(bytes.clone())?.into_writes(), &footnote);
    }
    for became in footnote.became {
        made.became(became);
    }
    for (key, version) in footnote.expired {
        made.push(key, ChangeKind::Expire { version });
    }
    Ok(made.changes)
}

struct Made<'a> {
    entry: &'a Entry,
    changes: Vec<Change>,
}

impl Made<'_> {
    fn writes(&mut self, ops: Vec<WriteOp>, footnote: &Footnote) {
        let version = Version(self.entry.position.index.0);
        for (number, op) in (0u32..).zip(ops) {
            for (_, version) in footnote.upon_expired.iter().filter(|(op, _)| *op == number) {
                self.push(op.key.clone(), ChangeKind::Expire { version: *version });
            }
            if footnote.idle.contains(&number) {
                continue;
            }
            let kind = match op.mutation {
                Mutation::Put { value, ttl } => ChangeKind::Put(Versioned {
                    value,
                    version,
                    expires_at_ms: ttl.map_or(0, |ttl| expiry(self.entry.time, ttl)),
                }),
                Mutation::Delete => ChangeKind::Delete { version },
            };
            self.push(op.key, kind);
        }
    }

    fn became(&mut self, became: Became) {
        let Became {
            key,
            upon_expired,
            record,
        } = became;
        if let Some(version) = upon_expired {
            self.push(key.clone(), ChangeKind::Expire { version });
        }
        let Some(record) = record else { return };
        let version = record.version;
        let kind = match record.content {
            Content::Value { value, expires_at_ms } => ChangeKind::Put(Versioned {
                value,
                version,
                expires_at_ms,
            }),
            Content::Tombstone => ChangeKind::Delete { version },
        };
        self.push(key, kind);
    }

    fn push(&mut self, key: Bytes, kind: ChangeKind) {
        self.changes.push(Change {
            position: self.entry.position,
            // An entry holds a bounded number of writes and expiries, far fewer than this can count.
            ordinal: u32::try_from(self.changes.len()).unwrap_or(u32::MAX),
            time: self.entry.time,
            key,
            kind,
        });
    }
}
