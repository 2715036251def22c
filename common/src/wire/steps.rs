//! Conversions of the steps of transactions, as coordinators and shard-nodes ask them of a group.

use super::transactions::{pending_from_wire, pending_to_wire};
use super::{Malformed, internal, types, v1};
use fulcrum_types::{
    CommittedPart, Decide, Decision, Fingerprint, GroupId, IntentSeen, KeyCondition, KeyWrite, KeyspaceId,
    Observations, Part, Participant, PrepareRequest, Priority, ReadCheck, Resolution, Resolved, Transact,
    TransactionAnswer, TransactionId, TransactionOperation, TransactionState, Validation, Verdict, Version, Vote,
    WriteOp,
};
use internal::transaction_answer as a;
use internal::transaction_step as s;

pub(super) fn fingerprint_to_wire(fingerprint: Fingerprint) -> bytes::Bytes {
    bytes::Bytes::copy_from_slice(&fingerprint.0.to_be_bytes())
}

pub(super) fn fingerprint_from_wire(wire: &[u8]) -> Result<Fingerprint, Malformed> {
    let bytes = wire.try_into();
    let wrong = |_| Malformed(format!("fingerprint has {} bytes, not 16", wire.len()));
    Ok(Fingerprint(u128::from_be_bytes(bytes.map_err(wrong)?)))
}

fn id(wire: Option<v1::TransactionId>) -> Result<TransactionId, Malformed> {
    Ok(wire.ok_or_else(|| Malformed::missing("the transaction's id"))?.into())
}

impl From<Participant> for internal::Participant {
    fn from(participant: Participant) -> Self {
        Self {
            keyspace: participant.keyspace.0,
            group: participant.group.0,
        }
    }
}

impl From<internal::Participant> for Participant {
    fn from(wire: internal::Participant) -> Self {
        Self {
            keyspace: KeyspaceId(wire.keyspace),
            group: GroupId(wire.group),
        }
    }
}

fn participant(wire: Option<internal::Participant>, field: &str) -> Result<Participant, Malformed> {
    Ok(wire.ok_or_else(|| Malformed::missing(field))?.into())
}

fn reads_to_wire(reads: Vec<ReadCheck>) -> Vec<internal::ReadCheck> {
    let to_wire = |read: ReadCheck| internal::ReadCheck {
        key: read.key,
        version: read.version.0,
        exists: read.exists,
    };
    reads.into_iter().map(to_wire).collect()
}

fn reads_from_wire(wire: Vec<internal::ReadCheck>) -> Vec<ReadCheck> {
    let from_wire = |read: internal::ReadCheck| ReadCheck {
        key: read.key,
        version: Version(read.version),
        exists: read.exists,
    };
    wire.into_iter().map(from_wire).collect()
}

fn write_to_wire(write: KeyWrite) -> v1::Write {
    WriteOp {
        key: write.key,
        condition: fulcrum_types::Condition::None,
        mutation: write.mutation,
    }
    .into()
}

fn write_from_wire(wire: v1::Write) -> Result<KeyWrite, Malformed> {
    if wire.condition.is_some() {
        return Err(Malformed("a write within a part has no condition of its own".into()));
    }
    let op = WriteOp::try_from(wire)?;
    Ok(KeyWrite {
        key: op.key,
        mutation: op.mutation,
    })
}

fn part_to_wire(part: Part) -> internal::Part {
    let condition = |one: KeyCondition| internal::KeyCondition {
        key: one.key,
        condition: types::condition_to_wire(one.condition),
    };
    internal::Part {
        reads: reads_to_wire(part.reads),
        conditions: part.conditions.into_iter().map(condition).collect(),
        writes: part.writes.into_iter().map(write_to_wire).collect(),
    }
}

fn part_from_wire(wire: Option<internal::Part>) -> Result<Part, Malformed> {
    let wire = wire.ok_or_else(|| Malformed::missing("part"))?;
    let condition = |one: internal::KeyCondition| KeyCondition {
        key: one.key,
        condition: types::condition(one.condition),
    };
    Ok(Part {
        reads: reads_from_wire(wire.reads),
        conditions: wire.conditions.into_iter().map(condition).collect(),
        writes: wire.writes.into_iter().map(write_from_wire).collect::<Result<_, _>>()?,
    })
}

