//! What clients do, and what they are told.

use super::{Printed, Story, Transaction, text};
use bytes::Bytes;
use fulcrum_coordinator::{CommitRequest, InKeyspace};
use fulcrum_tests::sim::time::{MS, Time, WALL_ORIGIN_MS};
use fulcrum_tests::sim::transactions::STORY_WAITS;
use fulcrum_tests::sim::transactions::workload::{Want, reads_of};
use fulcrum_two_phase::Reply;
use fulcrum_types::{
    AbortCause, Answer, ClientId, Decision, KeyWrite, Level, Mutation, Observed, Operation, Priority, Query, ReadCheck,
    ReadRequest, Refusal, Sequence, SessionToken, TransactionId, TransactionState,
};

impl Story {
    fn transaction(&mut self, name: &str) -> Result<&mut Transaction, String> {
        let known = self.transactions.get_mut(name);
        known.ok_or_else(|| format!("{name} has not begun"))
    }

    pub(super) fn begin(&mut self, name: &str, first: Option<&str>) -> Printed {
        self.world.run_until(self.world.now + MS);
        self.sequence += 1;
        let id = TransactionId {
            begun_at_ms: WALL_ORIGIN_MS + self.world.now / MS,
            client: ClientId(1),
            sequence: Sequence(self.sequence),
        };
        let priority = match first {
            Some(first) => self.transaction(first)?.priority,
            None => Priority(id),
        };
        let begun = Transaction {
            id,
            priority,
            ..Transaction::default()
        };
        self.transactions.insert(name.into(), begun);
        Ok(Vec::new())
    }

    pub(super) fn read(&mut self, name: &str, keys: &[&str], consistent: bool) -> Printed {
        let items = keys.iter().map(|key| self.item(key)).collect::<Result<Vec<_>, _>>()?;
        let id = self.transaction(name)?.id;
        let (parts, places) = reads_of(&items, &SessionToken::default());
        let want = Want::Read { id, parts, consistent };
        let values = match self.world.call_of_story(self.coordinator, want) {
            Some(Ok(Reply::Values { parts, .. })) => parts,
            other => return Err(format!("no values: {other:?}")),
        };
        let mut seen = vec![Observed::default(); items.len()];
        for (places, part) in places.iter().zip(values) {
            places
                .iter()
                .zip(part.observed)
                .for_each(|(place, value)| seen[*place] = value);
        }
        let told: Vec<String> = keys
            .iter()
            .zip(&seen)
            .map(|(key, seen)| format!("{key}={}", text(seen)))
            .collect();
        self.transaction(name)?.reads.extend(items.into_iter().zip(seen));
        Ok(vec![format!("{name} reads {}", told.join(" "))])
    }

    pub(super) fn scan(&mut self, name: &str, key: &str) -> Printed {
        let at = self.item(key)?.at;
        let query = Query::Scan {
            start: Bytes::new(),
            end: Bytes::new(),
            limit: 100,
            max_bytes: 1 << 20,
        };
        let operation = Operation::Read(ReadRequest {
            level: Level::Linearizable,
            acceptable: Vec::new(),
            seen: None,
            query,
        });
        match self
            .world
            .ask_of_story(at, operation)
            .map(|answered| answered.map(|a| a.answer))
        {
            Some(Ok(Answer::Rows { rows, .. })) => Ok(vec![format!("{name} finds {} keys", rows.len())]),
            other => Err(format!("no rows: {other:?}")),
        }
    }

    pub(super) fn write(&mut self, name: &str, writes: &[&str]) -> Printed {
        for write in writes {
            let (key, value) = write.split_once('=').ok_or("a write looks like x=1")?;
            let item = self.item(key)?;
            let value = Bytes::copy_from_slice(value.as_bytes());
            self.transaction(name)?.writes.push((item, value));
        }
        Ok(Vec::new())
    }

