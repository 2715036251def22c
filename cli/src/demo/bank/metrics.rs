//! The phases of commits, read from the coordinators' own metrics as Prometheus would.

use crate::demo::phases::{label, scrape_text};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

const METRIC: &str = "fulcrum_coordinator_phase_seconds";

/// The phases in their order: votes are collected; the decision is recorded, and the client answered; participants are told; reads
/// are asked a second time.
pub(super) const PHASES: [&str; 4] = ["prepare", "decide", "resolve", "validate"];

/// Seconds and number, by phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Phases(BTreeMap<String, (f64, f64)>);

impl Phases {
    /// Adds what a coordinator tells; one that does not answer tells nothing.
    pub(super) async fn scrape(&mut self, address: Option<SocketAddr>) {
        let Some(address) = address else { return };
        if let Some(text) = scrape_text(address).await {
            self.take(&text);
        }
    }

    fn take(&mut self, text: &str) {
        for line in text.lines() {
            let Some((kind, rest)) = line.strip_prefix(METRIC).and_then(|rest| rest.split_once('{')) else {
                continue;
            };
            let Some((labels, value)) = rest.rsplit_once("} ") else {
                continue;
            };
            let (Some(phase), Ok(value)) = (label(labels, "phase"), value.trim().parse::<f64>()) else {
                continue;
            };
            let entry = self.0.entry(phase.to_owned()).or_default();
            match kind {
                "_sum" => entry.0 += value,
                "_count" => entry.1 += value,
                _ => {}
            }
        }
    }

    /// Mean time of a phase; none if it never was.
    pub(super) fn mean(&self, phase: &str) -> Option<Duration> {
        let (sum, number) = self.0.get(phase).copied()?;
        if number < 1.0 {
            return None;
        }
        Duration::try_from_secs_f64((sum / number).max(0.0)).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn coordinators_are_added_up() {
        let line = |suffix: &str, value: &str| format!("{METRIC}_{suffix}{{phase=\"prepare\"}} {value}\n");
        let mut phases = Phases::default();
        phases.take(&(line("sum", "3.0") + &line("count", "1")));
        phases.take(&(line("sum", "1.0") + &line("count", "1") + "# HELP x\nnonsense{ 1\n"));
        assert_eq!(phases.mean("prepare"), Some(Duration::from_secs(2)));
        assert_eq!(phases.mean("decide"), None);
    }
}
