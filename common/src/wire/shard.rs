//! Conversions of what routers and shard-nodes exchange: group requests and their answers.

use super::batch::BatchBuilder;
use super::{Malformed, internal, status, steps, v1, watch};
use bytes::Bytes;
use fulcrum_types::{
    Answer, Answered, GroupId, GroupRequest, JoinedWrite, KeyspaceId, MapVersion, Operation, Query, ReadRequest,
    RecordedOutcome, Refusal, TraceContext, WriteOutcome,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// Adds a request to a batch, under the sender's id for it. `pass_on` if the answer need not be understood.
pub fn push_request(
    batch: &mut BatchBuilder<internal::Request>,
    id: u64,
    request: &GroupRequest<&Operation>,
    pass_on: bool,
) {
    push_traced_request(batch, id, request, pass_on, None);
}

/// The same for a request that may belong to a trace.
pub fn push_traced_request(
    batch: &mut BatchBuilder<internal::Request>,
    id: u64,
    request: &GroupRequest<&Operation>,
    pass_on: bool,
    trace: Option<TraceContext>,
) {
    let mut wire = internal::Request {
        id,
        keyspace: request.keyspace.0,
        group: request.group.0,
        map_version: request.map_version.0,
        deadline_ms: u32::try_from(request.deadline.as_millis()).unwrap_or(u32::MAX),
        operation: None,
        pass_on,
        trace: super::trace::to_wire(trace),
    };
    if let Operation::Read(read) = request.operation {
        match &read.query {
            Query::Get(keys) if keys.len() == 1 => {
                return batch.push_read_of_one(&wire, &read_without_query(read), &keys[0]);
            }
            Query::Joint(keys) => return batch.push_joint(&wire, &read_without_query(read), keys),
            _ => {}
        }
    }
    wire.operation = Some(operation_to_wire(request.operation));
    batch.push(&wire);
}

fn operation_to_wire(operation: &Operation) -> internal::request::Operation {
    use internal::request::Operation as Op;
    match operation {
        Operation::Read(read) => Op::Read(internal::Read {
            query: Some(query_to_wire(&read.query)),
            ..read_without_query(read)
        }),
        Operation::Write { idempotency, seen, ops } => Op::Write(internal::WriteMany {
            idempotency: idempotency.map(Into::into),
            seen: seen.map(Into::into),
            ops: ops.iter().cloned().map(Into::into).collect(),
        }),
        Operation::Joint(writes) => Op::Joint(internal::Joint {
            writes: writes.iter().map(joined_to_wire).collect(),
        }),
        Operation::Outcome(key) => Op::Outcome((*key).into()),
        Operation::Transaction(step) => Op::Transaction(Box::new(step.clone().into())),
        Operation::Cut(cut) => Op::Cut(Box::new(cut.clone().into())),
    }
}

fn joined_to_wire(write: &JoinedWrite) -> internal::JoinedWrite {
    internal::JoinedWrite {
        idempotency: write.idempotency.map(Into::into),
        seen: write.seen.map(Into::into),
        op: Some(write.op.clone().into()),
    }
}

fn joined_from_wire(wire: internal::JoinedWrite) -> Result<JoinedWrite, Malformed> {
    Ok(JoinedWrite {
        idempotency: wire.idempotency.map(TryInto::try_into).transpose()?,
        seen: wire.seen.map(Into::into),
        op: wire.op.ok_or_else(|| Malformed::missing("joint.op"))?.try_into()?,
    })
}

fn read_without_query(read: &ReadRequest) -> internal::Read {
    internal::Read {
        level: Some(read.level.into()),
        acceptable: read.acceptable.iter().copied().map(Into::into).collect(),
        seen: read.seen.map(Into::into),
        query: None,
    }
}

fn query_to_wire(query: &Query) -> internal::read::Query {
    use internal::read as r;
    match query {
        Query::Get(keys) => r::Query::Get(r::Keys { keys: keys.clone() }),
        Query::Joint(keys) => r::Query::Joint(r::Keys { keys: keys.clone() }),
        Query::Scan {
            start,
            end,
            limit,
            max_bytes,
        } => r::Query::Scan(r::Scan {
            start: start.clone(),
            end: end.clone(),
            limit: *limit,
            max_bytes: *max_bytes,
        }),
        Query::Changes(query) => r::Query::Changes(watch::query_to_wire(query.clone())),
    }
}

/// A request from the wire.
///
/// # Errors
/// The field that is missing or wrong.
pub fn request_from_wire(wire: internal::Request) -> Result<GroupRequest, Malformed> {
    use internal::request::Operation as Op;
    let operation = match wire.operation.ok_or_else(|| Malformed::missing("request.operation"))? {
        Op::Read(read) => Operation::Read(read_from_wire(read)?),
        Op::Write(write) => Operation::Write {
            idempotency: write.idempotency.map(TryInto::try_into).transpose()?,
            seen: write.seen.map(Into::into),
            ops: write.ops.into_iter().map(TryInto::try_into).collect::<Result<_, _>>()?,
        },
        Op::Joint(joint) => Operation::Joint(
            joint
                .writes
                .into_iter()
                .map(joined_from_wire)
                .collect::<Result<_, _>>()?,
        ),
        Op::Outcome(key) => Operation::Outcome(key.try_into()?),
        Op::Transaction(step) => Operation::Transaction((*step).try_into()?),
        Op::Cut(cut) => Operation::Cut((*cut).try_into()?),
    };
    Ok(GroupRequest {
        keyspace: KeyspaceId(wire.keyspace),
        group: GroupId(wire.group),
        map_version: MapVersion(wire.map_version),
        deadline: Duration::from_millis(wire.deadline_ms.into()),
        operation,
    })
}

fn read_from_wire(wire: internal::Read) -> Result<ReadRequest, Malformed> {
    use internal::read::Query as Q;
    let query = match wire.query.ok_or_else(|| Malformed::missing("read.query"))? {
        Q::Key(key) => Query::Get(vec![key]),
        Q::Get(keys) => Query::Get(keys.keys),
        Q::Joint(keys) => Query::Joint(keys.keys),
        Q::Scan(scan) => Query::Scan {
            start: scan.start,
            end: scan.end,
            limit: scan.limit,
            max_bytes: scan.max_bytes,
        },
        Q::Changes(changes) => Query::Changes(watch::query_from_wire(changes)),
    };
    Ok(ReadRequest {
        level: wire.level.ok_or_else(|| Malformed::missing("read.level"))?.try_into()?,
        acceptable: wire
            .acceptable
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?,
        seen: wire.seen.map(Into::into),
        query,
    })
}

/// An answer as the wire has it.
#[must_use]
pub fn response_to_wire(id: u64, result: Result<Answered, Refusal>) -> internal::Response {
    use internal::response::Result as R;
    match result {
        Err(refusal) => internal::Response {
            id,
            result: Some(R::Error(Box::new(status::refusal_to_wire(&refusal)))),
            receipt: None,
        },
        Ok(answered) => internal::Response {
            id,
            result: Some(answer_to_wire(answered.receipt.group, answered.answer)),
            receipt: Some(Box::new(answered.receipt.into())),
        },
    }
}

fn answer_to_wire(group: GroupId, answer: Answer) -> internal::response::Result {
    use internal::response::Result as R;
    match answer {
        Answer::Values(values) => R::Values(internal::Values {
            values: values
                .into_iter()
                .map(|value| internal::MaybeValue {
                    value: value.map(Into::into),
                })
                .collect(),
        }),
        Answer::Rows { rows, complete } => R::Rows(internal::Rows {
            rows: rows
                .into_iter()
                .map(|(key, value)| internal::Row {
                    key,
                    value: Some(value.into()),
                })
                .collect(),
            complete,
        }),
        Answer::Changes { changes, reached, time } => {
            R::Changes(Box::new(watch::changes_to_wire(changes, reached, time)))
        }
        Answer::Written(outcomes) => R::Written(written_to_wire(outcomes)),
        Answer::Joint(outcomes) => R::Joint(joint_to_wire(outcomes)),
        Answer::Outcome(recorded) => R::Recorded(recorded_to_wire(recorded)),
        Answer::Transaction(answer) => R::Transaction(Box::new(steps::answer_to_wire(group, answer))),
        Answer::Cut(answer) => R::Cut(Box::new(answer.into())),
    }
}

fn written_to_wire(outcomes: Vec<WriteOutcome>) -> internal::Written {
    internal::Written {
        outcomes: outcomes.into_iter().map(Into::into).collect(),
    }
}

fn written_from_wire(wire: internal::Written) -> Result<Vec<WriteOutcome>, Malformed> {
    wire.outcomes.into_iter().map(TryInto::try_into).collect()
}

fn joint_to_wire(outcomes: Vec<Result<WriteOutcome, Refusal>>) -> internal::JointOutcomes {
    let refused = refused_of_many(&outcomes);
    let outcome = |outcome: Result<WriteOutcome, Refusal>| outcome.map(Into::into).unwrap_or_default();
    internal::JointOutcomes {
        outcomes: outcomes.into_iter().map(outcome).collect(),
        refused,
    }
}

/// Which of several were refused, and why.
#[must_use]
pub fn refused_of_many<T>(results: &[Result<T, Refusal>]) -> Vec<internal::RefusedOfMany> {
    let refused = (0..).zip(results).filter_map(|(number, result)| {
        let refusal = result.as_ref().err()?;
        Some(internal::RefusedOfMany {
            number,
            error: Some(status::refusal_to_wire(refusal)),
        })
    });
    refused.collect()
}

/// Which of `count` were refused, and why: each once, in their order.
fn refused_from_wire(wire: Vec<internal::RefusedOfMany>, count: usize) -> Result<Vec<(usize, Refusal)>, Malformed> {
    let mut next = 0;
    let one = |wire: internal::RefusedOfMany| {
        let number = usize::try_from(wire.number).unwrap_or(usize::MAX);
        if number < next || number >= count {
            return Err(Malformed(format!(
                "refused.number is {number} of {count}, where {next} or more was due"
            )));
        }
        next = number + 1;
        let error = wire.error.ok_or_else(|| Malformed::missing("refused.error"))?;
        Ok((number, status::refusal_from_wire(error)))
    };
    wire.into_iter().map(one).collect()
}

fn joint_from_wire(wire: internal::JointOutcomes) -> Result<Vec<Result<WriteOutcome, Refusal>>, Malformed> {
    let mut refused: BTreeMap<usize, Refusal> = refused_from_wire(wire.refused, wire.outcomes.len())?
        .into_iter()
        .collect();
    let outcome = |(number, outcome): (usize, v1::WriteOutcome)| match refused.remove(&number) {
        Some(refusal) => Ok(Err(refusal)),
        None => outcome.try_into().map(Ok),
    };
    wire.outcomes.into_iter().enumerate().map(outcome).collect()
}

fn recorded_to_wire(recorded: RecordedOutcome) -> internal::Recorded {
    use internal::recorded as r;
    let state = match recorded {
        RecordedOutcome::Known(outcomes) => r::State::Known(written_to_wire(outcomes)),
        RecordedOutcome::NotSeen => r::State::NotSeen(r::NotSeen {}),
        RecordedOutcome::TooOld => r::State::TooOld(r::TooOld {}),
    };
    internal::Recorded { state: Some(state) }
}

/// What a shard-node answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// An answer with its receipt.
    Answered(Box<Answered>),
    /// An answer to be passed on: an encoded [`v1::GetResponse`] or [`v1::WriteResponse`].
    PassedOn {
        /// The message.
        message: Bytes,
        /// The bound of staleness that its receipt proves.
        staleness: Option<Duration>,
        /// Served at a weaker level than the one asked.
        weaker: bool,
    },
    /// The answers to a joint, to be passed on: an encoded [`v1::GetResponse`] or [`v1::WriteResponse`] for each of its keys, in
    /// their order.
    PassedOnMany {
        /// The messages; where one was refused it says nothing.
        messages: Vec<Bytes>,
        /// Which were refused, counted from 0 and in their order, and why.
        refused: Vec<(usize, Refusal)>,
        /// The bound of staleness that their receipt proves.
        staleness: Option<Duration>,
        /// Served at a weaker level than the one asked.
        weaker: bool,
    },
}

