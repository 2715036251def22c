//! *Cluster*: groups and who leads them, how far replicas are behind, failovers and placement.

use super::panel::{CLUSTER, Dashboard, KEYSPACE, Panel, Row, Unit};
use super::promql::{OF_CLUSTER, OF_KEYSPACE, least, most, or_zero, quantile_ever, rate, total};

const PHASES: &str = "fulcrum_shard_node_failover_phase_seconds";
const GROUP: &str = "cluster, keyspace, group";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "fulcrum-cluster",
        title: "Fulcrum / Cluster",
        about: "Groups and their primaries, replicas and how far they are behind, failovers by phase, placement.",
        variables: &[CLUSTER, KEYSPACE],
        rows: vec![now(), groups(), replication(), failovers(), placement()],
    }
}

fn now() -> Row {
    let known = format!("count by ({GROUP}) (fulcrum_shard_node_epoch{{{OF_KEYSPACE}}})");
    let served = format!("group:fulcrum_ready:max{{{OF_KEYSPACE}}} == 1");
    let placement = |metric| most("", metric, OF_CLUSTER);
    Row {
        title: "Now",
        panels: vec![
            Panel::number(
                "Processes up",
                Unit::Count,
                "Shard-nodes, routers and coordinators that answer their scrape.",
            )
            .ask(
                "up",
                format!("sum(up{{{OF_CLUSTER},service=~\"shard-node|router|coordinator\"}})"),
            ),
            Panel::number("Groups", Unit::Count, "Shard groups of which a node holds a replica.")
                .ask("groups", format!("count({known})")),
            Panel::number(
                "Groups without primary",
                Unit::Count,
                "Groups of which no replica is a primary that serves: their writes are refused.",
            )
            .ask(
                "without",
                or_zero(&format!("count({known} unless on ({GROUP}) ({served}))")),
            ),
            Panel::number(
                "Smallest in-sync set",
                Unit::Count,
                "Replicas in sync in the group that has fewest.",
            )
            .ask(
                "in sync",
                format!("min(group:fulcrum_in_sync_replicas:max{{{OF_KEYSPACE}}})"),
            ),
            Panel::number(
                "Groups short of replicas",
                Unit::Count,
                "Fewer living replicas in sync than the keyspace wants.",
            )
            .ask("short", placement("fulcrum_placement_under_replicated_groups")),
            Panel::number(
                "Placement is held",
                Unit::Count,
                "1: groups are short and nothing can be done; the log of the node that acts says why.",
            )
            .ask("held", placement("fulcrum_placement_held")),
        ],
    }
}

fn groups() -> Row {
    Row {
        title: "Groups",
        panels: vec![
            Panel::lines(
                "In-sync replicas",
                Unit::Count,
                "The smallest in-sync set of each keyspace, and how large it has to be for writes.",
            )
            .ask(
                "{{keyspace}}",
                format!("min by (keyspace) (group:fulcrum_in_sync_replicas:max{{{OF_KEYSPACE}}})"),
            )
            .ask(
                "{{keyspace}}, needed",
                most("keyspace", "fulcrum_shard_node_min_in_sync", OF_KEYSPACE),
            ),
            Panel::lines(
                "Epoch",
                Unit::Count,
                "The greatest epoch of each keyspace's groups: it grows with every change of primary.",
            )
            .ask(
                "{{keyspace}}",
                most("keyspace", "fulcrum_shard_node_epoch", OF_KEYSPACE),
            ),
            Panel::lines("Replicas by role", Unit::Count, "Learners are catching up.")
                .ask("{{role}}", total("role", "fulcrum_shard_node_replicas", OF_KEYSPACE)),
            Panel::lines(
                "Groups led, by node",
                Unit::Count,
                "Even, when nothing has failed for a while.",
            )
            .ask(
                "{{instance}}",
                format!("count by (instance) (fulcrum_shard_node_group_ready{{{OF_KEYSPACE}}} == 1)"),
            ),
            Panel::lines("Entries applied", Unit::PerSecond, "By all replicas together.").ask(
                "{{keyspace}}",
                rate("keyspace", "fulcrum_shard_node_applied_entries_total", OF_KEYSPACE),
            ),
            Panel::lines(
                "Version of the cluster map",
                Unit::Count,
                "Least and greatest in force: apart only for a moment.",
            )
            .ask("nodes, least", least("", "fulcrum_shard_node_map_version", OF_CLUSTER))
            .ask(
                "nodes, greatest",
                most("", "fulcrum_shard_node_map_version", OF_CLUSTER),
            )
            .ask("routers, least", least("", "fulcrum_router_map_version", OF_CLUSTER)),
        ],
    }
}

