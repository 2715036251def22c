//! Conversions of the steps of a cut, as routers ask them of a group.

use super::steps::{fingerprint_from_wire, fingerprint_to_wire};
use super::{Malformed, internal, types, v1};
use fulcrum_types::{
    CutAnswer, CutId, CutIntent, CutOperation, CutPage, CutPoint, CutStep, CutVerdict, LogPosition, ReplicatedTime,
};
use internal::cut_answer as a;
use internal::cut_request as r;
use std::time::Duration;

impl From<CutOperation> for internal::CutRequest {
    fn from(operation: CutOperation) -> Self {
        let (id, step) = match operation {
            CutOperation::Step(CutStep::Hold { id, hold }) => (id, r::Step::HoldMs(types::millis(hold))),
            CutOperation::Step(CutStep::Release { id }) => (id, r::Step::Release(r::None {})),
            CutOperation::Step(CutStep::Keep { id }) => (id, r::Step::Keep(r::None {})),
            CutOperation::Step(CutStep::End { id }) => (id, r::Step::End(r::None {})),
            CutOperation::Read {
                id,
                at,
                start,
                max_bytes,
            } => {
                let at = Some(at.into());
                (id, r::Step::Read(r::Read { at, start, max_bytes }))
            }
            CutOperation::LookUp { id, at, transactions } => {
                let transactions = transactions.into_iter().map(Into::into).collect();
                let at = Some(at.into());
                (id, r::Step::LookUp(r::LookUp { at, transactions }))
            }
        };
        Self {
            id: id.0,
            step: Some(step),
        }
    }
}

impl TryFrom<internal::CutRequest> for CutOperation {
    type Error = Malformed;

    fn try_from(wire: internal::CutRequest) -> Result<Self, Malformed> {
        let id = CutId(wire.id);
        Ok(match wire.step.ok_or_else(|| Malformed::missing("cut.step"))? {
            r::Step::HoldMs(ms) => CutOperation::Step(CutStep::Hold {
                id,
                hold: Duration::from_millis(ms),
            }),
            r::Step::Release(_) => CutOperation::Step(CutStep::Release { id }),
            r::Step::Keep(_) => CutOperation::Step(CutStep::Keep { id }),
            r::Step::End(_) => CutOperation::Step(CutStep::End { id }),
            r::Step::Read(read) => CutOperation::Read {
                id,
                at: position(read.at)?,
                start: read.start,
                max_bytes: read.max_bytes,
            },
            r::Step::LookUp(look_up) => CutOperation::LookUp {
                id,
                at: position(look_up.at)?,
                transactions: look_up.transactions.into_iter().map(Into::into).collect(),
            },
        })
    }
}

fn position(wire: Option<v1::LogPosition>) -> Result<LogPosition, Malformed> {
    Ok(wire.ok_or_else(|| Malformed::missing("cut.at"))?.into())
}

impl From<CutAnswer> for internal::CutAnswer {
    fn from(answer: CutAnswer) -> Self {
        let answer = match answer {
            CutAnswer::Held(point) => a::Answer::Held(a::Held {
                at: Some(point.position.into()),
                time_ms: point.time.0,
            }),
            CutAnswer::Lapsed => a::Answer::Lapsed(a::None {}),
            CutAnswer::Done => a::Answer::Done(a::None {}),
            CutAnswer::Page(page) => a::Answer::Page(page_to_wire(page)),
            CutAnswer::Verdicts(verdicts) => a::Answer::Verdicts(a::Verdicts {
                verdicts: verdicts.into_iter().map(verdict_to_wire).collect(),
            }),
        };
        Self { answer: Some(answer) }
    }
}

fn page_to_wire(page: CutPage) -> a::Page {
    let rows = page.rows.into_iter().map(|(key, value)| a::Row {
        key,
        value: Some(value.into()),
    });
    let intents = page.intents.into_iter().map(|intent| a::Intent {
        key: intent.key,
        id: Some(intent.id.into()),
        fingerprint: fingerprint_to_wire(intent.fingerprint),
        home: Some(intent.home.into()),
        becomes: intent.becomes.map(Into::into),
    });
    a::Page {
        rows: rows.collect(),
        intents: intents.collect(),
        next: page.next,
    }
}

fn verdict_to_wire(verdict: CutVerdict) -> a::Verdict {
    let verdict = match verdict {
        CutVerdict::Committed(fingerprint) => a::verdict::Verdict::Committed(fingerprint_to_wire(fingerprint)),
        CutVerdict::NotCommitted => a::verdict::Verdict::NotCommitted(a::None {}),
        CutVerdict::TooOld => a::verdict::Verdict::TooOld(a::None {}),
    };
    a::Verdict { verdict: Some(verdict) }
}

impl TryFrom<internal::CutAnswer> for CutAnswer {
    type Error = Malformed;

