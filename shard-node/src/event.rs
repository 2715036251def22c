//! All that can happen to a shard-node, and all that it may ask of the world.
//!
//! The node is driven by [`Event`]s and by nothing else, and answers with [`Output`]s: two closed lists. The event loop turns
//! sockets, clocks and the storage writer's completions into events and runs the outputs; the simulator does the same with a
//! network and clocks of its own. Both drive the same [`crate::node::Node`].

use crate::storage::BatchDone;
use fulcrum_common::map::ClusterMap;
use fulcrum_replication::{CasId, CasOutcome, Message, TransferId};
use fulcrum_types::{
    AbortCause, Answered, ConfigVersion, Epoch, GroupConfiguration, GroupId, GroupRequest, Index, LogPosition, NodeId,
    Operation, Participant, Refusal, Role, TransactionId,
};
use std::sync::Arc;
use std::time::Duration;

/// The event loop's name for a client's request. Never used twice in one life of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The node's name for a question to another group. Never used twice in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId(pub u64);

/// The closed list of all that can happen to this node.
#[derive(Debug)]
pub enum Event {
    /// Time has passed: at least every quarter of the shortest heartbeat.
    Tick {
        /// Whether the disk has lately completed a sync and none is overdue: without it no lease is renewed.
        disk_healthy: bool,
    },
    /// A message from another node's replica of a group.
    Peer {
        /// Who sent it.
        from: NodeId,
        /// Which group.
        group: GroupId,
        /// What.
        message: Message,
    },
    /// A client asks. Answered by exactly one [`Output::Reply`], unless cancelled.
    Request {
        /// The event loop's name for it.
        id: RequestId,
        /// What is asked.
        request: GroupRequest,
    },
    /// The client went away: no reply is wanted any more. What was ordered stays ordered.
    Cancel {
        /// Which request.
        id: RequestId,
    },
    /// The storage has done a batch, or failed.
    BatchDone(BatchDone),
    /// Another group has answered what it was asked ([`Output::Ask`]), or did not until the deadline.
    Answered {
        /// Which question.
        ask: AskId,
        /// The answer, or why there is none.
        result: Result<Answered, Refusal>,
    },
    /// The cluster map: from a read that saw the newest, or from a watch. Older ones are ignored.
    Map(Arc<ClusterMap>),
    /// A group's configuration as the metadata store has it. May be old or repeated.
    Configuration {
        /// The group.
        group: GroupId,
        /// Its configuration.
        configuration: GroupConfiguration,
    },
    /// A compare-and-swap has ended.
    CasOutcome {
        /// The group.
        group: GroupId,
        /// Which.
        attempt: CasId,
        /// How.
        outcome: CasOutcome,
    },
    /// A node that was asked about with [`Output::ReadLease`] has no lease.
    LeaseGone {
        /// The group that asked.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// An operator asks a primary on this node to hand over (planned: nothing is lost).
    HandOver {
        /// The group.
        group: GroupId,
        /// To whom; none: to the most advanced.
        to: Option<NodeId>,
    },
    /// This node is about to stop: it hands over what it leads, and leaves the in-sync sets of its groups where enough others are in them.
    Drain,
    /// An operator's word to start a group from this replica although no listed data is left.
    ForcePromotion {
        /// The group.
        group: GroupId,
    },
}

/// The closed list of what a node asks of the world. Run in order.
#[derive(Debug)]
pub enum Output {
    /// Send to the same group's replica on another node. May be lost.
    Send {
        /// To whom.
        to: NodeId,
        /// Which group.
        group: GroupId,
        /// What.
        message: Message,
    },
    /// Answer a client.
    Reply {
        /// Which request.
        id: RequestId,
        /// The answer with its receipt, or why there is none.
        result: Result<Answered, Refusal>,
    },
    /// Ask another group, whoever leads it: find out who can answer, follow redirects, send again what got lost (every
    /// step may be repeated). Ends with exactly one [`Event::Answered`], at the deadline at the latest.
    Ask {
        /// The node's name for it.
        ask: AskId,
        /// Whom.
        to: Participant,
        /// What.
        operation: Operation,
        /// For how long an answer is of use.
        deadline: Duration,
    },
    /// Change a group's configuration in the metadata store; ends with [`Event::CasOutcome`].
    CompareAndSwap {
        /// The group.
        group: GroupId,
        /// The core's name for it.
        attempt: CasId,
        /// The version that must still be in force.
        expected: ConfigVersion,
        /// The new configuration.
        proposal: GroupConfiguration,
    },
    /// Read a group's configuration back; ends with [`Event::Configuration`].
    ReadConfiguration {
        /// The group.
        group: GroupId,
    },
    /// Ask whether a node's lease holds; [`Event::LeaseGone`] comes if it does not.
    ReadLease {
        /// The group that asks.
        group: GroupId,
        /// The node.
        node: NodeId,
    },
    /// A fact for metrics and logs.
    Observed(Observation),
    /// The node must stop at once, without touching its storage again.
    Fatal {
        /// Why, and what an operator can do.
        reason: String,
    },
}

/// The phases of one take-over, as the new primary saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FailoverPhases {
    /// From the old primary's last message to the first compare-and-swap.
    pub detect: Duration,
    /// From the first compare-and-swap to being primary.
    pub fence: Duration,
    /// From being primary to having committed all inherited entries and the first one of its own epoch.
    pub catch_up: Duration,
    /// From then to the first acknowledged client write.
    pub first_acknowledgement: Duration,
}

