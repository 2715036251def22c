//! Transactions at one machine or two: every command, again and again, and the anomalies that must not be.

mod anomalies;
mod commands;
mod cuts;
mod records;

use super::*;
use crate::state_machine::{Command, TransactionEvent};
use fulcrum_types::{
    AbortCause, CommittedPart, Decide, Decision, Fingerprint, KeyCondition, KeyWrite, KeyspaceId, Part, Participant,
    PrepareRequest, Priority, ReadCheck, Resolution, Resolved, Transact, TransactionAnswer, TransactionId, Verdict,
    Vote,
};

/// When most of it happens, in replicated time.
const T: u64 = 1_000_000;
const HORIZON: u64 = 30_000;

pub(super) fn here() -> Participant {
    participant(GROUP.0)
}

pub(super) fn elsewhere() -> Participant {
    participant(77)
}

fn participant(group: u64) -> Participant {
    Participant {
        keyspace: KeyspaceId(1),
        group: GroupId(group),
    }
}

/// The transaction that began `n` ms after `T`: the smaller, the older.
pub(super) fn id(n: u64) -> TransactionId {
    TransactionId {
        begun_at_ms: T + n,
        client: ClientId(1),
        sequence: Sequence(n),
    }
}

pub(super) fn fingerprint(id: TransactionId) -> Fingerprint {
    Fingerprint(u128::from(id.sequence.0) + 1000)
}

#[derive(Clone, Default)]
pub(super) struct Wanted(pub(super) Part);

/// What a transaction does in one group, put together word by word.
pub(super) fn part() -> Wanted {
    Wanted::default()
}

impl Wanted {
    pub(super) fn put(mut self, key: &'static str, value: &'static str) -> Self {
        let mutation = put(key, value).mutation;
        self.0.writes.push(KeyWrite {
            key: key.into(),
            mutation,
        });
        self
    }

    pub(super) fn put_for(mut self, key: &'static str, value: &'static str, ms: u64) -> Self {
        let mutation = put_for(key, value, ms).mutation;
        self.0.writes.push(KeyWrite {
            key: key.into(),
            mutation,
        });
        self
    }

    pub(super) fn delete(mut self, key: &'static str) -> Self {
        self.0.writes.push(KeyWrite {
            key: key.into(),
            mutation: Mutation::Delete,
        });
        self
    }

    /// It has read the key at this version; 0: it was never there.
    pub(super) fn read(mut self, key: &'static str, version: u64) -> Self {
        self.0.reads.push(ReadCheck {
            key: key.into(),
            version: Version(version),
            exists: version > 0,
        });
        self
    }

    pub(super) fn only_if(mut self, key: &'static str, condition: Condition) -> Self {
        self.0.conditions.push(KeyCondition {
            key: key.into(),
            condition,
        });
        self
    }
}

pub(super) fn prepare_at(id: TransactionId, home: Participant, wanted: Wanted) -> PrepareRequest {
    PrepareRequest {
        id,
        priority: Priority(id),
        fingerprint: fingerprint(id),
        home,
        participants: vec![here(), elsewhere()],
        seen: None,
        votes: match home == here() {
            true => vec![yes(elsewhere(), 5)],
            false => Vec::new(),
        },
        part: wanted.0,
    }
}

pub(super) fn committed(id: TransactionId, version: u64) -> Decision {
    Decision::Committed {
        fingerprint: fingerprint(id),
        parts: vec![yes(here(), version), yes(elsewhere(), 5)],
    }
}

fn yes(participant: Participant, version: u64) -> CommittedPart {
    CommittedPart {
        participant,
        version: Version(version),
    }
}

impl Bench {
    fn command(&mut self, time: u64, command: Command) -> ApplyOutcome {
        assert_eq!(Command::decode(command.encode()).as_ref(), Ok(&command));
        self.apply(time, Payload::Command(command.encode())).unwrap()
    }

    fn prepare_with(&mut self, time: u64, request: PrepareRequest, give_way: Option<TransactionId>) -> ApplyOutcome {
        let request = Box::new(request);
        self.command(time, Command::Prepare { request, give_way })
    }

