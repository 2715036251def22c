//! `fulcrum status`: nodes and groups as the nodes themselves tell it.

use crate::args::StatusArgs;
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Paint, Table, latency};
use fulcrum_client::{ClusterStatus, GroupStatus, ReplicaStatus};
use fulcrum_types::{NodeId, Role};
use serde_json::{Value, json};

/// Shows the cluster.
pub async fn run(context: &Context, args: &StatusArgs) -> Ending {
    let admin = context.client().await?.admin();
    let status = admin.status(args.keyspace.as_deref()).await;
    let status = status.map_err(|error| Failure::client("cannot show the status", &error))?;
    match context.json() {
        true => context.print_json(&as_json(&status))?,
        false => print(&render(&status, context.paint))?,
    }
    Ok(Exit::Ok)
}

fn render(status: &ClusterStatus, paint: Paint) -> String {
    let mut text = format!("cluster {}, map {}\n\n", status.cluster_id, status.map_version);
    text.push_str(&nodes(status, paint));
    if status.groups.is_empty() {
        return text + "\nno groups yet: `fulcrum keyspace create NAME`\n";
    }
    text.push('\n');
    text.push_str(&groups(status, paint));
    text
}

fn nodes(status: &ClusterStatus, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("address", Align::Left),
        ("primaries", Align::Right),
        ("replicas", Align::Right),
        ("state", Align::Left),
    ]);
    for node in &status.nodes {
        let state = match &node.unreachable {
            None => paint.green("up"),
            Some(why) => paint.red(&format!("unreachable: {why}")),
        };
        let counts = [node.primaries, node.replicas].map(|count| match node.unreachable {
            None => count.to_string(),
            Some(_) => "?".to_owned(),
        });
        let [primaries, replicas] = counts;
        table.row([node.id.to_string(), node.address.clone(), primaries, replicas, state]);
    }
    table.render(paint)
}

fn groups(status: &ClusterStatus, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("group", Align::Left),
        ("keyspace", Align::Left),
        ("mode", Align::Left),
        ("slots", Align::Right),
        ("epoch", Align::Right),
        ("primary", Align::Left),
        ("in sync", Align::Left),
        ("commit", Align::Right),
        ("worst lag", Align::Left),
        ("state", Align::Left),
    ]);
    for group in &status.groups {
        let commit = group.replicas.iter().map(|replica| replica.commit_index.0).max();
        table.row([
            group.id.to_string(),
            group.keyspace.clone(),
            group.mode.to_string(),
            group.slots.to_string(),
            group.epoch.0.to_string(),
            group.primary.map_or("none".to_owned(), |node| node.to_string()),
            group
                .in_sync
                .iter()
                .map(NodeId::to_string)
                .collect::<Vec<_>>()
                .join(" "),
            commit.unwrap_or(0).to_string(),
            lag(group),
            state(group, paint),
        ]);
    }
    table.render(paint)
}

fn lag(group: &GroupStatus) -> String {
    let followers = group
        .replicas
        .iter()
        .filter(|replica| replica.role != Some(Role::Primary));
    match followers.max_by_key(|replica| (replica.lag_entries, replica.lag)) {
        Some(worst) if worst.lag_entries > 0 => {
            format!("{}: {} entries, {}", worst.node, worst.lag_entries, latency(worst.lag))
        }
        _ => "none".to_owned(),
    }
}

fn state(group: &GroupStatus, paint: Paint) -> String {
    if group.stranded {
        return paint.red("no data left: `fulcrum failover force`");
    }
    if !group.ready {
        return paint.yellow("no primary that serves");
    }
    let missing: Vec<String> = group
        .replicas
        .iter()
        .filter(|replica| !group.in_sync.contains(&replica.node))
        .map(|replica| format!("{} {}", replica.node, doing(replica)))
        .collect();
    match missing.is_empty() {
        true => paint.green("ok"),
        false => paint.yellow(&missing.join(", ")),
    }
}

fn doing(replica: &ReplicaStatus) -> &'static str {
    match (replica.reachable, replica.role) {
        (false, _) => "unreachable",
        (true, Some(Role::Learner)) => "catching up",
        (true, _) => "not in sync",
    }
}

