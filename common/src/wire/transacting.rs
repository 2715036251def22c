//! Conversions of the public API of transactions: requests and answers, both ways, for clients and for servers.

use super::transactions::{pending_from_wire, pending_to_wire};
use super::{Malformed, types, v1};
use fulcrum_types::{
    CommitOutcome, CommitRequest, Committed, CommittedPart, Condition, GroupId, InDoubt, InKeyspace, KeyCondition,
    KeyWrite, KeyspaceId, ListInDoubt, NamedKey, OutcomeRequest, Participant, Priority, ReadCheck, Receipt,
    ResolveRequest, SessionToken, Told, TransactionId, TransactionOutcome, TransactionRead, TransactionValues, Version,
    WriteOp,
};
use v1::commit_request as r;
use v1::commit_response as c;
use v1::transaction_outcome_response as o;

fn id(wire: Option<v1::TransactionId>) -> Result<TransactionId, Malformed> {
    Ok(wire.ok_or_else(|| Malformed::missing("id"))?.into())
}

/// A session that has seen nothing is left out.
fn session_to_wire(session: &SessionToken) -> Option<v1::SessionToken> {
    (*session != SessionToken::default()).then(|| session.into())
}

fn session_from_wire(wire: Option<v1::SessionToken>) -> SessionToken {
    wire.map(Into::into).unwrap_or_default()
}

fn receipts_to_wire(receipts: Vec<Receipt>) -> Vec<v1::Receipt> {
    receipts.into_iter().map(Into::into).collect()
}

fn receipts_from_wire(wire: Vec<v1::Receipt>) -> Result<Vec<Receipt>, Malformed> {
    wire.into_iter().map(TryInto::try_into).collect()
}

impl From<NamedKey> for v1::KeyRef {
    fn from(key: NamedKey) -> Self {
        Self {
            keyspace: key.keyspace,
            key: key.what,
        }
    }
}

impl From<v1::KeyRef> for NamedKey {
    fn from(wire: v1::KeyRef) -> Self {
        Self {
            keyspace: wire.keyspace,
            what: wire.key,
        }
    }
}

impl From<TransactionRead> for v1::TransactionReadRequest {
    fn from(read: TransactionRead) -> Self {
        Self {
            id: Some(read.id.into()),
            keys: read.keys.into_iter().map(Into::into).collect(),
            session: session_to_wire(&read.session),
            consistent: read.consistent,
        }
    }
}

impl TryFrom<v1::TransactionReadRequest> for TransactionRead {
    type Error = Malformed;
    fn try_from(wire: v1::TransactionReadRequest) -> Result<Self, Malformed> {
        Ok(Self {
            id: id(wire.id)?,
            keys: wire.keys.into_iter().map(Into::into).collect(),
            consistent: wire.consistent,
            session: session_from_wire(wire.session),
        })
    }
}

impl From<TransactionValues> for v1::TransactionReadResponse {
    fn from(values: TransactionValues) -> Self {
        Self {
            observed: values.observed.into_iter().map(Into::into).collect(),
            receipts: receipts_to_wire(values.receipts),
        }
    }
}

impl TryFrom<v1::TransactionReadResponse> for TransactionValues {
    type Error = Malformed;
    fn try_from(wire: v1::TransactionReadResponse) -> Result<Self, Malformed> {
        Ok(Self {
            observed: wire.observed.into_iter().map(Into::into).collect(),
            receipts: receipts_from_wire(wire.receipts)?,
        })
    }
}

