//! Placement as operators see and steer it.

use crate::admin::Admin;
use crate::error::Error;
use fulcrum_common::wire::v1;
use fulcrum_types::{GroupId, NodeId};
use std::time::Duration;

/// What placement sees: which groups are short, and what is done about it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlacementStatus {
    /// The node that acts for the cluster, if one does.
    pub acting: Option<NodeId>,
    /// Groups with fewer living members in sync than their keyspace wants.
    pub under_replicated: Vec<GroupId>,
    /// Replicas that are brought up in others' place: of which group, on which node.
    pub rebuilds: Vec<(GroupId, NodeId)>,
    /// Groups that could be spread over more zones than they are.
    pub narrow: Vec<GroupId>,
    /// Zones that nodes name.
    pub zones: u32,
    /// The most replicas that a keyspace wants.
    pub wanted: u32,
    /// Nodes that are to be empty.
    pub draining: Vec<Draining>,
}

/// A node that is to be empty, and what is left on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draining {
    /// The node.
    pub node: NodeId,
    /// Replicas left.
    pub replicas: u32,
    /// Groups that it still leads.
    pub primaries: u32,
}

/// How patient the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PlacementSettings {
    /// A node without a lease for so long has lost its replicas to others.
    pub rebuild_after: Duration,
    /// Most rebuilds at a time in the cluster; a node receives one.
    pub rebuilds: u32,
    /// Between two hand-overs that balance primaries; none at zero.
    pub balance_pause: Duration,
    /// No such hand-over for so long after a failover.
    pub calm: Duration,
}

/// What is to be changed of [`PlacementSettings`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PlacementChange {
    /// See [`PlacementSettings::rebuild_after`].
    pub rebuild_after: Option<Duration>,
    /// See [`PlacementSettings::rebuilds`].
    pub rebuilds: Option<u32>,
    /// See [`PlacementSettings::balance_pause`].
    pub balance_pause: Option<Duration>,
    /// See [`PlacementSettings::calm`].
    pub calm: Option<Duration>,
}

impl Admin {
    /// Says that a node is to be empty: its groups get another primary and another replica, few at a time. How far that is, the status says.
    ///
    /// # Errors
    /// No such node, or too few others for its replicas.
    pub async fn drain_node(&self, node: NodeId) -> Result<(), Error> {
        self.set_drained(node, false).await
    }

    /// Calls a drain off: what has moved stays where it is.
    ///
    /// # Errors
    /// No such node.
    pub async fn abort_drain(&self, node: NodeId) -> Result<(), Error> {
        self.set_drained(node, true).await
    }

    async fn set_drained(&self, node: NodeId, abort: bool) -> Result<(), Error> {
        let request = v1::DrainNodeRequest { node: node.0, abort };
        self.call(request).await.map(drop)
    }

    /// Changes how patient the cluster is, if anything is to be changed, and answers what is in force.
    ///
    /// # Errors
    /// What is asked makes no sense, or the metadata store cannot be reached.
    pub async fn placement(&self, change: PlacementChange) -> Result<PlacementSettings, Error> {
        let ms = |time: Option<Duration>| time.map(|t| u64::try_from(t.as_millis()).unwrap_or(u64::MAX));
        let request = v1::PlacementRequest {
            rebuild_after_ms: ms(change.rebuild_after),
            rebuilds: change.rebuilds,
            balance_pause_ms: ms(change.balance_pause),
            calm_ms: ms(change.calm),
        };
        let answer = self.call(request).await?;
        Ok(PlacementSettings {
            rebuild_after: Duration::from_millis(answer.rebuild_after_ms),
            rebuilds: answer.rebuilds,
            balance_pause: Duration::from_millis(answer.balance_pause_ms),
            calm: Duration::from_millis(answer.calm_ms),
        })
    }
}

pub(crate) fn status(wire: v1::status_response::Placement) -> PlacementStatus {
    let groups = |ids: Vec<u64>| ids.into_iter().map(GroupId).collect();
    let rebuilds = wire.rebuilds.into_iter().map(|r| (GroupId(r.group), NodeId(r.node)));
    let draining = wire.draining.into_iter().map(|left| Draining {
        node: NodeId(left.node),
        replicas: left.replicas,
        primaries: left.primaries,
    });
    PlacementStatus {
        acting: (wire.acting != 0).then_some(NodeId(wire.acting)),
        under_replicated: groups(wire.under_replicated),
        rebuilds: rebuilds.collect(),
        narrow: groups(wire.narrow),
        zones: wire.zones,
        wanted: wire.wanted,
        draining: draining.collect(),
    }
}