fn parts_to_wire(parts: Vec<CommittedPart>) -> Vec<internal::CommittedPart> {
    let to_wire = |part: CommittedPart| internal::CommittedPart {
        participant: Some(part.participant.into()),
        version: part.version.0,
    };
    parts.into_iter().map(to_wire).collect()
}

fn parts_from_wire(wire: Vec<internal::CommittedPart>, field: &str) -> Result<Vec<CommittedPart>, Malformed> {
    let from_wire = |part: internal::CommittedPart| {
        Ok(CommittedPart {
            participant: participant(part.participant, field)?,
            version: Version(part.version),
        })
    };
    wire.into_iter().map(from_wire).collect()
}

fn decision_to_wire(decision: Decision) -> internal::Decision {
    use internal::decision as d;
    let decision = match decision {
        Decision::Committed { fingerprint, parts } => d::Decision::Committed(d::Committed {
            fingerprint: fingerprint_to_wire(fingerprint),
            parts: parts_to_wire(parts),
        }),
        Decision::Aborted(cause) => d::Decision::Aborted(cause.into()),
    };
    internal::Decision {
        decision: Some(decision),
    }
}

fn decision_from_wire(wire: internal::Decision) -> Result<Decision, Malformed> {
    use internal::decision as d;
    match wire.decision.ok_or_else(|| Malformed::missing("decision"))? {
        d::Decision::Committed(committed) => Ok(Decision::Committed {
            fingerprint: fingerprint_from_wire(&committed.fingerprint)?,
            parts: parts_from_wire(committed.parts, "decision.part.participant")?,
        }),
        d::Decision::Aborted(cause) => Ok(Decision::Aborted(cause.try_into()?)),
    }
}

fn ids_to_wire(ids: Vec<TransactionId>) -> s::Ids {
    s::Ids {
        ids: ids.into_iter().map(Into::into).collect(),
    }
}

fn ids_from_wire(wire: s::Ids) -> Vec<TransactionId> {
    wire.ids.into_iter().map(Into::into).collect()
}

fn resolution_to_wire(resolution: Resolution) -> s::Resolution {
    let verdict = match resolution.verdict {
        Verdict::Commit(fingerprint) => s::resolution::Verdict::Commit(fingerprint_to_wire(fingerprint)),
        Verdict::Abort { of, cause } => s::resolution::Verdict::Abort(s::Abort {
            cause: Some(cause.into()),
            of: of.map(fingerprint_to_wire),
        }),
    };
    s::Resolution {
        id: Some(resolution.id.into()),
        verdict: Some(verdict),
    }
}

fn resolution_from_wire(wire: s::Resolution) -> Result<Resolution, Malformed> {
    let verdict = match wire.verdict.ok_or_else(|| Malformed::missing("resolution.verdict"))? {
        s::resolution::Verdict::Commit(fingerprint) => Verdict::Commit(fingerprint_from_wire(&fingerprint)?),
        s::resolution::Verdict::Abort(abort) => Verdict::Abort {
            of: abort.of.as_ref().map(|of| fingerprint_from_wire(of)).transpose()?,
            cause: abort
                .cause
                .ok_or_else(|| Malformed::missing("resolution.abort.cause"))?
                .try_into()?,
        },
    };
    Ok(Resolution {
        id: id(wire.id)?,
        verdict,
    })
}

