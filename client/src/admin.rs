//! The operators' side: keyspaces, status, failover reports, planned and forced changes of primary.

use crate::client::Client;
use crate::error::Error;
use crate::placement::{self, PlacementStatus};
use crate::rpc::Unary;
use fulcrum_common::failover_budget::FailoverPauses;
use fulcrum_common::keyspace::{KeyspaceOptions, KeyspaceSpec};
use fulcrum_common::wire::{Malformed, types, v1};
use fulcrum_types::{
    ConfigVersion, Epoch, GroupId, IdempotencyKey, InDoubt, Index, KeyspaceId, ListInDoubt, LogPosition, MapVersion,
    Mode, NodeId, ResolveRequest, Role, Told, TransactionId, TransactionOutcome, WriteOp,
};
use std::time::Duration;

/// Operators' requests. From [`Client::admin`].
#[derive(Clone)]
pub struct Admin {
    client: Client,
}

/// Who leads a group, and since which epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Led {
    /// The primary.
    pub node: NodeId,
    /// Its epoch.
    pub epoch: Epoch,
}

/// A keyspace as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyspaceInfo {
    /// Its id, never reused.
    pub id: KeyspaceId,
    /// Its name.
    pub name: String,
    /// All its choices.
    pub options: KeyspaceOptions,
    /// Its shard groups.
    pub groups: Vec<GroupId>,
}

/// The cluster as its nodes tell it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterStatus {
    /// Which cluster.
    pub cluster_id: String,
    /// The cluster map in force at the router.
    pub map_version: MapVersion,
    /// All nodes of the map.
    pub nodes: Vec<NodeStatus>,
    /// The groups asked for.
    pub groups: Vec<GroupStatus>,
    /// What placement sees; none if the metadata store does not answer.
    pub placement: Option<PlacementStatus>,
}

/// A shard-node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeStatus {
    /// Its id.
    pub id: NodeId,
    /// `host:port`.
    pub address: String,
    /// Its failure zone; empty if it has none.
    pub zone: String,
    /// Why it could not be asked; none if it answered.
    pub unreachable: Option<String>,
    /// Groups that it leads.
    pub primaries: u32,
    /// Groups of which it holds a replica.
    pub replicas: u32,
    /// Its lease at the metadata store holds, as far as that can be asked.
    pub leased: bool,
    /// It is to be empty.
    pub draining: bool,
    /// What keeps failovers of one group apart; none if it did not say.
    pub failover_pauses: Option<FailoverPauses>,
}

/// A shard group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupStatus {
    /// Its id.
    pub id: GroupId,
    /// Its keyspace.
    pub keyspace: String,
    /// How it replicates.
    pub mode: Mode,
    /// How many slots it holds.
    pub slots: u32,
    /// Its epoch.
    pub epoch: Epoch,
    /// Version of its configuration.
    pub config_version: ConfigVersion,
    /// Who orders its writes, as far as known.
    pub primary: Option<NodeId>,
    /// Who holds every committed entry.
    pub in_sync: Vec<NodeId>,
    /// Its replicas.
    pub replicas: Vec<ReplicaStatus>,
    /// Whether the primary has taken over and serves.
    pub ready: bool,
    /// Whether no listed data is left, so that it waits for an operator.
    pub stranded: bool,
}

/// One replica of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStatus {
    /// On which node.
    pub node: NodeId,
    /// What it is to the group; none if its node could not be asked.
    pub role: Option<Role>,
    /// Its epoch.
    pub epoch: Epoch,
    /// The end of its log.
    pub last_index: Index,
    /// What it knows to be committed.
    pub commit_index: Index,
    /// What it has applied.
    pub applied_index: Index,
    /// Entries that it is behind, as the primary sees it.
    pub lag_entries: u64,
    /// How long it has been behind, as the primary sees it.
    pub lag: Duration,
    /// The staleness that it could prove.
    pub staleness: Option<Duration>,
    /// Whether its node answered.
    pub reachable: bool,
}

/// What failovers lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailoverReport {
    /// One a failover.
    pub certificates: Vec<Certificate>,
    /// Nodes that could not be asked: the report may lack what they hold.
    pub unreachable: Vec<NodeId>,
}

/// What one failover lost, or may have lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certificate {
    /// The group.
    pub group: GroupId,
    /// Its keyspace.
    pub keyspace: String,
    /// Epoch of the primary that was lost.
    pub old_epoch: Epoch,
    /// Epoch of its successor.
    pub new_epoch: Epoch,
    /// The end of the successor's log when it was promoted; none while the node that knows it cannot be reached.
    pub promotion: Option<LogPosition>,
    /// Whether the old primary's log was seen; else the extent is unknown.
    pub extent_known: bool,
    /// Lost writes that may have been acknowledged.
    pub acknowledged_lost: u64,
    /// Lost writes that surely were not acknowledged.
    pub never_acknowledged: u64,
    /// Through here the lost history and the surviving one are the same; known if the extent is.
    pub common: Option<LogPosition>,
    /// The lost entries, if asked for.
    pub entries: Vec<LostEntry>,
    /// The node whose log held them, once seen.
    pub seen_on: Option<NodeId>,
}

