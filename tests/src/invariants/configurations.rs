//! A group's configurations follow from each other: DESIGN section 5, modes `sync` and `async`.
//!
//! Judged at the store at every compare-and-swap that wins, whoever proposed it: the epoch never falls; within an epoch only
//! the primary changes the in-sync set; a new primary comes from the in-sync set, and a promotion admits nobody.

use crate::sim::metadata::Change;
use fulcrum_types::GroupConfiguration;

/// Judges one change.
///
/// # Errors
/// What is wrong with it.
pub fn check(change: &Change) -> Result<(), String> {
    let Change { by, before, after, .. } = change;
    well_formed(after)?;
    if after.replicas != before.replicas {
        return Err(format!("{by} changed the replicas"));
    }
    if after.epoch < before.epoch {
        return Err(format!(
            "{by} took the epoch back from {} to {}",
            before.epoch, after.epoch
        ));
    }
    if after.epoch == before.epoch {
        return within_epoch(change);
    }
    let first_start = before.in_sync.is_empty();
    if first_start {
        return Ok(());
    }
    match after.primary {
        Some(new) if before.is_in_sync(new) => {}
        new => {
            return Err(format!(
                "{new:?} was promoted by {by} from outside the in-sync set {:?}",
                before.in_sync
            ));
        }
    }
    match after.in_sync.iter().find(|m| !before.has_member(**m)) {
        None => Ok(()),
        Some(member) => Err(format!("the promotion by {by} admitted {member:?}")),
    }
}

fn within_epoch(change: &Change) -> Result<(), String> {
    let Change { by, before, after, .. } = change;
    if after.primary != before.primary {
        return Err(format!("{by} changed the primary within {}", before.epoch));
    }
    if before.primary != Some(*by) {
        return Err(format!(
            "{by}, which is not the primary of {}, changed its in-sync set",
            before.epoch
        ));
    }
    Ok(())
}

fn well_formed(configuration: &GroupConfiguration) -> Result<(), String> {
    let GroupConfiguration {
        primary,
        in_sync,
        replicas,
        ..
    } = configuration;
    if !in_sync.windows(2).all(|pair| pair[0].node < pair[1].node) {
        return Err(format!(
            "the in-sync set is not sorted by node, or names one twice: {in_sync:?}"
        ));
    }
    if let Some(stranger) = in_sync.iter().find(|m| !replicas.contains(&m.node)) {
        return Err(format!("{stranger:?} is in sync and no replica"));
    }
    match primary {
        Some(primary) if configuration.is_in_sync(*primary) => Ok(()),
        primary => Err(format!("the primary {primary:?} is not in the in-sync set {in_sync:?}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{ConfigVersion, DataId, Epoch, GroupId, Member, NodeId};

    fn configuration(epoch: u64, primary: u64, in_sync: &[u64]) -> GroupConfiguration {
        GroupConfiguration {
            version: ConfigVersion(1),
            epoch: Epoch(epoch),
            primary: Some(NodeId(primary)),
            in_sync: in_sync
                .iter()
                .map(|n| Member {
                    node: NodeId(*n),
                    data: DataId(*n),
                })
                .collect(),
            replicas: vec![NodeId(1), NodeId(2), NodeId(3)],
        }
    }

    fn judge(by: u64, before: GroupConfiguration, after: GroupConfiguration) -> Result<(), String> {
        check(&Change {
            at: 0,
            by: NodeId(by),
            group: GroupId(1),
            before,
            after,
        })
    }

    #[test]
    fn a_promotion_from_the_in_sync_set() {
        let before = configuration(1, 1, &[1, 2]);
        assert_eq!(judge(2, before.clone(), configuration(2, 2, &[2])), Ok(()));
        assert!(
            judge(3, before.clone(), configuration(2, 3, &[3])).is_err(),
            "from outside"
        );
        assert!(
            judge(2, before.clone(), configuration(2, 2, &[2, 3])).is_err(),
            "admits"
        );
        assert!(
            judge(2, before.clone(), configuration(1, 2, &[2])).is_err(),
            "the old epoch again"
        );
        assert!(judge(2, before, configuration(0, 2, &[2])).is_err(), "an older epoch");
    }

    #[test]
    fn only_the_primary_changes_the_set() {
        let before = configuration(1, 1, &[1, 2]);
        assert_eq!(judge(1, before.clone(), configuration(1, 1, &[1, 2, 3])), Ok(()));
        assert!(judge(2, before.clone(), configuration(1, 1, &[1])).is_err());
        assert!(
            judge(1, before, configuration(1, 1, &[2])).is_err(),
            "without the primary"
        );
    }
}
