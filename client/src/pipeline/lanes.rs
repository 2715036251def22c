//! Which lane a request goes into.

use super::runner::{Runner, Taken, Target};
use crate::client::Shared;
use fulcrum_common::trace::Span;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_types::NodeId;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Requests that may wait in a lane to be taken.
const QUEUE: usize = 4096;

/// The lanes of a pipeline; they end when it is dropped and all is answered.
pub(super) struct Lanes {
    shared: Arc<Shared>,
    routers: mpsc::Sender<Box<Taken>>,
    nodes: Mutex<BTreeMap<NodeId, mpsc::Sender<Box<Taken>>>>,
}

impl Lanes {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            routers: begin(&shared, Target::Routers),
            nodes: Mutex::default(),
            shared,
        }
    }

    /// Straight to the node that can serve it, if the client is smart and knows which; else through the routers.
    pub(super) fn of(&self, op: &Op) -> mpsc::Sender<Box<Taken>> {
        let Some(node) = self.node_for(op) else {
            return self.routers.clone();
        };
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let lane = nodes
            .entry(node)
            .or_insert_with(|| begin(&self.shared, Target::Node(node, self.routers.clone())));
        lane.clone()
    }

    /// The span of an operation, under what its caller is doing.
    pub(super) fn begin(&self) -> Span {
        self.shared.begin(Some("fulcrum.v1.Kv/Pipeline"))
    }

    fn node_for(&self, op: &Op) -> Option<NodeId> {
        let smart = self.shared.smart.as_ref()?;
        match op {
            Op::Get(request) => smart.first_choice(request),
            Op::Put(request) => smart.first_choice(request),
            Op::Delete(request) => smart.first_choice(request),
        }
    }
}

fn begin(shared: &Arc<Shared>, target: Target) -> mpsc::Sender<Box<Taken>> {
    let (lane, queue) = mpsc::channel(QUEUE);
    tokio::spawn(Runner::new(shared.clone(), target, queue).run());
    lane
}
