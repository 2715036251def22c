//! The clients: each asks one thing after the other, waits for the answer, and writes down what it was told.
//!
//! Every client is a session. One whose history was lost in an `async` failover is told so by a typed error and begins a new
//! session, as the checkers know.

use super::plan::{DEADLINE, Series, keyspace_of};
use crate::workload::{Choice, KeyChooser, Mix, Rng, Step};
use bytes::Bytes;
use fulcrum_checker::{Call, ClientLog, Facts, Outcome, Seen, ValueId};
use fulcrum_client::{Client, Error, Got, Keyspace, Refusal, Session, Written};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::{ClientId, GroupId, Index, NodeId, Receipt, Versioned};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// After a refusal, so that a cluster that refuses is not asked as fast as it can refuse.
const PAUSE: Duration = Duration::from_millis(10);

/// Nanoseconds on the clock that all clients share.
pub(super) fn now() -> u64 {
    SystemClock.now().mono.0
}

/// What all clients share.
pub(super) struct Shared {
    pub(super) keys: Vec<Bytes>,
    pub(super) seed: u64,
    pub(super) until: u64,
    /// Operations answered so far.
    pub(super) answered: AtomicU64,
    pub(super) sessions: AtomicU64,
    pub(super) recovery: Recovery,
}

/// When each group that lost its primary acknowledged its first write again.
#[derive(Default)]
pub(super) struct Recovery {
    state: Mutex<RecoveryState>,
}

#[derive(Default)]
struct RecoveryState {
    crashed: Option<(NodeId, u64)>,
    waiting: BTreeMap<GroupId, Option<u64>>,
}

impl Recovery {
    /// A node is about to be dropped that leads these groups.
    pub(super) fn crashing(&self, node: NodeId, at: u64, groups: impl IntoIterator<Item = GroupId>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.crashed = Some((node, at));
        state.waiting = groups.into_iter().map(|group| (group, None)).collect();
    }

    fn acknowledged(&self, receipt: &Receipt, at: u64) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((node, crashed)) = state.crashed else { return };
        if receipt.replica == node || at < crashed {
            return;
        }
        if let Some(first @ None) = state.waiting.get_mut(&receipt.group) {
            *first = Some(at);
        }
    }

    /// Time from the crash to the first acknowledged write of each group; none if it has not come yet.
    pub(super) fn times(&self) -> BTreeMap<GroupId, Option<Duration>> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let crashed = state.crashed.map_or(0, |(_, at)| at);
        let since = |at: u64| Duration::from_nanos(at.saturating_sub(crashed));
        state
            .waiting
            .iter()
            .map(|(group, at)| (*group, at.map(since)))
            .collect()
    }
}

/// Whether it was a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    Read,
    Write,
}

/// One operation, for the statistics.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) kind: Kind,
    pub(super) began: u64,
    pub(super) ended: u64,
    /// Why it failed, if it did.
    pub(super) error: Option<&'static str>,
}

/// What one client has to tell.
pub(super) struct Told {
    pub(super) series: usize,
    /// One for each of its sessions.
    pub(super) logs: Vec<(ClientId, ClientLog)>,
    pub(super) samples: Vec<Sample>,
}

struct Worker {
    shared: Arc<Shared>,
    keyspace: Keyspace,
    in_session: Keyspace,
    series: Series,
    number: u64,
    turn: u64,
    log: (ClientId, ClientLog),
    told: Told,
}

fn new_log(shared: &Shared) -> (ClientId, ClientLog) {
    let client = ClientId(shared.sessions.fetch_add(1, Ordering::Relaxed) + 1);
    (client, ClientLog::new(client))
}