fn replication() -> Row {
    let peer = "keyspace, peer";
    Row {
        title: "Replication",
        panels: vec![
            Panel::lines(
                "Lag, time",
                Unit::Seconds,
                "Longest time that a peer's replicas have been behind the commit index.",
            )
            .ask(
                "{{keyspace}} {{peer}}",
                most(peer, "fulcrum_shard_node_replication_lag_seconds", OF_KEYSPACE),
            ),
            Panel::lines(
                "Lag, entries",
                Unit::Count,
                "Most entries that a replica of a peer is behind.",
            )
            .ask(
                "{{keyspace}} {{peer}}",
                most(peer, "fulcrum_shard_node_replication_lag_entries", OF_KEYSPACE),
            ),
            Panel::lines(
                "Who commits wait for",
                Unit::PerSecond,
                "Groups in which commit waits for this peer only, as sampled once a second.",
            )
            .ask(
                "{{peer}}",
                rate("peer", "fulcrum_shard_node_commit_waits_total", OF_CLUSTER),
            ),
            Panel::lines(
                "In-sync sets change",
                Unit::PerSecond,
                "Replicas taken out for being silent or slow, and let in when they have caught up.",
            )
            .ask("out", rate("", "fulcrum_shard_node_evictions_total", OF_KEYSPACE))
            .ask("in", rate("", "fulcrum_shard_node_admissions_total", OF_KEYSPACE)),
            Panel::lines(
                "Snapshots and rebuilds, since the nodes started",
                Unit::Count,
                "Replicas that were too far behind for the log, or whose data was gone.",
            )
            .ask(
                "snapshots",
                or_zero(&total("", "fulcrum_shard_node_snapshots_total", OF_KEYSPACE)),
            )
            .ask(
                "rebuilds",
                or_zero(&total("", "fulcrum_shard_node_rebuilds_total", OF_KEYSPACE)),
            ),
            Panel::lines(
                "Calls to the metadata store",
                Unit::PerSecond,
                "Only changes and look-ups of configurations. failed and unknown mean that it does not answer.",
            )
            .ask(
                "{{operation}} {{outcome}}",
                rate(
                    "operation, outcome",
                    "fulcrum_shard_node_metadata_calls_total",
                    OF_CLUSTER,
                ),
            ),
        ],
    }
}

fn failovers() -> Row {
    Row {
        title: "Failovers",
        panels: vec![
            Panel::lines(
                "Phases, p50 since the nodes started",
                Unit::Seconds,
                "detect, fence, catch_up, first_acknowledgement of all take-overs, the first of a group included.",
            )
            .ask("{{phase}}", quantile_ever("0.5", "phase", PHASES, OF_KEYSPACE)),
            Panel::lines(
                "Phases, p95 since the nodes started",
                Unit::Seconds,
                "fulcrum failover budget says which waits add up to it.",
            )
            .ask("{{phase}}", quantile_ever("0.95", "phase", PHASES, OF_KEYSPACE)),
            Panel::lines(
                "Roles taken",
                Unit::PerSecond,
                "Replicas that became primary, backup or learner.",
            )
            .ask(
                "{{role}}",
                rate("role", "fulcrum_shard_node_role_changes_total", OF_KEYSPACE),
            ),
        ],
    }
}

fn placement() -> Row {
    let seen = |metric| most("", metric, OF_CLUSTER);
    Row {
        title: "Placement",
        panels: vec![
            Panel::lines("What placement sees", Unit::Count, "Told by the one node that acts.")
                .ask(
                    "groups that are short",
                    seen("fulcrum_placement_under_replicated_groups"),
                )
                .ask("rebuilds under way", seen("fulcrum_placement_rebuilds_running"))
                .ask("nodes being emptied", seen("fulcrum_placement_draining_nodes")),
            Panel::lines(
                "What placement does, since the nodes started",
                Unit::Count,
                "rebuild adds a replica, remove takes one out, release lets data go, hand_over moves a primary.",
            )
            .ask(
                "{{change}}",
                or_zero(&total("change", "fulcrum_placement_changes_total", OF_CLUSTER)),
            )
            .ask(
                "rebuilds done",
                or_zero(&total("", "fulcrum_placement_rebuilds_done_total", OF_CLUSTER)),
            ),
            Panel::lines("Who acts", Unit::Count, "1 at one node.")
                .ask("{{instance}}", most("instance", "fulcrum_placement_acting", OF_CLUSTER)),
        ],
    }
}
