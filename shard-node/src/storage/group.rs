//! One group's view of the node's store: its log, its hard state, and which generation of its state is current.
//!
//! All methods only stage. The runner says with [`Store::require`] how durable a core's writes must be, and learns from the
//! batch when they are. Applied state may be written late ([`Store::anchor`]): compaction, and whatever else rests on it,
//! takes it along. That entries were applied is on record at once all the same ([`GroupStore::note_applied`]): they were
//! committed, which a restart must know lest they pass for a tail that nobody was told of.

use super::backend::{Reader, Space};
use super::certificates::{self, Opening, Unled};
use super::codec;
use super::error::StorageError;
use super::footnotes;
use super::keys::{self, Generation, MetaField, generation_range, group_range, meta_key};
use super::log::Log;
use super::snapshot::Staging;
use super::spare::Spare;
use super::store::Store;
use crate::state_machine::Applied;
use bytes::{Buf, Bytes};
use fulcrum_replication::contract::{HardState, LogChange, SnapshotChunk, TransferId};
use fulcrum_types::{Entry, GroupId, Index, LogPosition, ReplicatedTime};

/// What stands before the first entry of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogBase {
    /// The last entry that compaction or a snapshot removed.
    pub position: LogPosition,
    /// Its replicated time.
    pub time: ReplicatedTime,
}

/// What a group's storage held when it was opened.
pub struct OpenedGroup {
    /// The group's storage.
    pub storage: GroupStore,
    /// The last hard state made durable, with all that was known to be committed; none on an empty disk.
    pub hard_state: Option<HardState>,
    /// What stands before the log.
    pub base: LogBase,
    /// The retained log, without gaps.
    pub log: Vec<Entry>,
}

/// What stays of a group that is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// The group goes on elsewhere: what it lost stays on record.
    Certificates,
    /// The group is no more.
    Nothing,
}

/// One group's storage.
#[derive(Debug)]
pub struct GroupStore {
    group: GroupId,
    generation: Generation,
    /// Never used before, not even by a snapshot that was given up.
    fresh: Generation,
    base: LogBase,
    pub(super) log: Log,
    /// What is kept behind the base.
    pub(super) spare: Spare,
    staging: Option<Staging>,
    /// There may be records of generations other than the current one.
    leftovers: bool,
}

impl GroupStore {
    /// Opens a group's storage and checks every record of its log.
    ///
    /// # Errors
    /// [`StorageError::Corrupt`] concerns this replica only: [`GroupStore::reset`] it, and let it be rebuilt with a new data
    /// id (rule 5).
    pub fn open(store: &Store, group: GroupId) -> Result<OpenedGroup, StorageError> {
        let corrupt = |reason: super::record::Malformed| corrupt(group, Index::ZERO, reason);
        let meta = |field| store.get(Space::Meta, &meta_key(group, field));
        let mut hard_state = read_hard_state(store, group)?;
        let (position, time) = meta(MetaField::LogBase)?
            .map(|r| codec::decode_base(&r))
            .transpose()
            .map_err(corrupt)?
            .unwrap_or_default();
        let generation = meta(MetaField::Generation)?
            .map(|r| codec::decode_number(&r))
            .transpose()
            .map_err(corrupt)?
            .unwrap_or(0);
        let generation = Generation(u32::try_from(generation).unwrap_or(u32::MAX));
        let noted = meta(MetaField::AppliedThrough)?
            .map(|r| codec::decode_number(&r))
            .transpose()
            .map_err(corrupt)?;
        if let Some(state) = &mut hard_state {
            state.commit = state.commit.max(Index(noted.unwrap_or(0)));
        }
        let base = LogBase { position, time };
        let (log, entries) = Log::read(store, group, base)?;
        let last = log.last();
        if let Some(state) = &hard_state
            && state.commit > last
        {
            return Err(self::corrupt(group, last.next(), "committed entries are missing"));
        }
        let applied = Applied::read(store, group, generation)?.position.index;
        if applied > last || applied < base.position.index {
            return Err(self::corrupt(group, applied, "the state and the log do not meet"));
        }
        let newest = newest_generation(store, group)?;
        let fresh = newest.map_or(generation, |n| n.max(generation)).next();
        let leftovers = oldest_other(store, group, generation)?.is_some();
        let kept_after = log
            .first()
            .map_or(base.position.index, |first| first.prev().min(base.position.index));
        let storage = GroupStore {
            group,
            generation,
            fresh,
            base,
            spare: Spare::new(kept_after, base.position.index, &entries),
            log,
            staging: None,
            leftovers,
        };
        Ok(OpenedGroup {
            storage,
            hard_state,
            base,
            log: entries,
        })
    }

