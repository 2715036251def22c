//! Closed loops: callers that each send the next request when the last one is answered.

use anyhow::Result;
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What one round came to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) answered: u64,
}

/// Runs `callers` tasks for so long, on the runtime of the caller. `make` gives each task its own requests.
pub(crate) async fn closed_loop<M, C, F>(callers: usize, time: Duration, make: M) -> Result<Load>
where
    M: Fn(usize) -> C,
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let begun = Instant::now();
    let until = begun + time;
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let mut call = make(caller);
        tasks.spawn(async move {
            let mut latencies = Vec::with_capacity(16 * 1024);
            let mut now = Instant::now();
            while now < until {
                call().await?;
                let answered = Instant::now();
                latencies.push(u32::try_from((answered - now).as_micros()).unwrap_or(u32::MAX));
                now = answered;
            }
            anyhow::Ok(latencies)
        });
    }
    let mut latencies = Vec::new();
    while let Some(caller) = tasks.join_next().await {
        latencies.extend(caller??);
    }
    Ok(summary(latencies, begun.elapsed()))
}

fn summary(mut latencies: Vec<u32>, elapsed: Duration) -> Load {
    latencies.sort_unstable();
    let at = |share: f64| {
        let position = (latencies.len() as f64 * share) as usize;
        latencies
            .get(position.min(latencies.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    };
    Load {
        per_second: latencies.len() as f64 / elapsed.as_secs_f64(),
        p50_us: f64::from(at(0.50)),
        p99_us: f64::from(at(0.99)),
        answered: latencies.len() as u64,
    }
}

/// Numbers that look random, the same in every run: which key comes next.
#[derive(Clone, Copy)]
pub(crate) struct Draw(u64);

impl Draw {
    pub(crate) fn new(caller: usize) -> Self {
        Self(caller as u64)
    }

    /// Below `bound`: splitmix64.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles() {
        let load = summary((1..=1000).collect(), Duration::from_secs(2));
        assert_eq!((load.p50_us, load.p99_us, load.per_second), (501.0, 991.0, 500.0));
        assert_eq!(summary(Vec::new(), Duration::from_secs(1)).p99_us, 0.0);
    }
}
