//! Placement as operators see and steer it: what the metadata store says, and what it means.
//!
//! Nothing is decided here: the shard-node that acts does that. The status is put together without it, so that it says what is short also while
//! nobody acts.

use crate::admin::{AdminService, invalid, store_error};
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::status_response::{Node, Placement, placement};
use fulcrum_placement::{Census, Settings, assess};
use fulcrum_types::NodeId;
use std::time::Duration;
use tonic::Status;

/// For the metadata store to show what is there; the status goes without it, then.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

impl AdminService {
    /// Adds to a status what placement sees. None if the metadata store does not answer.
    pub(crate) async fn placement_status(&self, nodes: &mut [Node]) -> Option<Placement> {
        let look = tokio::time::timeout(LOOK_WITHIN, self.store.placement_view()).await;
        let view = look.ok()?.ok()?;
        for node in nodes {
            let id = NodeId(node.id);
            node.leased = view.census.is_alive(id);
            node.draining = view.census.is_draining(id);
        }
        let acting = view.leader.map_or(0, |leader| leader.node.0);
        Some(placement_to_wire(&view.census, acting))
    }

    /// Says that a node is to be empty, or no more.
    pub(crate) async fn drain(&self, request: v1::DrainNodeRequest) -> Result<v1::DrainNodeResponse, Status> {
        let node = NodeId(request.node);
        let view = self.store.placement_view().await.map_err(store_error)?;
        let others = view
            .census
            .nodes
            .iter()
            .filter(|(id, n)| **id != node && n.alive && !n.draining);
        let (others, wanted) = (others.count(), assess(&view.census).wanted);
        if !request.abort && others < wanted {
            return Err(invalid(format!(
                "{node} cannot be emptied: {wanted} replicas need as many living nodes beside it, and there are {others}: start more"
            )));
        }
        self.store
            .set_drained(node, !request.abort)
            .await
            .map_err(store_error)?;
        Ok(v1::DrainNodeResponse {})
    }

    /// Changes what is given, and answers what is in force then.
    pub(crate) async fn settings(&self, request: v1::PlacementRequest) -> Result<v1::PlacementSettings, Status> {
        let mut settings = self.store.placement_settings().await.map_err(store_error)?;
        let before = settings.clone();
        let set = |time: &mut Duration, ms: Option<u64>| {
            if let Some(ms) = ms {
                *time = Duration::from_millis(ms);
            }
        };
        set(&mut settings.rebuild_after, request.rebuild_after_ms);
        set(&mut settings.balance_pause, request.balance_pause_ms);
        set(&mut settings.calm, request.calm_ms);
        if let Some(rebuilds) = request.rebuilds {
            settings.rebuilds = rebuilds as usize;
        }
        if settings != before {
            self.store
                .set_placement_settings(&settings)
                .await
                .map_err(store_error)?;
        }
        Ok(settings_to_wire(&settings))
    }
}

fn settings_to_wire(settings: &Settings) -> v1::PlacementSettings {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    v1::PlacementSettings {
        rebuild_after_ms: ms(settings.rebuild_after),
        rebuilds: count(settings.rebuilds),
        balance_pause_ms: ms(settings.balance_pause),
        calm_ms: ms(settings.calm),
    }
}

fn placement_to_wire(census: &Census, acting: u64) -> Placement {
    let found = assess(census);
    let rebuilds = found.rebuilds.iter().map(|rebuild| placement::Rebuild {
        group: rebuild.group.0,
        node: rebuild.node.0,
    });
    let draining = found.draining.iter().map(|(node, left)| placement::Draining {
        node: node.0,
        replicas: count(left.replicas),
        primaries: count(left.primaries),
    });
    Placement {
        acting,
        under_replicated: found.under_replicated.iter().map(|group| group.0).collect(),
        rebuilds: rebuilds.collect(),
        narrow: found.narrow.iter().map(|group| group.0).collect(),
        zones: count(found.zones),
        wanted: count(found.wanted),
        draining: draining.collect(),
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
