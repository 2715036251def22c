//! What a cluster says of its own past, as the checkers take it: by the demo and by the fault tool.

use fulcrum_checker::durability::Certificates;
use fulcrum_checker::{History, SurvivingLog};
use fulcrum_client::{Certificate, ClusterStatus};
use fulcrum_types::{Epoch, GroupId, Index};
use std::collections::BTreeMap;

/// What these certificates say is lost, and of which groups nobody knows how much.
#[must_use]
pub fn losses(certificates: &[&Certificate]) -> Certificates {
    let mut losses = Certificates::default();
    for certificate in certificates {
        if !certificate.extent_known {
            losses.open.insert(certificate.group);
        }
        for entry in certificate.entries.iter().filter(|entry| entry.acknowledged) {
            let at = entry.position;
            losses.lost.insert((certificate.group, at.epoch, at.index));
        }
    }
    losses
}

/// The logs that a keyspace's groups have in the end: where each epoch begins, by the certificates or by what clients were told.
#[must_use]
pub fn surviving_logs(
    keyspace: &str,
    history: &History,
    status: &ClusterStatus,
    certificates: &[&Certificate],
) -> BTreeMap<GroupId, SurvivingLog> {
    let mut first_seen: BTreeMap<GroupId, BTreeMap<Epoch, Index>> = BTreeMap::new();
    for (group, at) in history.operations().iter().filter_map(|operation| operation.position()) {
        let first = first_seen.entry(group).or_default().entry(at.epoch).or_insert(at.index);
        *first = at.index.min(*first);
    }
    let mut logs = BTreeMap::new();
    for group in status.groups.iter().filter(|group| group.keyspace == keyspace) {
        let mut starts = first_seen.remove(&group.id).unwrap_or_default();
        starts.remove(&Epoch::ZERO);
        // The first epoch of all owns the log from its beginning.
        if let Some(mut first) = starts.first_entry() {
            *first.get_mut() = Index(1);
        }
        for certificate in certificates.iter().filter(|c| c.group == group.id) {
            if let Some(promotion) = certificate.promotion {
                starts.insert(certificate.new_epoch, promotion.index.next());
            }
        }
        let last = group.replicas.iter().map(|replica| replica.last_index).max();
        let log = SurvivingLog {
            starts,
            last: last.unwrap_or_default(),
        };
        logs.insert(group.id, log);
    }
    logs
}