    /// The hard state alone, whatever else there is; none if it is damaged: then nothing that it said counts any more.
    ///
    /// # Errors
    /// The disk cannot be read.
    pub fn hard_state(store: &Store, group: GroupId) -> Result<Option<HardState>, StorageError> {
        match read_hard_state(store, group) {
            Err(StorageError::Corrupt { .. }) => Ok(None),
            other => other,
        }
    }

    /// Clears away a group's log, state and hard state, damaged or not; certificates stay. Returns it as it is on an empty
    /// disk.
    pub fn reset(store: &mut Store, group: GroupId) -> Result<OpenedGroup, StorageError> {
        let fresh = newest_generation(store, group)?.unwrap_or_default().next();
        let (start, end) = group_range(group);
        for space in [Space::Log, Space::Meta] {
            delete_range(store, space, &start, &end, usize::MAX)?;
        }
        let mut storage = GroupStore {
            group,
            generation: fresh,
            fresh: fresh.next(),
            base: LogBase::default(),
            log: Log::empty(group, Index::ZERO),
            spare: Spare::new(Index::ZERO, Index::ZERO, &[]),
            staging: None,
            leftovers: true,
        };
        storage.put_generation(store, fresh);
        Ok(OpenedGroup {
            storage,
            hard_state: None,
            base: LogBase::default(),
            log: Vec::new(),
        })
    }