    fn try_from(wire: internal::CutAnswer) -> Result<Self, Malformed> {
        Ok(match wire.answer.ok_or_else(|| Malformed::missing("cut.answer"))? {
            a::Answer::Held(held) => CutAnswer::Held(CutPoint {
                position: position(held.at)?,
                time: ReplicatedTime(held.time_ms),
            }),
            a::Answer::Lapsed(_) => CutAnswer::Lapsed,
            a::Answer::Done(_) => CutAnswer::Done,
            a::Answer::Page(page) => CutAnswer::Page(page_from_wire(page)?),
            a::Answer::Verdicts(verdicts) => {
                let verdicts = verdicts.verdicts.into_iter().map(verdict_from_wire);
                CutAnswer::Verdicts(verdicts.collect::<Result<_, _>>()?)
            }
        })
    }
}

fn page_from_wire(wire: a::Page) -> Result<CutPage, Malformed> {
    let row = |row: a::Row| {
        let value = row.value.ok_or_else(|| Malformed::missing("cut.row.value"))?;
        Ok((row.key, value.into()))
    };
    let intent = |intent: a::Intent| {
        Ok(CutIntent {
            key: intent.key,
            id: intent.id.ok_or_else(|| Malformed::missing("cut.intent.id"))?.into(),
            fingerprint: fingerprint_from_wire(&intent.fingerprint)?,
            home: intent.home.ok_or_else(|| Malformed::missing("cut.intent.home"))?.into(),
            becomes: intent.becomes.map(Into::into),
        })
    };
    Ok(CutPage {
        rows: wire.rows.into_iter().map(row).collect::<Result<_, Malformed>>()?,
        intents: wire.intents.into_iter().map(intent).collect::<Result<_, Malformed>>()?,
        next: wire.next,
    })
}

fn verdict_from_wire(wire: a::Verdict) -> Result<CutVerdict, Malformed> {
    Ok(match wire.verdict.ok_or_else(|| Malformed::missing("cut.verdict"))? {
        a::verdict::Verdict::Committed(fingerprint) => CutVerdict::Committed(fingerprint_from_wire(&fingerprint)?),
        a::verdict::Verdict::NotCommitted(_) => CutVerdict::NotCommitted,
        a::verdict::Verdict::TooOld(_) => CutVerdict::TooOld,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{
        ClientId, Epoch, Fingerprint, GroupId, Index, KeyspaceId, Participant, Sequence, TransactionId, Version,
        Versioned,
    };

    const ID: CutId = CutId(u64::MAX - 7);

    fn at() -> LogPosition {
        LogPosition {
            epoch: Epoch(3),
            index: Index(300),
        }
    }

    fn transaction() -> TransactionId {
        TransactionId {
            begun_at_ms: 5,
            client: ClientId(6),
            sequence: Sequence(7),
        }
    }

    #[test]
    fn steps_arrive_as_they_were_sent() {
        let hold = Duration::from_millis(1500);
        for operation in [
            CutOperation::Step(CutStep::Hold { id: ID, hold }),
            CutOperation::Step(CutStep::Release { id: ID }),
            CutOperation::Step(CutStep::Keep { id: ID }),
            CutOperation::Step(CutStep::End { id: ID }),
            CutOperation::Read {
                id: ID,
                at: at(),
                start: "k".into(),
                max_bytes: 9,
            },
            CutOperation::LookUp {
                id: ID,
                at: at(),
                transactions: vec![transaction()],
            },
        ] {
            let wire: internal::CutRequest = operation.clone().into();
            assert_eq!(wire.try_into(), Ok(operation));
        }
        assert!(CutOperation::try_from(internal::CutRequest::default()).is_err());
    }

    #[test]
    fn answers_arrive_as_they_were_given() {
        let value = Versioned {
            value: "v".into(),
            version: Version(9),
            expires_at_ms: 77,
        };
        let home = Participant {
            keyspace: KeyspaceId(1),
            group: GroupId(2),
        };
        let intent = |becomes| CutIntent {
            key: "k".into(),
            id: transaction(),
            fingerprint: Fingerprint(u128::MAX - 3),
            home,
            becomes,
        };
        let page = CutPage {
            rows: vec![("a".into(), value.clone())],
            intents: vec![intent(Some(value)), intent(None)],
            next: Some("".into()),
        };
        let point = CutPoint {
            position: at(),
            time: ReplicatedTime(8),
        };
        let verdicts = vec![
            CutVerdict::Committed(Fingerprint(4)),
            CutVerdict::NotCommitted,
            CutVerdict::TooOld,
        ];
        for answer in [
            CutAnswer::Held(point),
            CutAnswer::Lapsed,
            CutAnswer::Done,
            CutAnswer::Page(page),
            CutAnswer::Page(CutPage::default()),
            CutAnswer::Verdicts(verdicts),
        ] {
            let wire: internal::CutAnswer = answer.clone().into();
            assert_eq!(wire.try_into(), Ok(answer));
        }
        assert!(CutAnswer::try_from(internal::CutAnswer::default()).is_err());
    }
}