impl From<TransactionOperation> for internal::TransactionStep {
    fn from(operation: TransactionOperation) -> Self {
        use TransactionOperation as T;
        let step = match operation {
            T::Transact(transact) => s::Step::Transact(s::Transact {
                id: Some(transact.id.into()),
                fingerprint: fingerprint_to_wire(transact.fingerprint),
                seen: transact.seen.map(Into::into),
                part: Some(part_to_wire(transact.part)),
            }),
            T::Prepare(prepare) => s::Step::Prepare(prepare_to_wire(*prepare)),
            T::Decide(decide) => s::Step::Decide(s::Decide {
                id: Some(decide.id.into()),
                fingerprint: decide.fingerprint.map(fingerprint_to_wire),
                cause: Some(decide.cause.into()),
            }),
            T::Resolve(resolutions) => s::Step::Resolve(s::Resolve {
                resolutions: resolutions.into_iter().map(resolution_to_wire).collect(),
            }),
            T::Forget(ids) => s::Step::Forget(ids_to_wire(ids)),
            T::Heartbeat(ids) => s::Step::Heartbeat(ids_to_wire(ids)),
            T::LookUp(id) => s::Step::LookUp(id.into()),
            T::Read {
                begun_at_ms,
                seen,
                keys,
            } => s::Step::Read(s::Read {
                begun_at_ms,
                seen: seen.map(Into::into),
                keys,
            }),
            T::Validate { begun_at_ms, reads } => s::Step::Validate(s::Validate {
                begun_at_ms,
                reads: reads_to_wire(reads),
            }),
            T::List { limit } => s::Step::List(s::List { limit }),
        };
        Self { step: Some(step) }
    }
}

fn prepare_to_wire(prepare: PrepareRequest) -> s::Prepare {
    s::Prepare {
        id: Some(prepare.id.into()),
        priority: Some(prepare.priority.0.into()),
        fingerprint: fingerprint_to_wire(prepare.fingerprint),
        home: Some(prepare.home.into()),
        participants: prepare.participants.into_iter().map(Into::into).collect(),
        seen: prepare.seen.map(Into::into),
        votes: parts_to_wire(prepare.votes),
        part: Some(part_to_wire(prepare.part)),
    }
}

fn prepare_from_wire(wire: s::Prepare) -> Result<PrepareRequest, Malformed> {
    Ok(PrepareRequest {
        id: id(wire.id)?,
        priority: Priority(id(wire.priority)?),
        fingerprint: fingerprint_from_wire(&wire.fingerprint)?,
        home: participant(wire.home, "prepare.home")?,
        participants: wire.participants.into_iter().map(Into::into).collect(),
        seen: wire.seen.map(Into::into),
        votes: parts_from_wire(wire.votes, "prepare.vote.participant")?,
        part: part_from_wire(wire.part)?,
    })
}

impl TryFrom<internal::TransactionStep> for TransactionOperation {
    type Error = Malformed;
    fn try_from(wire: internal::TransactionStep) -> Result<Self, Malformed> {
        use TransactionOperation as T;
        Ok(match wire.step.ok_or_else(|| Malformed::missing("transaction.step"))? {
            s::Step::Transact(transact) => T::Transact(Box::new(Transact {
                id: id(transact.id)?,
                fingerprint: fingerprint_from_wire(&transact.fingerprint)?,
                seen: transact.seen.map(Into::into),
                part: part_from_wire(transact.part)?,
            })),
            s::Step::Prepare(prepare) => T::Prepare(Box::new(prepare_from_wire(prepare)?)),
            s::Step::Decide(decide) => T::Decide(Decide {
                id: id(decide.id)?,
                fingerprint: decide
                    .fingerprint
                    .as_ref()
                    .map(|of| fingerprint_from_wire(of))
                    .transpose()?,
                cause: decide
                    .cause
                    .ok_or_else(|| Malformed::missing("decide.cause"))?
                    .try_into()?,
            }),
            s::Step::Resolve(resolve) => T::Resolve(
                resolve
                    .resolutions
                    .into_iter()
                    .map(resolution_from_wire)
                    .collect::<Result<_, _>>()?,
            ),
            s::Step::Forget(ids) => T::Forget(ids_from_wire(ids)),
            s::Step::Heartbeat(ids) => T::Heartbeat(ids_from_wire(ids)),
            s::Step::LookUp(id) => T::LookUp(id.into()),
            s::Step::Read(read) => T::Read {
                begun_at_ms: read.begun_at_ms,
                seen: read.seen.map(Into::into),
                keys: read.keys,
            },
            s::Step::Validate(validate) => T::Validate {
                begun_at_ms: validate.begun_at_ms,
                reads: reads_from_wire(validate.reads),
            },
            s::Step::List(list) => T::List { limit: list.limit },
        })
    }
}

