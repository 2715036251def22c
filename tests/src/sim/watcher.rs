//! Watchers: each follows one group's log from its beginning, step by step, at whichever replica answers, through all faults.
//!
//! At the end what a watcher was told is held against what clients were told and against the log that survived: nothing
//! missing, nothing twice, nothing that was not so. Off unless a test asks for it ([`super::plan::Plan::watchers`]).

use super::client::Attempt;
use super::judge::Evidence;
use super::rng::Rng;
use super::time::Time;
use bytes::Bytes;
use fulcrum_checker::{Outcome, Seen, SurvivingLog, ValueId};
use fulcrum_types::{
    Answer, Answered, Change, ChangeKind, ChangesQuery, Cursor, GroupId, GroupRequest, Index, KeyspaceId, Level,
    MapVersion, NodeId, Operation, Query, ReadRequest, Refusal, Selection,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Refusals for a compacted log, in a row, after which a watcher begins anew with what is still to come.
const COMPACTED_MAX: u32 = 40;

/// One watch of one group.
pub struct Watcher {
    /// The group.
    pub group: GroupId,
    rng: Rng,
    cursor: Cursor,
    told: Vec<Change>,
    /// It was told nothing of entries through this.
    began_after: Index,
    compacted: u32,
    /// It has asked where to begin.
    asks_where: bool,
    /// How often all replicas had let the log go, and it began with what was still to come.
    pub cut_short: u64,
    /// How often a failover had lost what was told, and it began anew.
    pub begun_anew: u64,
    /// Steps that were answered.
    pub steps: u64,
    attempts: u64,
    awaited: Option<u64>,
}

impl Watcher {
    /// A watcher that has seen nothing yet.
    #[must_use]
    pub fn new(group: GroupId, rng: Rng) -> Self {
        Self {
            group,
            rng,
            cursor: Cursor::default(),
            told: Vec::new(),
            began_after: Index::ZERO,
            compacted: 0,
            asks_where: false,
            cut_short: 0,
            begun_anew: 0,
            steps: 0,
            attempts: 0,
            awaited: None,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn reached(&self) -> Index {
        self.cursor.position.index
    }

    /// The next step, at any replica.
    pub fn attempt(&mut self, now: Time, patience: Time, replicas: &[NodeId]) -> Attempt {
        self.attempts += 1;
        self.awaited = Some(self.attempts);
        let deadline = self.rng.range(patience / 8, patience / 2);
        self.asks_where = self.compacted >= COMPACTED_MAX;
        let query = ChangesQuery {
            after: (!self.asks_where).then_some(self.cursor),
            selection: Selection::All,
            max_bytes: u32::try_from(self.rng.range(1, 4_000)).unwrap_or(u32::MAX),
            wait: Duration::from_nanos(self.rng.range(0, deadline)),
        };
        let level = match self.rng.below(3) {
            0 => Level::Eventual,
            _ => Level::Bounded(Duration::from_nanos(patience)),
        };
        let read = ReadRequest {
            level,
            acceptable: Vec::new(),
            seen: None,
            query: Query::Changes(query),
        };
        Attempt {
            number: self.attempts,
            to: self.rng.one_of(replicas),
            request: GroupRequest {
                keyspace: KeyspaceId(1),
                group: self.group,
                map_version: MapVersion(1),
                deadline: Duration::from_nanos(deadline),
                operation: Operation::Read(read),
            },
            gives_up: now + deadline,
        }
    }

    /// Whether this attempt is the one that it waits for.
    #[must_use]
    pub fn awaits(&self, attempt: u64) -> bool {
        self.awaited == Some(attempt)
    }

    /// No answer came in time.
    pub fn silence(&mut self) {
        self.awaited = None;
    }

    /// An answer came. When it asks again.
    pub fn answer(&mut self, now: Time, result: &Result<Answered, Refusal>) -> Time {
        self.awaited = None;
        match result {
            Ok(answered) => {
                if let Answer::Changes { changes, reached, .. } = &answered.answer {
                    self.steps += 1;
                    if self.asks_where {
                        self.cut_short += 1;
                        self.begin(*reached);
                    }
                    self.compacted = 0;
                    self.take(changes, *reached);
                }
                now + self.rng.skewed(0, 5_000_000)
            }
            Err(refusal) => {
                match refusal {
                    Refusal::HistoryLost { .. } => {
                        self.begun_anew += 1;
                        self.begin(Cursor::default());
                    }
                    Refusal::Compacted { .. } => self.compacted += 1,
                    _ => {}
                }
                now + self.rng.skewed(100_000, 20_000_000)
            }
        }
    }

    fn begin(&mut self, at: Cursor) {
        self.cursor = at;
        self.began_after = at.position.index;
        self.told.clear();
    }

    /// Sometimes it takes a part only of what an entry changed, as one that ends in the middle does.
    fn take(&mut self, changes: &[Change], reached: Cursor) {
        let keep = match self.rng.percent(20) {
            true => self.rng.below(changes.len() as u64 + 1) as usize,
            false => changes.len(),
        };
        self.told.extend_from_slice(&changes[..keep]);
        if keep == changes.len() {
            self.cursor = reached;
        } else if let Some(last) = changes[..keep].last() {
            self.cursor = Cursor {
                position: last.position,
                part: Some(last.ordinal + 1),
            };
        }
    }

    /// Holds what was told against what is known.
    ///
    /// # Errors
    /// What is missing, doubled or wrong.
    pub fn judge(&self, evidence: &Evidence, log: &SurvivingLog) -> Result<(), String> {
        self.in_order()?;
        if let Some(change) = self.told.iter().find(|change| !log.contains(change.position)) {
            return Err(format!("{}: told what did not survive: {change:?}", self.group));
        }
        self.nothing_missing(evidence, log)?;
        self.nothing_invented(evidence)?;
        self.plays_back(evidence)
    }

    fn in_order(&self) -> Result<(), String> {
        let place = |change: &Change| (change.position.index, change.ordinal);
        match self.told.windows(2).find(|pair| place(&pair[0]) >= place(&pair[1])) {
            Some(pair) => Err(format!("{}: twice or out of order: {pair:?}", self.group)),
            None => Ok(()),
        }
    }

    /// Every acknowledged write that survived was told, under its version: a retry is acknowledged further on in the log.
    fn nothing_missing(&self, evidence: &Evidence, log: &SurvivingLog) -> Result<(), String> {
        let told: BTreeSet<(Index, &Bytes)> = self.told.iter().map(|c| (c.position.index, &c.key)).collect();
        for operation in evidence.history.operations() {
            let (Outcome::Written { version: Some(version) }, Some(Some(_))) =
                (operation.outcome, operation.call.writes())
            else {
                continue;
            };
            let Some((group, at)) = operation.position() else {
                continue;
            };
            let was_there = version > self.began_after && log.contains(at);
            if group == self.group && was_there && !told.contains(&(version, &operation.key)) {
                return Err(format!("{group}: never told of {operation}"));
            }
        }
        Ok(())
    }

    /// No write that surely had no effect was told.
    fn nothing_invented(&self, evidence: &Evidence) -> Result<(), String> {
        let void = evidence
            .history
            .operations()
            .iter()
            .filter(|operation| matches!(operation.outcome, Outcome::Failed | Outcome::Mismatch { .. }));
        let void: BTreeSet<ValueId> = void.filter_map(|operation| operation.call.writes().flatten()).collect();
        let wrong = self.told.iter().find(|change| match &change.kind {
            ChangeKind::Put(value) => void.contains(&ValueId::of(&value.value)),
            _ => false,
        });
        match wrong {
            Some(change) => Err(format!("{}: told what had no effect: {change:?}", self.group)),
            None => Ok(()),
        }
    }

    /// The changes, played back, make what reads found in the end.
    fn plays_back(&self, evidence: &Evidence) -> Result<(), String> {
        if self.began_after > Index::ZERO {
            return Ok(());
        }
        let mut state: BTreeMap<&Bytes, Seen> = BTreeMap::new();
        for change in &self.told {
            match &change.kind {
                ChangeKind::Put(value) => {
                    let seen = Seen::Present {
                        value: ValueId::of(&value.value),
                        version: Some(Index(value.version.0)),
                    };
                    state.insert(&change.key, seen);
                }
                ChangeKind::Delete { .. } | ChangeKind::Expire { .. } => {
                    if state.remove(&change.key).is_none() {
                        return Err(format!("{}: nothing was there: {change:?}", self.group));
                    }
                }
            }
        }
        let groups = evidence.plan.groups.iter().filter(|plan| plan.group == self.group);
        for key in groups.flat_map(|plan| &plan.keys) {
            let played = state.get(key).copied().unwrap_or(Seen::Absent);
            let found = evidence.finals.get(key).copied().unwrap_or(Seen::Absent);
            if played != found {
                return Err(format!(
                    "{}: {key:?} is {played:?} by its changes, {found:?} by reads",
                    self.group
                ));
            }
        }
        Ok(())
    }
}
