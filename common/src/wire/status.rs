//! Refusals as gRPC statuses with typed details (`google.rpc.Status` carrying a `fulcrum.v1.Error`), and back.

use super::{types, v1};
use fulcrum_types::{Act, GroupId, Index, Level, MapVersion, Mode, NodeId, Refusal};
use prost::Message;
use std::time::Duration;
use tonic::{Code, Status};

const ERROR_TYPE: &str = "type.googleapis.com/fulcrum.v1.Error";

/// The standard envelope of error details, as all gRPC implementations read it.
#[derive(Clone, PartialEq, prost::Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The gRPC code that fits a refusal best.
#[must_use]
pub fn code(refusal: &Refusal) -> Code {
    match refusal {
        Refusal::WrongGroup { .. } | Refusal::NotPrimary { .. } | Refusal::CannotServe { .. } => {
            Code::FailedPrecondition
        }
        Refusal::NotReady
        | Refusal::Fenced
        | Refusal::NotEnoughReplicas { .. }
        | Refusal::BeingCut
        | Refusal::Stopped { .. }
        | Refusal::NoDataLeft
        | Refusal::ReceiptViolated { .. }
        | Refusal::Unreachable { .. } => Code::Unavailable,
        Refusal::Overloaded | Refusal::TooManyCuts { .. } => Code::ResourceExhausted,
        Refusal::DeadlineExceeded => Code::DeadlineExceeded,
        Refusal::HistoryLost { .. } => Code::DataLoss,
        Refusal::IllegalLevel { .. }
        | Refusal::Invalid { .. }
        | Refusal::TransactionIdReused { .. }
        | Refusal::NoTransactions { .. } => Code::InvalidArgument,
        Refusal::Aborted { .. } | Refusal::Locked { .. } => Code::Aborted,
        Refusal::UnknownKeyspace { .. } => Code::NotFound,
        Refusal::TooOldToTell | Refusal::Compacted { .. } | Refusal::CutGone { .. } => Code::OutOfRange,
        Refusal::Unauthenticated => Code::Unauthenticated,
        Refusal::Denied { .. } => Code::PermissionDenied,
        Refusal::Unknown { .. } => Code::Unknown,
    }
}

fn act_to_wire(act: Act) -> v1::Act {
    match act {
        Act::Redirect => v1::Act::Redirect,
        Act::Retry => v1::Act::Retry,
        Act::Abort => v1::Act::Abort,
        Act::Reject => v1::Act::Reject,
        Act::LookUp => v1::Act::LookUp,
        Act::Operator => v1::Act::Operator,
    }
}

/// A refusal as the wire has it.
#[must_use]
pub fn refusal_to_wire(refusal: &Refusal) -> v1::Error {
    let mut error = v1::Error {
        act: act_to_wire(refusal.act()).into(),
        code: refusal.code().into(),
        message: refusal.to_string(),
        ..v1::Error::default()
    };
    match refusal {
        Refusal::WrongGroup { map_version } => error.map_version = Some(map_version.0),
        Refusal::NotPrimary { hint } => error.primary_hint = hint.map(|node| node.0),
        Refusal::CannotServe { level, bound, hint } => {
            error.level = Some((*level).into());
            error.bound_us = bound.map(types::micros);
            error.primary_hint = hint.map(|node| node.0);
        }
        Refusal::NotEnoughReplicas { have, need } => {
            error.have = *have;
            error.need = *need;
        }
        Refusal::HistoryLost { group, seen } => {
            error.group = group.0;
            error.seen = Some((*seen).into());
        }
        Refusal::Compacted {
            group,
            after,
            kept_after,
        } => {
            error.group = group.0;
            error.seen = Some((*after).into());
            error.kept_after = kept_after.0;
        }
        Refusal::CutGone { group } => error.group = group.0,
        Refusal::TooManyCuts { group, most } => {
            error.group = group.0;
            error.have = *most;
        }
        Refusal::IllegalLevel { level, mode } => {
            error.level = Some((*level).into());
            error.mode = v1::Mode::from(*mode).into();
        }
        Refusal::UnknownKeyspace { keyspace } => error.keyspace.clone_from(keyspace),
        Refusal::Denied { scope, right } => {
            error.keyspace.clone_from(scope);
            error.right = right.to_string();
        }
        Refusal::Aborted { id, cause } => {
            error.transaction = Some((*id).into());
            error.abort = Some((*cause).into());
        }
        Refusal::Locked { by: id } | Refusal::TransactionIdReused { id } => error.transaction = Some((*id).into()),
        Refusal::NoTransactions { keyspace, mode } => {
            error.keyspace.clone_from(keyspace);
            error.mode = v1::Mode::from(*mode).into();
        }
        Refusal::Invalid { reason }
        | Refusal::Unknown { reason }
        | Refusal::Stopped { reason }
        | Refusal::ReceiptViolated { reason }
        | Refusal::Unreachable { reason } => error.message.clone_from(reason),
        _ => {}
    }
    error
}

