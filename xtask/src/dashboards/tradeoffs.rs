//! *Trade-offs*: what each mode and level costs, and what it gets: latency, availability, staleness, loss.

use super::panel::{CLUSTER, Dashboard, KEYSPACE, Panel, Row, Unit};
use super::promql::{
    OF_CLUSTER, OF_KEYSPACE, and, mean, or_zero, quantile, quantile_overall, rate, rate_overall, total,
};

const LATENCY: &str = "fulcrum_router_request_duration_seconds";
const REQUESTS: &str = "fulcrum_router_requests_total";
const STALENESS: &str = "fulcrum_router_served_staleness_seconds";
/// A caller's mistake, or a transaction in the way of another, is no unavailability.
const SHOULD_DO: &str = r#"outcome!~"reject|abort""#;
const DONE: &str = r#"outcome="ok""#;
const BY: &str = "mode, level";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "fulcrum-trade-offs",
        title: "Fulcrum / Trade-offs",
        about: "What each mode of a keyspace and each level of a read costs and gets: latency against availability against staleness.",
        variables: &[CLUSTER, KEYSPACE],
        rows: vec![
            side_by_side(),
            latency(),
            availability(),
            staleness(),
            coordination(),
            loss(),
        ],
    }
}

fn side_by_side() -> Row {
    let requests = |condition| rate_overall(BY, REQUESTS, &and(OF_KEYSPACE, condition));
    let available = format!("{} / {}", requests(DONE), requests(SHOULD_DO));
    let table = Panel::table(
        "The choices, side by side",
        "Of all requests in the time looked at, as routers saw them. Writes have no level, and prove nothing of staleness.",
    )
    .column("requests", Unit::PerSecond, rate_overall(BY, REQUESTS, OF_KEYSPACE))
    .column("p50", Unit::Seconds, quantile_overall("0.5", BY, LATENCY, OF_KEYSPACE))
    .column("p99", Unit::Seconds, quantile_overall("0.99", BY, LATENCY, OF_KEYSPACE))
    .column("available", Unit::Share, available)
    .column("stale p50", Unit::Seconds, quantile_overall("0.5", BY, STALENESS, OF_KEYSPACE))
    .column("stale p99", Unit::Seconds, quantile_overall("0.99", BY, STALENESS, OF_KEYSPACE));
    Row {
        title: "Side by side",
        panels: vec![table],
    }
}

