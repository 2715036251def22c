//! Random schedules by seed: faults of all kinds, some of them at once.
//!
//! A schedule leaves a majority of nodes alone at any time: at most two nodes are hurt at once, of five; and etcd or a router besides.

use crate::faults::{Fault, Others, Way, Whom};
use crate::scenario::{Event, Plan};
use fulcrum_cli::workload::Rng;
use std::time::Duration;

const FIRST_AT: u64 = 800;
/// After the last fault, so that what it has left is met under load.
const CALM: u64 = 3_000;

/// A schedule for so much load.
#[must_use]
pub fn random(rng: &mut Rng, load: Duration) -> Plan {
    let end = u64::try_from(load.as_millis()).unwrap_or(u64::MAX).saturating_sub(CALM);
    let mut events = Vec::new();
    // Two series, each with one fault at a time.
    for whom in [Whom::Primary, Whom::Backup] {
        let mut at = FIRST_AT + rng.below(1_500);
        while at < end {
            let lasts = 300 + rng.below(3_200);
            events.push(Event {
                at: Duration::from_millis(at),
                fault: fault(rng),
                whom,
                lasts: Some(Duration::from_millis(lasts.min(end + CALM / 2 - at))),
            });
            at += lasts + 400 + rng.below(2_500);
        }
    }
    let whom = [Whom::Router, Whom::Etcd][usize::try_from(rng.below(2)).unwrap_or(0)];
    events.push(Event {
        at: Duration::from_millis(FIRST_AT + rng.below(end.saturating_sub(FIRST_AT).max(1))),
        fault: Fault::Kill,
        whom,
        lasts: Some(Duration::from_millis(500 + rng.below(1_500))),
    });
    Plan { events, load }
}

fn fault(rng: &mut Rng) -> Fault {
    let way = [Way::Both, Way::In, Way::Out][usize::try_from(rng.below(3)).unwrap_or(0)];
    match rng.below(11) {
        0 | 1 => Fault::Kill,
        2 | 3 => Fault::Pause,
        4 => Fault::Cut(Others::All, way),
        5 => Fault::Cut(Others::Nodes, way),
        6 => Fault::Cut(Others::SomeNodes, way),
        7 => Fault::Cut(Others::Etcd, way),
        8 => Fault::StallSync,
        9 => Fault::Drain,
        _ => Fault::KillUnheard,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_two_nodes_are_hurt_at_once_and_all_is_healed_before_the_end() {
        let load = Duration::from_secs(14);
        for seed in 0..200 {
            let plan = random(&mut Rng::new(seed), load);
            let end = |event: &Event| event.at + event.lasts.unwrap_or(load);
            assert!(plan.events.iter().all(|event| end(event) < load), "{seed}");
            for event in &plan.events {
                let nodes = plan
                    .events
                    .iter()
                    .filter(|other| matches!(other.whom, Whom::Primary | Whom::Backup));
                let at_once = nodes.filter(|other| other.at <= event.at && event.at < end(other));
                assert!(at_once.count() <= 2, "{seed}: {event:?}");
            }
        }
    }
}
