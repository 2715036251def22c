//! What loss certificates may and must say, held against the ledger of the clients.
//!
//! That they name every acknowledged write that is gone is [`durability`](fulcrum_checker::durability)'s to judge. Here: they list nothing that
//! no client wrote, and nothing of which a client was told that it never got there (a write whose condition did not hold is an entry like
//! any other); and of a disk that never came back they do
//! not claim to know what was on it.

use super::Check;
use fulcrum_checker::{History, Outcome, ValueId};
use fulcrum_client::{Certificate, Mutation};
use fulcrum_types::GroupId;
use std::collections::{BTreeMap, BTreeSet};

/// Judges the certificates of one keyspace. `gone` are the groups whose primary's disk was lost.
#[must_use]
pub fn certified(name: &str, history: &History, all: &[Certificate], gone: &BTreeSet<GroupId>) -> Check {
    let ours: Vec<&Certificate> = all.iter().filter(|c| c.keyspace == name).collect();
    let mut written: BTreeMap<ValueId, Outcome> = BTreeMap::new();
    for operation in history.operations() {
        if let Some(Some(value)) = operation.call.writes() {
            written.insert(value, operation.outcome);
        }
    }
    let mut shown = Vec::new();
    let mut judged = 0;
    for certificate in &ours {
        for entry in &certificate.entries {
            for write in &entry.writes {
                judged += 1;
                let Mutation::Put { value, .. } = &write.mutation else {
                    continue;
                };
                let id = ValueId::of(value);
                let at = format!("{} {}", certificate.group, entry.position);
                match written.get(&id) {
                    None => shown.push(format!("{at} is certified as lost, and no client wrote it: {value:?}")),
                    Some(Outcome::Failed) => {
                        shown.push(format!(
                            "{at} is certified as lost, and its client was told that it had no effect: {value:?}"
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
    }
    for group in gone {
        judged += 1;
        let open = ours.iter().any(|c| c.group == *group && !c.extent_known);
        if !open {
            shown.push(format!(
                "{group}: its primary's disk never came back, and no certificate says that the extent is unknown"
            ));
        }
    }
    Check {
        name: "async: certificates hold what clients wrote".to_owned(),
        judged,
        violations: shown.len(),
        shown,
        undecided: 0,
    }
}
