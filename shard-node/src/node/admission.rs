//! What is let in: everything that can be refused before a core is asked is refused here, and nothing was applied then.

use super::bugs::Bug;
use super::group::Group;
use super::reads::{Read, Wanted};
use super::shared::{Failure, Shared};
use super::transactions::Asked;
use crate::event::RequestId;
use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_common::key::{validate_key, validate_keys, validate_writes};
use fulcrum_common::limits::{DEFAULT_SCAN_ROWS, MAX_CHANGES_BYTES, MAX_SCAN_BYTES, MAX_SCAN_ROWS};
use fulcrum_types::{
    GroupRequest, JoinedWrite, LogPosition, Mono, Now, Operation, Query, ReadRequest, Refusal, Role, Selection, WriteOp,
};
use std::collections::HashSet;

/// Checks what does not depend on a group: the map it goes by, the room there is, the time left.
pub(super) fn admit(shared: &Shared, request: &GroupRequest) -> Result<(), Refusal> {
    let map_version = shared.map_version();
    let Some(map) = &shared.map else {
        return Err(Refusal::WrongGroup { map_version });
    };
    if request.map_version > map_version {
        return Err(Refusal::WrongGroup { map_version });
    }
    if map.keyspace(request.keyspace).is_none() {
        return Err(Refusal::UnknownKeyspace {
            keyspace: request.keyspace.to_string(),
        });
    }
    if request.deadline.is_zero() {
        return Err(Refusal::DeadlineExceeded);
    }
    if shared.requests.len() >= shared.settings.waiting_max {
        return Err(Refusal::Overloaded);
    }
    Ok(())
}

impl Group {
    /// Takes a request in that [`admit`] let through.
    pub(super) fn request(
        &mut self,
        shared: &mut Shared,
        now: Now,
        id: RequestId,
        request: GroupRequest,
    ) -> Result<(), Failure> {
        let deadline = now.mono + request.deadline;
        if self.keyspace.id != request.keyspace {
            let map_version = shared.map_version();
            shared.reply(id, Err(Refusal::WrongGroup { map_version }));
            return Ok(());
        }
        match request.operation {
            Operation::Read(read) => self.admit_read(shared, now, id, deadline, read),
            Operation::Write { idempotency, seen, ops } => {
                let checked = self
                    .check_writes(shared, ops.iter())
                    .and_then(|()| self.check_seen(shared, seen));
                match checked {
                    Ok(()) => {
                        shared.requests.insert(id, self.id, deadline);
                        self.queue_write(shared, now.mono, id, idempotency, &ops);
                    }
                    Err(refusal) => shared.reply(id, Err(refusal)),
                }
                Ok(())
            }
            Operation::Joint(writes) => {
                match self.check_joint(shared, &writes) {
                    Ok(()) => {
                        shared.requests.insert(id, self.id, deadline);
                        self.queue_joint(shared, now.mono, id, writes);
                    }
                    Err(refusal) => shared.reply(id, Err(refusal)),
                }
                Ok(())
            }
            Operation::Transaction(operation) => {
                let asked = Asked { id, now, deadline };
                self.admit_transaction(shared, &asked, operation)
            }
            Operation::Cut(operation) => {
                let asked = Asked { id, now, deadline };
                self.admit_cut(shared, &asked, operation)
            }
            Operation::Outcome(key) => {
                let level = self.level_of_writes();
                let read = Read::new(now.mono, deadline, level, Vec::new(), Wanted::Outcome(key));
                self.admitted_read(shared, now, id, read)
            }
        }
    }

    fn admit_read(
        &mut self,
        shared: &mut Shared,
        now: Now,
        id: RequestId,
        deadline: Mono,
        request: ReadRequest,
    ) -> Result<(), Failure> {
        let ReadRequest {
            level,
            acceptable,
            seen,
            query,
        } = request;
        let query = match self.check_query(shared, query) {
            Ok(query) => query,
            Err(refusal) => {
                shared.reply(id, Err(refusal));
                return Ok(());
            }
        };
        let step = match &query {
            Query::Changes(step) => Some(step.clone()),
            _ => None,
        };
        let mut read = Read::new(now.mono, deadline, level, acceptable, Wanted::Query(query));
        read.seen = seen;
        if let Some(step) = step {
            return self.admit_step(shared, now, id, read, step);
        }
        self.admitted_read(shared, now, id, read)
    }

