//! The operators' API: keyspaces, status, failover reports, planned and forced changes of primary; tokens are beside (`tokens`).
//!
//! Keyspaces live in the metadata store; everything else is asked of the shard-nodes and put together here. A node that
//! cannot be asked is named in the answer instead of failing the whole. What changes anything is written down; what is shown is what the caller may see (`visible`).

use crate::certificates::Parts;
use crate::dispatch::Dispatch;
use crate::service::until;
use crate::succession::{Order, Succession};
use crate::tokens;
use crate::visible;
use fulcrum_common::Clock;
use fulcrum_common::audit::{Asked, Audit};
use fulcrum_common::auth::{Caller, Guard, Verb};
use fulcrum_common::keyspace::KeyspaceSpec;
use fulcrum_common::lifecycle::Lifecycle;
use fulcrum_common::metadata::{ClusterStore, StoreError};
use fulcrum_common::routing::{Failure, NodeClient, Primary, View};
use fulcrum_common::wire::{internal, map, status, v1};
use fulcrum_common::{Keyspace, MapError};
use fulcrum_types::{Epoch, GroupId, NodeId, Refusal, Right};
use futures::future::join_all;
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// For one node to answer.
const NODE_TIMEOUT: Duration = Duration::from_secs(2);

/// The `Admin` service.
#[derive(Clone)]
pub(crate) struct AdminService {
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) store: ClusterStore,
    pub(crate) guard: Arc<Guard>,
    pub(crate) audit: Audit,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) default_deadline: Duration,
    /// The stream of maps ends when it stops.
    pub(crate) life: Lifecycle,
}

pub(crate) fn store_error(error: StoreError) -> Status {
    let refusal = match error {
        StoreError::Map(MapError::NoSuchKeyspace(name)) => Refusal::UnknownKeyspace { keyspace: name },
        StoreError::Map(other) => Refusal::Invalid {
            reason: other.to_string(),
        },
        StoreError::Token(other) => Refusal::Invalid {
            reason: other.to_string(),
        },
        StoreError::Unknown(reason) => Refusal::Unknown { reason },
        other => Refusal::Unreachable {
            reason: other.to_string(),
        },
    };
    status::refusal_to_status(&refusal)
}

pub(crate) fn invalid(reason: impl Into<String>) -> Status {
    status::refusal_to_status(&Refusal::Invalid { reason: reason.into() })
}

impl AdminService {
    fn keyspace(&self, name: &str) -> Result<(Arc<View>, Arc<Keyspace>), Status> {
        let view = self.dispatch.table.view();
        let found = view.map.keyspace_by_name(name).cloned();
        let keyspace = found.ok_or_else(|| status::refusal_to_status(&crate::order::unknown_keyspace(name)))?;
        Ok((view, keyspace))
    }

    fn client(&self, view: &View, node: NodeId) -> Result<ShardClient, String> {
        let address = view
            .map
            .address(node)
            .ok_or_else(|| format!("{node} is not in the cluster map"))?;
        self.dispatch
            .backends
            .client(node, address)
            .map_err(|failure| match failure {
                Failure::Refused(refusal) => refusal.to_string(),
                Failure::NotSent(reason) | Failure::Lost(reason) => reason,
            })
    }

    pub(crate) async fn node_status(&self, view: &View, node: NodeId) -> Result<internal::NodeStatusResponse, String> {
        let mut client = self.client(view, node)?;
        let call = client.node_status(timed(internal::NodeStatusRequest {}));
        call.await
            .map(Response::into_inner)
            .map_err(|status| status.message().to_owned())
    }

    async fn certificates(
        &self,
        view: &View,
        node: NodeId,
        ask: internal::CertificatesRequest,
    ) -> Result<internal::CertificatesResponse, String> {
        let mut client = self.client(view, node)?;
        let call = client.certificates(timed(ask));
        call.await
            .map(Response::into_inner)
            .map_err(|status| status.message().to_owned())
    }

    /// Who leads a group now, as far as known.
    fn leader(&self, group: GroupId) -> Result<(Arc<View>, Primary), Status> {
        let view = self.dispatch.table.view();
        if !view.map.groups().contains_key(&group) {
            return Err(invalid(format!("no group {group}: see `fulcrum status`")));
        }
        let primary = view.primary(group);
        let primary = primary.ok_or_else(|| status::refusal_to_status(&Refusal::NotPrimary { hint: None }))?;
        Ok((view, primary))
    }