/// A refusal from the wire. One that this release does not know is kept by who must act.
#[must_use]
pub fn refusal_from_wire(error: v1::Error) -> Refusal {
    let hint = error.primary_hint.map(NodeId);
    let level = || {
        error
            .level
            .and_then(|level| Level::try_from(level).ok())
            .unwrap_or(Level::Linearizable)
    };
    let id = || error.transaction.map(Into::into).unwrap_or_default();
    match error.code.as_str() {
        "WRONG_GROUP" => Refusal::WrongGroup {
            map_version: MapVersion(error.map_version.unwrap_or(0)),
        },
        "NOT_PRIMARY" => Refusal::NotPrimary { hint },
        "CANNOT_SERVE" => Refusal::CannotServe {
            level: level(),
            bound: error.bound_us.map(Duration::from_micros),
            hint,
        },
        "NOT_READY" => Refusal::NotReady,
        "FENCED" => Refusal::Fenced,
        "NOT_ENOUGH_REPLICAS" => Refusal::NotEnoughReplicas {
            have: error.have,
            need: error.need,
        },
        "OVERLOADED" => Refusal::Overloaded,
        "DEADLINE_EXCEEDED" => Refusal::DeadlineExceeded,
        "HISTORY_LOST" => Refusal::HistoryLost {
            group: GroupId(error.group),
            seen: error.seen.map(Into::into).unwrap_or_default(),
        },
        "COMPACTED" => Refusal::Compacted {
            group: GroupId(error.group),
            after: error.seen.map(Into::into).unwrap_or_default(),
            kept_after: Index(error.kept_after),
        },
        "ILLEGAL_LEVEL" => Refusal::IllegalLevel {
            level: level(),
            mode: types::mode(error.mode).unwrap_or(Mode::Async),
        },
        "UNKNOWN_KEYSPACE" => Refusal::UnknownKeyspace {
            keyspace: error.keyspace,
        },
        "UNAUTHENTICATED" => Refusal::Unauthenticated,
        "PERMISSION_DENIED" => match error.right.parse() {
            Ok(right) => Refusal::Denied {
                scope: error.keyspace,
                right,
            },
            // A right that this release does not know: it is refused all the same.
            Err(_) => by_act(error),
        },
        "ABORTED" => match error.abort.map(TryInto::try_into) {
            Some(Ok(cause)) => Refusal::Aborted { id: id(), cause },
            // A cause that this release does not know: the attempt is aborted all the same.
            _ => by_act(error),
        },
        "LOCKED" => Refusal::Locked { by: id() },
        "BEING_CUT" => Refusal::BeingCut,
        "CUT_GONE" => Refusal::CutGone {
            group: GroupId(error.group),
        },
        "TOO_MANY_CUTS" => Refusal::TooManyCuts {
            group: GroupId(error.group),
            most: error.have,
        },
        "TRANSACTION_ID_REUSED" => Refusal::TransactionIdReused { id: id() },
        "NO_TRANSACTIONS" => Refusal::NoTransactions {
            keyspace: error.keyspace,
            mode: types::mode(error.mode).unwrap_or(Mode::Async),
        },
        "TOO_OLD_TO_TELL" => Refusal::TooOldToTell,
        "NO_DATA_LEFT" => Refusal::NoDataLeft,
        "STOPPED" => Refusal::Stopped { reason: error.message },
        "RECEIPT_VIOLATED" => Refusal::ReceiptViolated { reason: error.message },
        "UNREACHABLE" => Refusal::Unreachable { reason: error.message },
        "INVALID" => Refusal::Invalid { reason: error.message },
        "UNKNOWN" => Refusal::Unknown { reason: error.message },
        _ => by_act(error),
    }
}

fn by_act(error: v1::Error) -> Refusal {
    let reason = format!("{}: {}", error.code, error.message);
    match v1::Act::try_from(error.act) {
        Ok(v1::Act::Redirect | v1::Act::Retry | v1::Act::Abort) => Refusal::Unreachable { reason },
        Ok(v1::Act::Reject) => Refusal::Invalid { reason },
        Ok(v1::Act::Operator) => Refusal::Stopped { reason },
        _ => Refusal::Unknown { reason },
    }
}

/// A refusal as a gRPC status with typed details.
#[must_use]
pub fn refusal_to_status(refusal: &Refusal) -> Status {
    let code = code(refusal);
    let error = refusal_to_wire(refusal);
    // Code and message of the envelope are those of the status: clients take one that differs for forged.
    let message = refusal.to_string();
    let envelope = RpcStatus {
        code: code.into(),
        message: message.clone(),
        details: vec![prost_types::Any {
            type_url: ERROR_TYPE.into(),
            value: error.encode_to_vec(),
        }],
    };
    Status::with_details(code, message, envelope.encode_to_vec().into())
}

