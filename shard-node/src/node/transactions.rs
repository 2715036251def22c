//! What is asked of a group for transactions: let in here, answered from the log or from the state.
//!
//! Commands go into the log as writes do and are answered with what was decided when they were applied. What a request names
//! is checked first: that this keyspace takes part in transactions, that every key is owned here, the limits.

use super::bugs::Bug;
use super::group::Group;
use super::reads::{Read, TransactionRead, Wanted};
use super::shared::{Failure, Shared};
use super::writes::Early;
use crate::event::RequestId;
use crate::state_machine::{ApplyRefusal, Command, StateMachine};
use bytes::Bytes;
use fulcrum_common::key::{validate_key, validate_value};
use fulcrum_common::limits::{MAX_PARTICIPANTS, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS};
use fulcrum_replication::{Proposal, ProposalId};
use fulcrum_types::{
    Answer, Answered, Condition, IntentSeen, Level, LogPosition, Mode, Mono, Mutation, Now, Observations, Part,
    Participant, Pending, PrepareRequest, ReadCheck, Refusal, ReplicatedTime, Resolution, Role, TransactionAnswer,
    TransactionId, TransactionInfo, TransactionOperation, TransactionState, Validation,
};
use std::collections::BTreeSet;
use std::time::Duration;

/// A request for a step of a transaction.
pub(super) struct Asked {
    pub(super) id: RequestId,
    pub(super) now: Now,
    pub(super) deadline: Mono,
}

impl Group {
    /// Takes a step of a transaction in.
    pub(super) fn admit_transaction(
        &mut self,
        shared: &mut Shared,
        asked: &Asked,
        operation: TransactionOperation,
    ) -> Result<(), Failure> {
        if self.mode() != Mode::Sync {
            let refusal = Refusal::NoTransactions {
                keyspace: self.keyspace.name.clone(),
                mode: self.mode(),
            };
            shared.reply(asked.id, Err(refusal));
            return Ok(());
        }
        let ends_doubt = operation.ends_doubt();
        let command = match operation {
            TransactionOperation::Heartbeat(ids) => {
                self.heartbeat(shared, asked, &ids);
                return Ok(());
            }
            TransactionOperation::LookUp(_)
            | TransactionOperation::Read { .. }
            | TransactionOperation::Validate { .. }
            | TransactionOperation::List { .. } => return self.admit_transaction_read(shared, asked, operation),
            TransactionOperation::Transact(request) => self
                .check_part(shared, &request.part)
                .and_then(|()| self.check_seen(shared, request.seen))
                .map(|()| Command::Transact {
                    at: self.as_participant(),
                    request,
                }),
            TransactionOperation::Prepare(request) => self.check_prepare(shared, &request).map(|()| Command::Prepare {
                // Whose yes is the decision holds nothing, and is in nobody's way.
                give_way: match request.decides() {
                    true => None,
                    false => self.waiting.gives_way_to(&request),
                },
                request,
            }),
            TransactionOperation::Decide(decide) => Ok(Command::Decide(decide)),
            TransactionOperation::Resolve(all) => self.check_resolve(shared, &all).map(|()| {
                let told = all.iter();
                told.for_each(|resolution| self.note_verdict(resolution.id, resolution.verdict));
                Command::Resolve(all)
            }),
            TransactionOperation::Forget(ids) => check_ids(ids.iter()).map(|()| Command::Forget(ids)),
        };
        match command {
            Ok(command) => {
                shared.requests.insert(asked.id, self.id, asked.deadline);
                self.queue_command(shared, asked.now.mono, asked.id, &command, ends_doubt);
            }
            Err(refusal) => shared.reply(asked.id, Err(refusal)),
        }
        Ok(())
    }

    /// This group, as transactions name it.
    fn as_participant(&self) -> Participant {
        Participant {
            keyspace: self.keyspace.id,
            group: self.id,
        }
    }