    /// Only a read that is not answered within the turn needs a deadline.
    pub(super) fn admitted_read(
        &mut self,
        shared: &mut Shared,
        now: Now,
        id: RequestId,
        read: Read,
    ) -> Result<(), Failure> {
        let deadline = read.deadline;
        self.start_read(shared, now, id, read)?;
        if self.reads.is_waiting(id) {
            shared.requests.insert(id, self.id, deadline);
        }
        Ok(())
    }

    fn check_query(&self, shared: &Shared, query: Query) -> Result<Query, Refusal> {
        match query {
            Query::Get(keys) => self.check_keys(shared, &keys).map(|()| Query::Get(keys)),
            Query::Joint(keys) => self.check_keys(shared, &keys).map(|()| Query::Joint(keys)),
            Query::Scan {
                start,
                end,
                limit,
                max_bytes,
            } => {
                let limit = if limit == 0 {
                    DEFAULT_SCAN_ROWS
                } else {
                    limit.min(MAX_SCAN_ROWS)
                };
                let max_bytes = if max_bytes == 0 {
                    MAX_SCAN_BYTES
                } else {
                    max_bytes.min(MAX_SCAN_BYTES)
                };
                Ok(Query::Scan {
                    start,
                    end,
                    limit,
                    max_bytes,
                })
            }
            Query::Changes(mut step) => {
                if let Selection::Key(key) = &step.selection {
                    validate_key(key)?;
                    self.check_owner(shared, key)?;
                }
                step.max_bytes = step.max_bytes.clamp(1, MAX_CHANGES_BYTES);
                Ok(Query::Changes(step))
            }
        }
    }

    fn check_keys(&self, shared: &Shared, keys: &[Bytes]) -> Result<(), Refusal> {
        validate_keys(keys)?;
        keys.iter().try_for_each(|key| self.check_owner(shared, key))
    }

    fn check_joint(&self, shared: &Shared, writes: &[JoinedWrite]) -> Result<(), Refusal> {
        self.check_writes(shared, writes.iter().map(|write| &write.op))?;
        let mut keys = HashSet::with_capacity_and_hasher(writes.len(), RandomState::default());
        if !writes.iter().all(|write| keys.insert(&write.op.key)) {
            return Err(Refusal::Invalid {
                reason: "a joint writes a key twice: send these writes one after the other".into(),
            });
        }
        writes
            .iter()
            .try_for_each(|write| self.check_seen_of_one(shared, write.seen))
    }

    /// The same as [`Group::check_seen`] for one of a joint. A session may name an epoch that this primary knows nothing of:
    /// that concerns nobody else in the joint, which is parted then, and not sent elsewhere.
    fn check_seen_of_one(&self, shared: &Shared, seen: Option<LogPosition>) -> Result<(), Refusal> {
        match (self.check_seen(shared, seen), seen) {
            (Err(Refusal::NotPrimary { .. }), Some(seen)) if self.view.role == Role::Primary => {
                Err(Refusal::HistoryLost { group: self.id, seen })
            }
            (checked, _) => checked,
        }
    }

    fn check_writes<'a>(&self, shared: &Shared, ops: impl Iterator<Item = &'a WriteOp> + Clone) -> Result<(), Refusal> {
        validate_writes(ops.clone())?;
        for op in ops {
            self.check_owner(shared, &op.key)?;
        }
        if shared.store.pending_bytes() > shared.settings.staged_bytes_max {
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    /// The group must own the key's slot by this node's map: the asker may have gone by an older one.
    pub(super) fn check_owner(&self, shared: &Shared, key: &Bytes) -> Result<(), Refusal> {
        if self.keyspace.group_of(key) == self.id || shared.bugs.has(Bug::SkipOwnershipCheck) {
            return Ok(());
        }
        Err(Refusal::WrongGroup {
            map_version: shared.map_version(),
        })
    }
}
