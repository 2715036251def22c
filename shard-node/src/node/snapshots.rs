//! Snapshots on their way out: taken at the applied index, read part by part as the learner asks.

use super::group::Group;
use super::shared::{Failure, Shared};
use crate::event::Observation;
use crate::storage::SnapshotSource;
use fulcrum_replication::{Input, SnapshotChunk, TransferId};
use fulcrum_types::NodeId;
use std::collections::BTreeMap;

/// The transfers of a replica.
#[derive(Default)]
pub(super) struct Transfers {
    under_way: BTreeMap<(NodeId, TransferId), Transfer>,
}

struct Transfer {
    source: SnapshotSource,
    /// The part sent last: asked for again if it was lost.
    last: SnapshotChunk,
}

impl Group {
    pub(super) fn snapshot_wanted(
        &mut self,
        shared: &mut Shared,
        to: NodeId,
        transfer: TransferId,
    ) -> Result<(), Failure> {
        let mut source = SnapshotSource::new(&shared.store, self.id, self.log.generation())?;
        let Some(chunk) = source.next_part()? else {
            return Ok(());
        };
        self.inputs.push_back(Input::SnapshotPart {
            to,
            transfer,
            chunk: chunk.clone(),
        });
        self.transfers
            .under_way
            .insert((to, transfer), Transfer { source, last: chunk });
        shared.observe(Observation::SnapshotStarted {
            group: self.id,
            to,
            transfer,
        });
        Ok(())
    }

    /// Passes the part of that number: the next one, or the last one again. Others are never asked for by a live transfer.
    pub(super) fn snapshot_next(&mut self, to: NodeId, transfer: TransferId, number: u64) -> Result<(), Failure> {
        let Some(under_way) = self.transfers.under_way.get_mut(&(to, transfer)) else {
            return Ok(());
        };
        if number == under_way.last.number + 1
            && let Some(chunk) = under_way.source.next_part()?
        {
            under_way.last = chunk;
        }
        if number == under_way.last.number {
            let chunk = under_way.last.clone();
            self.inputs.push_back(Input::SnapshotPart { to, transfer, chunk });
        }
        Ok(())
    }

    pub(super) fn snapshot_done(&mut self, shared: &mut Shared, to: NodeId, transfer: TransferId) {
        if self.transfers.under_way.remove(&(to, transfer)).is_some() {
            shared.observe(Observation::SnapshotEnded {
                group: self.id,
                to,
                transfer,
            });
        }
    }
}