    /// Prepares a part of a transaction whose home is elsewhere.
    pub(super) fn prepare(&mut self, id: TransactionId, wanted: Wanted) -> ApplyOutcome {
        self.prepare_with(T, prepare_at(id, elsewhere(), wanted), None)
    }

    /// Asks for the commit of a transaction whose home is here, and which all others have prepared.
    fn prepare_home(&mut self, id: TransactionId, wanted: Wanted) -> ApplyOutcome {
        self.prepare_with(T, prepare_at(id, here(), wanted), None)
    }

    fn transact(&mut self, time: u64, id: TransactionId, wanted: Wanted) -> ApplyOutcome {
        let request = Box::new(Transact {
            id,
            fingerprint: fingerprint(id),
            seen: None,
            part: wanted.0,
        });
        self.command(time, Command::Transact { at: here(), request })
    }

    /// A party to the transaction asks for the decision.
    fn decide(&mut self, time: u64, id: TransactionId, cause: AbortCause) -> ApplyOutcome {
        self.decide_of(time, id, Some(fingerprint(id)), cause)
    }

    /// The same, by who says which transaction under that id is meant, or does not know.
    fn decide_of(
        &mut self,
        time: u64,
        id: TransactionId,
        fingerprint: Option<Fingerprint>,
        cause: AbortCause,
    ) -> ApplyOutcome {
        let decide = Decide { id, fingerprint, cause };
        self.command(time, Command::Decide(decide))
    }

    fn resolve(&mut self, time: u64, id: TransactionId, verdict: Verdict) -> Resolved {
        match self.command(time, Command::Resolve(vec![Resolution { id, verdict }])) {
            ApplyOutcome::Transaction(TransactionAnswer::Resolved(found)) if found.len() == 1 => found[0],
            other => panic!("{other:?}"),
        }
    }

    fn commit(&mut self, id: TransactionId) -> Resolved {
        self.resolve(T, id, Verdict::Commit(fingerprint(id)))
    }

    fn abort(&mut self, id: TransactionId) -> Resolved {
        self.resolve(T, id, abort_of(Some(fingerprint(id))))
    }

    /// The version of a key as a transaction sees it.
    fn version(&mut self, key: &'static str) -> u64 {
        let seen = self.machine.observe(&self.store, &Bytes::from(key)).unwrap();
        seen.version.0
    }

    /// Closes the state and opens it again, with what memory held made anew.
    fn reopen(&mut self) {
        let (generation, limits) = (self.machine.generation, self.machine.limits.clone());
        self.machine = StateMachine::open(&self.store, GROUP, generation, limits, 0).unwrap();
    }

    fn checksum(&self) -> u64 {
        self.machine.checksum(&self.store).unwrap()
    }

    fn events(&mut self) -> Vec<TransactionEvent> {
        self.machine.take_events()
    }
}

/// An abort of that transaction, or of whatever is there.
fn abort_of(of: Option<Fingerprint>) -> Verdict {
    Verdict::Abort {
        of,
        cause: AbortCause::Abandoned,
    }
}

fn voted(vote: Vote) -> ApplyOutcome {
    ApplyOutcome::Transaction(TransactionAnswer::Vote(vote))
}

fn prepared(version: u64) -> ApplyOutcome {
    voted(Vote::Prepared {
        version: Version(version),
    })
}

fn refused(cause: AbortCause) -> ApplyOutcome {
    voted(Vote::Refused(cause))
}

fn told(decision: Decision) -> ApplyOutcome {
    ApplyOutcome::Transaction(TransactionAnswer::Decision(decision))
}

fn told_aborted(cause: AbortCause) -> ApplyOutcome {
    told(Decision::Aborted(cause))
}

/// The home group's yes.
fn commits(id: TransactionId, version: u64) -> ApplyOutcome {
    voted(Vote::Decided(committed(id, version)))
}

fn one_group_commit(id: TransactionId, version: u64) -> ApplyOutcome {
    voted(Vote::Decided(Decision::Committed {
        fingerprint: fingerprint(id),
        parts: vec![CommittedPart {
            participant: here(),
            version: Version(version),
        }],
    }))
}

fn blocked(by: TransactionId) -> ApplyOutcome {
    ApplyOutcome::Blocked { by }
}