/// The refusal that a gRPC status carries. A status without details of ours is judged by its code: only codes that
/// can come from before the request was handed to a server count as "nothing was applied".
#[must_use]
pub fn refusal_from_status(status: &Status) -> Refusal {
    let details = RpcStatus::decode(status.details()).ok();
    let ours = details.and_then(|envelope| envelope.details.into_iter().find(|any| any.type_url == ERROR_TYPE));
    if let Some(error) = ours.and_then(|any| v1::Error::decode(any.value.as_slice()).ok()) {
        return refusal_from_wire(error);
    }
    let reason = format!("{:?}: {}", status.code(), status.message());
    match status.code() {
        Code::InvalidArgument | Code::Unimplemented | Code::PermissionDenied | Code::Unauthenticated => {
            Refusal::Invalid { reason }
        }
        Code::ResourceExhausted => Refusal::Overloaded,
        _ => Refusal::Unknown { reason },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{AbortCause, ClientId, Epoch, Index, LogPosition, Right, Sequence, TransactionId};

    fn all() -> Vec<Refusal> {
        let reason = || "why".to_string();
        let id = TransactionId {
            begun_at_ms: 5,
            client: ClientId(6),
            sequence: Sequence(7),
        };
        vec![
            Refusal::WrongGroup {
                map_version: MapVersion(7),
            },
            Refusal::NotPrimary { hint: Some(NodeId(3)) },
            Refusal::NotPrimary { hint: None },
            Refusal::CannotServe {
                level: Level::Bounded(Duration::from_millis(5)),
                bound: Some(Duration::from_millis(9)),
                hint: Some(NodeId(1)),
            },
            Refusal::NotReady,
            Refusal::Fenced,
            Refusal::NotEnoughReplicas { have: 1, need: 2 },
            Refusal::Overloaded,
            Refusal::DeadlineExceeded,
            Refusal::HistoryLost {
                group: GroupId(4),
                seen: LogPosition {
                    epoch: Epoch(2),
                    index: Index(9),
                },
            },
            Refusal::Compacted {
                group: GroupId(4),
                after: LogPosition {
                    epoch: Epoch(2),
                    index: Index(9),
                },
                kept_after: Index(70),
            },
            Refusal::IllegalLevel {
                level: Level::Linearizable,
                mode: Mode::Async,
            },
            Refusal::UnknownKeyspace {
                keyspace: "orders".into(),
            },
            Refusal::Invalid { reason: reason() },
            Refusal::TooOldToTell,
            Refusal::Unknown { reason: reason() },
            Refusal::Stopped { reason: reason() },
            Refusal::NoDataLeft,
            Refusal::Aborted {
                id,
                cause: AbortCause::Conflict { with: id },
            },
            Refusal::Locked { by: id },
            Refusal::BeingCut,
            Refusal::ReceiptViolated { reason: reason() },
            Refusal::CutGone { group: GroupId(4) },
            Refusal::TooManyCuts {
                group: GroupId(4),
                most: 4,
            },
            Refusal::TransactionIdReused { id },
            Refusal::NoTransactions {
                keyspace: "sessions".into(),
                mode: Mode::Async,
            },
            Refusal::Unauthenticated,
            Refusal::Denied {
                scope: "orders".into(),
                right: Right::Write,
            },
            Refusal::Unreachable { reason: reason() },
        ]
    }

    #[test]
    fn every_refusal_survives_a_status() {
        for refusal in all() {
            assert_eq!(refusal_from_status(&refusal_to_status(&refusal)), refusal);
        }
    }

    #[test]
    fn the_envelope_says_what_the_status_says() {
        for refusal in all() {
            let status = refusal_to_status(&refusal);
            let envelope = RpcStatus::decode(status.details()).unwrap();
            assert_eq!(envelope.code, i32::from(status.code()), "{refusal:?}");
            assert_eq!(envelope.message, status.message(), "{refusal:?}");
        }
    }

    #[test]
    fn a_refusal_of_a_newer_release_is_kept_by_who_must_act() {
        let error = v1::Error {
            act: v1::Act::Reject.into(),
            code: "NEW".into(),
            ..v1::Error::default()
        };
        assert_eq!(refusal_from_wire(error).act(), Act::Reject);
    }

    #[test]
    fn a_foreign_status_never_claims_that_nothing_was_applied() {
        assert_eq!(
            refusal_from_status(&Status::unavailable("connection reset")).act(),
            Act::LookUp
        );
    }
}
