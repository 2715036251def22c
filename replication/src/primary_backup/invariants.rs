//! What can be seen to hold from one replica, at any moment. Checked after every step in simulation and in debug builds.

use super::core::PrimaryBackup;
use fulcrum_types::{Epoch, Index};

pub(super) fn check(core: &PrimaryBackup) -> Result<(), String> {
    core.log.check()?;
    indexes_are_in_order(core)?;
    epochs_are_in_order(core)?;
    primary_counts_right(core)
}

/// compacted <= applied <= commit <= last, persisted <= last, matched <= last.
fn indexes_are_in_order(core: &PrimaryBackup) -> Result<(), String> {
    let (compacted, last) = (core.log.compacted().index, core.log.last().index);
    if !(compacted <= core.applied && core.applied <= core.commit && core.commit <= last) {
        return Err(format!(
            "compacted {compacted} <= applied {} <= commit {} <= last {last} does not hold",
            core.applied, core.commit
        ));
    }
    if core.disk.persisted() > last || core.backup.matched > last {
        return Err(format!(
            "persisted {} and matched {} must be within the log, which ends at {last}",
            core.disk.persisted(),
            core.backup.matched
        ));
    }
    Ok(())
}

/// Nothing here is of an epoch newer than the one accepted; who leads has marked it and is listed.
fn epochs_are_in_order(core: &PrimaryBackup) -> Result<(), String> {
    let (hard, last) = (&core.hard, core.log.last());
    if hard.configuration.epoch > hard.epoch || last.epoch > hard.epoch || hard.led > hard.epoch {
        return Err(format!(
            "epoch {} is older than that of the configuration ({}), the log ({last}) or the epoch led ({})",
            hard.epoch, hard.configuration.epoch, hard.led
        ));
    }
    if core.primary.is_none() {
        return Ok(());
    }
    let c = &hard.configuration;
    if hard.led != hard.epoch || c.epoch != hard.epoch || c.primary != Some(core.me.node) || !core.is_member() {
        return Err(format!("leads {} without being its primary by {c:?}", hard.epoch));
    }
    if last.epoch != hard.epoch {
        return Err(format!("leads {} but its log ends with {last}", hard.epoch));
    }
    Ok(())
}

/// What a primary committed in its epoch is durable where it must be, and no peer holds more than there is.
fn primary_counts_right(core: &PrimaryBackup) -> Result<(), String> {
    let Some(primary) = &core.primary else { return Ok(()) };
    let last = core.log.last().index;
    if let Some(peer) = primary
        .peers
        .values()
        .find(|p| p.persisted > last || p.next > last.next())
    {
        return Err(format!("{} is said to hold {} of {last}", peer.node, peer.persisted));
    }
    if primary.ready && core.commit < primary.noop {
        return Err(format!(
            "ready, but the no-op at {} is not committed ({})",
            primary.noop, core.commit
        ));
    }
    if primary.acknowledged > core.commit.max(primary.noop) {
        return Err(format!(
            "acknowledged {} beyond commit {}",
            primary.acknowledged, core.commit
        ));
    }
    let in_this_epoch = core.log.epoch_at(core.commit).unwrap_or(Epoch::ZERO) == core.hard.epoch;
    if core.is_async() || !in_this_epoch {
        return Ok(());
    }
    for member in core.hard.configuration.in_sync.iter().filter(|m| **m != core.me) {
        let Some(peer) = primary.peers.get(&member.node).filter(|p| p.is(*member)) else {
            continue;
        };
        if peer.persisted < core.commit {
            return Err(format!(
                "committed {} though {} holds only {}",
                core.commit, peer.node, peer.persisted
            ));
        }
    }
    if core.disk.persisted() < core.commit && core.commit > Index::ZERO {
        return Err(format!(
            "committed {} though only {} is durable here",
            core.commit,
            core.disk.persisted()
        ));
    }
    Ok(())
}
