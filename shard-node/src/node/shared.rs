//! What all replicas of a node have in common, and how trouble with one of them is told from trouble with all.

use super::asking::Questions;
use super::bugs::Bugs;
use super::requests::Requests;
use super::settings::NodeSettings;
use crate::event::{Observation, Output, RequestId};
use crate::state_machine::ApplyError;
use crate::storage::{StorageError, Store};
use fulcrum_common::map::ClusterMap;
use fulcrum_replication::ProposalId;
use fulcrum_types::{Answered, BootId, MapVersion, Refusal};
use std::sync::Arc;

/// Marks the names of proposals that answer no request. Those of requests count up from 1.
const OWN: u64 = 1 << 63;

/// The node around its replicas.
pub(super) struct Shared {
    pub(super) settings: NodeSettings,
    pub(super) boot: BootId,
    pub(super) store: Store,
    pub(super) map: Option<Arc<ClusterMap>>,
    pub(super) requests: Requests,
    pub(super) questions: Questions,
    /// Proposals of the node's own so far.
    pub(super) own_proposals: u64,
    /// Bytes of the cache that each group may take.
    pub(super) cache_share: usize,
    pub(super) out: Vec<Output>,
    pub(super) bugs: Bugs,
}

impl Shared {
    pub(super) fn map_version(&self) -> MapVersion {
        self.map.as_ref().map_or(MapVersion::ZERO, |map| map.version())
    }

    pub(super) fn reply(&mut self, id: RequestId, result: Result<Answered, Refusal>) {
        self.requests.remove(id);
        self.out.push(Output::Reply { id, result });
    }

    /// A name for a proposal that answers no request.
    pub(super) fn own_proposal(&mut self) -> ProposalId {
        self.own_proposals += 1;
        ProposalId(OWN | self.own_proposals)
    }

    pub(super) fn observe(&mut self, observation: Observation) {
        self.out.push(Output::Observed(observation));
    }
}

/// Why a replica cannot go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// What it holds is damaged: it is rebuilt from its peers under a new data id (rule 5).
    Damaged(String),
    /// To go on would make it differ from its peers: it stops, and an operator must act.
    Stopped(String),
    /// The node's storage failed: the node stops.
    Node(String),
}

impl From<StorageError> for Failure {
    fn from(error: StorageError) -> Self {
        match error {
            StorageError::Corrupt { .. } | StorageError::Damaged { .. } | StorageError::BadSnapshot { .. } => {
                Failure::Damaged(error.to_string())
            }
            _ => Failure::Node(error.to_string()),
        }
    }
}

impl From<ApplyError> for Failure {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Storage(error) => error.into(),
            other => Failure::Stopped(other.to_string()),
        }
    }
}
