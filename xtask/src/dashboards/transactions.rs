//! *Transactions*: outcomes and latency, what is under way and in doubt, locks.

use super::panel::{CLUSTER, Dashboard, KEYSPACE, Panel, Row, Unit};
use super::promql::{OF_CLUSTER, OF_KEYSPACE, mean, most, or_zero, quantile, quantile_ever, rate, total};

const LATENCY: &str = "fulcrum_coordinator_transaction_seconds";
const PHASES: &str = "fulcrum_coordinator_phase_seconds";
const IN_DOUBT: &str = "fulcrum_shard_node_transaction_in_doubt_seconds";

pub(super) fn dashboard() -> Dashboard {
    Dashboard {
        uid: "fulcrum-transactions",
        title: "Fulcrum / Transactions",
        about: "Transactions over groups: outcomes, latency by phase, what is in doubt, locks. Coordinators know no keyspaces: the choice of one touches only what nodes tell.",
        variables: &[CLUSTER, KEYSPACE],
        rows: vec![outcomes(), time(), doubt(), locks()],
    }
}

fn outcomes() -> Row {
    let by_cause = |metric, filter| rate("cause", metric, filter);
    Row {
        title: "Outcomes",
        panels: vec![
            Panel::lines(
                "By outcome",
                Unit::PerSecond,
                "Attempts as coordinators ended them: committed, aborted, unknown, refused, cancelled.",
            )
            .ask(
                "{{outcome}}",
                rate("outcome", "fulcrum_coordinator_transactions_total", OF_CLUSTER),
            ),
            Panel::lines(
                "Aborts by cause",
                Unit::PerSecond,
                "conflict, lock_timeout and read_invalidated are run again by clients; condition_failed is an outcome.",
            )
            .ask("{{cause}}", by_cause("fulcrum_coordinator_aborts_total", OF_CLUSTER)),
            Panel::lines(
                "At the groups",
                Unit::PerSecond,
                "Commits recorded in home groups; prepares refused and aborts recorded, by cause.",
            )
            .ask(
                "committed {{keyspace}}",
                rate(
                    "keyspace",
                    "fulcrum_shard_node_transactions_committed_total",
                    OF_KEYSPACE,
                ),
            )
            .ask(
                "aborted: {{cause}}",
                by_cause("fulcrum_shard_node_transactions_aborted_total", OF_KEYSPACE),
            ),
        ],
    }
}

fn time() -> Row {
    Row {
        title: "Time",
        panels: vec![
            Panel::lines(
                "Commit, p50 and p99",
                Unit::Seconds,
                "From the request for a commit to its answer, by outcome.",
            )
            .ask("{{outcome}} p50", quantile("0.5", "outcome", LATENCY, OF_CLUSTER))
            .ask("{{outcome}} p99", quantile("0.99", "outcome", LATENCY, OF_CLUSTER)),
            Panel::lines(
                "Phases, p50",
                Unit::Seconds,
                "prepare: all but the home group; decide: the home group; resolve: after the client was answered.",
            )
            .ask("{{phase}}", quantile("0.5", "phase", PHASES, OF_CLUSTER)),
            Panel::lines("Phases, p99", Unit::Seconds, "1 of 100 took longer.")
                .ask("{{phase}}", quantile("0.99", "phase", PHASES, OF_CLUSTER)),
            Panel::lines(
                "Rounds of a commit",
                Unit::Ratio,
                "Rounds of replication that the client waited for, on average.",
            )
            .ask("rounds", mean("", "fulcrum_coordinator_commit_rounds", OF_CLUSTER)),
            Panel::lines(
                "Groups of a transaction",
                Unit::Ratio,
                "Shard groups touched, on average.",
            )
            .ask("groups", mean("", "fulcrum_coordinator_transaction_groups", OF_CLUSTER)),
            Panel::lines(
                "Done again, or left",
                Unit::PerSecond,
                "Consistent reads that began again, and transactions that were left to groups that did not answer.",
            )
            .ask(
                "reads again",
                rate("", "fulcrum_coordinator_read_repeats_total", OF_CLUSTER),
            )
            .ask(
                "left behind",
                rate("", "fulcrum_coordinator_left_behind_total", OF_CLUSTER),
            ),
        ],
    }
}

fn doubt() -> Row {
    Row {
        title: "Under way and in doubt",
        panels: vec![
            Panel::lines(
                "Under way at coordinators",
                Unit::Count,
                "By where they stand; and reads, and questions that wait for groups.",
            )
            .ask(
                "{{stage}}",
                total("stage", "fulcrum_coordinator_open_transactions", OF_CLUSTER),
            )
            .ask("reads", total("", "fulcrum_coordinator_reads_under_way", OF_CLUSTER))
            .ask("questions", total("", "fulcrum_coordinator_open_questions", OF_CLUSTER)),
            Panel::lines(
                "In doubt at groups",
                Unit::Count,
                "Prepared, and the decision not known there; and committed, and not known to be resolved by all.",
            )
            .ask(
                "in doubt {{keyspace}}",
                total("keyspace", "fulcrum_shard_node_transactions_in_doubt", OF_KEYSPACE),
            )
            .ask(
                "unresolved {{keyspace}}",
                total("keyspace", "fulcrum_shard_node_transactions_unresolved", OF_KEYSPACE),
            ),
            Panel::lines(
                "The oldest",
                Unit::Seconds,
                "In doubt at a group, and undecided at a coordinator. Above 5 s a group has no primary.",
            )
            .ask(
                "in doubt {{keyspace}}",
                most(
                    "keyspace",
                    "fulcrum_shard_node_transactions_in_doubt_oldest_seconds",
                    OF_KEYSPACE,
                ),
            )
            .ask(
                "undecided",
                most("", "fulcrum_coordinator_undecided_oldest_seconds", OF_CLUSTER),
            ),
            Panel::lines(
                "How long in doubt, p99 since the nodes started",
                Unit::Seconds,
                "By who ended it: participant means that the coordinator had gone.",
            )
            .ask("{{by}}", quantile_ever("0.99", "by", IN_DOUBT, OF_KEYSPACE)),
            Panel::number(
                "Contradictions",
                Unit::Count,
                "Aborts told of committed transactions, since the nodes started: 0, always.",
            )
            .ask(
                "contradictions",
                or_zero(&total(
                    "",
                    "fulcrum_shard_node_transaction_contradictions_total",
                    OF_KEYSPACE,
                )),
            ),
        ],
    }
}

fn locks() -> Row {
    Row {
        title: "Locks",
        panels: vec![
            Panel::lines(
                "Waiting for locks, p99 since the nodes started",
                Unit::Seconds,
                "Until tried again, or refused.",
            )
            .ask(
                "{{outcome}}",
                quantile_ever("0.99", "outcome", "fulcrum_shard_node_lock_wait_seconds", OF_KEYSPACE),
            ),
            Panel::lines("Locked keys", Unit::Count, "Of groups that have a primary.").ask(
                "{{keyspace}}",
                total("keyspace", "fulcrum_shard_node_locked_keys", OF_KEYSPACE),
            ),
            Panel::lines(
                "Requests that wait for locks",
                Unit::Count,
                "Older transactions wait, younger ones are aborted.",
            )
            .ask(
                "{{keyspace}}",
                total("keyspace", "fulcrum_shard_node_lock_waiters", OF_KEYSPACE),
            ),
        ],
    }
}