impl From<CommitRequest> for v1::CommitRequest {
    fn from(request: CommitRequest) -> Self {
        let read = |InKeyspace { keyspace, what }: InKeyspace<ReadCheck>| r::CheckedRead {
            keyspace,
            key: what.key,
            version: what.version.0,
            exists: what.exists,
        };
        let condition = |InKeyspace { keyspace, what }: InKeyspace<KeyCondition>| r::KeyCondition {
            keyspace,
            key: what.key,
            condition: types::condition_to_wire(what.condition),
        };
        let write = |InKeyspace { keyspace, what }: InKeyspace<KeyWrite>| {
            let op = WriteOp {
                key: what.key,
                condition: Condition::None,
                mutation: what.mutation,
            };
            r::KeyWrite {
                keyspace,
                write: Some(op.into()),
            }
        };
        let again = request.priority.0 != request.id;
        Self {
            id: Some(request.id.into()),
            first_attempt: again.then(|| request.priority.0.into()),
            reads: request.reads.into_iter().map(read).collect(),
            conditions: request.conditions.into_iter().map(condition).collect(),
            writes: request.writes.into_iter().map(write).collect(),
            session: session_to_wire(&request.session),
        }
    }
}

impl TryFrom<v1::CommitRequest> for CommitRequest {
    type Error = Malformed;

    /// Conditions of writes come behind the others.
    fn try_from(wire: v1::CommitRequest) -> Result<Self, Malformed> {
        let id = id(wire.id)?;
        let read = |read: r::CheckedRead| InKeyspace {
            keyspace: read.keyspace,
            what: ReadCheck {
                key: read.key,
                version: Version(read.version),
                exists: read.exists,
            },
        };
        let condition = |one: r::KeyCondition| InKeyspace {
            keyspace: one.keyspace,
            what: KeyCondition {
                key: one.key,
                condition: types::condition(one.condition),
            },
        };
        let mut conditions: Vec<_> = wire.conditions.into_iter().map(condition).collect();
        let mut writes = Vec::with_capacity(wire.writes.len());
        for r::KeyWrite { keyspace, write } in wire.writes {
            let op = WriteOp::try_from(write.ok_or_else(|| Malformed::missing("writes.write"))?)?;
            if op.condition != Condition::None {
                conditions.push(InKeyspace {
                    keyspace: keyspace.clone(),
                    what: KeyCondition {
                        key: op.key.clone(),
                        condition: op.condition,
                    },
                });
            }
            writes.push(InKeyspace {
                keyspace,
                what: KeyWrite {
                    key: op.key,
                    mutation: op.mutation,
                },
            });
        }
        Ok(Self {
            id,
            priority: Priority(wire.first_attempt.map_or(id, Into::into)),
            reads: wire.reads.into_iter().map(read).collect(),
            conditions,
            writes,
            session: session_from_wire(wire.session),
        })
    }
}

impl From<Committed> for v1::CommitResponse {
    fn from(committed: Committed) -> Self {
        let outcome = match committed.outcome {
            CommitOutcome::Committed { versions, rounds } => c::Outcome::Committed(c::Committed {
                versions: versions.into_iter().map(|version| version.0).collect(),
                rounds,
            }),
            CommitOutcome::ConditionFailed { key, current } => c::Outcome::ConditionFailed(c::ConditionFailed {
                key: Some(key.into()),
                current_version: current.map(|version| version.0),
            }),
        };
        Self {
            outcome: Some(outcome),
            receipts: receipts_to_wire(committed.receipts),
        }
    }
}

impl TryFrom<v1::CommitResponse> for Committed {
    type Error = Malformed;
    fn try_from(wire: v1::CommitResponse) -> Result<Self, Malformed> {
        let outcome = match wire.outcome.ok_or_else(|| Malformed::missing("outcome"))? {
            c::Outcome::Committed(committed) => CommitOutcome::Committed {
                versions: committed.versions.into_iter().map(Version).collect(),
                rounds: committed.rounds,
            },
            c::Outcome::ConditionFailed(failed) => CommitOutcome::ConditionFailed {
                key: failed
                    .key
                    .ok_or_else(|| Malformed::missing("condition_failed.key"))?
                    .into(),
                current: failed.current_version.map(Version),
            },
        };
        Ok(Self {
            outcome,
            receipts: receipts_from_wire(wire.receipts)?,
        })
    }
}

impl From<OutcomeRequest> for v1::TransactionOutcomeRequest {
    fn from(request: OutcomeRequest) -> Self {
        Self {
            id: Some(request.id.into()),
            first_written: request.first_written.map(Into::into),
            settle: request.settle,
        }
    }
}

