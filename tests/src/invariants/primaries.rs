//! An epoch has one primary, in one of its lives; epochs and configuration versions of a replica's data never fall, also
//! across restarts: DESIGN section 5, rules 3 and 4.

use fulcrum_replication::Status;
use fulcrum_types::{BootId, ConfigVersion, Epoch, GroupId, NodeId, Role};
use std::collections::BTreeMap;

/// What has been seen so far.
#[derive(Debug, Default)]
pub struct Primaries {
    led: BTreeMap<(GroupId, Epoch), (NodeId, BootId)>,
    newest: BTreeMap<(GroupId, NodeId), (Epoch, ConfigVersion)>,
}

impl Primaries {
    /// Judges what a replica says of itself.
    ///
    /// # Errors
    /// What contradicts what was seen before.
    pub fn check(&mut self, group: GroupId, node: NodeId, boot: BootId, status: &Status) -> Result<(), String> {
        if status.role == Role::Primary {
            let first = *self.led.entry((group, status.epoch)).or_insert((node, boot));
            if first != (node, boot) {
                let ((a, a_boot), epoch) = (first, status.epoch);
                return Err(format!(
                    "{group} has two primaries in {epoch}: {a} ({a_boot}) and {node} ({boot})"
                ));
            }
        }
        Ok(())
    }

    /// Judges what a replica has made durable: its epoch and the version of its configuration.
    ///
    /// # Errors
    /// What went back.
    pub fn check_durable(
        &mut self,
        group: GroupId,
        node: NodeId,
        epoch: Epoch,
        version: ConfigVersion,
    ) -> Result<(), String> {
        let newest = self.newest.entry((group, node)).or_default();
        if epoch < newest.0 || version < newest.1 {
            return Err(format!(
                "{node} in {group} went back from {} {} to {epoch} {version}",
                newest.0, newest.1
            ));
        }
        *newest = (epoch, version);
        Ok(())
    }

    /// The node has lost its disk: it may begin anew.
    pub fn forget(&mut self, node: NodeId) {
        self.newest.retain(|(_, n), _| *n != node);
    }
}
