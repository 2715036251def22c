//! Clients: reads at every level that the keyspace serves, puts, conditional puts, deletes, on a few hot keys.

use super::{BOUND, Ground, Scribe, Shared, Told, Write};
use fulcrum_cli::workload::Rng;
use fulcrum_client::{Keyspace, Level, Mode, Version};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Between an answer and the next request, on average.
const PAUSE: Duration = Duration::from_millis(12);
/// A refusal comes quickly: who is refused waits, so that a cluster that refuses is not asked as fast as it can.
const AFTER_FAILURE: Duration = Duration::from_millis(40);

/// Works until the load is over.
pub async fn client(shared: Arc<Shared>, keyspace: Keyspace, ground: Arc<Ground>, number: u64) -> Told {
    let mut rng = Rng::stream(shared.seed, number);
    let levels = levels(ground.mode);
    let level = levels[usize::try_from(number).unwrap_or(0) % levels.len()];
    let mut scribe = Scribe::new(shared.clone(), keyspace, format!("client {number}"));
    let mut versions: BTreeMap<usize, Option<Version>> = BTreeMap::new();
    while !shared.is_over() {
        let at = usize::try_from(rng.below(ground.keys.len() as u64)).unwrap_or(0);
        let place = &ground.keys[at];
        let version = match rng.below(100) {
            0..50 => {
                let found = scribe.read(place, level).await;
                found.map(|found| found.map(|value| value.version))
            }
            50..80 => scribe.write(place, Write::Put).await,
            80..95 => {
                let expected = versions.get(&at).copied().flatten();
                scribe.write(place, Write::Cas(expected)).await
            }
            _ => scribe.write(place, Write::Delete).await,
        };
        match version {
            Some(version) => {
                versions.insert(at, version);
                tokio::time::sleep(PAUSE.mul_f64(0.5 + rng.unit())).await;
            }
            None => tokio::time::sleep(AFTER_FAILURE).await,
        }
    }
    scribe.finish()
}

/// A client reads at one level; a linearizable read is refused in `async`.
fn levels(mode: Mode) -> &'static [Level] {
    const WEAKER: [Level; 3] = [Level::Bounded(BOUND), Level::Session, Level::Eventual];
    const ALL: [Level; 4] = [Level::Linearizable, WEAKER[0], WEAKER[1], WEAKER[2]];
    match mode {
        Mode::Sync => &ALL,
        Mode::Async => &WEAKER,
    }
}