/// Runs one client until the load ends.
pub(super) async fn client(
    shared: Arc<Shared>,
    client: Client,
    series: Series,
    place: usize,
    number: u64,
    chooser: Arc<KeyChooser>,
) -> Told {
    let keyspace = client
        .keyspace(keyspace_of(series.mode))
        .at(series.level)
        .within(DEADLINE);
    let mut rng = Rng::stream(shared.seed, number);
    let mut worker = Worker {
        in_session: keyspace.clone().in_session(&Session::new()),
        keyspace,
        series,
        number,
        turn: 0,
        log: new_log(&shared),
        told: Told {
            series: place,
            logs: Vec::new(),
            samples: Vec::new(),
        },
        shared,
    };
    while now() < worker.shared.until {
        let record = chooser.choose(&mut rng);
        let key = worker.shared.keys[usize::try_from(record).unwrap_or(0) % worker.shared.keys.len()].clone();
        let refused = match Mix::A.draw(&mut rng) {
            Step::Read => worker.read(key).await,
            _ => worker.write(key).await,
        };
        if refused {
            tokio::time::sleep(PAUSE).await;
        }
    }
    let Worker { mut told, log, .. } = worker;
    told.logs.push(log);
    told
}

/// Spread over the whole table, so that every group has its share of the favourites.
pub(super) fn chooser(records: usize) -> Arc<KeyChooser> {
    Arc::new(KeyChooser::new(Choice::Zipfian, records as u64))
}

impl Worker {
    async fn read(&mut self, key: Bytes) -> bool {
        let began = now();
        let ticket = self.log.1.begin(began, key.clone(), Call::Get(self.series.level));
        let answer: Result<Got, Error> = self.in_session.get(key).send().await;
        let ended = now();
        let (outcome, receipt, error) = match answer {
            Ok(got) => (Outcome::Read(seen(got.value.as_ref())), Some(got.receipt), None),
            Err(error) => (Outcome::Failed, None, Some(error)),
        };
        self.log
            .1
            .end(ticket, ended, outcome, receipt.as_ref().map(Facts::from));
        self.answered(Kind::Read, began, ended, error)
    }

    async fn write(&mut self, key: Bytes) -> bool {
        self.turn += 1;
        let value = Bytes::from(format!(
            "{{\"by\":\"client {}\",\"turn\":{},\"seed\":{},\"note\":\"each value is written once\"}}",
            self.number, self.turn, self.shared.seed
        ));
        let began = now();
        let ticket = self.log.1.begin(began, key.clone(), Call::Put(ValueId::of(&value)));
        let answer: Result<Written, Error> = self.in_session.put(key, value).send().await;
        let ended = now();
        let (outcome, receipt, error) = match answer {
            Ok(written) => {
                let version = written.version().map(|version| Index(version.0));
                self.shared.recovery.acknowledged(&written.receipt, ended);
                (Outcome::Written { version }, Some(written.receipt), None)
            }
            Err(error) if error.nothing_applied() => (Outcome::Failed, None, Some(error)),
            Err(error) => (Outcome::Unknown, None, Some(error)),
        };
        self.log
            .1
            .end(ticket, ended, outcome, receipt.as_ref().map(Facts::from));
        self.answered(Kind::Write, began, ended, error)
    }

    /// Counts it; says whether it was refused.
    fn answered(&mut self, kind: Kind, began: u64, ended: u64, error: Option<Error>) -> bool {
        let lost = matches!(
            error.as_ref().and_then(Error::refusal),
            Some(Refusal::HistoryLost { .. })
        );
        self.told.samples.push(Sample {
            kind,
            began,
            ended,
            error: error.as_ref().map(Error::code),
        });
        if lost {
            self.in_session = self.keyspace.clone().in_session(&Session::new());
            let old = std::mem::replace(&mut self.log, new_log(&self.shared));
            self.told.logs.push(old);
        }
        if error.is_none() {
            self.shared.answered.fetch_add(1, Ordering::Relaxed);
        }
        error.is_some()
    }
}

/// What a read has seen.
pub(super) fn seen(value: Option<&Versioned>) -> Seen {
    value.map_or(Seen::Absent, |found| Seen::Present {
        value: ValueId::of(&found.value),
        version: Some(Index(found.version.0)),
    })
}
