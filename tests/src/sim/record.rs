//! What a run leaves behind: the hash of its trace, the trace itself if asked, and counts of all that took effect.

use super::faults::Fault;
use super::time::{MS, Time, US};
use fulcrum_replication::Message;
use fulcrum_replication::primary_backup::Body;
use std::collections::BTreeMap;

/// Counts by name.
pub type Counts = BTreeMap<&'static str, u64>;

/// The record of one run.
#[derive(Debug, Default)]
pub struct Record {
    hash: u64,
    trace: bool,
    /// Happenings hashed.
    pub events: u64,
    /// Faults that took effect.
    pub faults: BTreeMap<Fault, u64>,
    /// Where nodes were when they crashed.
    pub crash_points: Counts,
    /// Rare things that the system did.
    pub reached: Counts,
    /// Rows of the table of crash points of transactions that were hit.
    pub rows: Counts,
    /// What coordinators were about to do when they died.
    pub died_before: Counts,
}

impl Record {
    /// A record that prints the trace as it goes, or not.
    #[must_use]
    pub fn new(trace: bool) -> Self {
        Self {
            trace,
            hash: 0xcbf2_9ce4_8422_2325,
            ..Self::default()
        }
    }

    /// Takes in one event: what of it must be the same on every run with this seed, and how to tell it.
    pub fn event(&mut self, at: Time, words: &[u64], tell: impl FnOnce() -> String) {
        self.events += 1;
        self.mix(at);
        for word in words {
            self.mix(*word);
        }
        if self.trace {
            println!("{:>6}.{:03} {}", at / MS, at % MS / US, tell());
        }
    }

    fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// The hash of all events so far.
    #[must_use]
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// A fault took effect.
    pub fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    /// A node crashed here.
    pub fn crash_point(&mut self, point: &'static str) {
        *self.crash_points.entry(point).or_default() += 1;
    }

    /// A transaction stood in this row when a process died that it rested on.
    pub fn row(&mut self, row: &'static str) {
        *self.rows.entry(row).or_default() += 1;
    }

    /// A coordinator died before it did this.
    pub fn died_before(&mut self, effect: &'static str) {
        *self.died_before.entry(effect).or_default() += 1;
    }

    /// Something rare happened.
    pub fn reached(&mut self, what: &'static str) {
        *self.reached.entry(what).or_default() += 1;
    }
}

/// What identifies a message in the hash.
#[must_use]
pub fn words_of(message: &Message) -> [u64; 6] {
    let header = &message.header;
    let (kind, a, b) = match &message.body {
        Body::Append {
            previous,
            entries,
            commit,
            ..
        } => (1, previous.index.0 << 20 | entries.len() as u64, commit.0),
        Body::Acknowledge { persisted, applied, .. } => (2, persisted.0, applied.0),
        Body::Mismatch { try_next, .. } => (3, try_next.index.0, try_next.epoch.0),
        Body::Snapshot { transfer, chunk } => (5, transfer.0, chunk.number),
        Body::SnapshotProgress { transfer, next } => (6, transfer.0, *next),
        _ => (7, 0, 0),
    };
    [kind, header.epoch.0, header.version.0, header.boot.0, a, b]
}
