//! Whoever a receipt names as having made a write durable has it on disk when the answer leaves: DESIGN sections 5 and 6.

use crate::sim::inspect::holds;
use fulcrum_shard_node::storage::MemoryDisk;
use fulcrum_types::{LogPosition, NodeId, Receipt};

/// Judges the receipt of a write against the disks of those it names.
///
/// # Errors
/// Who lacks the entry.
pub fn check<'a>(receipt: &Receipt, disk_of: impl Fn(NodeId) -> Option<&'a MemoryDisk>) -> Result<(), String> {
    let at = LogPosition {
        epoch: receipt.epoch,
        index: receipt.index,
    };
    if receipt.acknowledged_by.is_empty() {
        return Err(format!("{at} of {} was acknowledged by nobody", receipt.group));
    }
    for node in &receipt.acknowledged_by {
        let Some(disk) = disk_of(*node) else {
            continue;
        };
        if !holds(disk, receipt.group, at).map_err(|e| e.to_string())? {
            return Err(format!(
                "{at} of {} was acknowledged in the name of {node}, whose disk does not hold it",
                receipt.group
            ));
        }
    }
    Ok(())
}