impl Reply {
    /// The bound of staleness that was proved.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        match self {
            Reply::Answered(answered) => answered.receipt.staleness,
            Reply::PassedOn { staleness, .. } | Reply::PassedOnMany { staleness, .. } => *staleness,
        }
    }

    /// Of several, those that were refused.
    #[must_use]
    pub fn refused(&self) -> &[(usize, Refusal)] {
        match self {
            Reply::PassedOnMany { refused, .. } => refused,
            Reply::PassedOn { .. } | Reply::Answered(_) => &[],
        }
    }

    /// Whether a read was served at a weaker level than the one asked, as its request allows.
    #[must_use]
    pub fn is_weaker(&self) -> bool {
        match self {
            Reply::Answered(answered) => answered.receipt.is_weaker(),
            Reply::PassedOn { weaker, .. } | Reply::PassedOnMany { weaker, .. } => *weaker,
        }
    }
}

/// An answer from the wire: the result or refusal.
///
/// # Errors
/// The field that is missing or wrong.
pub fn response_from_wire(wire: internal::Response) -> Result<Result<Reply, Refusal>, Malformed> {
    use internal::response::Result as R;
    let answer = match wire.result.ok_or_else(|| Malformed::missing("response.result"))? {
        R::Error(error) => return Ok(Err(status::refusal_from_wire(*error))),
        R::PassedOn(passed_on) => {
            return Ok(Ok(Reply::PassedOn {
                message: passed_on.message,
                staleness: passed_on.staleness_us.map(Duration::from_micros),
                weaker: passed_on.weaker,
            }));
        }
        R::PassedOnMany(passed_on) => {
            return Ok(Ok(Reply::PassedOnMany {
                refused: refused_from_wire(passed_on.refused, passed_on.messages.len())?,
                messages: passed_on.messages,
                staleness: passed_on.staleness_us.map(Duration::from_micros),
                weaker: passed_on.weaker,
            }));
        }
        R::Values(values) => Answer::Values(
            values
                .values
                .into_iter()
                .map(|value| value.value.map(Into::into))
                .collect(),
        ),
        R::Rows(rows) => Answer::Rows {
            rows: rows.rows.into_iter().map(row_from_wire).collect::<Result<_, _>>()?,
            complete: rows.complete,
        },
        R::Changes(changes) => watch::changes_from_wire(*changes)?,
        R::Written(written) => Answer::Written(written_from_wire(written)?),
        R::Joint(outcomes) => Answer::Joint(joint_from_wire(outcomes)?),
        R::Recorded(recorded) => Answer::Outcome(recorded_from_wire(recorded)?),
        R::Transaction(answer) => Answer::Transaction(steps::answer_from_wire(*answer)?),
        R::Cut(answer) => Answer::Cut((*answer).try_into()?),
    };
    let receipt = wire.receipt.ok_or_else(|| Malformed::missing("response.receipt"))?;
    let receipt = (*receipt).try_into()?;
    Ok(Ok(Reply::Answered(Box::new(Answered { answer, receipt }))))
}