    /// Waits until this router, too, routes by a map at least that new: what was created can be used at once.
    async fn wait_for_map(&self, version: fulcrum_types::MapVersion, until: tokio::time::Instant) {
        let mut changes = self.dispatch.table.changes();
        while self.dispatch.table.view().map.version() < version {
            if !matches!(tokio::time::timeout_at(until, changes.changed()).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// What operators have done to groups.
impl AdminService {
    /// Whether a caller may do that to a group. The refusal does not tell which keyspace's it is, nor whether there is one.
    fn permitted_in(&self, asked: &Asked, group: GroupId) -> Result<(), Refusal> {
        let view = self.dispatch.table.view();
        let found = view.map.groups().get(&group);
        let keyspace = found.and_then(|found| view.map.keyspace(found.keyspace));
        let permitted = asked.permitted(keyspace.map(|keyspace| keyspace.name.as_str()));
        permitted.map_err(|_| Refusal::Denied {
            scope: format!("group {group}"),
            right: Right::Admin,
        })
    }

    async fn hand_over(
        &self,
        request: v1::PromoteRequest,
        until: tokio::time::Instant,
    ) -> Result<Response<v1::PromoteResponse>, Status> {
        let (group, wanted) = (GroupId(request.group), known(request.node));
        let (view, leader) = self.leader(group)?;
        if let Some(node) = wanted.filter(|node| !view.map.replicas(group).contains(node)) {
            return Err(invalid(format!(
                "{node} holds no replica of {group}: see `fulcrum status`"
            )));
        }
        let led = match wanted {
            Some(node) if node == leader.node => leader,
            _ => {
                let client = self.client(&view, leader.node).map_err(Status::unavailable)?;
                let succession = Succession {
                    group,
                    order: Order::HandOver(internal::HandOverRequest {
                        group: request.group,
                        to: request.node,
                    }),
                    after: leader.epoch,
                    wanted,
                };
                self.until_led(&succession, until, client).await?
            }
        };
        Ok(Response::new(v1::PromoteResponse {
            node: led.node.0,
            epoch: led.epoch.0,
        }))
    }

    async fn start_from(
        &self,
        request: v1::ForceStartRequest,
        until: tokio::time::Instant,
    ) -> Result<Response<v1::ForceStartResponse>, Status> {
        let (group, node) = (GroupId(request.group), NodeId(request.node));
        let view = self.dispatch.table.view();
        let client = self.client(&view, node).map_err(Status::unavailable)?;
        let succession = Succession {
            group,
            order: Order::ForceStart(internal::ForceStartRequest { group: request.group }),
            after: view.primary(group).map_or(Epoch::ZERO, |primary| primary.epoch),
            wanted: Some(node),
        };
        let led = self.until_led(&succession, until, client).await?;
        Ok(Response::new(v1::ForceStartResponse { epoch: led.epoch.0 }))
    }
}

pub(crate) type ShardClient = NodeClient;

pub(crate) fn timed<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(NODE_TIMEOUT);
    request
}

/// What the nodes said, put together by group.
fn status_response(
    view: &View,
    only: Option<&Keyspace>,
    answers: &BTreeMap<NodeId, Result<internal::NodeStatusResponse, String>>,
) -> v1::StatusResponse {
    let nodes = view
        .map
        .nodes()
        .iter()
        .map(|(id, info)| node_line(*id, info, answers.get(id)));
    let wanted = view
        .map
        .groups()
        .iter()
        .filter(|(_, group)| only.is_none_or(|k| k.id == group.keyspace));
    v1::StatusResponse {
        cluster_id: view.map.cluster_id().to_string(),
        map_version: view.map.version().0,
        nodes: nodes.collect(),
        groups: wanted
            .map(|(id, group)| group_line(view, *id, group, answers))
            .collect(),
        placement: None,
    }
}

fn node_line(
    id: NodeId,
    info: &fulcrum_common::NodeInfo,
    answer: Option<&Result<internal::NodeStatusResponse, String>>,
) -> v1::status_response::Node {
    let mut node = v1::status_response::Node {
        id: id.0,
        address: info.address.clone(),
        zone: info.zone.clone().unwrap_or_default(),
        ..Default::default()
    };
    match answer {
        Some(Ok(status)) => {
            node.reachable = true;
            node.failover_pauses = status.failover_pauses;
            node.replicas = u32::try_from(status.replicas.len()).unwrap_or(u32::MAX);
            let led = status
                .replicas
                .iter()
                .filter(|r| r.role == i32::from(v1::Role::Primary))
                .count();
            node.primaries = u32::try_from(led).unwrap_or(u32::MAX);
        }
        Some(Err(why)) => node.error.clone_from(why),
        None => node.error = "not asked".into(),
    }
    node
}

fn group_line(
    view: &View,
    id: GroupId,
    group: &fulcrum_common::Group,
    answers: &BTreeMap<NodeId, Result<internal::NodeStatusResponse, String>>,
) -> v1::status_response::Group {
    let keyspace = view.map.keyspace(group.keyspace);
    let of_node = |node: &NodeId| -> Option<&internal::node_status_response::Replica> {
        let status = answers.get(node)?.as_ref().ok()?;
        status.replicas.iter().find(|replica| replica.group == id.0)
    };
    let known: Vec<_> = group.replicas.iter().filter_map(of_node).collect();
    let newest = known
        .iter()
        .max_by_key(|replica| (replica.epoch, replica.config_version));
    let leader = known
        .iter()
        .filter(|r| r.role == i32::from(v1::Role::Primary))
        .max_by_key(|r| r.epoch);
    let peer = |node: NodeId| leader.and_then(|leader| leader.peers.iter().find(|peer| peer.node == node.0));
    let replicas = group
        .replicas
        .iter()
        .map(|node| replica_line(*node, of_node(node), peer(*node)));
    v1::status_response::Group {
        id: id.0,
        keyspace: keyspace.map(|k| k.name.clone()).unwrap_or_default(),
        mode: keyspace.map_or(0, |k| v1::Mode::from(k.options.mode).into()),
        slots: keyspace.map_or(0, |k| u32::try_from(k.slots.slots_of(id).count()).unwrap_or(0)),
        epoch: newest.map_or(0, |replica| replica.epoch),
        config_version: newest.map_or(0, |replica| replica.config_version),
        primary: newest.map_or(0, |replica| replica.primary),
        in_sync: newest.map(|replica| replica.in_sync.clone()).unwrap_or_default(),
        replicas: replicas.collect(),
        ready: leader.is_some_and(|leader| leader.ready),
        stranded: !known.is_empty() && known.iter().all(|replica| replica.stranded),
    }
}

fn replica_line(
    node: NodeId,
    replica: Option<&internal::node_status_response::Replica>,
    peer: Option<&internal::node_status_response::Peer>,
) -> v1::status_response::Replica {
    let Some(replica) = replica else {
        return v1::status_response::Replica {
            node: node.0,
            ..Default::default()
        };
    };
    v1::status_response::Replica {
        node: node.0,
        role: replica.role,
        epoch: replica.epoch,
        last_index: replica.last_index,
        commit_index: replica.commit_index,
        applied_index: replica.applied_index,
        lag_entries: peer.map_or(0, |peer| peer.lag_entries),
        lag_ms: peer.map_or(0, |peer| peer.lag_ms),
        staleness_us: replica.staleness_us,
        reachable: true,
    }
}

#[tonic::async_trait]
impl v1::admin_server::Admin for AdminService {
    async fn create_keyspace(
        &self,
        request: Request<v1::CreateKeyspaceRequest>,
    ) -> Result<Response<v1::Keyspace>, Status> {
        let until = until(&request, self.default_deadline);
        let (name, spec) = (&request.get_ref().name, request.get_ref().spec.clone());
        let spec: KeyspaceSpec = spec.unwrap_or_default().into();
        let arguments = json!({"name": name, "spec": chosen(request.get_ref().spec.as_ref())});
        let work = async {
            let options = spec.resolve().map_err(|error| invalid(error.to_string()))?;
            let (id, created) = self.store.create_keyspace(name, options).await.map_err(store_error)?;
            self.wait_for_map(created.version(), until).await;
            let keyspace = created
                .keyspace(id)
                .ok_or_else(|| invalid("the keyspace was dropped at once"))?;
            Ok(Response::new(map::keyspace_to_wire(keyspace, created.groups_of(id))))
        };
        self.audit
            .verb(&request, Verb::CreateKeyspace, arguments, Some(name), work)
            .await
    }

    async fn list_keyspaces(
        &self,
        request: Request<v1::ListKeyspacesRequest>,
    ) -> Result<Response<v1::ListKeyspacesResponse>, Status> {
        let caller = visible::looking(&request)?;
        let view = self.dispatch.table.view();
        let keyspaces = view.map.keyspaces().values();
        let keyspaces = keyspaces.filter(|keyspace| caller.sees(&keyspace.name));
        let keyspaces = keyspaces.map(|keyspace| map::keyspace_to_wire(keyspace, view.map.groups_of(keyspace.id)));
        Ok(Response::new(v1::ListKeyspacesResponse {
            keyspaces: keyspaces.collect(),
        }))
    }

    async fn get_keyspace(&self, request: Request<v1::GetKeyspaceRequest>) -> Result<Response<v1::Keyspace>, Status> {
        visible::sees(&Caller::of(&request)?, &request.get_ref().name)?;
        let (view, keyspace) = self.keyspace(&request.into_inner().name)?;
        Ok(Response::new(map::keyspace_to_wire(
            &keyspace,
            view.map.groups_of(keyspace.id),
        )))
    }

    async fn drop_keyspace(
        &self,
        request: Request<v1::DropKeyspaceRequest>,
    ) -> Result<Response<v1::DropKeyspaceResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let name = &request.get_ref().name;
        let work = async {
            let dropped = self.store.drop_keyspace(name).await.map_err(store_error)?;
            self.wait_for_map(dropped.version(), until).await;
            Ok(Response::new(v1::DropKeyspaceResponse {}))
        };
        self.audit
            .verb(&request, Verb::DropKeyspace, json!({"name": name}), Some(name), work)
            .await
    }

    async fn status(&self, request: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        let caller = visible::looking(&request)?;
        let name = request.into_inner().keyspace;
        let only = if name.is_empty() {
            None
        } else {
            visible::sees(&caller, &name)?;
            Some(self.keyspace(&name)?.1)
        };
        let view = self.dispatch.table.view();
        let asked = view
            .map
            .nodes()
            .keys()
            .map(|node| async { (*node, self.node_status(&view, *node).await) });
        let answers: BTreeMap<_, _> = join_all(asked).await.into_iter().collect();
        let mut response = status_response(&view, only.as_deref(), &answers);
        response.placement = self.placement_status(&mut response.nodes).await;
        visible::status(&caller, &view.map, &mut response);
        Ok(Response::new(response))
    }

    type WatchMapStream = ReceiverStream<Result<v1::ClusterMap, Status>>;

    async fn watch_map(&self, request: Request<v1::WatchMapRequest>) -> Result<Response<Self::WatchMapStream>, Status> {
        let caller = Caller::of(&request)?;
        let (maps, stream) = mpsc::channel(1);
        let table = self.dispatch.table.clone();
        let life = self.life.clone();
        tokio::spawn(async move {
            let mut changes = table.changes();
            loop {
                changes.mark_unchanged();
                let mut map = map::view_to_wire(&table.view());
                visible::map(&caller, &mut map);
                if maps.send(Ok(map)).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = maps.closed() => return,
                    () = life.stopped() => return,
                    changed = changes.changed() => if changed.is_err() { return },
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn failover_report(
        &self,
        request: Request<v1::FailoverReportRequest>,
    ) -> Result<Response<v1::FailoverReportResponse>, Status> {
        let caller = visible::looking(&request)?;
        let request = request.into_inner();
        let ask = internal::CertificatesRequest {
            group: request.group,
            with_entries: request.with_entries,
        };
        let view = self.dispatch.table.view();
        let asked = view
            .map
            .nodes()
            .keys()
            .map(|node| async { (*node, self.certificates(&view, *node, ask).await) });
        let mut response = v1::FailoverReportResponse::default();
        let mut parts = Parts::default();
        for (node, answer) in join_all(asked).await {
            match answer {
                Ok(answer) => parts.add(answer),
                Err(_) => response.unreachable.push(node.0),
            }
        }
        response.certificates = parts.whole();
        for certificate in &mut response.certificates {
            // Who holds no replica any more does not know the keyspace.
            let group = view.map.groups().get(&GroupId(certificate.group));
            let keyspace = group.and_then(|group| view.map.keyspace(group.keyspace));
            certificate.keyspace = keyspace.map_or_else(String::new, |keyspace| keyspace.name.clone());
        }
        response.certificates.retain(|one| visible::certificate(&caller, one));
        Ok(Response::new(response))
    }

    async fn promote(&self, request: Request<v1::PromoteRequest>) -> Result<Response<v1::PromoteResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let order = *request.get_ref();
        let arguments = json!({"group": order.group, "node": order.node});
        let asked = Asked::by(&request, Verb::Promote, arguments)?;
        let permitted = self.permitted_in(&asked, GroupId(order.group));
        self.audit.perform(asked, permitted, self.hand_over(order, until)).await
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<v1::DrainNodeResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let order = *request.get_ref();
        let arguments = json!({"node": order.node, "abort": order.abort});
        let work = async {
            let drained = tokio::time::timeout_at(until, self.drain(order)).await;
            drained.map_err(|_| late())?.map(Response::new)
        };
        self.audit.verb(&request, Verb::DrainNode, arguments, None, work).await
    }

    async fn placement(
        &self,
        request: Request<v1::PlacementRequest>,
    ) -> Result<Response<v1::PlacementSettings>, Status> {
        let until = until(&request, self.default_deadline);
        let wanted = *request.get_ref();
        let work = async {
            let settings = tokio::time::timeout_at(until, self.settings(wanted)).await;
            settings.map_err(|_| late())?.map(Response::new)
        };
        if wanted == v1::PlacementRequest::default() {
            visible::looking(&request)?;
            return work.await;
        }
        let arguments = json!({
            "rebuild_after_ms": wanted.rebuild_after_ms,
            "rebuilds": wanted.rebuilds,
            "balance_pause_ms": wanted.balance_pause_ms,
            "calm_ms": wanted.calm_ms,
        });
        self.audit
            .verb(&request, Verb::SetPlacement, arguments, None, work)
            .await
    }

    async fn force_start(
        &self,
        request: Request<v1::ForceStartRequest>,
    ) -> Result<Response<v1::ForceStartResponse>, Status> {
        let until = until(&request, self.default_deadline);
        let order = *request.get_ref();
        let arguments = json!({"group": order.group, "node": order.node});
        let asked = Asked::by(&request, Verb::ForceStart, arguments)?;
        let permitted = self.permitted_in(&asked, GroupId(order.group));
        self.audit
            .perform(asked, permitted, self.start_from(order, until))
            .await
    }

    async fn create_token(
        &self,
        request: Request<v1::CreateTokenRequest>,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let wanted = request.get_ref();
        let arguments = json!({
            "name": wanted.name,
            "rights": tokens::shown(&wanted.rights),
            "expires_in_ms": wanted.expires_in_ms,
        });
        self.audit
            .verb(&request, Verb::CreateToken, arguments, None, self.make_token(wanted))
            .await
    }

    async fn list_tokens(
        &self,
        request: Request<v1::ListTokensRequest>,
    ) -> Result<Response<v1::ListTokensResponse>, Status> {
        self.audit
            .verb(&request, Verb::ListTokens, json!({}), None, self.all_tokens())
            .await
    }

    async fn set_token_rights(
        &self,
        request: Request<v1::SetTokenRightsRequest>,
    ) -> Result<Response<v1::Token>, Status> {
        let wanted = request.get_ref();
        let arguments = json!({"token": wanted.token, "rights": tokens::shown(&wanted.rights)});
        self.audit
            .verb(
                &request,
                Verb::SetTokenRights,
                arguments,
                None,
                self.give_rights(wanted),
            )
            .await
    }

    async fn revoke_token(
        &self,
        request: Request<v1::RevokeTokenRequest>,
    ) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let token = &request.get_ref().token;
        self.audit
            .verb(
                &request,
                Verb::RevokeToken,
                json!({"token": token}),
                None,
                self.take_back(token),
            )
            .await
    }
}

/// What of a new keyspace is chosen, as it is written down.
fn chosen(spec: Option<&v1::KeyspaceSpec>) -> serde_json::Value {
    let spec = spec.cloned().unwrap_or_default();
    let all = json!({
        "mode": spec.mode,
        "replication_factor": spec.replication_factor,
        "groups": spec.groups,
        "default_level": spec.default_level,
        "fsync": spec.fsync,
        "min_in_sync": spec.min_in_sync,
        "delimiter": spec.delimiter,
        "idempotency_retention_ms": spec.idempotency_retention_ms,
        "tombstone_retention_ms": spec.tombstone_retention_ms,
        "heartbeat_ms": spec.heartbeat_ms,
        "lease_ms": spec.lease_ms,
        "grace_ms": spec.grace_ms,
    });
    match all {
        serde_json::Value::Object(all) => all.into_iter().filter(|(_, value)| !value.is_null()).collect(),
        other => other,
    }
}

/// The metadata store did not answer by the deadline.
fn late() -> Status {
    let reason = "the metadata store did not answer in time: ask again".to_owned();
    status::refusal_to_status(&Refusal::Unknown { reason })
}

fn known(node: u64) -> Option<NodeId> {
    (node != 0).then_some(NodeId(node))
}
