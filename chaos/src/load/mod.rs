//! The clients: what they ask, all the time, and what they write down.
//!
//! Four kinds. *Probes*, one a group, write one key each without a pause: from them the first acknowledged write after a fault and the
//! longest pause are known. *Clients* do everything on a few hot keys of both keyspaces, at every level, each in a session. *Tellers* move money
//! and take statements ([`bank`]); *appenders* read and append to lists ([`lists`]). Each asks one thing after the other and waits for the answer, or for its deadline.
//!
//! Everything goes into the histories that are judged afterwards; what is counted (availability, pauses) comes from the same
//! operations, as [`Sample`]s.

pub mod bank;
mod client;
mod failures;
pub mod lists;
mod probe;
pub mod setup;

pub use client::client;
pub use failures::Failures;
pub use probe::probe;

use bytes::Bytes;
use fulcrum_checker::{Call, ClientLog, Condition, Facts, History, Outcome, Seen, ValueId};
use fulcrum_client::{Error, Got, Keyspace, Refusal, Session, Written};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::{ClientId, GroupId, Index, Level, Mode, NodeId, Version, Versioned};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How long a client waits for one operation, all retries together.
pub const DEADLINE: Duration = Duration::from_secs(1);
/// The bound that bounded reads ask for.
pub const BOUND: Duration = Duration::from_millis(500);

/// Nanoseconds on the clock that all clients share.
#[must_use]
pub fn now() -> u64 {
    SystemClock.now().mono.0
}

/// As nanoseconds.
#[must_use]
pub fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// A key, and the group that it belongs to.
#[derive(Clone, Debug)]
pub struct Place {
    /// The key.
    pub key: Bytes,
    /// Its group.
    pub group: GroupId,
}

/// A keyspace of a run.
#[derive(Clone, Debug)]
pub struct Ground {
    /// Its name.
    pub name: String,
    /// How it replicates.
    pub mode: Mode,
    /// The hot keys.
    pub keys: Vec<Place>,
    /// One for each group.
    pub probes: Vec<Place>,
}

/// What all clients share.
pub struct Shared {
    /// Of the run.
    pub seed: u64,
    /// When it began.
    began: u64,
    /// Set when it is over.
    pub over: AtomicBool,
    /// Operations that have ended, well or not.
    pub ended: AtomicU64,
    sessions: AtomicU64,
}

impl Shared {
    /// For a run of this seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            began: now(),
            over: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            sessions: AtomicU64::new(0),
        }
    }

    /// Whether clients shall stop.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }

    pub(crate) fn new_log(&self) -> ClientLog {
        ClientLog::new(ClientId(self.sessions.fetch_add(1, Ordering::SeqCst) + 1))
    }
}

/// Whether it was a read or a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// A get.
    Read,
    /// All else.
    Write,
}

/// One operation, for what is counted.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Read or write.
    pub kind: Kind,
    /// The group of its key.
    pub group: GroupId,
    /// When it was asked.
    pub began: u64,
    /// When the answer came, or none any more.
    pub ended: u64,
    /// Who answered.
    pub replica: Option<NodeId>,
    /// Why it failed, if it did.
    pub error: Option<&'static str>,
}

/// What clients have to tell.
#[derive(Default)]
pub struct Told {
    /// One for each session, by keyspace.
    pub logs: BTreeMap<String, Vec<ClientLog>>,
    /// All operations.
    pub samples: Vec<Sample>,
    /// The first failure of each code, in words.
    pub failed_like: BTreeMap<&'static str, String>,
}

impl Told {
    /// Together.
    pub fn join(&mut self, other: Told) {
        for (keyspace, logs) in other.logs {
            self.logs.entry(keyspace).or_default().extend(logs);
        }
        self.samples.extend(other.samples);
        for (code, words) in other.failed_like {
            self.failed_like.entry(code).or_insert(words);
        }
    }

    /// The history of a keyspace.
    #[must_use]
    pub fn history(&self, keyspace: &str) -> History {
        History::merge(self.logs.get(keyspace).cloned().unwrap_or_default())
    }
}

/// A client of one keyspace, with its session and what it writes down.
pub(crate) struct Scribe {
    shared: Arc<Shared>,
    keyspace: Keyspace,
    in_session: Keyspace,
    log: ClientLog,
    told: Told,
    name: String,
    turn: u64,
}

/// What to do with a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    Put,
    Delete,
    /// Put if the key still has the version; if it has no value, without one.
    Cas(Option<Version>),
}

/// What an operation was, for what is counted and told of it.
struct Asked {
    kind: Kind,
    group: GroupId,
    what: String,
    began: u64,
}

impl Scribe {
    pub(crate) fn new(shared: Arc<Shared>, keyspace: Keyspace, name: String) -> Self {
        Self {
            in_session: keyspace.clone().in_session(&Session::new()),
            log: shared.new_log(),
            shared,
            keyspace,
            told: Told::default(),
            name,
            turn: 0,
        }
    }

