//! Conversions of what all services share: levels, receipts, tokens, conditions, writes.

use super::{Malformed, v1};
use crate::failover_budget::FailoverPauses;
use fulcrum_types::{
    ClientId, Condition, Epoch, Fsync, GroupId, IdempotencyKey, Index, Level, LogPosition, MapVersion, Mode, Mutation,
    NodeId, Receipt, Role, Sequence, SessionToken, StalenessBasis, Version, Versioned, WriteOp, WriteOutcome,
};
use std::time::Duration;

/// Microseconds as the wire carries them; the largest value stands for all beyond it.
#[must_use]
pub fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Milliseconds as the wire carries them; the largest value stands for all beyond it.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl From<FailoverPauses> for v1::FailoverPauses {
    fn from(pauses: FailoverPauses) -> Self {
        Self {
            first_ms: millis(pauses.first),
            longest_ms: millis(pauses.longest),
        }
    }
}

impl From<v1::FailoverPauses> for FailoverPauses {
    fn from(wire: v1::FailoverPauses) -> Self {
        Self {
            first: Duration::from_millis(wire.first_ms),
            longest: Duration::from_millis(wire.longest_ms),
        }
    }
}

impl From<Level> for v1::Consistency {
    fn from(level: Level) -> Self {
        use v1::consistency as c;
        let level = match level {
            Level::Linearizable => c::Level::Linearizable(c::Linearizable {}),
            Level::Bounded(bound) => c::Level::BoundedMs(millis(bound)),
            Level::Session => c::Level::Session(c::Session {}),
            Level::Eventual => c::Level::Eventual(c::Eventual {}),
        };
        Self { level: Some(level) }
    }
}

impl TryFrom<v1::Consistency> for Level {
    type Error = Malformed;
    fn try_from(wire: v1::Consistency) -> Result<Self, Malformed> {
        use v1::consistency::Level as L;
        match wire.level {
            Some(L::Linearizable(_)) => Ok(Level::Linearizable),
            Some(L::BoundedMs(0)) => Err(Malformed(
                "bounded_ms is 0: ask for linearizable, or for at least 1 ms".into(),
            )),
            Some(L::BoundedMs(ms)) => Ok(Level::Bounded(Duration::from_millis(ms))),
            Some(L::Session(_)) => Ok(Level::Session),
            Some(L::Eventual(_)) => Ok(Level::Eventual),
            None => Err(Malformed::missing("consistency.level")),
        }
    }
}

impl From<LogPosition> for v1::LogPosition {
    fn from(position: LogPosition) -> Self {
        Self {
            epoch: position.epoch.0,
            index: position.index.0,
        }
    }
}

impl From<v1::LogPosition> for LogPosition {
    fn from(wire: v1::LogPosition) -> Self {
        Self {
            epoch: Epoch(wire.epoch),
            index: Index(wire.index),
        }
    }
}

impl From<&SessionToken> for v1::SessionToken {
    fn from(token: &SessionToken) -> Self {
        Self {
            map_version: token.map_version.0,
            groups: token
                .groups
                .iter()
                .map(|(group, position)| (group.0, (*position).into()))
                .collect(),
        }
    }
}

impl From<v1::SessionToken> for SessionToken {
    fn from(wire: v1::SessionToken) -> Self {
        Self {
            map_version: MapVersion(wire.map_version),
            groups: wire
                .groups
                .into_iter()
                .map(|(group, position)| (GroupId(group), position.into()))
                .collect(),
        }
    }
}

impl From<Mode> for v1::Mode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Sync => v1::Mode::Sync,
            Mode::Async => v1::Mode::Async,
        }
    }
}

/// A mode that must be given.
///
/// # Errors
/// None, or one this release does not know.
pub fn mode(wire: i32) -> Result<Mode, Malformed> {
    match v1::Mode::try_from(wire) {
        Ok(v1::Mode::Sync) => Ok(Mode::Sync),
        Ok(v1::Mode::Async) => Ok(Mode::Async),
        _ => Err(Malformed(format!(
            "mode {wire} is not known here: use MODE_SYNC or MODE_ASYNC"
        ))),
    }
}

impl From<Fsync> for v1::Fsync {
    fn from(fsync: Fsync) -> Self {
        match fsync {
            Fsync::Always => v1::Fsync::Always,
            Fsync::Interval => v1::Fsync::Interval,
            Fsync::Never => v1::Fsync::Never,
        }
    }
}

