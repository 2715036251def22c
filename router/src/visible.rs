//! What of the cluster a caller is shown. A keyspace that it may not read is in no list; nodes are in all.

use fulcrum_common::ClusterMap;
use fulcrum_common::auth::{Caller, Scope};
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{GroupId, Right};
use std::collections::BTreeSet;
use tonic::{Request, Status};

/// Whoever asks for a list, if it may read anything at all.
pub(crate) fn looking<T>(request: &Request<T>) -> Result<Caller, Status> {
    let caller = Caller::of(request)?;
    let may = caller.may_look();
    may.map_err(|refusal| status::refusal_to_status(&refusal))?;
    Ok(caller)
}

/// Refuses whoever may not read a keyspace, before anything else is said of it.
pub(crate) fn sees(caller: &Caller, keyspace: &str) -> Result<(), Status> {
    let may = caller.may(Right::Read, keyspace);
    may.map_err(|refusal| status::refusal_to_status(&refusal))
}

/// Groups of keyspaces that it may not read go.
pub(crate) fn status(caller: &Caller, map: &ClusterMap, response: &mut v1::StatusResponse) {
    response.groups.retain(|group| caller.sees(&group.keyspace));
    let Some(placement) = &mut response.placement else {
        return;
    };
    let seen = |group: u64| {
        let keyspace = map.groups().get(&GroupId(group)).map(|group| group.keyspace);
        let keyspace = keyspace.and_then(|keyspace| map.keyspace(keyspace));
        caller.sees(keyspace.map_or(Scope::ALL, |keyspace| &keyspace.name))
    };
    placement.under_replicated.retain(|group| seen(*group));
    placement.narrow.retain(|group| seen(*group));
    placement.rebuilds.retain(|rebuild| seen(rebuild.group));
}

/// Keyspaces in which it has no right at all go: a smart client has to find the keys that it may write.
pub(crate) fn map(caller: &Caller, map: &mut v1::ClusterMap) {
    map.keyspaces.retain(|keyspace| caller.knows(&keyspace.name));
    let known: BTreeSet<u64> = map.keyspaces.iter().map(|keyspace| keyspace.id).collect();
    map.groups.retain(|group| known.contains(&group.keyspace));
}

/// Of a keyspace that is gone, only who may read all of them sees what was lost.
pub(crate) fn certificate(caller: &Caller, certificate: &v1::failover_report_response::Certificate) -> bool {
    match certificate.keyspace.as_str() {
        "" => caller.sees(Scope::ALL),
        keyspace => caller.sees(keyspace),
    }
}
