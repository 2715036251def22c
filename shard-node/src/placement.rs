//! Placement on its way: one node of the cluster at a time looks at the metadata store, steps the pure core, and does what it says.
//!
//! Who acts holds a key with its lease, and every change it makes compares that key, too: who has lost it without
//! noticing changes nothing any more. The others look only whether somebody acts. Nothing here touches a replica: changes come back to all
//! nodes by the watch, as any other does, and hand-overs are asked for as an operator asks.

use crate::metrics::PlacementMetrics;
use fulcrum_common::metadata::{Leader, NodeLease, PlacementView, Replacement};
use fulcrum_common::routing::{Backends, RoutingTable};
use fulcrum_common::wire::internal::HandOverRequest;
use fulcrum_common::{Clock, ClusterStore, StoreError};
use fulcrum_placement::{Effect, Held, Placement, assess};
use fulcrum_types::{GroupId, NodeId};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// For a primary to say that it begins to hand over.
const HAND_OVER_SAID_WITHIN: Duration = Duration::from_secs(2);
/// So many looks may fail before what was in between counts as unseen.
const LOOKS_MISSED: u32 = 5;

/// What the acting node needs.
pub(crate) struct Placer {
    pub(crate) node: NodeId,
    pub(crate) store: watch::Receiver<Option<ClusterStore>>,
    /// This node's registration, while it has one.
    pub(crate) lease: watch::Receiver<Option<NodeLease>>,
    pub(crate) table: Arc<RoutingTable>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) every: Duration,
    pub(crate) backends: Backends,
    pub(crate) deadline: Duration,
    pub(crate) metrics: PlacementMetrics,
}

impl Placer {
    /// Looks again and again; ends when it is dropped.
    pub(crate) async fn run(mut self) {
        let backends = self.backends.clone();
        let patience = (self.every + self.deadline) * LOOKS_MISSED;
        let mut acting: Option<Placement> = None;
        loop {
            tokio::time::sleep(self.every).await;
            let (Some(store), Some(lease)) = (self.store.borrow().clone(), *self.lease.borrow_and_update()) else {
                acting = self.rest();
                continue;
            };
            match self.look(&store, lease).await {
                Ok(Some((leader, view))) => {
                    let placement = acting.get_or_insert_with(|| Placement::new(patience));
                    self.act(&store, &backends, placement, leader, &view).await;
                }
                Ok(None) => acting = self.rest(),
                // What is not seen is not acted on; the core takes a long gap for what it is.
                Err(error) => tracing::debug!(%error, "placement cannot look at the metadata store"),
            }
        }
    }

    /// Somebody else acts.
    fn rest(&self) -> Option<Placement> {
        self.metrics.rest();
        None
    }

    /// All there is to see, if it is this node that acts; it comes forward if nobody does.
    async fn look(
        &self,
        store: &ClusterStore,
        lease: NodeLease,
    ) -> Result<Option<(Leader, PlacementView)>, StoreError> {
        match self.within(store.placement_leader()).await? {
            Some(leader) if leader.node != self.node => return Ok(None),
            Some(_) => {}
            None => self.within(store.lead_placement(self.node, lease)).await?,
        }
        let view = self.within(store.placement_view()).await?;
        let leader = view.leader.filter(|leader| leader.node == self.node);
        Ok(leader.map(|leader| (leader, view)))
    }

    async fn within<T>(&self, call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        let answered = tokio::time::timeout(self.deadline, call).await;
        answered.unwrap_or_else(|_| Err(StoreError::Unknown("no answer in time".to_owned())))
    }

    async fn act(
        &self,
        store: &ClusterStore,
        backends: &Backends,
        placement: &mut Placement,
        leader: Leader,
        view: &PlacementView,
    ) {
        let before = placement.held().cloned();
        let mut effects = Vec::new();
        placement.step(self.clock.now().mono, &view.census, &mut effects);
        self.metrics.looked(&assess(&view.census), placement);
        for rebuild in placement.rebuilt() {
            tracing::info!(group = %rebuild.group, node = %rebuild.node, "rebuilt: in sync");
        }
        if let Some(held) = placement.held().filter(|held| Some(*held) != before.as_ref()) {
            say(held);
        }
        for effect in effects {
            self.run_effect(store, backends, leader, effect).await;
        }
    }

    /// What does not come about, for whatever reason, is seen at the next look.
    async fn run_effect(&self, store: &ClusterStore, backends: &Backends, leader: Leader, effect: Effect) {
        match effect {
            Effect::Place {
                group,
                expected,
                placed,
                replicas,
                reason,
            } => {
                tracing::info!(%group, change = reason.name(), ?replicas, "placement changes a group's replicas");
                let change = Replacement {
                    group,
                    expected,
                    placed,
                    replicas,
                };
                match self.within(store.replace_replicas(leader, &change)).await {
                    Ok(true) => self.metrics.changed(reason.name()),
                    Ok(false) => tracing::debug!(%group, "something changed meanwhile"),
                    Err(error) => tracing::warn!(%group, %error, "placement could not change a group's replicas yet"),
                }
            }
            Effect::HandOver { group, from, to } => {
                tracing::info!(%group, %from, %to, "placement asks for a hand-over");
                match self.ask_for_hand_over(backends, group, from, to).await {
                    Ok(()) => self.metrics.changed("hand_over"),
                    Err(reason) => tracing::warn!(%group, %from, %reason, "no hand-over yet"),
                }
            }
        }
    }

    async fn ask_for_hand_over(
        &self,
        backends: &Backends,
        group: GroupId,
        from: NodeId,
        to: NodeId,
    ) -> Result<(), String> {
        let view = self.table.view();
        let address = view.map.address(from).ok_or("it is not in the cluster map")?;
        let mut client = backends
            .client(from, address)
            .map_err(|failure| format!("{failure:?}"))?;
        let mut order = tonic::Request::new(HandOverRequest {
            group: group.0,
            to: to.0,
        });
        order.set_timeout(HAND_OVER_SAID_WITHIN);
        let said = tokio::time::timeout(HAND_OVER_SAID_WITHIN, client.hand_over(order)).await;
        let said = said.map_err(|_| "no answer in time".to_owned())?;
        said.map(drop).map_err(|status| status.message().to_owned())
    }
}

fn say(held: &Held) {
    match held {
        Held::TooManyGone { gone, of } => {
            tracing::warn!(
                gone,
                of,
                "nothing is rebuilt while half of the nodes are without a lease: start them, or look at the metadata store"
            );
        }
        Held::NoRoom { groups } => {
            let groups: Vec<String> = groups.iter().map(GroupId::to_string).collect();
            tracing::warn!(
                groups = groups.join(" "),
                "no living node is left for another replica: start more nodes"
            );
        }
    }
}