    /// Commits and waits for the answer.
    pub(super) fn commit(&mut self, name: &str, mishaps: &[&str]) -> Printed {
        self.send_commit(name, STORY_WAITS, mishaps)?;
        self.hear(name)
    }

    /// Commits, or commits once more: under the same id, what it has read and written by now.
    pub(super) fn send_commit(&mut self, name: &str, patience: Time, mishaps: &[&str]) -> Printed {
        let commit = Box::new(self.transaction(name)?.as_request());
        self.world.transactions.coordinators[self.coordinator].dies_before = None;
        for mishap in mishaps {
            self.have_in_store(mishap)?;
        }
        let dies = self.world.transactions.coordinators[self.coordinator]
            .dies_before
            .is_some();
        let called = (self.world).begin_call_of_story(self.coordinator, Want::Commit(commit), patience);
        self.called = Some(called);
        if dies {
            self.coordinator = 1 - self.coordinator;
        }
        Ok(Vec::new())
    }

    pub(super) fn hear(&mut self, name: &str) -> Printed {
        let called = self.called.take().ok_or("nobody was asked")?;
        let told = self.world.hear_of_story(&called);
        Ok(vec![self.told(name, told)])
    }

    /// Asks what became of it; to settle it, it is aborted unless it is decided.
    pub(super) fn look_up(&mut self, name: &str, settle: bool) -> Printed {
        let transaction = self.transaction(name)?;
        let want = Want::LookUp {
            id: transaction.id,
            places: transaction
                .writes
                .first()
                .map(|(item, _)| item.at)
                .into_iter()
                .collect(),
            settle: settle.then_some(AbortCause::Client),
        };
        let told = self.world.call_of_story(self.coordinator, want);
        Ok(vec![self.told(name, told)])
    }

    fn told(&self, name: &str, told: Option<Result<Reply, Refusal>>) -> String {
        match told {
            Some(Ok(Reply::Committed { .. })) => format!("{name} is committed"),
            Some(Ok(Reply::State { state, .. })) => format!("{name} is {}", state_in_words(&state)),
            Some(Ok(other)) => format!("{name} is told {other:?}"),
            Some(Err(Refusal::Unknown { .. })) => format!("{name} is told that its outcome is unknown"),
            Some(Err(refusal)) => format!("{name} is refused: {}", self.with_names(&refusal.to_string())),
            None => format!("{name} hears nothing"),
        }
    }

    /// Ids say little to a reader.
    fn with_names(&self, told: &str) -> String {
        let named = self.transactions.iter();
        named.fold(told.to_owned(), |told, (name, one)| {
            told.replace(&one.id.to_string(), name)
        })
    }
}

fn state_in_words(state: &TransactionState) -> String {
    match state {
        TransactionState::Decided(Decision::Committed { .. }) => "found committed".into(),
        TransactionState::Decided(Decision::Aborted(cause)) => format!("found aborted ({})", cause.name()),
        TransactionState::Promised { .. } => "found undecided".into(),
        TransactionState::NotSeen => "not found".into(),
        TransactionState::TooOld => "too old to be found".into(),
    }
}

impl Transaction {
    fn as_request(&self) -> CommitRequest {
        let mut commit = CommitRequest {
            id: self.id,
            priority: self.priority,
            ..CommitRequest::default()
        };
        for (item, seen) in &self.reads {
            let what = ReadCheck {
                key: item.key.key.clone(),
                version: seen.version,
                exists: seen.value.is_some(),
            };
            let keyspace = item.keyspace.clone();
            commit.reads.push(InKeyspace { keyspace, what });
        }
        for (item, value) in &self.writes {
            let (key, value) = (item.key.key.clone(), value.clone());
            let mutation = Mutation::Put { value, ttl: None };
            let (keyspace, what) = (item.keyspace.clone(), KeyWrite { key, mutation });
            commit.writes.push(InKeyspace { keyspace, what });
        }
        commit
    }
}