/// An fsync policy; unspecified means `always`.
///
/// # Errors
/// One this release does not know.
pub fn fsync(wire: i32) -> Result<Fsync, Malformed> {
    match v1::Fsync::try_from(wire) {
        Ok(v1::Fsync::Unspecified | v1::Fsync::Always) => Ok(Fsync::Always),
        Ok(v1::Fsync::Interval) => Ok(Fsync::Interval),
        Ok(v1::Fsync::Never) => Ok(Fsync::Never),
        Err(_) => Err(Malformed(format!(
            "fsync {wire} is not known here: use ALWAYS, INTERVAL or NEVER"
        ))),
    }
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Primary => v1::Role::Primary,
            Role::Backup => v1::Role::Backup,
            Role::Learner => v1::Role::Learner,
        }
    }
}

/// A role that must be given.
///
/// # Errors
/// None, or an unknown one.
pub fn role(wire: i32) -> Result<Role, Malformed> {
    match v1::Role::try_from(wire) {
        Ok(v1::Role::Primary) => Ok(Role::Primary),
        Ok(v1::Role::Backup) => Ok(Role::Backup),
        Ok(v1::Role::Learner) => Ok(Role::Learner),
        _ => Err(Malformed(format!("role {wire} is not known here"))),
    }
}

fn basis_to_wire(basis: StalenessBasis) -> v1::StalenessBasis {
    match basis {
        StalenessBasis::Lease => v1::StalenessBasis::Lease,
        StalenessBasis::ConfirmingRound => v1::StalenessBasis::ConfirmingRound,
        StalenessBasis::Echo => v1::StalenessBasis::Echo,
        StalenessBasis::None => v1::StalenessBasis::Unspecified,
    }
}

pub(super) fn basis_from_wire(wire: i32) -> StalenessBasis {
    match v1::StalenessBasis::try_from(wire) {
        Ok(v1::StalenessBasis::Lease) => StalenessBasis::Lease,
        Ok(v1::StalenessBasis::ConfirmingRound) => StalenessBasis::ConfirmingRound,
        Ok(v1::StalenessBasis::Echo) => StalenessBasis::Echo,
        _ => StalenessBasis::None,
    }
}

impl From<Receipt> for v1::Receipt {
    fn from(receipt: Receipt) -> Self {
        Self {
            mode: v1::Mode::from(receipt.mode).into(),
            asked: Some(receipt.asked.into()),
            achieved: Some(receipt.achieved.into()),
            group: receipt.group.0,
            replica: receipt.replica.0,
            role: v1::Role::from(receipt.role).into(),
            epoch: receipt.epoch.0,
            index: receipt.index.0,
            acknowledged_by: receipt.acknowledged_by.into_iter().map(|node| node.0).collect(),
            durable: receipt.durable,
            staleness_us: receipt.staleness.map(micros),
            basis: basis_to_wire(receipt.basis).into(),
            map_version: receipt.map_version.0,
            rounds: receipt.rounds,
            elapsed_us: micros(receipt.elapsed),
        }
    }
}

impl TryFrom<v1::Receipt> for Receipt {
    type Error = Malformed;
    fn try_from(wire: v1::Receipt) -> Result<Self, Malformed> {
        Ok(Self {
            mode: mode(wire.mode)?,
            asked: wire
                .asked
                .ok_or_else(|| Malformed::missing("receipt.asked"))?
                .try_into()?,
            achieved: wire
                .achieved
                .ok_or_else(|| Malformed::missing("receipt.achieved"))?
                .try_into()?,
            group: GroupId(wire.group),
            replica: NodeId(wire.replica),
            role: role(wire.role)?,
            epoch: Epoch(wire.epoch),
            index: Index(wire.index),
            acknowledged_by: wire.acknowledged_by.into_iter().map(NodeId).collect(),
            durable: wire.durable,
            staleness: wire.staleness_us.map(Duration::from_micros),
            basis: basis_from_wire(wire.basis),
            map_version: MapVersion(wire.map_version),
            rounds: wire.rounds,
            elapsed: Duration::from_micros(wire.elapsed_us),
        })
    }
}

impl From<IdempotencyKey> for v1::IdempotencyKey {
    fn from(key: IdempotencyKey) -> Self {
        Self {
            client: key.client.0,
            sequence: key.sequence.0,
            issued_at_ms: key.issued_at_ms,
            low_water: key.low_water.0,
        }
    }
}

