//! Closed loops: callers that each send the next request when the last one is answered.

use crate::process::cpu_seconds;
use anyhow::Result;
use serde::{Deserialize, Serialize};
use std::future::Future;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What one round came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Load {
    pub(crate) per_second: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) answered: u64,
    /// CPU time of the whole process, servers included, for one answer.
    pub(crate) cpu_us: f64,
}

/// Runs `callers` tasks for so long, on the runtime of the caller. `make` gives each task its own requests.
pub(crate) async fn closed_loop<M, C, F>(callers: usize, time: Duration, make: M) -> Result<Load>
where
    M: Fn(usize) -> C,
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<()>> + Send,
{
    let stopwatch = Stopwatch::start();
    let until = stopwatch.begun + time;
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
    let answered = latencies.len() as u64;
    Ok(with_latencies(stopwatch.stop(answered), latencies))
}

/// Time and CPU time of a round.
pub(crate) struct Stopwatch {
    begun: Instant,
    cpu: f64,
}

impl Stopwatch {
    pub(crate) fn start() -> Self {
        Self {
            begun: Instant::now(),
            cpu: cpu_seconds(),
        }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn stop(&self, answered: u64) -> Load {
        let answers = answered.max(1) as f64;
        Load {
            per_second: answered as f64 / self.elapsed().as_secs_f64(),
            answered,
            cpu_us: (cpu_seconds() - self.cpu) * 1e6 / answers,
            ..Load::default()
        }
    }
}

fn with_latencies(load: Load, mut latencies: Vec<u32>) -> Load {
    latencies.sort_unstable();
    let at = |share: f64| {
        let position = (latencies.len() as f64 * share) as usize;
        let position = position.min(latencies.len().saturating_sub(1));
        latencies.get(position).copied().unwrap_or(0)
    };
    Load {
        p50_us: f64::from(at(0.50)),
        p99_us: f64::from(at(0.99)),
        ..load
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
        let load = with_latencies(Load::default(), (1..=1000).rev().collect());
        assert_eq!((load.p50_us, load.p99_us), (501.0, 991.0));
        assert_eq!(with_latencies(Load::default(), Vec::new()).p99_us, 0.0);
    }
}
