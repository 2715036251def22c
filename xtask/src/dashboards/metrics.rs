//! Which metrics there are, as the sources that register them say, and which a query names.
//!
//! Each service registers all its metrics in one file of its own; the check against a real cluster finds one that is registered elsewhere.

use std::collections::BTreeSet;
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Where metrics are registered, and what their names begin with where the source gives only the rest.
const SOURCES: [(&str, &str); 8] = [
    ("router/src/metrics.rs", "fulcrum_router_"),
    ("coordinator/src/metrics.rs", "fulcrum_coordinator_"),
    ("shard-node/src/metrics/mod.rs", "fulcrum_shard_node_"),
    ("shard-node/src/metrics/placement.rs", "fulcrum_placement_"),
    ("common/src/auth/refused.rs", "fulcrum_auth_"),
    ("common/src/auth/guard.rs", "fulcrum_auth_"),
    ("common/src/door/bound.rs", "fulcrum_"),
    ("common/src/tls/refusals.rs", "fulcrum_tls_"),
];
const PREFIX: &str = "fulcrum_";
/// Calls whose first argument is a name.
const REGISTERS: [&str; 4] = ["counter(", "gauge(", "histogram(", "seconds("];
const OF_HISTOGRAMS: [&str; 3] = ["_bucket", "_sum", "_count"];
/// Metrics that stand in no dashboard and no rule.
pub(super) const DEBUGGING: [&str; 1] = ["fulcrum_shard_node_cut_pins"];

/// The metrics of the product.
pub(super) struct Metrics {
    pub(super) names: BTreeSet<String>,
    histograms: BTreeSet<String>,
}

impl Metrics {
    /// Reads the sources.
    pub(super) fn of_sources(root: &Path) -> Result<Self> {
        let mut metrics = Self {
            names: BTreeSet::new(),
            histograms: BTreeSet::new(),
        };
        for (file, prefix) in SOURCES {
            let text = std::fs::read_to_string(root.join(file)).with_context(|| format!("read {file}"))?;
            let product = text.split("#[cfg(test)]").next().unwrap_or_default();
            let before = metrics.names.len();
            metrics.registered(product, prefix);
            if metrics.names.len() == before {
                bail!(
                    "{file} registers no metrics: have they moved? Then name the file in xtask/src/dashboards/metrics.rs"
                );
            }
        }
        Ok(metrics)
    }

    fn registered(&mut self, text: &str, prefix: &str) {
        for call in REGISTERS {
            for (at, _) in text.match_indices(call) {
                let Some(name) = literal(&text[at + call.len()..]) else {
                    continue;
                };
                let name = match name.starts_with(PREFIX) {
                    true => name.to_owned(),
                    false => format!("{prefix}{name}"),
                };
                if matches!(call, "histogram(" | "seconds(") {
                    self.histograms.insert(name.clone());
                }
                self.names.insert(name);
            }
        }
        // Gauges of seconds are registered by hand, under their whole name.
        self.names
            .extend(named(text).into_iter().filter(|name| is_whole(text, name)));
    }

    /// The metric whose series it is; none if nothing registers it.
    pub(super) fn of_series(&self, series: &str) -> Option<&str> {
        if let Some(name) = self.names.get(series) {
            return (!self.histograms.contains(name)).then_some(name);
        }
        let base = OF_HISTOGRAMS.iter().find_map(|end| series.strip_suffix(end))?;
        self.histograms.get(base).map(String::as_str)
    }
}

/// A string that stands first.
fn literal(text: &str) -> Option<&str> {
    let rest = text.trim_start().strip_prefix('"')?;
    let (name, _) = rest.split_once('"')?;
    let is_name = !name.is_empty() && name.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    is_name.then_some(name)
}

/// Whether the name is a string of its own, not part of one.
fn is_whole(text: &str, name: &str) -> bool {
    text.contains(&format!("\"{name}\""))
}

/// Metrics of the product that a text names.
pub(super) fn named(text: &str) -> BTreeSet<String> {
    words(text)
        .filter(|word| word.starts_with(PREFIX))
        .map(str::to_owned)
        .collect()
}

/// Recording rules that a text names: they have colons.
#[cfg(test)]
pub(super) fn recorded(text: &str) -> BTreeSet<String> {
    let is_rule = |word: &&str| word.contains(":fulcrum_");
    words(text).filter(is_rule).map(str::to_owned).collect()
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == ':'))
}