/// A log entry that did not survive a failover.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LostEntry {
    /// Where it was.
    pub position: LogPosition,
    /// Whether it may have been acknowledged.
    pub acknowledged: bool,
    /// Its replicated time, milliseconds since the Unix epoch.
    pub time_ms: u64,
    /// What it wrote.
    pub writes: Vec<WriteOp>,
    /// What a retry of each of these writes is recognised by.
    pub idempotency: Vec<Option<IdempotencyKey>>,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    pub(crate) async fn call<Q: Unary>(&self, request: Q) -> Result<Q::Answer, Error> {
        let shared = &self.client.shared;
        let answer = shared.call(request, shared.until(None)).await;
        answer.map_err(|verdict| verdict.error())
    }

    /// Makes a keyspace; usable once this returns.
    ///
    /// # Errors
    /// The name is taken, the choices contradict each other, or there are too few nodes.
    pub async fn create_keyspace(&self, name: &str, spec: KeyspaceSpec) -> Result<KeyspaceInfo, Error> {
        let request = v1::CreateKeyspaceRequest {
            name: name.to_owned(),
            spec: Some(spec.into()),
        };
        keyspace(self.call(request).await?)
    }

    /// All keyspaces, by name.
    ///
    /// # Errors
    /// No router can be reached.
    pub async fn list_keyspaces(&self) -> Result<Vec<KeyspaceInfo>, Error> {
        let answer = self.call(v1::ListKeyspacesRequest {}).await?;
        answer.keyspaces.into_iter().map(keyspace).collect()
    }

    /// One keyspace.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn show_keyspace(&self, name: &str) -> Result<KeyspaceInfo, Error> {
        let request = v1::GetKeyspaceRequest { name: name.to_owned() };
        keyspace(self.call(request).await?)
    }

    /// Drops a keyspace with all its data.
    ///
    /// # Errors
    /// There is none of that name.
    pub async fn drop_keyspace(&self, name: &str) -> Result<(), Error> {
        let request = v1::DropKeyspaceRequest { name: name.to_owned() };
        self.call(request).await.map(drop)
    }

    /// Nodes and groups, of one keyspace or of all.
    ///
    /// # Errors
    /// No router can be reached. Nodes that cannot be reached are named in the answer.
    pub async fn status(&self, keyspace: Option<&str>) -> Result<ClusterStatus, Error> {
        let request = v1::StatusRequest {
            keyspace: keyspace.unwrap_or_default().to_owned(),
        };
        status(self.call(request).await?)
    }

    /// Loss certificates of one group or of all; with the lost entries themselves if wanted.
    ///
    /// # Errors
    /// No router can be reached. Nodes that cannot be reached are named in the answer.
    pub async fn failover_report(&self, group: Option<GroupId>, with_entries: bool) -> Result<FailoverReport, Error> {
        let request = v1::FailoverReportRequest {
            group: group.map_or(0, |group| group.0),
            with_entries,
        };
        let answer = self.call(request).await?;
        let certificates = answer.certificates.into_iter().map(certificate);
        Ok(FailoverReport {
            certificates: certificates.collect::<Result<_, _>>()?,
            unreachable: answer.unreachable.into_iter().map(NodeId).collect(),
        })
    }

    /// Makes another replica the primary, the most advanced one if none is named. Planned: nothing is lost.
    ///
    /// # Errors
    /// That replica is not in sync, the group has no primary now, or it has not changed hands by the deadline.
    pub async fn promote(&self, group: GroupId, node: Option<NodeId>) -> Result<Led, Error> {
        let request = v1::PromoteRequest {
            group: group.0,
            node: node.map_or(0, |node| node.0),
        };
        let led = self.call(request).await?;
        Ok(Led {
            node: NodeId(led.node),
            epoch: Epoch(led.epoch),
        })
    }

    /// Starts a group, whose listed data is all gone, from what one node has. May lose acknowledged writes; a certificate
    /// says so.
    ///
    /// # Errors
    /// The group has data left, the node cannot be reached, or it does not lead by the deadline.
    pub async fn force_start(&self, group: GroupId, node: NodeId) -> Result<Led, Error> {
        let request = v1::ForceStartRequest {
            group: group.0,
            node: node.0,
        };
        let epoch = Epoch(self.call(request).await?.epoch);
        Ok(Led { node, epoch })
    }

    /// Transactions that some group has prepared and whose decision it does not know, the oldest first.
    ///
    /// # Errors
    /// No router can be reached, or there is no such keyspace. Groups that do not answer are named in the answer.
    pub async fn in_doubt(&self, which: ListInDoubt) -> Result<InDoubt, Error> {
        let answer = self.call(v1::ListInDoubtRequest::from(which)).await?;
        Ok(answer.try_into()?)
    }

    /// Aborts a transaction unless it is decided already: a late commit of it then fails for certain. Its home group is told by
    /// [`Admin::in_doubt`]. Answers with the decision.
    ///
    /// # Errors
    /// The home group cannot be reached, or is the home of no transaction of that id.
    pub async fn abort_transaction(&self, id: TransactionId, home: GroupId) -> Result<TransactionOutcome, Error> {
        let answer = self.call(v1::ResolveRequest::from(ResolveRequest { id, home })).await?;
        Ok(Told::try_from(answer)?.outcome)
    }
}

