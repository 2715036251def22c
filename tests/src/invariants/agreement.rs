//! What is committed in a `sync` group is the same on every replica, for ever: DESIGN section 5, log matching.
//!
//! Judged on what a disk holds after a crash and at the end. In `async` groups a failover may replace committed entries; there
//! the certificates are judged instead.

use crate::sim::inspect::Inspection;
use fulcrum_types::{Epoch, GroupId, Index, NodeId};
use std::collections::BTreeMap;

/// The committed entries seen so far.
#[derive(Debug, Default)]
pub struct Agreement {
    committed: BTreeMap<(GroupId, Index), (Epoch, u64, NodeId)>,
}

impl Agreement {
    /// Judges what a replica's disk says is committed.
    ///
    /// # Errors
    /// Which entry differs, and who holds what.
    pub fn check(&mut self, group: GroupId, node: NodeId, disk: &Inspection) -> Result<(), String> {
        for (at, fingerprint) in disk.committed() {
            let known = self
                .committed
                .entry((group, at.index))
                .or_insert((at.epoch, fingerprint, node));
            if (known.0, known.1) != (at.epoch, fingerprint) {
                let (epoch, _, other) = *known;
                return Err(format!(
                    "{group} index {}: {other} committed an entry of {epoch}, {node} another one of {}",
                    at.index, at.epoch
                ));
            }
        }
        Ok(())
    }
}