    fn check_part(&self, shared: &Shared, part: &Part) -> Result<(), Refusal> {
        let keys = part.reads.len() + part.conditions.len() + part.writes.len();
        if !(1..=MAX_TRANSACTION_KEYS).contains(&keys) {
            return Err(invalid(format!(
                "a part of a transaction reads, tests or writes 1 to {MAX_TRANSACTION_KEYS} keys, this one {keys}"
            )));
        }
        let mut bytes = 0;
        let mut check_key = |key: &Bytes| {
            validate_key(key)?;
            bytes += key.len();
            self.check_owner(shared, key)
        };
        part.reads.iter().try_for_each(|read| check_key(&read.key))?;
        part.conditions.iter().try_for_each(|test| check_key(&test.key))?;
        part.writes.iter().try_for_each(|write| check_key(&write.key))?;
        for test in &part.conditions {
            if let Condition::ValueIs(value) = &test.condition {
                validate_value(value)?;
                bytes += value.len();
            }
        }
        for write in &part.writes {
            if let Mutation::Put { value, .. } = &write.mutation {
                validate_value(value)?;
                bytes += value.len();
            }
        }
        if bytes > MAX_TRANSACTION_BYTES {
            return Err(invalid(format!(
                "the transaction has more than {MAX_TRANSACTION_BYTES} bytes of keys and values"
            )));
        }
        let written: BTreeSet<&Bytes> = part.writes.iter().map(|write| &write.key).collect();
        if written.len() < part.writes.len() {
            return Err(invalid(
                "a key is written twice in the transaction: keep the last write only".into(),
            ));
        }
        if shared.store.pending_bytes() > shared.settings.staged_bytes_max {
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    fn check_prepare(&self, shared: &Shared, request: &PrepareRequest) -> Result<(), Refusal> {
        let participants = &request.participants;
        if participants.len() > MAX_PARTICIPANTS {
            return Err(invalid(format!(
                "the transaction has {} participants, at most {MAX_PARTICIPANTS} are possible",
                participants.len()
            )));
        }
        for needed in [self.as_participant(), request.home] {
            if !participants.contains(&needed) {
                return Err(invalid(format!(
                    "group {} is no participant by the prepare's own list",
                    needed.group
                )));
            }
        }
        self.check_votes(request)?;
        self.check_part(shared, &request.part)?;
        self.check_seen(shared, request.seen)
    }

    /// The home group is asked with the yes of all others, and nobody else with any.
    fn check_votes(&self, request: &PrepareRequest) -> Result<(), Refusal> {
        let here = self.as_participant();
        let voters = request.votes.iter().map(|vote| vote.participant);
        let others = request.participants.iter().copied().filter(|other| *other != here);
        let fits = match request.home == here {
            true => !request.votes.is_empty() && voters.eq(others),
            false => request.votes.is_empty(),
        };
        if fits {
            return Ok(());
        }
        Err(invalid(format!(
            "the home group, {}, prepares with the votes of all other participants, and nobody else with any",
            request.home.group
        )))
    }

    fn check_resolve(&mut self, shared: &mut Shared, all: &[Resolution]) -> Result<(), Refusal> {
        check_ids(all.iter().map(|resolution| &resolution.id))?;
        if all.len() > 1 && self.bytes_promised(all) > MAX_TRANSACTION_BYTES as u64 {
            // Each of them is right as it is: they are done in entries of a bounded size, and found done when asked again.
            self.propose_resolutions(shared, all.to_vec());
            return Err(Refusal::Overloaded);
        }
        Ok(())
    }

    fn bytes_promised(&self, all: &[Resolution]) -> u64 {
        let promises = all
            .iter()
            .filter_map(|resolution| self.machine.promise_to(resolution.id));
        promises.map(|promise| promise.bytes).sum()
    }

    /// Puts a command of a transaction in for the end of the turn.
    fn queue_command(&mut self, shared: &mut Shared, now: Mono, id: RequestId, command: &Command, ends_doubt: bool) {
        let early = match command {
            Command::Prepare { request, .. } if request.decides() && shared.bugs.has(Bug::AnswerBeforeDecided) => {
                Some(Early::Decided(request.clone()))
            }
            _ => None,
        };
        let proposal = Proposal {
            id: ProposalId(id.0),
            command: command.encode(),
            ends_doubt,
        };
        self.queue(id, now, proposal, early);
    }

    /// Proposes a command that nobody waits for. What refuses it is met again by whoever wanted it.
    pub(super) fn propose_own(&mut self, shared: &mut Shared, command: &Command) {
        let id = shared.own_proposal();
        self.queue_unasked(Proposal {
            id,
            command: command.encode(),
            ends_doubt: true,
        });
    }

    /// Proposes resolutions, in entries of a bounded number of bytes.
    pub(super) fn propose_resolutions(&mut self, shared: &mut Shared, all: Vec<Resolution>) {
        let (mut entry, mut bytes) = (Vec::new(), 0);
        for resolution in all {
            let more = self
                .machine
                .promise_to(resolution.id)
                .map_or(0, |promise| promise.bytes);
            if !entry.is_empty() && (bytes + more > MAX_TRANSACTION_BYTES as u64 || entry.len() == MAX_TRANSACTION_KEYS)
            {
                self.propose_own(shared, &Command::Resolve(std::mem::take(&mut entry)));
                bytes = 0;
            }
            bytes += more;
            entry.push(resolution);
        }
        if !entry.is_empty() {
            self.propose_own(shared, &Command::Resolve(entry));
        }
    }

    fn heartbeat(&mut self, shared: &mut Shared, asked: &Asked, ids: &[TransactionId]) {
        if self.view.role != Role::Primary {
            let hint = self.hint(shared);
            return shared.reply(asked.id, Err(Refusal::NotPrimary { hint }));
        }
        self.in_doubt.heard_of(ids, asked.now.mono);
        let mut receipt = self.receipt(shared, self.applied(), asked.now.mono, asked.now.mono);
        receipt.role = Role::Primary;
        let answer = Answer::Transaction(TransactionAnswer::Done);
        shared.reply(asked.id, Ok(Answered { answer, receipt }));
    }

    fn admit_transaction_read(
        &mut self,
        shared: &mut Shared,
        asked: &Asked,
        operation: TransactionOperation,
    ) -> Result<(), Failure> {
        let (read, seen) = match self.transaction_read(shared, asked.now, operation) {
            Ok(read) => read,
            Err(refusal) => {
                shared.reply(asked.id, Err(refusal));
                return Ok(());
            }
        };
        let level = match &read {
            // What is decided stays so: any replica may say it, at once.
            TransactionRead::LookUp(id) if self.is_decided(shared, *id)? => Level::Eventual,
            _ => Level::Linearizable,
        };
        let wanted = Wanted::Transactional(read);
        let mut read = Read::new(asked.now.mono, asked.deadline, level, Vec::new(), wanted);
        read.seen = seen;
        self.admitted_read(shared, asked.now, asked.id, read)
    }

    fn transaction_read(
        &self,
        shared: &Shared,
        now: Now,
        operation: TransactionOperation,
    ) -> Result<(TransactionRead, Option<LogPosition>), Refusal> {
        let in_time = |begun_at_ms| {
            let now = self.machine.time().max(ReplicatedTime(now.wall_ms));
            let future = self.machine.out_of_time(begun_at_ms, now);
            match future.filter(|refusal| *refusal == ApplyRefusal::TransactionOfTheFuture) {
                Some(refusal) => Err(Refusal::from(refusal)),
                None => Ok(()),
            }
        };
        let check = |keys: &mut dyn Iterator<Item = &Bytes>| {
            let mut count = 0;
            for key in keys {
                count += 1;
                validate_key(key)?;
                self.check_owner(shared, key)?;
            }
            if (1..=MAX_TRANSACTION_KEYS).contains(&count) {
                return Ok(());
            }
            Err(invalid(format!(
                "a transaction reads 1 to {MAX_TRANSACTION_KEYS} keys at once, not {count}"
            )))
        };
        Ok(match operation {
            TransactionOperation::Read {
                begun_at_ms,
                seen,
                keys,
            } => {
                in_time(begun_at_ms)?;
                check(&mut keys.iter())?;
                (TransactionRead::Observe { begun_at_ms, keys }, seen)
            }
            TransactionOperation::Validate { begun_at_ms, reads } => {
                in_time(begun_at_ms)?;
                check(&mut reads.iter().map(|read| &read.key))?;
                (TransactionRead::Validate { begun_at_ms, reads }, None)
            }
            TransactionOperation::LookUp(id) => (TransactionRead::LookUp(id), None),
            TransactionOperation::List { limit } => (TransactionRead::List { limit }, None),
            other => return Err(invalid(format!("{} is no read", other.name()))),
        })
    }

    fn is_decided(&self, shared: &Shared, id: TransactionId) -> Result<bool, Failure> {
        let state = self.machine.state_of(&shared.store, id)?;
        Ok(matches!(state, Some(TransactionState::Decided(_))))
    }

    /// Answers a read for a transaction from the state.
    pub(super) fn read_for_transaction(
        &mut self,
        shared: &Shared,
        now: Mono,
        read: &TransactionRead,
    ) -> Result<Result<Answer, Refusal>, Failure> {
        let answer = match read {
            TransactionRead::LookUp(id) => match self.machine.state_of(&shared.store, *id)? {
                Some(state) => Ok(TransactionAnswer::State(state)),
                None => Err(not_its_home(*id)),
            },
            TransactionRead::Observe { begun_at_ms, keys } => self.observe(shared, *begun_at_ms, keys)?,
            TransactionRead::Validate { begun_at_ms, reads } => self.validate(shared, *begun_at_ms, reads)?,
            TransactionRead::List { limit } => Ok(TransactionAnswer::List(self.list(now, *limit))),
        };
        Ok(answer.map(Answer::Transaction))
    }

    fn is_past(&self, begun_at_ms: u64) -> bool {
        let out_of_time = self.machine.out_of_time(begun_at_ms, self.machine.time());
        out_of_time == Some(ApplyRefusal::TooOldToTell)
    }

    fn observe(
        &mut self,
        shared: &Shared,
        begun_at_ms: u64,
        keys: &[Bytes],
    ) -> Result<Result<TransactionAnswer, Refusal>, Failure> {
        if self.is_past(begun_at_ms) {
            return Ok(Err(Refusal::TooOldToTell));
        }
        let mut observations = Observations::default();
        let mut bytes = 0;
        for key in keys {
            let observed = self.machine.observe(&shared.store, key)?;
            bytes += observed.value.as_ref().map_or(0, |value| value.value.len());
            if bytes > MAX_TRANSACTION_BYTES {
                return Ok(Err(invalid(format!(
                    "the values have more than {MAX_TRANSACTION_BYTES} bytes: read fewer keys at once"
                ))));
            }
            observations.observed.push(observed);
        }
        Ok(Ok(TransactionAnswer::Observations(observations)))
    }

    /// Whether reads still hold, with nobody's intent on their keys, decided or not.
    fn validate(
        &mut self,
        shared: &Shared,
        begun_at_ms: u64,
        reads: &[ReadCheck],
    ) -> Result<Result<TransactionAnswer, Refusal>, Failure> {
        if self.is_past(begun_at_ms) {
            return Ok(Err(Refusal::TooOldToTell));
        }
        let intents = self.intents_seen(shared, reads)?;
        if !intents.is_empty() {
            let validation = Validation::Intents(intents.into_iter().collect());
            return Ok(Ok(TransactionAnswer::Validation(validation)));
        }
        for (number, read) in (0..).zip(reads) {
            let observed = self.machine.observe(&shared.store, &read.key)?;
            if (observed.version, observed.value.is_some()) != (read.version, read.exists) {
                let invalidated = Validation::Invalidated { read: number };
                return Ok(Ok(TransactionAnswer::Validation(invalidated)));
            }
        }
        Ok(Ok(TransactionAnswer::Validation(Validation::Valid)))
    }

    /// The intents on the keys that were read. They come before any comparison: a value that was read by its intent agrees with
    /// nothing before that is resolved.
    fn intents_seen(&self, shared: &Shared, reads: &[ReadCheck]) -> Result<BTreeSet<IntentSeen>, Failure> {
        let mut intents = BTreeSet::new();
        if shared.bugs.has(Bug::ReadPastIntents) {
            return Ok(intents);
        }
        for read in reads {
            if let Some(intent) = self.machine.intent_on(&shared.store, &read.key)? {
                let (id, home) = (intent.id, intent.home);
                intents.insert(IntentSeen { id, home });
            }
        }
        Ok(intents)
    }

    /// What is pending here: what is in doubt before what is only unresolved, of each the oldest first.
    fn list(&self, now: Mono, limit: u32) -> Vec<TransactionInfo> {
        let age = |machine: &StateMachine, at_ms: u64, known: Option<Duration>| {
            let replicated = Duration::from_millis(machine.time().0.saturating_sub(at_ms));
            // Replicated time stands still while nothing is written.
            replicated.max(known.unwrap_or_default())
        };
        let limit = (limit as usize).min(MAX_TRANSACTION_KEYS);
        let in_doubt = self
            .machine
            .prepared()
            .take(limit)
            .map(|(id, promise)| TransactionInfo {
                id,
                pending: Pending::InDoubt,
                home: promise.home,
                participants: promise.participants.clone(),
                age: age(&self.machine, promise.at_ms, self.in_doubt.age(id, now)),
                silent: self.in_doubt.silent(id, now),
                keys: u32::try_from(promise.keys()).unwrap_or(u32::MAX),
            });
        let unresolved = self
            .machine
            .unresolved()
            .take(limit)
            .map(|(id, committed)| TransactionInfo {
                id,
                pending: Pending::Unresolved,
                home: self.as_participant(),
                participants: committed.parts.iter().map(|part| part.participant).collect(),
                age: age(&self.machine, committed.at_ms, self.home.age(id, now)),
                silent: None,
                keys: 0,
            });
        let mut all: Vec<TransactionInfo> = in_doubt.chain(unresolved).collect();
        all.sort_by_key(|info| (info.pending != Pending::InDoubt, std::cmp::Reverse(info.age), info.id));
        all.truncate(limit);
        all
    }
}

/// A batch names each transaction once, and not too many.
pub(super) fn check_ids<'a>(ids: impl ExactSizeIterator<Item = &'a TransactionId>) -> Result<(), Refusal> {
    let count = ids.len();
    if !(1..=MAX_TRANSACTION_KEYS).contains(&count) {
        return Err(invalid(format!(
            "1 to {MAX_TRANSACTION_KEYS} transactions are possible at once, not {count}"
        )));
    }
    let distinct: BTreeSet<&TransactionId> = ids.collect();
    if distinct.len() < count {
        return Err(invalid("a transaction is named twice in one request".into()));
    }
    Ok(())
}

fn not_its_home(id: TransactionId) -> Refusal {
    invalid(format!(
        "the home of transaction {id} is another group: name the first key that it writes"
    ))
}

fn invalid(reason: String) -> Refusal {
    Refusal::Invalid { reason }
}