    /// Removes a group with all it has, except what is kept.
    ///
    /// The state goes in steps of `most` records; call it until it returns true.
    pub fn remove(store: &mut Store, group: GroupId, most: usize, kept: Kept) -> Result<bool, StorageError> {
        // Its state must not outlive what names the group.
        store.anchor(group);
        let (start, end) = group_range(group);
        let goes = |space: &Space| *space != Space::Certificates || kept == Kept::Nothing;
        let spaces = [Space::State, Space::Log, Space::Certificates, Space::Meta];
        for space in spaces.into_iter().filter(goes) {
            if delete_range(store, space, &start, &end, most)? >= most {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The group.
    #[must_use]
    pub fn group(&self) -> GroupId {
        self.group
    }

    /// The current generation of its state. Changes with [`LogChange::InstallSnapshot`] and [`LogChange::DropState`]: the
    /// state machine must then be opened anew.
    #[must_use]
    pub fn generation(&self) -> Generation {
        self.generation
    }

    /// What stands before the log.
    #[must_use]
    pub fn base(&self) -> LogBase {
        self.base
    }

    /// Notes through where entries are applied. It goes out with the next batch, their state perhaps much later.
    pub fn note_applied(&self, store: &mut Store, through: Index) {
        let record = codec::encode_number(through.0);
        store.put(Space::Meta, meta_key(self.group, MetaField::AppliedThrough), record);
    }

    /// The last index of the log.
    #[must_use]
    pub fn last(&self) -> Index {
        self.log.last()
    }

    /// Stages what a core wants made durable.
    pub fn change(&mut self, store: &mut Store, change: &LogChange) -> Result<(), StorageError> {
        match change {
            LogChange::HardState(state) => self.put_hard_state(store, state),
            LogChange::Append(entries) => self.append(store, entries),
            LogChange::Truncate { from } => self.truncate(store, *from)?,
            LogChange::Compact { through } => self.compact(store, *through)?,
            LogChange::OpenCertificate {
                old_epoch,
                new_epoch,
                promotion,
                deposed,
            } => {
                let opening = Opening {
                    old_epoch: *old_epoch,
                    promotion: *promotion,
                    deposed: *deposed,
                };
                certificates::open(store, self.group, *new_epoch, &opening);
            }
            LogChange::VoidEpoch { epoch } => certificates::note_void(store, self.group, *epoch),
            LogChange::Unled {
                who,
                first,
                last,
                before,
            } => {
                let unled = Unled {
                    who: *who,
                    first: *first,
                    before: *before,
                };
                certificates::note_unled(store, self.group, *last, &unled);
            }
            LogChange::Diverged(divergence) => certificates::record(store, self.group, divergence)?,
            LogChange::InstallSnapshot { transfer, meta } => {
                let base = LogBase {
                    position: meta.position,
                    time: meta.time,
                };
                let staging = self.staging.take();
                let generation = Staging::finish(staging, store, self.group, *transfer, base)?;
                self.replace_state(store, generation, base)?;
            }
            LogChange::DropState => {
                let generation = self.take_fresh();
                self.replace_state(store, generation, LogBase::default())?;
            }
        }
        Ok(())
    }

    fn put_hard_state(&self, store: &mut Store, state: &HardState) {
        store.put(
            Space::Meta,
            meta_key(self.group, MetaField::HardState),
            codec::encode_hard_state(state),
        );
    }

    fn append(&mut self, store: &mut Store, entries: &[Entry]) {
        self.log.append(store, entries);
        entries.iter().for_each(|entry| self.spare.append(entry));
    }

    fn truncate(&mut self, store: &mut Store, from: Index) -> Result<(), StorageError> {
        // Of an earlier life that had applied them, and may have been wrong to: the entries that take their place have their own.
        footnotes::forget(store, self.group, from, self.log.last())?;
        self.spare.truncate(from);
        self.log.truncate(store, from)
    }

    fn compact(&mut self, store: &mut Store, through: LogPosition) -> Result<(), StorageError> {
        if through.index <= self.base.position.index {
            return Ok(());
        }
        let entry = self.log.entry(store, through.index)?;
        debug_assert_eq!(entry.position, through);
        let through_spare = self.spare.let_go(self.base.position.index, through.index);
        self.let_go(store, through_spare)?;
        self.set_base(
            store,
            LogBase {
                position: through,
                time: entry.time,
            },
        );
        Ok(())
    }

    /// Drops the records that end at or before an index, and the footnotes of their entries with them: what is still there
    /// has all of its own.
    fn let_go(&mut self, store: &mut Store, through: Index) -> Result<(), StorageError> {
        match self.log.drop_through(store, through) {
            Some((first, last)) => footnotes::forget(store, self.group, first, last),
            None => Ok(()),
        }
    }

    fn replace_state(&mut self, store: &mut Store, generation: Generation, base: LogBase) -> Result<(), StorageError> {
        self.let_go(store, self.log.last())?;
        self.log = Log::empty(self.group, base.position.index);
        self.spare = Spare::new(base.position.index, base.position.index, &[]);
        self.set_base(store, base);
        self.put_generation(store, generation);
        self.note_applied(store, base.position.index);
        self.leftovers = true;
        Ok(())
    }

    fn set_base(&mut self, store: &mut Store, base: LogBase) {
        self.base = base;
        // The log before it is in the state, and must not go without it.
        store.anchor(self.group);
        store.put(
            Space::Meta,
            meta_key(self.group, MetaField::LogBase),
            codec::encode_base(base.position, base.time),
        );
    }

    fn put_generation(&mut self, store: &mut Store, generation: Generation) {
        self.generation = generation;
        store.anchor(self.group);
        let record = codec::encode_number(u64::from(generation.0));
        store.put(Space::Meta, meta_key(self.group, MetaField::Generation), record);
    }

    fn take_fresh(&mut self) -> Generation {
        let generation = self.fresh;
        self.fresh = generation.next();
        generation
    }

    /// Keeps a part of an incoming snapshot beside the present state.
    pub fn stage_snapshot(
        &mut self,
        store: &mut Store,
        transfer: TransferId,
        chunk: &SnapshotChunk,
    ) -> Result<(), StorageError> {
        if chunk.number == 0 {
            self.leftovers |= self.staging.is_some();
            self.staging = Some(Staging::new(transfer, self.take_fresh()));
        }
        match &mut self.staging {
            Some(staging) => staging.add(store, self.group, transfer, chunk),
            None => Err(StorageError::BadSnapshot {
                group: self.group,
                reason: "its start is missing".into(),
            }),
        }
    }

    /// Removes up to `most` records of states that are no longer, or never became, current. Returns whether any may be left.
    pub fn sweep(&mut self, store: &mut Store, most: usize) -> Result<bool, StorageError> {
        if !self.leftovers {
            return Ok(false);
        }
        let staged = self.staging.as_ref().map(Staging::generation);
        let mut left = most;
        while left > 0 {
            let Some(generation) = oldest_except(store, self.group, &[Some(self.generation), staged])? else {
                self.leftovers = false;
                return Ok(false);
            };
            let (start, end) = generation_range(self.group, generation);
            left -= delete_range(store, Space::State, &start, &end, left)?;
        }
        Ok(true)
    }
}

fn read_hard_state(store: &Store, group: GroupId) -> Result<Option<HardState>, StorageError> {
    let record = store.get(Space::Meta, &meta_key(group, MetaField::HardState))?;
    let decoded = record.map(|r| codec::decode_hard_state(&r)).transpose();
    decoded.map_err(|reason| corrupt(group, Index::ZERO, reason))
}

fn corrupt(group: GroupId, index: Index, reason: impl ToString) -> StorageError {
    StorageError::Corrupt {
        group,
        index,
        reason: reason.to_string(),
    }
}

fn delete_range(store: &mut Store, space: Space, start: &[u8], end: &[u8], most: usize) -> Result<usize, StorageError> {
    let doomed: Vec<Bytes> = store
        .range(space, start, end)
        .take(most)
        .map(|r| r.map(|(key, _)| key))
        .collect::<Result<_, _>>()?;
    let count = doomed.len();
    for key in doomed {
        store.delete(space, key);
    }
    Ok(count)
}

/// The lowest generation at or above `from` that has records.
fn generation_from(store: &Store, group: GroupId, from: Generation) -> Result<Option<Generation>, StorageError> {
    let (start, _) = generation_range(group, from);
    let (_, end) = group_range(group);
    let Some(record) = store.range(Space::State, &start, &end).next() else {
        return Ok(None);
    };
    let mut key = record?.0;
    if key.len() < keys::STATE_PREFIX {
        return Err(StorageError::Damaged {
            space: Space::State,
            reason: "key length".into(),
        });
    }
    key.advance(8);
    Ok(Some(Generation(key.get_u32())))
}

fn oldest_except(
    store: &Store,
    group: GroupId,
    kept: &[Option<Generation>],
) -> Result<Option<Generation>, StorageError> {
    let mut from = Generation::default();
    while let Some(found) = generation_from(store, group, from)? {
        if !kept.contains(&Some(found)) {
            return Ok(Some(found));
        }
        from = found.next();
    }
    Ok(None)
}

fn oldest_other(store: &Store, group: GroupId, current: Generation) -> Result<Option<Generation>, StorageError> {
    oldest_except(store, group, &[Some(current)])
}

fn newest_generation(store: &Store, group: GroupId) -> Result<Option<Generation>, StorageError> {
    let mut newest = None;
    let mut from = Generation::default();
    while let Some(found) = generation_from(store, group, from)? {
        newest = Some(found);
        from = found.next();
    }
    Ok(newest)
}