impl TryFrom<v1::TransactionOutcomeRequest> for OutcomeRequest {
    type Error = Malformed;
    fn try_from(wire: v1::TransactionOutcomeRequest) -> Result<Self, Malformed> {
        Ok(Self {
            id: id(wire.id)?,
            first_written: wire.first_written.map(Into::into),
            settle: wire.settle,
        })
    }
}

impl From<Told> for v1::TransactionOutcomeResponse {
    fn from(told: Told) -> Self {
        let mut wire = Self {
            receipt: Some(told.receipt.into()),
            ..Self::default()
        };
        let part = |part: CommittedPart| o::Part {
            keyspace: part.participant.keyspace.0,
            group: part.participant.group.0,
            version: part.version.0,
        };
        let state = match told.outcome {
            TransactionOutcome::Committed(parts) => {
                wire.parts = parts.into_iter().map(part).collect();
                o::State::Committed
            }
            TransactionOutcome::Aborted(cause) => {
                wire.cause = Some(cause.into());
                o::State::Aborted
            }
            TransactionOutcome::Undecided => o::State::Undecided,
            TransactionOutcome::NotSeen => o::State::NotSeen,
            TransactionOutcome::TooOld => o::State::TooOld,
        };
        wire.state = state.into();
        wire
    }
}

impl TryFrom<v1::TransactionOutcomeResponse> for Told {
    type Error = Malformed;
    fn try_from(wire: v1::TransactionOutcomeResponse) -> Result<Self, Malformed> {
        let part = |part: o::Part| CommittedPart {
            participant: Participant {
                keyspace: KeyspaceId(part.keyspace),
                group: GroupId(part.group),
            },
            version: Version(part.version),
        };
        let outcome = match o::State::try_from(wire.state) {
            Ok(o::State::Committed) => TransactionOutcome::Committed(wire.parts.into_iter().map(part).collect()),
            Ok(o::State::Aborted) => {
                let cause = wire.cause.ok_or_else(|| Malformed::missing("cause"))?;
                TransactionOutcome::Aborted(cause.try_into()?)
            }
            Ok(o::State::Undecided) => TransactionOutcome::Undecided,
            Ok(o::State::NotSeen) => TransactionOutcome::NotSeen,
            Ok(o::State::TooOld) => TransactionOutcome::TooOld,
            Ok(o::State::Unspecified) | Err(_) => {
                return Err(Malformed(format!("state {} is not known here", wire.state)));
            }
        };
        Ok(Self {
            outcome,
            receipt: wire.receipt.ok_or_else(|| Malformed::missing("receipt"))?.try_into()?,
        })
    }
}

impl From<ListInDoubt> for v1::ListInDoubtRequest {
    fn from(request: ListInDoubt) -> Self {
        Self {
            keyspace: request.keyspace.unwrap_or_default(),
            limit: request.limit,
            unresolved: request.unresolved,
        }
    }
}

impl From<v1::ListInDoubtRequest> for ListInDoubt {
    fn from(wire: v1::ListInDoubtRequest) -> Self {
        Self {
            keyspace: (!wire.keyspace.is_empty()).then_some(wire.keyspace),
            limit: wire.limit,
            unresolved: wire.unresolved,
        }
    }
}

impl From<InDoubt> for v1::ListInDoubtResponse {
    fn from(list: InDoubt) -> Self {
        let pending = |(group, info)| pending_to_wire(group, info);
        Self {
            transactions: list.transactions.into_iter().map(pending).collect(),
            silent_groups: list.silent.into_iter().map(|group| group.0).collect(),
        }
    }
}

impl TryFrom<v1::ListInDoubtResponse> for InDoubt {
    type Error = Malformed;
    fn try_from(wire: v1::ListInDoubtResponse) -> Result<Self, Malformed> {
        Ok(Self {
            transactions: wire
                .transactions
                .into_iter()
                .map(pending_from_wire)
                .collect::<Result<_, _>>()?,
            silent: wire.silent_groups.into_iter().map(GroupId).collect(),
        })
    }
}