fn vote_to_wire(vote: Vote) -> a::Vote {
    let vote = match vote {
        Vote::Prepared { version } => a::vote::Vote::Prepared(version.0),
        Vote::Refused(cause) => a::vote::Vote::Refused(cause.into()),
        Vote::Resolved { version } => a::vote::Vote::Resolved(version.0),
        Vote::Decided(decision) => a::vote::Vote::Decided(decision_to_wire(decision)),
    };
    a::Vote { vote: Some(vote) }
}

fn vote_from_wire(wire: a::Vote) -> Result<Vote, Malformed> {
    Ok(match wire.vote.ok_or_else(|| Malformed::missing("vote"))? {
        a::vote::Vote::Prepared(version) => Vote::Prepared {
            version: Version(version),
        },
        a::vote::Vote::Refused(cause) => Vote::Refused(cause.try_into()?),
        a::vote::Vote::Resolved(version) => Vote::Resolved {
            version: Version(version),
        },
        a::vote::Vote::Decided(decision) => Vote::Decided(decision_from_wire(decision)?),
    })
}

fn resolved_to_wire(resolved: Vec<Resolved>) -> a::Resolved {
    let found = |one| match one {
        Resolved::Now => a::resolved::Found::Now.into(),
        Resolved::Before => a::resolved::Found::Before.into(),
        Resolved::Nothing => a::resolved::Found::Nothing.into(),
    };
    a::Resolved {
        found: resolved.into_iter().map(found).collect(),
    }
}

fn resolved_from_wire(wire: a::Resolved) -> Result<Vec<Resolved>, Malformed> {
    let found = |one: i32| match a::resolved::Found::try_from(one) {
        Ok(a::resolved::Found::Now) => Ok(Resolved::Now),
        Ok(a::resolved::Found::Before) => Ok(Resolved::Before),
        Ok(a::resolved::Found::Nothing) => Ok(Resolved::Nothing),
        _ => Err(Malformed(format!("resolved.found {one} is not known here"))),
    };
    wire.found.into_iter().map(found).collect()
}

fn state_to_wire(state: TransactionState) -> a::State {
    let state = match state {
        TransactionState::Decided(decision) => a::state::State::Decided(decision_to_wire(decision)),
        TransactionState::Promised { home } => a::state::State::Promised(home.into()),
        TransactionState::NotSeen => a::state::State::NotSeen(a::Done {}),
        TransactionState::TooOld => a::state::State::TooOld(a::Done {}),
    };
    a::State { state: Some(state) }
}

fn state_from_wire(wire: a::State) -> Result<TransactionState, Malformed> {
    Ok(match wire.state.ok_or_else(|| Malformed::missing("state"))? {
        a::state::State::Decided(decision) => TransactionState::Decided(decision_from_wire(decision)?),
        a::state::State::Promised(home) => TransactionState::Promised { home: home.into() },
        a::state::State::NotSeen(_) => TransactionState::NotSeen,
        a::state::State::TooOld(_) => TransactionState::TooOld,
    })
}

fn validation_to_wire(validation: Validation) -> a::Validation {
    use a::validation as v;
    let validation = match validation {
        Validation::Valid => v::Validation::Valid(a::Done {}),
        Validation::Invalidated { read } => v::Validation::Invalidated(read),
        Validation::Intents(intents) => v::Validation::Intents(v::Intents {
            intents: intents
                .into_iter()
                .map(|intent| v::Intent {
                    id: Some(intent.id.into()),
                    home: Some(intent.home.into()),
                })
                .collect(),
        }),
    };
    a::Validation {
        validation: Some(validation),
    }
}

fn validation_from_wire(wire: a::Validation) -> Result<Validation, Malformed> {
    use a::validation as v;
    let intent = |intent: v::Intent| {
        Ok(IntentSeen {
            id: id(intent.id)?,
            home: participant(intent.home, "validation.intent.home")?,
        })
    };
    Ok(match wire.validation.ok_or_else(|| Malformed::missing("validation"))? {
        v::Validation::Valid(_) => Validation::Valid,
        v::Validation::Invalidated(read) => Validation::Invalidated { read },
        v::Validation::Intents(intents) => {
            Validation::Intents(intents.intents.into_iter().map(intent).collect::<Result<_, _>>()?)
        }
    })
}

