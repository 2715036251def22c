//! The phases of failovers, read from the nodes' own metrics as Prometheus would.

use fulcrum_local_cluster::LocalCluster;
use fulcrum_types::NodeId;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const METRIC: &str = "fulcrum_shard_node_failover_phase_seconds";
const SCRAPE_WITHIN: Duration = Duration::from_secs(2);

/// The phases in their order.
pub(super) const PHASES: [&str; 4] = ["detect", "fence", "catch_up", "first_acknowledgement"];

/// Seconds and number of take-overs, by node, keyspace and phase.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Phases(BTreeMap<(NodeId, String, String), (f64, f64)>);

impl Phases {
    /// What all nodes but one tell; a restarted one counts from zero.
    pub(super) async fn scrape(cluster: &LocalCluster, except: Option<NodeId>) -> Self {
        let mut phases = Phases::default();
        for node in cluster.nodes().filter(|node| Some(*node) != except) {
            let Some(address) = cluster.node_metrics_address(node) else {
                continue;
            };
            if let Some(text) = scrape_text(address).await {
                phases.take(node, &text);
            }
        }
        phases
    }

    fn take(&mut self, node: NodeId, text: &str) {
        for line in text.lines() {
            let Some((kind, rest)) = line.strip_prefix(METRIC).and_then(|rest| rest.split_once('{')) else {
                continue;
            };
            let Some((labels, value)) = rest.rsplit_once("} ") else {
                continue;
            };
            let (Some(keyspace), Some(phase)) = (label(labels, "keyspace"), label(labels, "phase")) else {
                continue;
            };
            let Ok(value) = value.trim().parse::<f64>() else {
                continue;
            };
            let entry = self.0.entry((node, keyspace.to_owned(), phase.to_owned())).or_default();
            match kind {
                "_sum" => entry.0 += value,
                "_count" => entry.1 += value,
                _ => {}
            }
        }
    }

    /// Mean time of a phase over the take-overs since `before`, and their number.
    pub(super) fn mean_since(&self, before: &Phases, keyspace: &str, phase: &str) -> Option<(Duration, u64)> {
        let (mut sum, mut number) = (0.0, 0.0);
        for (key, (now_sum, now_number)) in self.0.iter().filter(|((_, k, p), _)| k == keyspace && p == phase) {
            let (then_sum, then_number) = before.0.get(key).copied().unwrap_or_default();
            sum += now_sum - then_sum;
            number += now_number - then_number;
        }
        if number < 1.0 {
            return None;
        }
        let mean = (sum / number).max(0.0);
        Some((Duration::try_from_secs_f64(mean).ok()?, number as u64))
    }
}

pub(super) fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    labels.split(',').find_map(|pair| {
        let (key, value) = pair.split_once('=')?;
        (key == name).then(|| value.trim_matches('"'))
    })
}

/// What is served at `/metrics` there, if it is in time.
pub(super) async fn scrape_text(address: SocketAddr) -> Option<String> {
    tokio::time::timeout(SCRAPE_WITHIN, scrape(address)).await.ok()?.ok()
}

async fn scrape(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Phases {
        let mut phases = Phases::default();
        phases.take(NodeId(1), text);
        phases
    }

    #[test]
    fn only_take_overs_since_count() {
        let line = |suffix: &str, value: &str| format!("{METRIC}_{suffix}{{keyspace=\"a\",phase=\"fence\"}} {value}\n");
        let before = of(&(line("sum", "3.0") + &line("count", "1")));
        let after = of(&(line("sum", "4.0") + &line("count", "3") + "# HELP x\nnonsense{ 1\n"));
        assert_eq!(
            after.mean_since(&before, "a", "fence"),
            Some((Duration::from_millis(500), 2))
        );
        assert_eq!(after.mean_since(&after.clone(), "a", "fence"), None);
        assert_eq!(after.mean_since(&before, "b", "fence"), None);
        let mut with_the_lost = before.clone();
        with_the_lost.take(NodeId(2), &(line("sum", "9.0") + &line("count", "7")));
        let mean = after.mean_since(&with_the_lost, "a", "fence");
        assert_eq!(
            mean,
            Some((Duration::from_millis(500), 2)),
            "a node that is gone does not count"
        );
    }
}
