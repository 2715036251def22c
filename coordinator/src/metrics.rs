//! What a coordinator counts. One registry a service, so that several live in one process.

use fulcrum_common::metrics::{LATENCY_BUCKETS, MetricError, Metrics as Registry};
use fulcrum_two_phase::{Ended, Observation, Status};
use prometheus::{Gauge, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};

const ROUND_BUCKETS: &[f64] = &[0.0, 1.0, 2.0, 3.0, 4.0, 8.0];
const GROUP_BUCKETS: &[f64] = &[1.0, 2.0, 3.0, 4.0, 8.0, 16.0, 32.0];

/// A coordinator's metrics.
#[derive(Debug)]
pub struct Metrics {
    ended: IntCounterVec,
    aborts: IntCounterVec,
    latency: HistogramVec,
    phases: HistogramVec,
    rounds: Histogram,
    groups: Histogram,
    repeats: IntCounter,
    left_behind: IntCounter,
    open: IntGaugeVec,
    reading: IntGauge,
    questions: IntGauge,
    oldest: Gauge,
}

impl Metrics {
    /// Registers them.
    ///
    /// # Errors
    /// A name that is taken or breaks the conventions: a mistake in the program.
    pub fn new(registry: &Registry) -> Result<Self, MetricError> {
        let no_labels: &[&str] = &[];
        let oldest_name = "fulcrum_coordinator_undecided_oldest_seconds";
        let mistake = |error: prometheus::Error| MetricError {
            name: oldest_name.to_owned(),
            reason: error.to_string(),
        };
        let oldest = Gauge::with_opts(Opts::new(
            oldest_name,
            "How long the oldest transaction that is under way here and not decided has been.",
        ))
        .map_err(mistake)?;
        registry
            .registry()
            .register(Box::new(oldest.clone()))
            .map_err(mistake)?;
        Ok(Self {
            ended: registry.counter(
                "fulcrum_coordinator_transactions_total",
                "Transactions ended for their clients: committed, aborted, unknown, refused or cancelled.",
                &["outcome"],
            )?,
            aborts: registry.counter(
                "fulcrum_coordinator_aborts_total",
                "Transactions aborted, by cause.",
                &["cause"],
            )?,
            latency: registry.histogram(
                "fulcrum_coordinator_transaction_seconds",
                "Time from the request for a commit to its answer.",
                &["outcome"],
                LATENCY_BUCKETS,
            )?,
            phases: registry.histogram(
                "fulcrum_coordinator_phase_seconds",
                "Time that a phase of a transaction took.",
                &["phase"],
                LATENCY_BUCKETS,
            )?,
            rounds: registry
                .histogram(
                    "fulcrum_coordinator_commit_rounds",
                    "Rounds of replication that the answer to a committed transaction waited for.",
                    no_labels,
                    ROUND_BUCKETS,
                )?
                .with_label_values(no_labels),
            groups: registry
                .histogram(
                    "fulcrum_coordinator_transaction_groups",
                    "Shard groups that an ended transaction touched.",
                    no_labels,
                    GROUP_BUCKETS,
                )?
                .with_label_values(no_labels),
            repeats: registry
                .counter(
                    "fulcrum_coordinator_read_repeats_total",
                    "Consistent reads that had to begin again: what they read was not of one moment.",
                    no_labels,
                )?
                .with_label_values(no_labels),
            left_behind: registry
                .counter(
                    "fulcrum_coordinator_left_behind_total",
                    "Transactions left to their groups to finish: these did not answer.",
                    no_labels,
                )?
                .with_label_values(no_labels),
            open: registry.gauge(
                "fulcrum_coordinator_open_transactions",
                "Transactions under way here, by where they stand.",
                &["stage"],
            )?,
            reading: registry
                .gauge(
                    "fulcrum_coordinator_reads_under_way",
                    "Reads, validations and look-ups under way here.",
                    no_labels,
                )?
                .with_label_values(no_labels),
            questions: registry
                .gauge(
                    "fulcrum_coordinator_open_questions",
                    "Questions to groups that are not answered.",
                    no_labels,
                )?
                .with_label_values(no_labels),
            oldest,
        })
    }

    /// Counts a fact.
    pub(crate) fn observe(&self, observation: &Observation) {
        match observation {
            Observation::Passed { phase, took } => {
                self.phases
                    .with_label_values(&[phase.name()])
                    .observe(took.as_secs_f64());
            }
            Observation::Ended {
                how,
                participants,
                rounds,
                took,
                ..
            } => {
                let outcome = outcome(how);
                self.ended.with_label_values(&[outcome]).inc();
                self.latency.with_label_values(&[outcome]).observe(took.as_secs_f64());
                self.groups.observe(*participants as f64);
                match how {
                    Ended::Committed => self.rounds.observe(f64::from(*rounds)),
                    Ended::Aborted(cause) => self.aborts.with_label_values(&[cause.name()]).inc(),
                    Ended::Unknown | Ended::Refused | Ended::Cancelled => {}
                }
            }
            Observation::ReadAgain { .. } => self.repeats.inc(),
            Observation::LeftBehind { .. } => self.left_behind.inc(),
        }
    }

    /// Shows what is under way.
    pub(crate) fn status(&self, status: &Status, questions: usize) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        for (stage, count) in [
            ("preparing", status.preparing),
            ("deciding", status.deciding),
            ("resolving", status.resolving),
        ] {
            self.open.with_label_values(&[stage]).set(gauge(count));
        }
        self.reading.set(gauge(status.reading));
        self.questions.set(gauge(questions));
        self.oldest.set(status.oldest_undecided.as_secs_f64());
    }
}

fn outcome(how: &Ended) -> &'static str {
    match how {
        Ended::Committed => "committed",
        Ended::Aborted(_) => "aborted",
        Ended::Unknown => "unknown",
        Ended::Refused => "refused",
        Ended::Cancelled => "cancelled",
    }
}