impl From<ResolveRequest> for v1::ResolveRequest {
    fn from(request: ResolveRequest) -> Self {
        Self {
            id: Some(request.id.into()),
            home_group: request.home.0,
        }
    }
}

impl TryFrom<v1::ResolveRequest> for ResolveRequest {
    type Error = Malformed;
    fn try_from(wire: v1::ResolveRequest) -> Result<Self, Malformed> {
        Ok(Self {
            id: id(wire.id)?,
            home: GroupId(wire.home_group),
        })
    }
}

impl From<Told> for v1::ResolveResponse {
    fn from(told: Told) -> Self {
        Self {
            outcome: Some(told.into()),
        }
    }
}

impl TryFrom<v1::ResolveResponse> for Told {
    type Error = Malformed;
    fn try_from(wire: v1::ResolveResponse) -> Result<Self, Malformed> {
        wire.outcome.ok_or_else(|| Malformed::missing("outcome"))?.try_into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fulcrum_types::{
        AbortCause, ClientId, Epoch, Index, Level, LogPosition, MapVersion, Mode, Mutation, NodeId, Observed, Pending,
        Role, Sequence, StalenessBasis, TransactionInfo, Versioned,
    };
    use std::fmt::Debug;
    use std::time::Duration;

    fn attempt(sequence: u64) -> TransactionId {
        TransactionId {
            begun_at_ms: 7,
            client: ClientId(8),
            sequence: Sequence(sequence),
        }
    }

    fn named<T>(what: T) -> InKeyspace<T> {
        InKeyspace {
            keyspace: "orders".into(),
            what,
        }
    }

    fn key() -> Bytes {
        Bytes::from_static(b"k")
    }

    fn session() -> SessionToken {
        let mut session = SessionToken {
            map_version: MapVersion(3),
            ..SessionToken::default()
        };
        let position = LogPosition {
            epoch: Epoch(1),
            index: Index(2),
        };
        session.observe(GroupId(4), position);
        session
    }

    fn receipt() -> Receipt {
        Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group: GroupId(1),
            replica: NodeId(2),
            role: Role::Primary,
            epoch: Epoch(3),
            index: Index(4),
            acknowledged_by: vec![NodeId(2), NodeId(3)],
            durable: true,
            staleness: Some(Duration::ZERO),
            basis: StalenessBasis::Lease,
            map_version: MapVersion(5),
            rounds: 1,
            elapsed: Duration::from_micros(6),
        }
    }

    /// There and back again.
    fn survives<T, W>(what: T)
    where
        T: Clone + Debug + PartialEq + Into<W> + TryFrom<W, Error: Debug>,
    {
        let wire: W = what.clone().into();
        assert_eq!(T::try_from(wire).unwrap(), what);
    }

    fn commit() -> CommitRequest {
        let condition = |condition| named(KeyCondition { key: key(), condition });
        let write = |mutation| named(KeyWrite { key: key(), mutation });
        let put = Mutation::Put {
            value: Bytes::from_static(b"v"),
            ttl: Some(Duration::from_millis(9)),
        };
        CommitRequest {
            id: attempt(2),
            priority: Priority(attempt(1)),
            reads: vec![named(ReadCheck {
                key: key(),
                version: Version(5),
                exists: true,
            })],
            conditions: vec![
                condition(Condition::Absent),
                condition(Condition::Exists),
                condition(Condition::VersionIs(Version(6))),
                condition(Condition::ValueIs(Bytes::from_static(b"w"))),
            ],
            writes: vec![write(put), write(Mutation::Delete)],
            session: session(),
        }
    }

