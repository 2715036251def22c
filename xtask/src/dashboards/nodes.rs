//! *Nodes*: each shard-node's requests, disk, queues and links; routers' load and watches.

use super::panel::{CLUSTER, Dashboard, INSTANCE, Panel, Row, Unit};
use super::promql::{OF_CLUSTER, OF_INSTANCE, and, mean, quantile, rate, total};

const BY: &str = "instance";
const REQUESTS: &str = "fulcrum_shard_node_request_seconds";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "fulcrum-nodes",
        title: "Fulcrum / Nodes",
        about: "Each shard-node: requests, disk, event loop, queues and links. At the end routers, whose watches and load no node sees, and who was not let in.",
        variables: &[CLUSTER, INSTANCE],
        rows: vec![requests(), disk(), inside(), links(), routers(), doors()],
    }
}

fn requests() -> Row {
    // Watches wait on purpose.
    let quick = and(OF_INSTANCE, r#"operation!="changes""#);
    Row {
        title: "Requests",
        panels: vec![
            Panel::lines("Requests", Unit::PerSecond, "As nodes count them: what a router joined is one.")
                .ask("{{instance}}", rate(BY, &format!("{REQUESTS}_count"), OF_INSTANCE)),
            Panel::lines("Time to the answer, p99", Unit::Seconds, "Within the node, without the steps of watches, which wait on purpose.")
                .ask("{{instance}}", quantile("0.99", BY, REQUESTS, &quick)),
            Panel::lines("By operation", Unit::PerSecond, "get, scan and write; prepare and its like of transactions; changes of watches.")
                .ask("{{operation}}", rate("operation", &format!("{REQUESTS}_count"), OF_INSTANCE)),
            Panel::lines("Refusals by cause", Unit::PerSecond, "What a node refuses a router mostly tries elsewhere: NOT_PRIMARY and CANNOT_SERVE are no failures by themselves.")
                .ask("{{cause}}", rate("cause", "fulcrum_shard_node_refusals_total", OF_INSTANCE)),
            Panel::lines("Proved staleness, p99", Unit::Seconds, "Of what this node answered, by the level achieved.")
                .ask("{{instance}} {{level}}", quantile("0.99", "instance, level", "fulcrum_shard_node_served_staleness_seconds", OF_INSTANCE)),
            Panel::lines("Steps of watches that wait", Unit::Count, "For a change; each counts as a request under way.")
                .ask("{{instance}}", total(BY, "fulcrum_shard_node_watch_steps_waiting", OF_INSTANCE)),
        ],
    }
}

fn disk() -> Row {
    let fsync = "fulcrum_shard_node_fsync_seconds";
    Row {
        title: "Disk",
        panels: vec![
            Panel::lines(
                "Fsync, p50",
                Unit::Seconds,
                "A sync write waits for the slowest replica in sync.",
            )
            .ask("{{instance}}", quantile("0.5", BY, fsync, OF_INSTANCE)),
            Panel::lines(
                "Fsync, p99",
                Unit::Seconds,
                "The alert FulcrumFsyncSlow stands at 100 ms.",
            )
            .ask("{{instance}}", quantile("0.99", BY, fsync, OF_INSTANCE))
            .ask(
                "{{instance}}, 5 minutes",
                format!("instance:fulcrum_fsync_seconds:p99_5m{{{OF_INSTANCE}}}"),
            ),
            Panel::lines("Writes that share an fsync", Unit::Ratio, "What group commit saves.").ask(
                "{{instance}}",
                mean(BY, "fulcrum_shard_node_fsync_operations", OF_INSTANCE),
            ),
            Panel::lines("Handing a batch to the system, p99", Unit::Seconds, "Before the fsync.").ask(
                "{{instance}}",
                quantile("0.99", BY, "fulcrum_shard_node_storage_write_seconds", OF_INSTANCE),
            ),
            Panel::lines("Written and not yet durable", Unit::Bytes, "What waits for an fsync.").ask(
                "{{instance}}",
                total(BY, "fulcrum_shard_node_staged_bytes", OF_INSTANCE),
            ),
            Panel::lines(
                "Disk is healthy",
                Unit::Count,
                "0: an fsync is overdue, and the node gives up what it leads.",
            )
            .ask(
                "{{instance}}",
                total(BY, "fulcrum_shard_node_disk_healthy", OF_INSTANCE),
            ),
        ],
    }
}

fn inside() -> Row {
    Row {
        title: "Event loop and queues",
        panels: vec![
            Panel::lines("Turns", Unit::PerSecond, "Of the event loop.")
                .ask("{{instance}}", rate(BY, "fulcrum_shard_node_turns_total", OF_INSTANCE)),
            Panel::lines(
                "Events in a turn",
                Unit::Ratio,
                "More when there is more to do: what batching saves.",
            )
            .ask(
                "{{instance}}",
                mean(BY, "fulcrum_shard_node_turn_operations", OF_INSTANCE),
            ),
            Panel::lines(
                "Queues",
                Unit::Count,
                "Requests outstanding, and messages that wait to be sent to peers.",
            )
            .ask(
                "{{instance}} {{queue}}",
                total("instance, queue", "fulcrum_shard_node_queue_depth", OF_INSTANCE),
            ),
            Panel::lines(
                "Shed by full queues",
                Unit::PerSecond,
                "Refused early, while that is cheap.",
            )
            .ask(
                "{{instance}} {{queue}}",
                rate("instance, queue", "fulcrum_shard_node_shed_total", OF_INSTANCE),
            ),
        ],
    }
}

fn links() -> Row {
    let by = "instance, peer";
    Row {
        title: "Links",
        panels: vec![
            Panel::lines(
                "Link to a peer is up",
                Unit::Count,
                "0: these two do not hear each other.",
            )
            .ask(
                "{{instance}} to {{peer}}",
                total(by, "fulcrum_shard_node_link_up", OF_INSTANCE),
            ),
            Panel::lines("Messages sent", Unit::PerSecond, "To each peer.").ask(
                "{{instance}} to {{peer}}",
                rate(by, "fulcrum_shard_node_peer_messages_sent_total", OF_INSTANCE),
            ),
            Panel::lines(
                "Messages dropped",
                Unit::PerSecond,
                "Unsent, because a link was down or its queue full. Protocols send again.",
            )
            .ask(
                "{{instance}} to {{peer}}",
                rate(by, "fulcrum_shard_node_peer_messages_dropped_total", OF_INSTANCE),
            ),
        ],
    }
}

fn routers() -> Row {
    Row {
        title: "Routers",
        panels: vec![
            Panel::lines("Requests under way", Unit::Count, "Bounded by router.requests_max.").ask(
                "{{instance}}",
                total(BY, "fulcrum_router_requests_under_way", OF_CLUSTER),
            ),
            Panel::lines("Watches", Unit::Count, "Open watches, and the groups that they follow.")
                .ask(
                    "watches of {{keyspace}}",
                    total("keyspace", "fulcrum_router_watches", OF_CLUSTER),
                )
                .ask("groups", total("", "fulcrum_router_watched_groups", OF_CLUSTER)),
            Panel::lines("Changes given to watches", Unit::PerSecond, "Present values included.").ask(
                "{{keyspace}}",
                rate("keyspace", "fulcrum_router_watch_changes_total", OF_CLUSTER),
            ),
            Panel::lines(
                "Watches that ended, since the routers started",
                Unit::Count,
                "client went away; compacted could not keep up; history_lost saw a failover's loss.",
            )
            .ask(
                "{{keyspace}}: {{cause}}",
                total("keyspace, cause", "fulcrum_router_watches_ended_total", OF_CLUSTER),
            ),
        ],
    }
}

fn doors() -> Row {
    let refused = "fulcrum_auth_refused_total";
    Row {
        title: "At the doors of all processes",
        panels: vec![
            Panel::lines(
                "Calls not let in, by reason",
                Unit::PerSecond,
                "By nodes, routers and coordinators. denied: let in, and lacks a right. Many not_internal: services have different secrets.",
            )
            .ask("{{reason}}", rate("reason", refused, OF_CLUSTER)),
            Panel::lines(
                "Calls not let in, by process",
                Unit::PerSecond,
                "Whose log says who it was.",
            )
            .ask("{{instance}}", rate(BY, refused, OF_CLUSTER)),
        ],
    }
}
