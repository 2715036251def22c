//! Waits until a group is led as an operator asked.
//!
//! A shard-node can only say that it has begun: a hand-over ends elsewhere, and may be given up. Here the answer waits for the
//! routing table to show a newer epoch and for its primary to be ready, within the deadline. Meanwhile the request is repeated: what
//! was given up begins again, what is under way takes no notice.

use crate::admin::{AdminService, ShardClient, timed};
use fulcrum_common::routing::{Primary, View};
use fulcrum_common::wire::status::refusal_to_status;
use fulcrum_common::wire::{internal, v1};
use fulcrum_types::{Epoch, GroupId, NodeId, Refusal};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use tonic::Status;

/// Between two looks, unless the routing table changes.
const LOOK: Duration = Duration::from_millis(50);
/// Between two repetitions of the request.
const REPEAT: Duration = Duration::from_millis(500);
/// Of the deadline, kept for the answer to travel.
const TRAVEL: Duration = Duration::from_millis(100);

/// What a shard-node is asked to set going.
pub(crate) enum Order {
    /// The primary hands over.
    HandOver(internal::HandOverRequest),
    /// A replica starts a group whose listed data is gone.
    ForceStart(internal::ForceStartRequest),
}

impl Order {
    async fn give(&self, client: &mut ShardClient) -> Result<(), Status> {
        match self {
            Order::HandOver(order) => client.hand_over(timed(*order)).await.map(drop),
            Order::ForceStart(order) => client.force_start(timed(*order)).await.map(drop),
        }
    }
}

/// What is waited for.
pub(crate) struct Succession {
    pub(crate) group: GroupId,
    pub(crate) order: Order,
    /// Epochs after this one count.
    pub(crate) after: Epoch,
    /// Who should lead, if that matters.
    pub(crate) wanted: Option<NodeId>,
}

impl AdminService {
    /// Gives the order until the group is led anew. The first refusal is the answer; later ones mean that things move.
    pub(crate) async fn until_led(
        &self,
        succession: &Succession,
        until: Instant,
        mut client: ShardClient,
    ) -> Result<Primary, Status> {
        let mut changes = self.dispatch.table.changes();
        succession.order.give(&mut client).await?;
        let mut asked = Instant::now();
        let until = until - TRAVEL;
        loop {
            changes.mark_unchanged();
            if let Some(primary) = self.successor(succession).await? {
                return Ok(primary);
            }
            let now = Instant::now();
            if now >= until {
                return Err(refusal_to_status(&Refusal::Unknown {
                    reason: format!(
                        "{} is not led anew by the deadline, and may yet be: see `fulcrum status`",
                        succession.group
                    ),
                }));
            }
            if now >= asked + REPEAT {
                asked = now;
                let _ = succession.order.give(&mut client).await;
            }
            let _ = timeout_at(until.min(now + LOOK), changes.changed()).await;
        }
    }

    /// The new primary, once it has taken over.
    async fn successor(&self, succession: &Succession) -> Result<Option<Primary>, Status> {
        let view = self.dispatch.table.view();
        let newer = view.primary(succession.group).filter(|p| p.epoch > succession.after);
        let Some(primary) = newer else { return Ok(None) };
        if succession.wanted.is_some_and(|wanted| wanted != primary.node) {
            let reason = format!(
                "{} took over {} meanwhile, in {}: ask again if it should move",
                primary.node, succession.group, primary.epoch
            );
            return Err(refusal_to_status(&Refusal::Invalid { reason }));
        }
        Ok(self
            .has_taken_over(&view, succession.group, primary)
            .await
            .then_some(primary))
    }

    async fn has_taken_over(&self, view: &View, group: GroupId, primary: Primary) -> bool {
        let Ok(status) = self.node_status(view, primary.node).await else {
            return false;
        };
        status.replicas.iter().any(|replica| {
            let leads = replica.role == i32::from(v1::Role::Primary) && replica.ready;
            replica.group == group.0 && leads && replica.epoch >= primary.epoch.0
        })
    }
}
