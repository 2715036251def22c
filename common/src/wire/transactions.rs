//! Conversions of what all say of transactions: ids, abort causes, observations, what is pending.

use super::{Malformed, types, v1};
use fulcrum_types::{
    AbortCause, ClientId, GroupId, KeyspaceId, Observed, Participant, Pending, Sequence, TransactionId,
    TransactionInfo, Version,
};
use std::time::Duration;

impl From<TransactionId> for v1::TransactionId {
    fn from(id: TransactionId) -> Self {
        Self {
            begun_at_ms: id.begun_at_ms,
            client: id.client.0,
            sequence: id.sequence.0,
        }
    }
}

impl From<v1::TransactionId> for TransactionId {
    fn from(wire: v1::TransactionId) -> Self {
        Self {
            begun_at_ms: wire.begun_at_ms,
            client: ClientId(wire.client),
            sequence: Sequence(wire.sequence),
        }
    }
}

impl From<AbortCause> for v1::AbortCause {
    fn from(cause: AbortCause) -> Self {
        use v1::abort_cause::Kind;
        let mut wire = Self::default();
        let kind = match cause {
            AbortCause::Conflict { with } => {
                wire.other = Some(with.into());
                Kind::Conflict
            }
            AbortCause::LockTimeout { by } => {
                wire.other = Some(by.into());
                Kind::LockTimeout
            }
            AbortCause::ReadInvalidated { group, read } => {
                wire.group = group.0;
                wire.position = read;
                Kind::ReadInvalidated
            }
            AbortCause::ConditionFailed {
                group,
                condition,
                current,
            } => {
                wire.group = group.0;
                wire.position = condition;
                wire.current_version = current.map(|version| version.0);
                Kind::ConditionFailed
            }
            AbortCause::NotPrepared { group } => {
                wire.group = group.0;
                Kind::NotPrepared
            }
            AbortCause::OutOfTime => Kind::OutOfTime,
            AbortCause::Abandoned => Kind::Abandoned,
            AbortCause::Client => Kind::Client,
            AbortCause::Operator => Kind::Operator,
            AbortCause::TooOld => Kind::TooOld,
        };
        wire.kind = kind.into();
        wire
    }
}

impl TryFrom<v1::AbortCause> for AbortCause {
    type Error = Malformed;
    fn try_from(wire: v1::AbortCause) -> Result<Self, Malformed> {
        use v1::abort_cause::Kind;
        let unknown = || Malformed(format!("abort_cause.kind {} is not known here", wire.kind));
        let group = GroupId(wire.group);
        let other = wire.other.map(TransactionId::from);
        let other = || other.ok_or_else(|| Malformed::missing("abort_cause.other"));
        Ok(match Kind::try_from(wire.kind).map_err(|_| unknown())? {
            Kind::Unspecified => return Err(unknown()),
            Kind::Conflict => AbortCause::Conflict { with: other()? },
            Kind::LockTimeout => AbortCause::LockTimeout { by: other()? },
            Kind::ReadInvalidated => AbortCause::ReadInvalidated {
                group,
                read: wire.position,
            },
            Kind::ConditionFailed => AbortCause::ConditionFailed {
                group,
                condition: wire.position,
                current: wire.current_version.map(Version),
            },
            Kind::NotPrepared => AbortCause::NotPrepared { group },
            Kind::OutOfTime => AbortCause::OutOfTime,
            Kind::Abandoned => AbortCause::Abandoned,
            Kind::Client => AbortCause::Client,
            Kind::Operator => AbortCause::Operator,
            Kind::TooOld => AbortCause::TooOld,
        })
    }
}

impl From<Observed> for v1::Observed {
    fn from(observed: Observed) -> Self {
        Self {
            version: observed.version.0,
            value: observed.value.map(Into::into),
        }
    }
}

impl From<v1::Observed> for Observed {
    fn from(wire: v1::Observed) -> Self {
        Self {
            version: Version(wire.version),
            value: wire.value.map(Into::into),
        }
    }
}

fn participant_to_wire(participant: Participant) -> v1::pending_transaction::Participant {
    v1::pending_transaction::Participant {
        keyspace: participant.keyspace.0,
        group: participant.group.0,
    }
}

fn participant_from_wire(wire: v1::pending_transaction::Participant) -> Participant {
    Participant {
        keyspace: KeyspaceId(wire.keyspace),
        group: GroupId(wire.group),
    }
}

/// What is pending, as the group that says so puts it on the wire.
#[must_use]
pub fn pending_to_wire(group: GroupId, info: TransactionInfo) -> v1::PendingTransaction {
    let pending = match info.pending {
        Pending::InDoubt => v1::pending_transaction::Pending::InDoubt,
        Pending::Unresolved => v1::pending_transaction::Pending::Unresolved,
    };
    v1::PendingTransaction {
        id: Some(info.id.into()),
        group: group.0,
        pending: pending.into(),
        home: Some(participant_to_wire(info.home)),
        participants: info.participants.into_iter().map(participant_to_wire).collect(),
        age_ms: types::millis(info.age),
        silent_ms: info.silent.map(types::millis),
        locked_keys: info.keys,
    }
}

/// What is pending, and the group that says so.
///
/// # Errors
/// The field that is missing or wrong.
pub fn pending_from_wire(wire: v1::PendingTransaction) -> Result<(GroupId, TransactionInfo), Malformed> {
    use v1::pending_transaction::Pending as P;
    let pending = match P::try_from(wire.pending) {
        Ok(P::InDoubt) => Pending::InDoubt,
        Ok(P::Unresolved) => Pending::Unresolved,
        _ => {
            return Err(Malformed(format!(
                "pending_transaction.pending {} is not known here",
                wire.pending
            )));
        }
    };
    let info = TransactionInfo {
        id: wire
            .id
            .ok_or_else(|| Malformed::missing("pending_transaction.id"))?
            .into(),
        pending,
        home: participant_from_wire(
            wire.home
                .ok_or_else(|| Malformed::missing("pending_transaction.home"))?,
        ),
        participants: wire.participants.into_iter().map(participant_from_wire).collect(),
        age: Duration::from_millis(wire.age_ms),
        silent: wire.silent_ms.map(Duration::from_millis),
        keys: wire.locked_keys,
    };
    Ok((GroupId(wire.group), info))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_abort_cause_survives_the_wire() {
        let id = TransactionId {
            begun_at_ms: 1,
            client: ClientId(2),
            sequence: Sequence(3),
        };
        let group = GroupId(9);
        let failed = |current| AbortCause::ConditionFailed {
            group,
            condition: 2,
            current,
        };
        for cause in [
            AbortCause::Conflict { with: id },
            AbortCause::LockTimeout { by: id },
            AbortCause::ReadInvalidated { group, read: 4 },
            failed(None),
            failed(Some(Version(7))),
            AbortCause::NotPrepared { group },
            AbortCause::OutOfTime,
            AbortCause::Abandoned,
            AbortCause::Client,
            AbortCause::Operator,
            AbortCause::TooOld,
        ] {
            assert_eq!(v1::AbortCause::from(cause).try_into(), Ok(cause));
        }
        assert!(AbortCause::try_from(v1::AbortCause::default()).is_err());
    }
}