fn row_from_wire(row: internal::Row) -> Result<(bytes::Bytes, fulcrum_types::Versioned), Malformed> {
    let value: v1::Value = row.value.ok_or_else(|| Malformed::missing("row.value"))?;
    Ok((row.key, value.into()))
}

fn recorded_from_wire(wire: internal::Recorded) -> Result<RecordedOutcome, Malformed> {
    use internal::recorded::State;
    match wire.state.ok_or_else(|| Malformed::missing("recorded.state"))? {
        State::Known(written) => Ok(RecordedOutcome::Known(written_from_wire(written)?)),
        State::NotSeen(_) => Ok(RecordedOutcome::NotSeen),
        State::TooOld(_) => Ok(RecordedOutcome::TooOld),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use bytes::Bytes;
    use fulcrum_types::{
        ClientId, Condition, Epoch, IdempotencyKey, Index, Level, LogPosition, Mode, Mutation, NodeId, Receipt, Role,
        Sequence, StalenessBasis, Version, WriteOp,
    };

    /// What arrives of a request.
    pub(in super::super) fn over_the_wire(request: &GroupRequest) -> Result<GroupRequest, Malformed> {
        let mut batch = BatchBuilder::default();
        push_request(&mut batch, 7, &request.as_ref(), true);
        let mut items = batch.take().items();
        let wire = items.next().ok_or_else(|| Malformed("nothing was sent".into()))??;
        assert_eq!((wire.id, wire.pass_on, items.next()), (7, true, None));
        request_from_wire(wire)
    }

    #[test]
    fn reads_arrive_as_they_were_sent_whatever_their_number_of_keys() {
        let seen = LogPosition {
            epoch: Epoch(3),
            index: Index(300),
        };
        let many = |count: u8| (0..count).map(|key| Bytes::from(vec![key; 5])).collect::<Vec<_>>();
        for (keys, seen, acceptable) in [
            (vec![], None, vec![]),
            (vec![Bytes::new()], Some(seen), vec![]),
            (
                vec![Bytes::from(vec![9; 500])],
                None,
                vec![Level::Session, Level::Eventual],
            ),
            (vec!["a".into(), "b".into()], Some(seen), vec![Level::Eventual]),
            (many(64), Some(seen), vec![]),
        ] {
            for query in [Query::Get(keys.clone()), Query::Joint(keys)] {
                let request = GroupRequest {
                    keyspace: KeyspaceId(1),
                    group: GroupId(200),
                    map_version: MapVersion(3),
                    deadline: Duration::from_secs(1),
                    operation: Operation::Read(ReadRequest {
                        level: Level::Linearizable,
                        acceptable: acceptable.clone(),
                        seen,
                        query,
                    }),
                };
                assert_eq!(over_the_wire(&request), Ok(request));
            }
        }
    }

    fn receipt() -> Receipt {
        Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group: GroupId(200),
            replica: NodeId(1),
            role: Role::Primary,
            epoch: Epoch(3),
            index: Index(9),
            acknowledged_by: vec![NodeId(1), NodeId(2)],
            durable: true,
            staleness: None,
            basis: StalenessBasis::None,
            map_version: MapVersion(3),
            rounds: 1,
            elapsed: Duration::from_micros(7),
        }
    }

    #[test]
    fn a_joint_of_writes_arrives_as_it_was_sent_and_so_does_its_answer() {
        let joined = |number: u64| JoinedWrite {
            idempotency: (number > 1).then_some(IdempotencyKey {
                client: ClientId(7),
                sequence: Sequence(number),
                issued_at_ms: 1_700_000_000_000,
                low_water: Sequence(1),
            }),
            seen: (number > 2).then_some(LogPosition {
                epoch: Epoch(3),
                index: Index(number),
            }),
            op: WriteOp {
                key: format!("k{number}").into(),
                condition: Condition::Absent,
                mutation: Mutation::Delete,
            },
        };
        let request = GroupRequest {
            keyspace: KeyspaceId(1),
            group: GroupId(200),
            map_version: MapVersion(3),
            deadline: Duration::from_secs(1),
            operation: Operation::Joint((0..5).map(joined).collect()),
        };
        assert_eq!(over_the_wire(&request), Ok(request));

        let answered = Answered {
            answer: Answer::Joint(vec![
                Ok(WriteOutcome::ConditionFailed { current: None }),
                Err(Refusal::TooOldToTell),
                Ok(WriteOutcome::Applied {
                    version: Version(9),
                    existed: true,
                }),
                Err(Refusal::Overloaded),
            ]),
            receipt: receipt(),
        };
        let wire = response_to_wire(7, Ok(answered.clone()));
        assert_eq!(response_from_wire(wire), Ok(Ok(Reply::Answered(Box::new(answered)))));
    }

    #[test]
    fn a_refusal_of_something_that_was_not_asked_or_told_before_is_malformed() {
        let refused = |number| internal::RefusedOfMany {
            number,
            error: Some(status::refusal_to_wire(&Refusal::Overloaded)),
        };
        let response = |numbers: &[u32]| internal::Response {
            id: 1,
            result: Some(internal::response::Result::PassedOnMany(internal::PassedOnMany {
                messages: vec![Bytes::new(); 2],
                refused: numbers.iter().copied().map(refused).collect(),
                ..Default::default()
            })),
            receipt: None,
        };
        assert!(response_from_wire(response(&[0, 1])).is_ok());
        for numbers in [&[2][..], &[u32::MAX], &[0, 0], &[1, 0], &[0, 1, 1]] {
            assert!(response_from_wire(response(numbers)).is_err(), "{numbers:?}");
        }
    }
}
