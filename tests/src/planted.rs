//! Bugs planted on purpose: which one a run carries. Without the feature `planted-bugs` there are none.

use fulcrum_replication::primary_backup::PrimaryBackup;
#[cfg(feature = "planted-bugs")]
use fulcrum_replication::primary_backup::planted::Bug as CoreBug;
#[cfg(feature = "planted-bugs")]
use fulcrum_shard_node::node::Bug as NodeBug;
use fulcrum_shard_node::node::Node;
use fulcrum_two_phase::TwoPhase;
use fulcrum_two_phase::cut::Cutting;
#[cfg(feature = "planted-bugs")]
use fulcrum_two_phase::planted::Bug as CoordinatorBug;

/// The bug that a run carries, if any.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Planted {
    /// In the protocol core.
    #[cfg(feature = "planted-bugs")]
    pub core: Option<CoreBug>,
    /// In the node around it.
    #[cfg(feature = "planted-bugs")]
    pub node: Option<NodeBug>,
    /// In the coordinators' core.
    #[cfg(feature = "planted-bugs")]
    pub coordinator: Option<CoordinatorBug>,
}

/// Bugs of the node around its cores.
#[cfg(feature = "planted-bugs")]
const NODE_BUGS: [NodeBug; 10] = [
    NodeBug::ReplyBeforeAcknowledged,
    NodeBug::SkipLeaseRecheck,
    NodeBug::SkipWriteRecheck,
    NodeBug::SendBeforePersisted,
    NodeBug::SkipRetryTable,
    NodeBug::JoinedWithoutKeys,
    NodeBug::SnapshotWithoutRetryTable,
    NodeBug::KeepDataId,
    NodeBug::ReadBeforeApplied,
    NodeBug::TimeStandsStill,
];

/// Bugs of the participants: runs with transactions look for them.
#[cfg(feature = "planted-bugs")]
const PARTICIPANT_BUGS: [NodeBug; 13] = [
    NodeBug::ForgetLocksOnFailover,
    NodeBug::AnswerBeforeDecided,
    NodeBug::ReleaseReadLocksEarly,
    NodeBug::ApplyIntentsTwice,
    NodeBug::PrepareAfterTheMark,
    NodeBug::CommitAfterTheAbort,
    NodeBug::CommitPastLocks,
    NodeBug::DropUnresolvedCommits,
    NodeBug::VersionOfTheResolve,
    NodeBug::ReadPastIntents,
    NodeBug::JoinedPastLocks,
    NodeBug::PromiseWhileHeld,
    NodeBug::CutWithoutIntents,
];

impl Planted {
    /// Plants it in a core that has just been made.
    #[cfg_attr(
        not(feature = "planted-bugs"),
        expect(clippy::unused_self, reason = "there is nothing to plant")
    )]
    pub(crate) fn plant_in_core(self, _core: &mut PrimaryBackup) {
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.core {
            _core.set_bug(bug);
        }
    }

    /// Plants it in a coordinator's core that has just been made.
    #[cfg_attr(
        not(feature = "planted-bugs"),
        expect(clippy::unused_self, reason = "there is nothing to plant")
    )]
    pub(crate) fn plant_in_coordinator(self, core: TwoPhase) -> TwoPhase {
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.coordinator {
            return core.with_bug(bug);
        }
        core
    }

    /// Plants it in an attempt at a cut that has just been begun.
    #[cfg_attr(
        not(feature = "planted-bugs"),
        expect(clippy::unused_self, reason = "there is nothing to plant")
    )]
    pub(crate) fn plant_in_cut(self, cutting: Cutting) -> Cutting {
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.coordinator {
            return cutting.with_bug(bug);
        }
        cutting
    }

    /// Plants it in a node that has just been opened.
    #[cfg_attr(
        not(feature = "planted-bugs"),
        expect(clippy::unused_self, reason = "there is nothing to plant")
    )]
    pub(crate) fn plant_in_node(self, _node: &mut Node) {
        #[cfg(feature = "planted-bugs")]
        if let Some(bug) = self.node {
            _node.plant(bug);
        }
    }
}

#[cfg(feature = "planted-bugs")]
impl Planted {
    /// Every planted bug.
    #[must_use]
    pub fn all() -> Vec<Planted> {
        let core = CoreBug::ALL.iter().map(|bug| Planted {
            core: Some(*bug),
            ..Planted::default()
        });
        let node = NODE_BUGS.iter().chain(&PARTICIPANT_BUGS).map(|bug| Planted {
            node: Some(*bug),
            ..Planted::default()
        });
        let coordinator = CoordinatorBug::ALL.iter().map(|bug| Planted {
            coordinator: Some(*bug),
            ..Planted::default()
        });
        core.chain(node).chain(coordinator).collect()
    }

    /// Whether runs with transactions look for it.
    #[must_use]
    pub fn is_of_transactions(self) -> bool {
        self.coordinator.is_some() || self.node.is_some_and(|bug| PARTICIPANT_BUGS.contains(&bug))
    }

    /// Why whole nodes may hide it for thousands of seeds, if they do. The golden scripts of the core tell of it:
    /// `cargo test -p fulcrum-replication --features planted-bugs`.
    #[must_use]
    pub fn hidden_by(self) -> Option<&'static str> {
        if self.coordinator == Some(CoordinatorBug::NoHeartbeats) {
            return Some("it costs aborts and nothing else");
        }
        match self.core? {
            CoreBug::SessionIndexOnly => Some("the node compares histories a second time"),
            CoreBug::ForgetGrace => Some("the old primary hears of its successor within a beat"),
            CoreBug::KeepLeaseAtHandOver => Some("the successor's first message ends the old lease"),
            CoreBug::IgnoreBootId => Some("the primary forgets a peer's clock with its life, too"),
            _ => None,
        }
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> String {
        match (self.core, self.node, self.coordinator) {
            (Some(bug), ..) => format!("core {bug:?}"),
            (None, Some(bug), _) => format!("node {bug:?}"),
            (None, None, Some(bug)) => format!("coordinator {bug:?}"),
            (None, None, None) => "none".into(),
        }
    }
}