/// A group's answer as the wire has it.
#[must_use]
pub fn answer_to_wire(group: GroupId, answer: TransactionAnswer) -> internal::TransactionAnswer {
    use TransactionAnswer as T;
    let answer = match answer {
        T::Vote(vote) => a::Answer::Vote(vote_to_wire(vote)),
        T::Decision(decision) => a::Answer::Decision(decision_to_wire(decision)),
        T::Resolved(resolved) => a::Answer::Resolved(resolved_to_wire(resolved)),
        T::Done => a::Answer::Done(a::Done {}),
        T::State(state) => a::Answer::State(state_to_wire(state)),
        T::Observations(seen) => a::Answer::Observations(a::Observations {
            observed: seen.observed.into_iter().map(Into::into).collect(),
            met_intents: seen.met_intents,
        }),
        T::Validation(validation) => a::Answer::Validation(validation_to_wire(validation)),
        T::List(list) => a::Answer::List(a::List {
            transactions: list.into_iter().map(|info| pending_to_wire(group, info)).collect(),
        }),
    };
    internal::TransactionAnswer { answer: Some(answer) }
}

/// A group's answer from the wire.
///
/// # Errors
/// The field that is missing or wrong.
pub fn answer_from_wire(wire: internal::TransactionAnswer) -> Result<TransactionAnswer, Malformed> {
    use TransactionAnswer as T;
    Ok(
        match wire.answer.ok_or_else(|| Malformed::missing("transaction.answer"))? {
            a::Answer::Vote(vote) => T::Vote(vote_from_wire(vote)?),
            a::Answer::Decision(decision) => T::Decision(decision_from_wire(decision)?),
            a::Answer::Resolved(resolved) => T::Resolved(resolved_from_wire(resolved)?),
            a::Answer::Done(_) => T::Done,
            a::Answer::State(state) => T::State(state_from_wire(state)?),
            a::Answer::Observations(seen) => T::Observations(Observations {
                observed: seen.observed.into_iter().map(Into::into).collect(),
                met_intents: seen.met_intents,
            }),
            a::Answer::Validation(validation) => T::Validation(validation_from_wire(validation)?),
            a::Answer::List(list) => T::List(
                list.transactions
                    .into_iter()
                    .map(|info| pending_from_wire(info).map(|(_, info)| info))
                    .collect::<Result<_, _>>()?,
            ),
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use fulcrum_types::{
        AbortCause, ClientId, Condition, Epoch, Index, LogPosition, Mutation, Observed, Pending, Sequence,
        TransactionInfo, Versioned,
    };
    use prost::Message;
    use std::time::Duration;

    fn an_id(sequence: u64) -> TransactionId {
        TransactionId {
            begun_at_ms: 1_000,
            client: ClientId(3),
            sequence: Sequence(sequence),
        }
    }

    fn a_place(group: u64) -> Participant {
        Participant {
            keyspace: KeyspaceId(1),
            group: GroupId(group),
        }
    }

    const FINGERPRINT: Fingerprint = Fingerprint(u128::MAX - 5);

    fn a_part() -> Part {
        let key = Bytes::from_static;
        let put = |ttl| Mutation::Put { value: key(b"v"), ttl };
        Part {
            reads: vec![ReadCheck {
                key: key(b"a"),
                version: Version(4),
                exists: false,
            }],
            conditions: vec![KeyCondition {
                key: key(b"b"),
                condition: Condition::ValueIs(key(b"x")),
            }],
            writes: vec![
                KeyWrite {
                    key: key(b"c"),
                    mutation: put(Some(Duration::from_millis(5))),
                },
                KeyWrite {
                    key: key(b"d"),
                    mutation: Mutation::Delete,
                },
            ],
        }
    }

    fn a_commit() -> Decision {
        Decision::Committed {
            fingerprint: FINGERPRINT,
            parts: vec![CommittedPart {
                participant: a_place(2),
                version: Version(9),
            }],
        }
    }

    fn an_abort() -> AbortCause {
        AbortCause::Conflict { with: an_id(1) }
    }

    #[test]
    fn every_step_survives_the_wire() {
        use TransactionOperation as T;
        let seen = Some(LogPosition {
            epoch: Epoch(2),
            index: Index(8),
        });
        let begun_at_ms = 5;
        let decide = |fingerprint| {
            T::Decide(Decide {
                id: an_id(7),
                fingerprint,
                cause: an_abort(),
            })
        };
        let abort = |of| Verdict::Abort {
            of,
            cause: AbortCause::Abandoned,
        };
        let resolution = |verdict| Resolution { id: an_id(7), verdict };
        for step in [
            T::Transact(Box::new(Transact {
                id: an_id(7),
                fingerprint: FINGERPRINT,
                seen,
                part: a_part(),
            })),
            T::Prepare(Box::new(PrepareRequest {
                id: an_id(7),
                priority: Priority(an_id(2)),
                fingerprint: FINGERPRINT,
                home: a_place(2),
                participants: vec![a_place(2), a_place(5)],
                seen: None,
                votes: vec![CommittedPart {
                    participant: a_place(5),
                    version: Version(3),
                }],
                part: a_part(),
            })),
            decide(Some(FINGERPRINT)),
            decide(None),
            T::Resolve(vec![
                resolution(Verdict::Commit(FINGERPRINT)),
                resolution(abort(Some(FINGERPRINT))),
                resolution(abort(None)),
            ]),
            T::Forget(vec![an_id(1), an_id(2)]),
            T::Heartbeat(vec![an_id(1)]),
            T::LookUp(an_id(3)),
            T::Read {
                begun_at_ms,
                seen,
                keys: vec![Bytes::from_static(b"k")],
            },
            T::Validate {
                begun_at_ms,
                reads: a_part().reads,
            },
            T::List { limit: 3 },
        ] {
            let bytes = internal::TransactionStep::from(step.clone()).encode_to_vec();
            let wire = internal::TransactionStep::decode(bytes.as_slice()).unwrap();
            assert_eq!(wire.try_into(), Ok(step));
        }
    }

    #[test]
    fn every_answer_survives_the_wire() {
        use TransactionAnswer as T;
        let version = Version(6);
        let observed = vec![
            Observed::default(),
            Observed {
                version,
                value: Some(Versioned {
                    value: Bytes::from_static(b"v"),
                    version,
                    expires_at_ms: 0,
                }),
            },
        ];
        let intent = IntentSeen {
            id: an_id(4),
            home: a_place(5),
        };
        for answer in [
            T::Vote(Vote::Prepared { version }),
            T::Vote(Vote::Refused(an_abort())),
            T::Vote(Vote::Resolved { version }),
            T::Vote(Vote::Decided(a_commit())),
            T::Decision(a_commit()),
            T::Decision(Decision::Aborted(an_abort())),
            T::Resolved(vec![Resolved::Now, Resolved::Before, Resolved::Nothing]),
            T::Done,
            T::State(TransactionState::Decided(a_commit())),
            T::State(TransactionState::Promised { home: a_place(5) }),
            T::State(TransactionState::NotSeen),
            T::State(TransactionState::TooOld),
            T::Observations(Observations {
                observed,
                met_intents: true,
            }),
            T::Validation(Validation::Valid),
            T::Validation(Validation::Invalidated { read: 0 }),
            T::Validation(Validation::Intents(vec![intent])),
            T::List(vec![TransactionInfo {
                id: an_id(4),
                pending: Pending::Unresolved,
                home: a_place(2),
                participants: vec![a_place(2), a_place(5)],
                age: Duration::from_millis(40),
                silent: Some(Duration::ZERO),
                keys: 2,
            }]),
        ] {
            let bytes = answer_to_wire(GroupId(2), answer.clone()).encode_to_vec();
            let wire = internal::TransactionAnswer::decode(bytes.as_slice()).unwrap();
            assert_eq!(answer_from_wire(wire), Ok(answer));
        }
    }

    #[test]
    fn what_is_missing_or_wrong_is_named() {
        let missing = |step| TransactionOperation::try_from(internal::TransactionStep { step }).unwrap_err();
        assert_eq!(missing(None), Malformed::missing("transaction.step"));
        let transact = s::Transact {
            fingerprint: Bytes::from_static(b"short"),
            id: Some(an_id(1).into()),
            ..s::Transact::default()
        };
        let wrong = missing(Some(s::Step::Transact(transact)));
        assert_eq!(wrong.0, "fingerprint has 5 bytes, not 16");
    }
}