pub(crate) fn keyspace(wire: v1::Keyspace) -> Result<KeyspaceInfo, Error> {
    let options = wire.options.ok_or_else(|| Malformed::missing("keyspace.options"))?;
    Ok(KeyspaceInfo {
        id: KeyspaceId(wire.id),
        name: wire.name,
        options: options.try_into()?,
        groups: wire.groups.into_iter().map(GroupId).collect(),
    })
}

fn known_node(id: u64) -> Option<NodeId> {
    (id != 0).then_some(NodeId(id))
}

fn status(wire: v1::StatusResponse) -> Result<ClusterStatus, Error> {
    let nodes = wire.nodes.into_iter().map(|node| NodeStatus {
        id: NodeId(node.id),
        address: node.address,
        zone: node.zone,
        unreachable: (!node.reachable).then_some(node.error),
        primaries: node.primaries,
        replicas: node.replicas,
        leased: node.leased,
        draining: node.draining,
        failover_pauses: node.failover_pauses.map(Into::into),
    });
    Ok(ClusterStatus {
        cluster_id: wire.cluster_id,
        map_version: MapVersion(wire.map_version),
        nodes: nodes.collect(),
        groups: wire.groups.into_iter().map(group).collect::<Result<_, _>>()?,
        placement: wire.placement.map(placement::status),
    })
}

fn group(wire: v1::status_response::Group) -> Result<GroupStatus, Error> {
    let replicas = wire.replicas.into_iter().map(|replica| ReplicaStatus {
        node: NodeId(replica.node),
        role: types::role(replica.role).ok(),
        epoch: Epoch(replica.epoch),
        last_index: Index(replica.last_index),
        commit_index: Index(replica.commit_index),
        applied_index: Index(replica.applied_index),
        lag_entries: replica.lag_entries,
        lag: Duration::from_millis(replica.lag_ms),
        staleness: replica.staleness_us.map(Duration::from_micros),
        reachable: replica.reachable,
    });
    Ok(GroupStatus {
        id: GroupId(wire.id),
        keyspace: wire.keyspace,
        mode: types::mode(wire.mode)?,
        slots: wire.slots,
        epoch: Epoch(wire.epoch),
        config_version: ConfigVersion(wire.config_version),
        primary: known_node(wire.primary),
        in_sync: wire.in_sync.into_iter().map(NodeId).collect(),
        replicas: replicas.collect(),
        ready: wire.ready,
        stranded: wire.stranded,
    })
}

fn certificate(wire: v1::failover_report_response::Certificate) -> Result<Certificate, Error> {
    Ok(Certificate {
        group: GroupId(wire.group),
        keyspace: wire.keyspace,
        old_epoch: Epoch(wire.old_epoch),
        new_epoch: Epoch(wire.new_epoch),
        promotion: wire.promotion.map(Into::into),
        extent_known: wire.extent_known,
        acknowledged_lost: wire.acknowledged_lost,
        never_acknowledged: wire.never_acknowledged,
        entries: wire.entries.into_iter().map(lost_entry).collect::<Result<_, _>>()?,
        seen_on: known_node(wire.seen_on),
        common: wire.common.map(Into::into),
    })
}

fn lost_entry(wire: v1::failover_report_response::LostEntry) -> Result<LostEntry, Malformed> {
    let position = wire.position.ok_or_else(|| Malformed::missing("entry.position"))?;
    let key = |key: v1::IdempotencyKey| match key.client {
        0 => Ok(None),
        _ => key.try_into().map(Some),
    };
    Ok(LostEntry {
        idempotency: wire
            .idempotency
            .into_iter()
            .map(key)
            .collect::<Result<_, Malformed>>()?,
        position: position.into(),
        acknowledged: wire.acknowledged,
        time_ms: wire.time_ms,
        writes: wire
            .writes
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?,
    })
}