/// Facts about the groups of a node, for metrics and logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// A replica has another role or epoch.
    RoleChanged {
        /// The group.
        group: GroupId,
        /// The role before.
        was: Role,
        /// The role now.
        role: Role,
        /// The epoch now.
        epoch: Epoch,
    },
    /// A replica here became able to serve as primary: the group is available again.
    TookOver {
        /// The group.
        group: GroupId,
        /// Its new epoch.
        epoch: Epoch,
        /// How long it took so far; the last phase is not known yet.
        phases: FailoverPhases,
    },
    /// The first client write was acknowledged after a take-over.
    FirstAcknowledgement {
        /// The group.
        group: GroupId,
        /// Its epoch.
        epoch: Epoch,
        /// All phases.
        phases: FailoverPhases,
    },
    /// A replica left the in-sync set.
    Evicted {
        /// The group.
        group: GroupId,
        /// The replica.
        node: NodeId,
    },
    /// A replica joined the in-sync set.
    Admitted {
        /// The group.
        group: GroupId,
        /// The replica.
        node: NodeId,
    },
    /// A loss certificate was opened: entries may have been lost, extent unknown so far.
    CertificateOpened {
        /// The group.
        group: GroupId,
        /// The epoch that ended.
        old_epoch: Epoch,
        /// The epoch that began.
        new_epoch: Epoch,
    },
    /// Entries that the surviving history lacks were recorded.
    DivergenceRecorded {
        /// The group.
        group: GroupId,
        /// How many entries.
        entries: usize,
        /// How many of them had, or may have, been acknowledged.
        acknowledged: usize,
    },
    /// A snapshot is being sent.
    SnapshotStarted {
        /// The group.
        group: GroupId,
        /// To whom.
        to: NodeId,
        /// The transfer.
        transfer: TransferId,
    },
    /// A snapshot that was being sent is over.
    SnapshotEnded {
        /// The group.
        group: GroupId,
        /// To whom.
        to: NodeId,
        /// The transfer.
        transfer: TransferId,
    },
    /// A received snapshot became the state.
    SnapshotInstalled {
        /// The group.
        group: GroupId,
        /// Its last entry.
        position: LogPosition,
    },
    /// A replica's state and log were dropped; it is being rebuilt as a learner.
    Rebuilding {
        /// The group.
        group: GroupId,
        /// Why.
        reason: String,
    },
    /// What a replica holds may lack what it acknowledged: it took a new data id (rule 5).
    NewData {
        /// The group.
        group: GroupId,
        /// Why.
        reason: &'static str,
    },
    /// A replica was created by the cluster map.
    ReplicaAdded {
        /// The group.
        group: GroupId,
    },
    /// A replica was removed by the cluster map.
    ReplicaRemoved {
        /// The group.
        group: GroupId,
    },
    /// A request waited for a lock.
    LockWaited {
        /// The group.
        group: GroupId,
        /// How long.
        took: Duration,
        /// It was refused then, to be sent again; else it was proposed again.
        cut: bool,
    },
    /// A transaction was committed in this home group, as its primary saw.
    TransactionCommitted {
        /// The group.
        group: GroupId,
    },
    /// A transaction was refused by this participant or aborted in this home group, as its primary saw.
    TransactionAborted {
        /// The group.
        group: GroupId,
        /// Why.
        cause: AbortCause,
    },
    /// A promise was kept or dropped, as this participant's primary saw.
    TransactionResolved {
        /// The group.
        group: GroupId,
        /// How long it had been in doubt.
        took: Duration,
        /// Whether its writes took effect.
        committed: bool,
        /// This primary found the decision out on its own.
        on_its_own: bool,
    },
    /// A participant was told to abort what is committed: that cannot be.
    TransactionContradicted {
        /// The group.
        group: GroupId,
        /// Which.
        id: TransactionId,
    },
    /// Entries were applied.
    Applied {
        /// The group.
        group: GroupId,
        /// The last one.
        through: Index,
        /// How many.
        entries: usize,
    },
}