impl TryFrom<v1::IdempotencyKey> for IdempotencyKey {
    type Error = Malformed;
    fn try_from(wire: v1::IdempotencyKey) -> Result<Self, Malformed> {
        if wire.low_water > wire.sequence {
            return Err(Malformed(format!(
                "idempotency.low_water ({}) is above idempotency.sequence ({}): a request under way is not finished",
                wire.low_water, wire.sequence
            )));
        }
        Ok(Self {
            client: ClientId(wire.client),
            sequence: Sequence(wire.sequence),
            issued_at_ms: wire.issued_at_ms,
            low_water: Sequence(wire.low_water),
        })
    }
}

/// A condition as the wire has it; one that demands nothing is left out.
#[must_use]
pub fn condition_to_wire(condition: Condition) -> Option<v1::Condition> {
    use v1::condition as c;
    let must = match condition {
        Condition::None => return None,
        Condition::Absent => c::Must::Absent(c::Absent {}),
        Condition::Exists => c::Must::Exists(c::Exists {}),
        Condition::VersionIs(version) => c::Must::Version(version.0),
        Condition::ValueIs(value) => c::Must::Value(value),
        Condition::UnchangedSince(version) => c::Must::UnchangedSince(version.0),
    };
    Some(v1::Condition { must: Some(must) })
}

/// A condition; an absent or empty one demands nothing.
#[must_use]
pub fn condition(wire: Option<v1::Condition>) -> Condition {
    use v1::condition::Must;
    match wire.and_then(|condition| condition.must) {
        None => Condition::None,
        Some(Must::Absent(_)) => Condition::Absent,
        Some(Must::Exists(_)) => Condition::Exists,
        Some(Must::Version(version)) => Condition::VersionIs(Version(version)),
        Some(Must::Value(value)) => Condition::ValueIs(value),
        Some(Must::UnchangedSince(version)) => Condition::UnchangedSince(Version(version)),
    }
}

impl From<Versioned> for v1::Value {
    fn from(value: Versioned) -> Self {
        Self {
            value: value.value,
            version: value.version.0,
            expires_at_ms: value.expires_at_ms,
        }
    }
}

impl From<v1::Value> for Versioned {
    fn from(wire: v1::Value) -> Self {
        Self {
            value: wire.value,
            version: Version(wire.version),
            expires_at_ms: wire.expires_at_ms,
        }
    }
}

impl From<WriteOp> for v1::Write {
    fn from(op: WriteOp) -> Self {
        let mutation = match op.mutation {
            Mutation::Put { value, ttl } => v1::write::Mutation::Put(v1::write::Put {
                value,
                ttl_ms: ttl.map_or(0, millis),
            }),
            Mutation::Delete => v1::write::Mutation::Delete(v1::write::Delete {}),
        };
        Self {
            key: op.key,
            condition: condition_to_wire(op.condition),
            mutation: Some(mutation),
        }
    }
}

impl TryFrom<v1::Write> for WriteOp {
    type Error = Malformed;
    fn try_from(wire: v1::Write) -> Result<Self, Malformed> {
        let mutation = match wire.mutation {
            Some(v1::write::Mutation::Put(put)) => Mutation::Put {
                value: put.value,
                ttl: ttl(put.ttl_ms),
            },
            Some(v1::write::Mutation::Delete(_)) => Mutation::Delete,
            None => return Err(Malformed::missing("write.mutation")),
        };
        Ok(Self {
            key: wire.key,
            condition: condition(wire.condition),
            mutation,
        })
    }
}

/// A time to live as the wire has it: 0 means for ever.
#[must_use]
pub fn ttl(ms: u64) -> Option<Duration> {
    (ms > 0).then(|| Duration::from_millis(ms))
}

impl From<WriteOutcome> for v1::WriteOutcome {
    fn from(outcome: WriteOutcome) -> Self {
        use v1::write_outcome as o;
        let outcome = match outcome {
            WriteOutcome::Applied { version, existed } => o::Outcome::Applied(o::Applied {
                version: version.0,
                existed,
            }),
            WriteOutcome::ConditionFailed { current } => o::Outcome::ConditionFailed(o::ConditionFailed {
                current_version: current.map(|v| v.0),
            }),
        };
        Self { outcome: Some(outcome) }
    }
}

impl TryFrom<v1::WriteOutcome> for WriteOutcome {
    type Error = Malformed;
    fn try_from(wire: v1::WriteOutcome) -> Result<Self, Malformed> {
        use v1::write_outcome::Outcome;
        match wire.outcome {
            Some(Outcome::Applied(a)) => Ok(Self::Applied {
                version: Version(a.version),
                existed: a.existed,
            }),
            Some(Outcome::ConditionFailed(c)) => Ok(Self::ConditionFailed {
                current: c.current_version.map(Version),
            }),
            None => Err(Malformed::missing("write_outcome.outcome")),
        }
    }
}
