//! What the demo does: two keyspaces, and clients that read each at every level it can serve.

use fulcrum_client::KeyspaceSpec;
use fulcrum_types::{Level, Mode};
use std::time::Duration;

/// How long a client waits for one operation, all retries together.
pub(super) const DEADLINE: Duration = Duration::from_secs(1);
/// An operation that takes longer counts as unavailability, answered or not.
pub(super) const SLOW: Duration = Duration::from_millis(250);
/// "The seconds after the crash".
pub(super) const AFTERMATH: Duration = Duration::from_secs(5);
/// The bound that bounded reads ask for.
pub(super) const BOUND: Duration = Duration::from_millis(500);

pub(super) const MODES: [Mode; 2] = [Mode::Sync, Mode::Async];

/// The keyspace of a mode.
pub(super) const fn keyspace_of(mode: Mode) -> &'static str {
    match mode {
        Mode::Sync => "demo-sync",
        Mode::Async => "demo-async",
    }
}

/// How it is made.
pub(super) fn spec_of(mode: Mode) -> KeyspaceSpec {
    KeyspaceSpec {
        mode: Some(mode.name().to_owned()),
        replication_factor: Some(3),
        groups: Some(8),
        ..KeyspaceSpec::default()
    }
}

/// One line of the table: clients of one keyspace that read at one level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Series {
    pub(super) mode: Mode,
    pub(super) level: Level,
}

/// All lines of the table.
pub(super) fn all_series() -> Vec<Series> {
    let weaker = [Level::Bounded(BOUND), Level::Session, Level::Eventual];
    let of = |mode, levels: &[Level]| {
        levels
            .iter()
            .map(move |level| Series { mode, level: *level })
            .collect::<Vec<_>>()
    };
    let mut all = of(Mode::Sync, &[Level::Linearizable]);
    all.extend(of(Mode::Sync, &weaker));
    all.extend(of(Mode::Async, &weaker));
    all
}