    #[test]
    fn requests_survive_the_wire() {
        survives::<_, v1::TransactionReadRequest>(TransactionRead {
            id: attempt(1),
            keys: vec![named(key())],
            consistent: true,
            session: session(),
        });
        survives::<_, v1::CommitRequest>(commit());
        survives::<_, v1::CommitRequest>(CommitRequest {
            id: attempt(1),
            priority: Priority(attempt(1)),
            ..CommitRequest::default()
        });
        survives::<_, v1::TransactionOutcomeRequest>(OutcomeRequest {
            id: attempt(1),
            first_written: Some(named(key())),
            settle: true,
        });
        survives::<_, v1::ListInDoubtRequest>(ListInDoubt {
            keyspace: Some("orders".into()),
            limit: 5,
            unresolved: true,
        });
        survives::<_, v1::ListInDoubtRequest>(ListInDoubt::default());
        survives::<_, v1::ResolveRequest>(ResolveRequest {
            id: attempt(1),
            home: GroupId(4),
        });
    }

    #[test]
    fn answers_survive_the_wire() {
        let value = Versioned {
            value: key(),
            version: Version(1),
            expires_at_ms: 2,
        };
        let seen = |value| Observed {
            version: Version(1),
            value,
        };
        survives::<_, v1::TransactionReadResponse>(TransactionValues {
            observed: vec![seen(Some(value)), seen(None)],
            receipts: vec![receipt()],
        });
        let committed = CommitOutcome::Committed {
            versions: vec![Version(3), Version(4)],
            rounds: 2,
        };
        let failed = |current| CommitOutcome::ConditionFailed {
            key: named(key()),
            current,
        };
        for outcome in [committed, failed(None), failed(Some(Version(0)))] {
            let receipts = vec![receipt()];
            survives::<_, v1::CommitResponse>(Committed { outcome, receipts });
        }
        let part = CommittedPart {
            participant: Participant {
                keyspace: KeyspaceId(1),
                group: GroupId(2),
            },
            version: Version(3),
        };
        for outcome in [
            TransactionOutcome::Committed(vec![part]),
            TransactionOutcome::Aborted(AbortCause::Operator),
            TransactionOutcome::Undecided,
            TransactionOutcome::NotSeen,
            TransactionOutcome::TooOld,
        ] {
            let receipt = receipt();
            survives::<_, v1::TransactionOutcomeResponse>(Told {
                outcome: outcome.clone(),
                receipt: receipt.clone(),
            });
            survives::<_, v1::ResolveResponse>(Told { outcome, receipt });
        }
        let info = TransactionInfo {
            id: attempt(1),
            pending: Pending::InDoubt,
            home: part.participant,
            participants: vec![part.participant],
            age: Duration::from_millis(5),
            silent: None,
            keys: 2,
        };
        survives::<_, v1::ListInDoubtResponse>(InDoubt {
            transactions: vec![(GroupId(2), info)],
            silent: vec![GroupId(3)],
        });
    }

    #[test]
    fn a_condition_of_a_write_counts_like_any_other() {
        let op = WriteOp {
            key: key(),
            condition: Condition::Exists,
            mutation: Mutation::Delete,
        };
        let mut wire = v1::CommitRequest::from(commit());
        wire.writes = vec![r::KeyWrite {
            keyspace: "orders".into(),
            write: Some(op.into()),
        }];
        let request = CommitRequest::try_from(wire).unwrap();
        let expected = KeyCondition {
            key: key(),
            condition: Condition::Exists,
        };
        assert_eq!(request.conditions.last(), Some(&named(expected)));
        assert_eq!((request.conditions.len(), request.writes.len()), (5, 1));
    }

    #[test]
    fn what_is_missing_is_named() {
        let refused = |wire: v1::CommitRequest| CommitRequest::try_from(wire).unwrap_err().to_string();
        assert!(refused(v1::CommitRequest::default()).contains("id is missing"));
        let wire = v1::CommitRequest {
            id: Some(attempt(1).into()),
            writes: vec![r::KeyWrite::default()],
            ..v1::CommitRequest::default()
        };
        assert!(refused(wire).contains("writes.write is missing"));
        assert!(TransactionRead::try_from(v1::TransactionReadRequest::default()).is_err());
        assert!(Committed::try_from(v1::CommitResponse::default()).is_err());
        assert!(Told::try_from(v1::TransactionOutcomeResponse::default()).is_err());
    }
}