fn as_json(status: &ClusterStatus) -> Value {
    json!({
        "cluster_id": status.cluster_id,
        "map_version": status.map_version.0,
        "nodes": status.nodes.iter().map(|node| json!({
            "id": node.id.0,
            "address": node.address,
            "zone": node.zone,
            "reachable": node.unreachable.is_none(),
            "error": node.unreachable,
            "primaries": node.primaries,
            "replicas": node.replicas,
        })).collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group_json).collect::<Vec<_>>(),
    })
}

fn group_json(group: &GroupStatus) -> Value {
    json!({
        "id": group.id.0,
        "keyspace": group.keyspace,
        "mode": group.mode.name(),
        "slots": group.slots,
        "epoch": group.epoch.0,
        "config_version": group.config_version.0,
        "primary": group.primary.map(|node| node.0),
        "in_sync": group.in_sync.iter().map(|node| node.0).collect::<Vec<_>>(),
        "ready": group.ready,
        "stranded": group.stranded,
        "replicas": group.replicas.iter().map(|replica| json!({
            "node": replica.node.0,
            "role": replica.role.map(Role::name),
            "epoch": replica.epoch.0,
            "last_index": replica.last_index.0,
            "commit_index": replica.commit_index.0,
            "applied_index": replica.applied_index.0,
            "lag_entries": replica.lag_entries,
            "lag_ms": u64::try_from(replica.lag.as_millis()).unwrap_or(u64::MAX),
            "staleness_us": replica.staleness.map(|bound| u64::try_from(bound.as_micros()).unwrap_or(u64::MAX)),
            "reachable": replica.reachable,
        })).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_client::NodeStatus;
    use fulcrum_types::{ConfigVersion, Epoch, GroupId, Index, MapVersion, Mode};
    use std::time::Duration;

    fn replica(node: u64, role: Option<Role>, behind: u64) -> ReplicaStatus {
        ReplicaStatus {
            node: NodeId(node),
            role,
            epoch: Epoch(2),
            last_index: Index(40),
            commit_index: Index(40 - behind),
            applied_index: Index(40 - behind),
            lag_entries: behind,
            lag: Duration::from_millis(behind * 10),
            staleness: None,
            reachable: role.is_some(),
        }
    }

    fn sample() -> ClusterStatus {
        let node = |id: u64, unreachable: Option<&str>| NodeStatus {
            id: NodeId(id),
            address: format!("127.0.0.1:740{id}"),
            zone: String::new(),
            unreachable: unreachable.map(str::to_owned),
            primaries: 1,
            replicas: 2,
        };
        let group = GroupStatus {
            id: GroupId(1),
            keyspace: "users".into(),
            mode: Mode::Sync,
            slots: 1024,
            epoch: Epoch(2),
            config_version: ConfigVersion(7),
            primary: Some(NodeId(1)),
            in_sync: vec![NodeId(1), NodeId(2)],
            replicas: vec![
                replica(1, Some(Role::Primary), 0),
                replica(2, Some(Role::Backup), 3),
                replica(3, None, 0),
            ],
            ready: true,
            stranded: false,
        };
        ClusterStatus {
            cluster_id: "c".into(),
            map_version: MapVersion(5),
            nodes: vec![node(1, None), node(3, Some("refused"))],
            groups: vec![group],
        }
    }

    #[test]
    fn golden() {
        let golden = "\
cluster c, map m5

node  address         primaries  replicas  state
───────────────────────────────────────────────────────────
n1    127.0.0.1:7401          1         2  up
n3    127.0.0.1:7403          ?         ?  unreachable: refused

group  keyspace  mode  slots  epoch  primary  in sync  commit  worst lag             state
──────────────────────────────────────────────────────────────────────────────────────────────────
g1     users     sync   1024      2  n1       n1 n2        40  n2: 3 entries, 30.0 ms  n3 unreachable
";
        let shown = render(&sample(), Paint::plain());
        let words = |text: &str| {
            text.replace('─', "")
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        assert_eq!(words(&shown), words(golden), "{shown}");
    }

    #[test]
    fn a_stranded_group_says_what_an_operator_can_do() {
        let mut status = sample();
        status.groups[0].stranded = true;
        assert!(render(&status, Paint::plain()).contains("fulcrum failover force"));
        assert_eq!(as_json(&status)["groups"][0]["stranded"], true);
    }
}