fn latency() -> Row {
    let reads = and(OF_KEYSPACE, r#"operation=~"get|scan""#);
    let writes = and(OF_KEYSPACE, r#"level="write""#);
    let half_of_writes = |mode: &str| quantile("0.5", "", LATENCY, &and(&writes, &format!("mode=\"{mode}\"")));
    Row {
        title: "Latency",
        panels: vec![
            Panel::lines(
                "Reads, p50",
                Unit::Seconds,
                "Half of the reads were answered within this time, retries included.",
            )
            .ask("{{mode}} {{level}}", quantile("0.5", BY, LATENCY, &reads)),
            Panel::lines(
                "Reads, p99",
                Unit::Seconds,
                "1 of 100 reads took longer, retries included.",
            )
            .ask("{{mode}} {{level}}", quantile("0.99", BY, LATENCY, &reads)),
            Panel::lines(
                "Writes, p50 and p99",
                Unit::Seconds,
                "A sync write waits for every replica in sync, an async one for the primary's disk.",
            )
            .ask("{{mode}} p50", quantile("0.5", "mode", LATENCY, &writes))
            .ask("{{mode}} p99", quantile("0.99", "mode", LATENCY, &writes)),
            Panel::lines(
                "What sync costs a write",
                Unit::Ratio,
                "Median of sync writes divided by that of async writes, where there are both.",
            )
            .ask(
                "sync / async",
                format!("{} / {}", half_of_writes("sync"), half_of_writes("async")),
            ),
            Panel::lines(
                "Requests",
                Unit::PerSecond,
                "What was asked for, refused or not; of a joint every operation counts.",
            )
            .ask("{{mode}} {{level}}", rate(BY, REQUESTS, OF_KEYSPACE)),
            Panel::lines(
                "Share within 100 ms",
                Unit::Share,
                "The objective of the alert FulcrumLatencyBudgetBurns is 99 %.",
            )
            .ask(
                "{{cluster}}",
                format!("1 - cluster:fulcrum_slow_requests:ratio_rate5m{{{OF_CLUSTER}}}"),
            ),
        ],
    }
}

fn availability() -> Row {
    let requests = |condition| rate(BY, REQUESTS, &and(OF_KEYSPACE, condition));
    let by_keyspace = "keyspace, mode";
    Row {
        title: "Availability",
        panels: vec![
            Panel::lines("Requests answered", Unit::Share, "Of those that should have been: mistakes of callers and aborted transactions are not counted.")
                .ask("{{mode}} {{level}}", format!("{} / {}", requests(DONE), requests(SHOULD_DO))),
            Panel::lines("Refusals by cause", Unit::PerSecond, "What finally failed. The runbook of FulcrumRefusals says what each cause means.")
                .ask("{{mode}} {{cause}}", rate("mode, cause", "fulcrum_router_refusals_total", OF_KEYSPACE)),
            Panel::lines("Refusals by keyspace", Unit::Share, "Share of the requests of 5 minutes that were refused for want of something that the cluster should have had.")
                .ask("{{keyspace}} {{cause}}", format!("keyspace_cause:fulcrum_refusals:ratio_rate5m{{{OF_KEYSPACE}}}")),
            Panel::lines("Retries", Unit::PerSecond, "Attempts of routers beyond the first: what clients do not see of a failover.")
                .ask("{{keyspace}} ({{mode}})", rate(by_keyspace, "fulcrum_router_retries_total", OF_KEYSPACE)),
            Panel::lines("Served at a weaker level", Unit::PerSecond, "Reads whose level could not be served, and that listed a weaker one as acceptable. By the level asked.")
                .ask("{{mode}} {{level}}", rate(BY, "fulcrum_router_downgrades_total", OF_KEYSPACE)),
            Panel::lines("Requests by outcome", Unit::PerSecond, "ok, or who must act: retry (the client, again), reject (the caller), unknown (look it up), operator.")
                .ask("{{outcome}}", rate("outcome", REQUESTS, OF_KEYSPACE)),
            Panel::lines("Receipts violated, since the routers started", Unit::Count, "Answers that routers withheld, for their receipts did not hold what was asked. In all keyspaces: 0, always.")
                .ask("{{reason}}", total("reason", "fulcrum_router_receipts_violated_total", OF_CLUSTER)),
        ],
    }
}

fn staleness() -> Row {
    let fresh = rate(BY, &format!("{STALENESS}_bucket"), &and(OF_KEYSPACE, r#"le="0.01""#));
    let all = rate(BY, &format!("{STALENESS}_count"), OF_KEYSPACE);
    Row {
        title: "Staleness",
        panels: vec![
            Panel::lines(
                "Proved staleness, p50",
                Unit::Seconds,
                "Half of the reads were proved to be at most this much behind; the proof is in the receipt.",
            )
            .ask("{{mode}} {{level}}", quantile("0.5", BY, STALENESS, OF_KEYSPACE)),
            Panel::lines(
                "Proved staleness, p99",
                Unit::Seconds,
                "1 of 100 reads could only prove more.",
            )
            .ask("{{mode}} {{level}}", quantile("0.99", BY, STALENESS, OF_KEYSPACE)),
            Panel::lines(
                "Reads at most 10 ms behind",
                Unit::Share,
                "Share of reads that proved it.",
            )
            .ask("{{mode}} {{level}}", format!("{fresh} / {all}")),
        ],
    }
}

fn coordination() -> Row {
    let writes = rate("", REQUESTS, &and(OF_CLUSTER, r#"level="write",outcome="ok""#));
    let per_write = |metric| format!("{} / {writes}", rate("", metric, OF_CLUSTER));
    Row {
        title: "What coordination costs",
        panels: vec![
            Panel::lines("Per write of one key", Unit::Ratio, "Fsyncs of all nodes, and messages between nodes, divided by writes: group commit and batches make it less than the replicas.")
                .ask("fsyncs", per_write("fulcrum_shard_node_fsync_seconds_count"))
                .ask("messages", per_write("fulcrum_shard_node_peer_messages_sent_total")),
            Panel::lines("Per transaction", Unit::Ratio, "Rounds of replication that a commit waited for, and groups that it touched: 1 group is 1 round, several are 2.")
                .ask("rounds", mean("", "fulcrum_coordinator_commit_rounds", OF_CLUSTER))
                .ask("groups", mean("", "fulcrum_coordinator_transaction_groups", OF_CLUSTER)),
            Panel::lines("Transaction beside single write, p50", Unit::Seconds, "What it costs to write several keys at one moment.")
                .ask("transaction", quantile("0.5", "", "fulcrum_coordinator_transaction_seconds", &and(OF_CLUSTER, r#"outcome="committed""#)))
                .ask("sync write", quantile("0.5", "", LATENCY, &and(OF_CLUSTER, r#"level="write",mode="sync""#))),
        ],
    }
}

fn loss() -> Row {
    let lost = "fulcrum_shard_node_acknowledged_lost_entries_total";
    let diverged = "fulcrum_shard_node_diverged_entries_total";
    Row {
        title: "Measured loss, since the nodes started",
        panels: vec![
            Panel::number("Acknowledged writes lost", Unit::Count, "Entries that had been acknowledged, or may have been, and that the surviving history lacks. 0 in sync keyspaces.")
                .ask("lost", or_zero(&total("", lost, OF_KEYSPACE))),
            Panel::number("Entries that diverged", Unit::Count, "Entries that the surviving history lacks, acknowledged or not: all of them are in loss certificates.")
                .ask("diverged", or_zero(&total("", diverged, OF_KEYSPACE))),
            Panel::lines("Acknowledged writes lost, by keyspace", Unit::Count, "fulcrum failover report names every one, fulcrum failover replay writes back what it can.")
                .ask("{{keyspace}}", or_zero(&total("keyspace", lost, OF_KEYSPACE))),
            Panel::lines("Loss certificates", Unit::Count, "One for each failover of a group of an async keyspace, whether or not something was lost.")
                .ask("{{keyspace}}", total("keyspace", "fulcrum_shard_node_loss_certificates_total", OF_KEYSPACE)),
        ],
    }
}