    pub(crate) fn finish(mut self) -> Told {
        let name = self.keyspace.name().to_owned();
        self.told.logs.entry(name).or_default().push(self.log);
        self.told
    }

    /// Reads; answers with what is there, if that was told.
    pub(crate) async fn read(&mut self, place: &Place, level: Level) -> Option<Option<Versioned>> {
        let began = now();
        let ticket = self.log.begin(began, place.key.clone(), Call::Get(level));
        let answer: Result<Got, Error> = self.in_session.get(&place.key).at(level).send().await;
        let ended = now();
        let (outcome, receipt) = match &answer {
            Ok(got) => (Outcome::Read(seen(got.value.as_ref())), Some(&got.receipt)),
            Err(_) => (Outcome::Failed, None),
        };
        self.log.end(ticket, ended, outcome, receipt.map(Facts::from));
        let replica = receipt.map(|receipt| receipt.replica);
        let asked = Asked {
            kind: Kind::Read,
            group: place.group,
            what: format!("a read ({level}) of {}", place.key.escape_ascii()),
            began,
        };
        self.ended(asked, ended, replica, answer.as_ref().err());
        answer.ok().map(|got| got.value)
    }

    /// Writes; answers with the key's version now, if that was told.
    pub(crate) async fn write(&mut self, place: &Place, write: Write) -> Option<Option<Version>> {
        self.turn += 1;
        let value = Bytes::from(format!("{} {} of seed {}", self.name, self.turn, self.shared.seed));
        let id = ValueId::of(&value);
        let call = match write {
            Write::Put => Call::Put(id),
            Write::Delete => Call::Delete,
            Write::Cas(expected) => Call::CompareAndSet {
                condition: expected.map_or(Condition::Absent, |version| Condition::VersionIs(Index(version.0))),
                value: Some(id),
            },
        };
        let began = now();
        let ticket = self.log.begin(began, place.key.clone(), call);
        let request = match write {
            Write::Put => self.in_session.put(&place.key, &value),
            Write::Delete => self.in_session.delete(&place.key),
            Write::Cas(None) => {
                let put = self.in_session.put(&place.key, &value);
                put.only_if(fulcrum_client::Condition::Absent)
            }
            Write::Cas(Some(version)) => self.in_session.compare_and_set(&place.key, version, &value),
        };
        let answer: Result<Written, Error> = request.send().await;
        let ended = now();
        let (outcome, receipt) = match &answer {
            Ok(written) => (written_down(written), Some(&written.receipt)),
            Err(error) if error.nothing_applied() => (Outcome::Failed, None),
            Err(_) => (Outcome::Unknown, None),
        };
        self.log.end(ticket, ended, outcome, receipt.map(Facts::from));
        let replica = receipt.map(|receipt| receipt.replica);
        let asked = Asked {
            kind: Kind::Write,
            group: place.group,
            what: format!("a write of {}", place.key.escape_ascii()),
            began,
        };
        self.ended(asked, ended, replica, answer.as_ref().err());
        let written = answer.ok()?;
        match write {
            Write::Delete => Some(None),
            Write::Put | Write::Cas(_) => Some(written.version()),
        }
    }

    fn ended(&mut self, asked: Asked, ended: u64, replica: Option<NodeId>, error: Option<&Error>) {
        let Asked {
            kind,
            group,
            what,
            began,
        } = asked;
        self.told.samples.push(Sample {
            kind,
            group,
            began,
            ended,
            replica,
            error: error.map(Error::code),
        });
        self.shared.ended.fetch_add(1, Ordering::SeqCst);
        if let Some(error) = error {
            let after = Duration::from_nanos(began - self.shared.began);
            let words = || {
                format!(
                    "{what} in {group}, asked {:.2} s after the start: {error}",
                    after.as_secs_f64()
                )
            };
            self.told.failed_like.entry(error.code()).or_insert_with(words);
        }
        // What an `async` failover has lost ends a session, and its client is told so.
        if let Some(Refusal::HistoryLost { .. }) = error.and_then(Error::refusal) {
            self.in_session = self.keyspace.clone().in_session(&Session::new());
            let old = std::mem::replace(&mut self.log, self.shared.new_log());
            let name = self.keyspace.name().to_owned();
            self.told.logs.entry(name).or_default().push(old);
        }
    }
}

fn written_down(written: &Written) -> Outcome {
    let version = written.version().map(|version| Index(version.0));
    match (written.applied(), version) {
        (true, version) => Outcome::Written { version },
        (false, None) => Outcome::Mismatch {
            seen: Some(Seen::Absent),
        },
        // Its version was told, its value was not.
        (false, Some(_)) => Outcome::Mismatch { seen: None },
    }
}

/// What a read has seen.
#[must_use]
pub fn seen(value: Option<&Versioned>) -> Seen {
    value.map_or(Seen::Absent, |found| Seen::Present {
        value: ValueId::of(&found.value),
        version: Some(Index(found.version.0)),
    })
}
