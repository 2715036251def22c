//! The few shapes of question that the panels ask, so that each panel says only what is its own.
//!
//! Counters are asked for their rate over what Grafana finds right for the scrape interval; losses and failovers, which are rare, for their sum since the
//! nodes started: a counter that is born with its first event has no rate.

/// Series of the chosen clusters.
pub(super) const OF_CLUSTER: &str = r#"cluster=~"$cluster""#;
/// Series of the chosen keyspaces.
pub(super) const OF_KEYSPACE: &str = r#"cluster=~"$cluster",keyspace=~"$keyspace""#;
/// Series of the chosen nodes.
pub(super) const OF_INSTANCE: &str = r#"cluster=~"$cluster",instance=~"$instance""#;

/// A window as long as a rate needs.
const MOMENT: &str = "$__rate_interval";
/// All that is looked at.
const ALL_OF_IT: &str = "$__range";

/// A filter and one more condition.
pub(super) fn and(filter: &str, condition: &str) -> String {
    format!("{filter},{condition}")
}

fn rate_in(window: &str, by: &str, metric: &str, filter: &str) -> String {
    format!("sum by ({by}) (rate({metric}{{{filter}}}[{window}]))")
}

/// Events per second.
pub(super) fn rate(by: &str, metric: &str, filter: &str) -> String {
    rate_in(MOMENT, by, metric, filter)
}

/// Events per second, in all that is looked at.
pub(super) fn rate_overall(by: &str, metric: &str, filter: &str) -> String {
    rate_in(ALL_OF_IT, by, metric, filter)
}

/// The bounds of buckets are kept, whatever else is.
fn with_le(by: &str) -> String {
    match by {
        "" => "le".to_owned(),
        by => format!("{by}, le"),
    }
}

fn quantile_in(window: &str, part: &str, by: &str, histogram: &str, filter: &str) -> String {
    let buckets = rate_in(window, &with_le(by), &format!("{histogram}_bucket"), filter);
    format!("histogram_quantile({part}, {buckets})")
}

/// What that part of the observations is below.
pub(super) fn quantile(part: &str, by: &str, histogram: &str, filter: &str) -> String {
    quantile_in(MOMENT, part, by, histogram, filter)
}

/// The same, of all that is looked at.
pub(super) fn quantile_overall(part: &str, by: &str, histogram: &str, filter: &str) -> String {
    quantile_in(ALL_OF_IT, part, by, histogram, filter)
}

/// The same, since the processes started.
pub(super) fn quantile_ever(part: &str, by: &str, histogram: &str, filter: &str) -> String {
    let buckets = total(&with_le(by), &format!("{histogram}_bucket"), filter);
    format!("histogram_quantile({part}, {buckets})")
}

/// Mean of the observations.
pub(super) fn mean(by: &str, histogram: &str, filter: &str) -> String {
    let part = |what: &str| rate(by, &format!("{histogram}_{what}"), filter);
    format!("{} / {}", part("sum"), part("count"))
}

/// Sum of what is now, or of what has been counted since the processes started.
pub(super) fn total(by: &str, metric: &str, filter: &str) -> String {
    format!("sum by ({by}) ({metric}{{{filter}}})")
}

/// The greatest of what is now.
pub(super) fn most(by: &str, metric: &str, filter: &str) -> String {
    format!("max by ({by}) ({metric}{{{filter}}})")
}

/// The least of what is now.
pub(super) fn least(by: &str, metric: &str, filter: &str) -> String {
    format!("min by ({by}) ({metric}{{{filter}}})")
}

/// None is 0: of what is counted only once it has happened.
pub(super) fn or_zero(expr: &str) -> String {
    format!("{expr} or on () vector(0)")
}
