//! What shard-nodes say of their fsyncs, and a router of its transactions, from `/metrics` as Prometheus would scrape it.

use anyhow::{Context, Result};
use fulcrum_local_cluster::LocalCluster;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Sums over all nodes, since their start.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Fsyncs {
    pub(crate) count: f64,
    pub(crate) seconds: f64,
}

impl Fsyncs {
    /// What came since an earlier look.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            count: self.count - before.count,
            seconds: self.seconds - before.seconds,
        }
    }
}

pub(crate) async fn fsyncs(cluster: &LocalCluster) -> Result<Fsyncs> {
    let mut sum = Fsyncs::default();
    for node in cluster.nodes() {
        let address = cluster.node_metrics_address(node).context("a node serves no metrics")?;
        let text = scrape(address).await?;
        sum.count += sample(&text, "fulcrum_shard_node_fsync_seconds_count")?;
        sum.seconds += sample(&text, "fulcrum_shard_node_fsync_seconds_sum")?;
    }
    Ok(sum)
}

/// Mean time of each phase of a transaction since the router's start, in milliseconds.
pub(crate) async fn phases(router: SocketAddr) -> Result<Vec<(&'static str, f64)>> {
    let text = scrape(router).await?;
    let mean = |phase: &'static str| {
        let of = |what| {
            sample(
                &text,
                &format!("fulcrum_coordinator_phase_seconds_{what}{{phase=\"{phase}\"}}"),
            )
        };
        let (sum, count) = (of("sum")?, of("count")?);
        Ok((phase, sum / count.max(1.0) * 1e3))
    };
    ["prepare", "decide", "resolve"].into_iter().map(mean).collect()
}

async fn scrape(address: SocketAddr) -> Result<String> {
    let mut socket = TcpStream::connect(address).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await?;
    Ok(answer)
}

fn sample(text: &str, name: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.with_context(|| format!("no metric {name}"))?;
    Ok(value.trim().parse()?)
}

#[cfg(test)]
mod tests {
    use super::sample;

    #[test]
    fn samples_are_found_by_their_whole_name() {
        let text = "# HELP a_count x\na_count_more 1\na_count 17\n";
        assert_eq!(sample(text, "a_count").unwrap(), 17.0);
        assert!(sample(text, "b").is_err());
    }
}
