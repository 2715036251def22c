//! In `async` two primaries never acknowledge at once (DESIGN section 5): each does only while its lease holds, and the lease is over
//! before the next one can take over. Seen from outside: answers leave in the order of their epochs.

use fulcrum_types::{Epoch, GroupId, NodeId};
use std::collections::BTreeMap;

/// The newest epoch that has acknowledged a write, and who did.
#[derive(Debug, Default)]
pub struct Acknowledgements {
    newest: BTreeMap<GroupId, (Epoch, NodeId)>,
}

impl Acknowledgements {
    /// Takes in an acknowledgement at the moment at which it leaves its node.
    ///
    /// # Errors
    /// Who had acknowledged in a later epoch.
    pub fn check(&mut self, group: GroupId, epoch: Epoch, node: NodeId) -> Result<(), String> {
        let (newest, by) = *self.newest.entry(group).or_insert((epoch, node));
        if epoch < newest {
            return Err(format!(
                "{node} acknowledges a write of {group} in {epoch}, after {by} did in {newest}"
            ));
        }
        self.newest.insert(group, (epoch, node));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_older_epoch_is_too_late() {
        let mut seen = Acknowledgements::default();
        let mut says = |epoch, node| seen.check(GroupId(1), Epoch(epoch), NodeId(node));
        assert!(says(1, 1).is_ok() && says(2, 2).is_ok() && says(2, 2).is_ok());
        assert!(says(1, 1).is_err());
    }
}
