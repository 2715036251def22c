//! Loss certificates: what a failover of an `async` group, or a start by force, lost. Nothing is lost silently.
//!
//! A certificate is named by the epoch that its promotion began. Its opening is recorded with the promotion, the diverged
//! entries as replicas of the old history find them, before they truncate them. Beside it stands what this node knows of that epoch
//! itself: that nothing was acknowledged in it, or that it led none of those up to it ([`fulcrum_types::Accounts`] says what for). No
//! compaction or snapshot touches them; they go only with the group.

use super::backend::{Reader, Space};
use super::codec;
use super::error::StorageError;
use super::keys::{certificate_key, group_range};
use super::store::Store;
use bytes::{Buf, Bytes};
use fulcrum_replication::contract::Divergence;
use fulcrum_types::{Epoch, GroupId, LogPosition, Member};
use std::collections::BTreeMap;

/// Record number of the opening; diverged entries follow.
const OPENING: u64 = 0;
/// Behind all diverged entries: which epochs, up to this one, this node led none of.
const UNLED: u64 = u64::MAX - 1;
/// Nothing was acknowledged in this epoch.
const VOID: u64 = u64::MAX;

/// What is known here of one failover's losses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The group.
    pub group: GroupId,
    /// The epoch that began.
    pub new_epoch: Epoch,
    /// Recorded by the replica that was promoted.
    pub opening: Option<Opening>,
    /// Recorded by replicas that held entries of the old history.
    pub diverged: Vec<Divergence>,
    /// In the epoch that began nothing was ever acknowledged.
    pub void: bool,
    /// This node led none of the epochs up to the one that began.
    pub unled: Option<Unled>,
}

/// How a certificate was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The epoch that ended.
    pub old_epoch: Epoch,
    /// The new primary's last entry when it was promoted: what lies behind in the old epoch may be lost.
    pub promotion: LogPosition,
    /// Who had won the epoch that ended, as far as known.
    pub deposed: Option<Member>,
}

/// Epochs that a replica has missed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unled {
    /// The replica, with the data that it had.
    pub who: Member,
    /// The first of them; the last is the one that the certificate is named by.
    pub first: Epoch,
    /// Who had won the epoch before the first, if any.
    pub before: Option<Member>,
}

pub(super) fn open(store: &mut Store, group: GroupId, new_epoch: Epoch, opening: &Opening) {
    let key = certificate_key(group, new_epoch, OPENING);
    store.put(Space::Certificates, key, codec::encode_opening(opening));
}

pub(super) fn note_void(store: &mut Store, group: GroupId, epoch: Epoch) {
    let key = certificate_key(group, epoch, VOID);
    store.put(Space::Certificates, key, codec::encode_number(epoch.0));
}

pub(super) fn note_unled(store: &mut Store, group: GroupId, last: Epoch, unled: &Unled) {
    let key = certificate_key(group, last, UNLED);
    store.put(Space::Certificates, key, codec::encode_unled(unled));
}

/// Keeps diverged entries, once: a repetition of what is on record changes nothing.
pub(super) fn record(store: &mut Store, group: GroupId, divergence: &Divergence) -> Result<(), StorageError> {
    let record = codec::encode_divergence(divergence);
    let first = certificate_key(group, divergence.new_epoch, OPENING + 1);
    let end = certificate_key(group, divergence.new_epoch, UNLED);
    let mut count = 0;
    for known in store.range(Space::Certificates, &first, &end) {
        if known?.1 == record {
            return Ok(());
        }
        count += 1;
    }
    store.put(
        Space::Certificates,
        certificate_key(group, divergence.new_epoch, OPENING + 1 + count),
        record,
    );
    Ok(())
}

/// All certificates of a group that this node knows of, oldest first.
pub fn certificates(reader: &impl Reader, group: GroupId) -> Result<Vec<Certificate>, StorageError> {
    let (start, end) = group_range(group);
    let mut found: BTreeMap<Epoch, Certificate> = BTreeMap::new();
    for record in reader.range(Space::Certificates, &start, &end) {
        let (key, value) = record?;
        let (epoch, number) = parse(&key)?;
        let certificate = found.entry(epoch).or_insert_with(|| Certificate {
            group,
            new_epoch: epoch,
            opening: None,
            diverged: Vec::new(),
            void: false,
            unled: None,
        });
        match number {
            OPENING => certificate.opening = Some(codec::decode_opening(&value).map_err(damaged)?),
            UNLED => certificate.unled = Some(codec::decode_unled(&value).map_err(damaged)?),
            VOID => certificate.void = codec::decode_number(&value).map_err(damaged)? == epoch.0,
            _ => certificate
                .diverged
                .push(codec::decode_divergence(&value).map_err(damaged)?),
        }
    }
    Ok(found.into_values().collect())
}

fn parse(key: &Bytes) -> Result<(Epoch, u64), StorageError> {
    if key.len() != 24 {
        return Err(damaged("key length"));
    }
    let mut key = key.slice(8..);
    Ok((Epoch(key.get_u64()), key.get_u64()))
}

fn damaged(reason: impl ToString) -> StorageError {
    StorageError::Damaged {
        space: Space::Certificates,
        reason: reason.to_string(),
    }
}
