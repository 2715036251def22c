//! `fulcrum status`: nodes and groups as the nodes themselves tell it.

use crate::args::StatusArgs;
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Paint, Table, latency};
use fulcrum_client::{ClusterStatus, GroupStatus, NodeStatus, PlacementStatus, ReplicaStatus};
use fulcrum_types::{GroupId, NodeId, Role};
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
    text.push_str(&placement(status, paint));
    text
}

fn nodes(status: &ClusterStatus, paint: Paint) -> String {
    let mut table = Table::new(&[
        ("node", Align::Left),
        ("address", Align::Left),
        ("zone", Align::Left),
        ("primaries", Align::Right),
        ("replicas", Align::Right),
        ("state", Align::Left),
    ]);
    for node in &status.nodes {
        let state = node_state(node, status.placement.is_some(), paint);
        let zone = if node.zone.is_empty() { "-" } else { &node.zone };
        let counts = [node.primaries, node.replicas].map(|count| match node.unreachable {
            None => count.to_string(),
            Some(_) => "?".to_owned(),
        });
        let [primaries, replicas] = counts;
        table.row([
            node.id.to_string(),
            node.address.clone(),
            zone.to_owned(),
            primaries,
            replicas,
            state,
        ]);
    }
    table.render(paint)
}

fn node_state(node: &NodeStatus, leases_known: bool, paint: Paint) -> String {
    match &node.unreachable {
        Some(why) => paint.red(&format!("unreachable: {why}")),
        None if node.draining => paint.yellow("up, to be empty"),
        None if leases_known && !node.leased => paint.yellow("up, without a lease at the metadata store"),
        None => paint.green("up"),
    }
}

/// What is short, what is done about it, and what could be better; nothing if all is well.
fn placement(status: &ClusterStatus, paint: Paint) -> String {
    let Some(placement) = &status.placement else {
        return paint.yellow("\nthe metadata store does not answer: it is not known which groups are short\n");
    };
    let mut lines = Vec::new();
    if !placement.under_replicated.is_empty() {
        let short = names(&placement.under_replicated);
        lines.push(paint.yellow(&format!("short of replicas: {short}")));
    }
    for (group, node) in &placement.rebuilds {
        lines.push(format!("{group} is being rebuilt on {node}"));
    }
    for left in &placement.draining {
        lines.push(format!(
            "{} is to be empty: {} replicas left, {} of them primaries",
            left.node, left.replicas, left.primaries
        ));
    }
    lines.extend(zones(placement));
    if placement.acting.is_none() {
        lines.push(paint.yellow("no node acts for placement at the moment"));
    }
    lines.iter().map(|line| format!("\n{line}")).collect::<String>() + if lines.is_empty() { "" } else { "\n" }
}

fn zones(placement: &PlacementStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if placement.zones > 0 && placement.zones < placement.wanted {
        lines.push(format!(
            "{} zones for {} replicas: some replicas of a group share one",
            placement.zones, placement.wanted
        ));
    }
    if !placement.narrow.is_empty() {
        let narrow = names(&placement.narrow);
        lines.push(format!("in fewer zones than there could be: {narrow}"));
    }
    lines
}

fn names(groups: &[GroupId]) -> String {
    groups.iter().map(GroupId::to_string).collect::<Vec<_>>().join(" ")
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
            "leased": node.leased,
            "draining": node.draining,
        })).collect::<Vec<_>>(),
        "groups": status.groups.iter().map(group_json).collect::<Vec<_>>(),
        "placement": status.placement.as_ref().map(placement_json),
    })
}

fn placement_json(placement: &PlacementStatus) -> Value {
    let ids = |groups: &[GroupId]| groups.iter().map(|group| group.0).collect::<Vec<_>>();
    json!({
        "acting": placement.acting.map(|node| node.0),
        "under_replicated": ids(&placement.under_replicated),
        "rebuilds": placement.rebuilds.iter().map(|(group, node)| json!({"group": group.0, "node": node.0})).collect::<Vec<_>>(),
        "narrow": ids(&placement.narrow),
        "zones": placement.zones,
        "wanted": placement.wanted,
        "draining": placement.draining.iter().map(|left| json!({
            "node": left.node.0,
            "replicas": left.replicas,
            "primaries": left.primaries,
        })).collect::<Vec<_>>(),
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
            leased: unreachable.is_none(),
            draining: false,
            failover_pauses: None,
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
            placement: Some(PlacementStatus {
                acting: Some(NodeId(1)),
                under_replicated: vec![GroupId(1)],
                rebuilds: vec![(GroupId(1), NodeId(4))],
                zones: 2,
                wanted: 3,
                ..PlacementStatus::default()
            }),
        }
    }

    #[test]
    fn golden() {
        let golden = "\
cluster c, map m5

node  address         zone  primaries  replicas  state
───────────────────────────────────────────────────────────
n1    127.0.0.1:7401  -  1         2  up
n3    127.0.0.1:7403  -  ?         ?  unreachable: refused

group  keyspace  mode  slots  epoch  primary  in sync  commit  worst lag             state
──────────────────────────────────────────────────────────────────────────────────────────────────
g1     users     sync   1024      2  n1       n1 n2        40  n2: 3 entries, 30.0 ms  n3 unreachable

short of replicas: g1
g1 is being rebuilt on n4
2 zones for 3 replicas: some replicas of a group share one
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
