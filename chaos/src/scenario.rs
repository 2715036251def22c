//! The scenarios: which faults, when, and what must hold beside the promises, which hold in all of them.
//!
//! What a run does is decided by its seed: moments vary a little, so that many runs meet many moments of the protocol. The threads of
//! several processes are not decided by a seed: a replayed seed does the same at the same time, and mostly finds the same.

use crate::backend::{Ability, MachineFault};
use crate::faults::{Fault, Others, Way, Whom};
use crate::schedule;
use fulcrum_cli::workload::Rng;
use fulcrum_types::NodeId;
use std::time::Duration;

/// A fault in its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// From the beginning of the load.
    pub at: Duration,
    /// What is done.
    pub fault: Fault,
    /// To whom.
    pub whom: Whom,
    /// Until it is ended; none: only when the load is over.
    pub lasts: Option<Duration>,
}

/// What is done in a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Faults, by time.
    pub events: Vec<Event>,
    /// How long clients ask, at least.
    pub load: Duration,
}

/// What must hold beside the promises.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Bars {
    /// From the fault to the first acknowledged write of every group whose primary was hit.
    pub first_ack: Option<Duration>,
    /// The longest time in which a group acknowledged no write.
    pub pause: Option<Duration>,
    /// No request fails.
    pub no_failure: bool,
    /// No group gets another primary.
    pub no_failover: bool,
}

/// One of them.
#[derive(Clone, Copy)]
pub struct Scenario {
    /// As it is asked for.
    pub name: &'static str,
    /// In a line.
    pub about: &'static str,
    /// What a backend must be able to do.
    pub needs: &'static [Ability],
    /// What must hold.
    pub bars: Bars,
    plan: fn(&mut Rng, &Shape) -> Plan,
    /// Certificates may stay open: a disk is gone.
    pub loses_disks: bool,
}

/// What plans depend on.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Shard-nodes.
    pub nodes: u64,
    /// How long clients ask, if somebody has said so.
    pub run_time: Option<Duration>,
}

const fn ms(time: u64) -> Duration {
    Duration::from_millis(time)
}

const NONE: Bars = Bars {
    first_ack: None,
    pause: None,
    no_failure: false,
    no_failover: false,
};
const AFTER_KILL: Bars = Bars {
    first_ack: Some(ms(3_000)),
    ..NONE
};
const AFTER_SILENCE: Bars = Bars {
    first_ack: Some(ms(5_000)),
    ..NONE
};

/// All of them.
pub const ALL: &[Scenario] = &[
    scenario(
        "kill-primary",
        "SIGKILL of a primary, started again later",
        &[],
        AFTER_KILL,
        kill_primary,
    ),
    scenario(
        "pause-long",
        "SIGSTOP of a primary for longer than its lease",
        &[],
        AFTER_SILENCE,
        pause_long,
    ),
    Scenario {
        bars: Bars {
            no_failover: true,
            ..NONE
        },
        ..scenario(
            "short-stalls",
            "SIGSTOPs shorter than the lease, again and again, of everybody in turn",
            &[],
            NONE,
            short_stalls,
        )
    },
    scenario(
        "blackhole",
        "a primary is cut off from everybody",
        CUT,
        AFTER_SILENCE,
        blackhole,
    ),
    scenario(
        "cut-peers",
        "a primary is cut off from the other nodes, not from etcd and routers",
        CUT,
        // In `async` it may go on for as long as its lease lasts, so that there is no one moment to count from.
        Bars {
            pause: Some(ms(5_000)),
            ..NONE
        },
        cut_peers,
    ),
    scenario(
        "cut-some",
        "a primary is cut off from some of the other nodes",
        CUT,
        NONE,
        cut_some,
    ),
    scenario(
        "one-way",
        "a primary is not heard by the other nodes, or hears nothing from them",
        CUT,
        NONE,
        one_way,
    ),
    Scenario {
        bars: Bars {
            no_failover: true,
            ..NONE
        },
        ..scenario("cut-etcd", "a primary is cut off from etcd alone", CUT, NONE, cut_etcd)
    },
    scenario(
        "cut-routers",
        "a primary is cut off from the routers alone",
        CUT,
        NONE,
        cut_routers,
    ),
    Scenario {
        bars: Bars {
            no_failure: true,
            no_failover: true,
            ..NONE
        },
        ..scenario(
            "etcd-down",
            "etcd is down for 60 s, and nothing else happens",
            &[],
            NONE,
            etcd_down,
        )
    },
    scenario(
        "disk-full",
        "the disk of a primary is full",
        &[Ability::Fill],
        NONE,
        disk_full,
    ),
    scenario(
        "fsync-stall",
        "the fsyncs of a primary hang for 4 s",
        FAILPOINTS,
        AFTER_SILENCE,
        fsync_stall,
    ),
    scenario(
        "fsync-error",
        "an fsync of a primary fails",
        FAILPOINTS,
        AFTER_SILENCE,
        fsync_error,
    ),
    scenario(
        "slow-links",
        "all links of a primary are slow",
        &[Ability::Delay],
        NONE,
        slow_links,
    ),
    Scenario {
        bars: Bars {
            no_failover: true,
            ..NONE
        },
        ..scenario(
            "clock-jump",
            "the wall clock of a primary jumps by hours, there and back",
            FAILPOINTS,
            NONE,
            clock_jump,
        )
    },
    Scenario {
        bars: PLANNED,
        ..scenario("drain", "SIGTERM of a primary, which hands over", &[], NONE, drain)
    },
    Scenario {
        bars: PLANNED,
        ..scenario(
            "rolling-restart",
            "SIGTERM and start of one node after the other",
            &[],
            NONE,
            rolling_restart,
        )
    },
    scenario(
        "kill-catching-up",
        "a node is killed while it catches up, then its primary",
        &[],
        NONE,
        kill_catching_up,
    ),
    scenario(
        "kill-router",
        "SIGKILL of a router with its coordinator, in the middle of commits",
        &[],
        NONE,
        kill_router,
    ),
    scenario(
        "async-tail",
        "a primary acknowledges unheard by its backups, then dies",
        UNHEARD,
        AFTER_KILL,
        async_tail,
    ),
    Scenario {
        loses_disks: true,
        ..scenario(
            "lost-disk",
            "the same, and its disk never comes back",
            CUT,
            AFTER_KILL,
            lost_disk,
        )
    },
    scenario(
        "random",
        "faults of all kinds at random times, some at once",
        UNHEARD,
        NONE,
        random,
    ),
    scenario(
        "machine-pause",
        "the machine of a primary stands still, with all that is on it",
        MACHINES,
        AFTER_SILENCE,
        machine_pause,
    ),
    scenario(
        "machine-restart",
        "the machine of a primary breaks down, with all that is on it, and is started again",
        MACHINES,
        AFTER_SILENCE,
        machine_restart,
    ),
    Scenario {
        bars: Bars {
            no_failure: true,
            ..NONE
        },
        ..scenario(
            "machine-drain",
            "the machine of a primary is emptied, as before maintenance",
            MACHINES,
            NONE,
            machine_drain,
        )
    },
    Scenario {
        bars: PLANNED,
        ..scenario(
            "rollout",
            "all nodes are replaced in turn, then all routers, as by an upgrade",
            &[Ability::Rollouts],
            NONE,
            rollout,
        )
    },
];

/// Of what is done on purpose and in good order.
const PLANNED: Bars = Bars {
    pause: Some(ms(200)),
    no_failure: true,
    ..NONE
};
const CUT: &[Ability] = &[Ability::Cut];
const FAILPOINTS: &[Ability] = &[Ability::Failpoints];
const UNHEARD: &[Ability] = &[Ability::Cut, Ability::Unheard];
const MACHINES: &[Ability] = &[Ability::Machines];

const fn scenario(
    name: &'static str,
    about: &'static str,
    needs: &'static [Ability],
    bars: Bars,
    plan: fn(&mut Rng, &Shape) -> Plan,
) -> Scenario {
    Scenario {
        name,
        about,
        needs,
        bars,
        plan,
        loses_disks: false,
    }
}

impl Scenario {
    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.iter().find(|scenario| scenario.name == name).copied()
    }

    /// What a run of this seed does.
    #[must_use]
    pub fn plan(&self, seed: u64, shape: &Shape) -> Plan {
        let mut plan = (self.plan)(&mut Rng::new(seed), shape);
        plan.events.sort_by_key(|event| event.at);
        plan
    }
}

/// A moment that differs from seed to seed.
fn about(rng: &mut Rng, time: Duration) -> Duration {
    time + ms(rng.below(600))
}

fn once(rng: &mut Rng, fault: Fault, whom: Whom, lasts: Duration, load: Duration) -> Plan {
    let event = Event {
        at: about(rng, ms(1_200)),
        fault,
        whom,
        lasts: Some(lasts),
    };
    Plan {
        events: vec![event],
        load,
    }
}

fn kill_primary(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::Kill, Whom::Primary, ms(4_000), ms(8_000))
}

fn pause_long(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::Pause, Whom::Primary, ms(4_500), ms(8_500))
}

fn short_stalls(rng: &mut Rng, shape: &Shape) -> Plan {
    let load = shape.run_time.unwrap_or(ms(10_000));
    let mut events = Vec::new();
    let mut at = about(rng, ms(500));
    let mut turn = rng.below(shape.nodes);
    while at + ms(1_500) < load {
        events.push(Event {
            at,
            fault: Fault::Pause,
            whom: Whom::Node(NodeId(turn % shape.nodes + 1)),
            lasts: Some(ms(200 + rng.below(200))),
        });
        turn += 1;
        at += ms(1_000 + rng.below(600));
    }
    Plan { events, load }
}

fn blackhole(rng: &mut Rng, _: &Shape) -> Plan {
    once(
        rng,
        Fault::Cut(Others::All, Way::Both),
        Whom::Primary,
        ms(4_500),
        ms(8_500),
    )
}

fn cut_peers(rng: &mut Rng, _: &Shape) -> Plan {
    once(
        rng,
        Fault::Cut(Others::Nodes, Way::Both),
        Whom::Primary,
        ms(4_500),
        ms(8_500),
    )
}

fn cut_some(rng: &mut Rng, _: &Shape) -> Plan {
    once(
        rng,
        Fault::Cut(Others::SomeNodes, Way::Both),
        Whom::Primary,
        ms(4_500),
        ms(8_500),
    )
}

fn one_way(rng: &mut Rng, _: &Shape) -> Plan {
    let way = match rng.below(2) {
        0 => Way::Out,
        _ => Way::In,
    };
    once(rng, Fault::Cut(Others::Nodes, way), Whom::Primary, ms(4_500), ms(8_500))
}

fn cut_etcd(rng: &mut Rng, _: &Shape) -> Plan {
    // Longer than the lease of a node at the metadata store, 10 s.
    once(
        rng,
        Fault::Cut(Others::Etcd, Way::Both),
        Whom::Primary,
        ms(12_000),
        ms(15_000),
    )
}

fn cut_routers(rng: &mut Rng, _: &Shape) -> Plan {
    once(
        rng,
        Fault::Cut(Others::Routers, Way::Both),
        Whom::Primary,
        ms(3_500),
        ms(8_000),
    )
}

fn etcd_down(rng: &mut Rng, shape: &Shape) -> Plan {
    let lasts = shape.run_time.unwrap_or(ms(60_000));
    once(rng, Fault::Kill, Whom::Etcd, lasts, lasts + ms(5_000))
}

fn disk_full(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::FillDisk, Whom::Primary, ms(5_000), ms(9_000))
}

fn fsync_stall(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::StallSync, Whom::Primary, ms(4_000), ms(8_000))
}

fn fsync_error(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::FailSync, Whom::Primary, ms(4_000), ms(8_000))
}

fn slow_links(rng: &mut Rng, _: &Shape) -> Plan {
    let by = ms(30 + rng.below(90));
    once(rng, Fault::Slow(by), Whom::Primary, ms(6_000), ms(12_000))
}

fn clock_jump(rng: &mut Rng, _: &Shape) -> Plan {
    let hours = i64::try_from(1 + rng.below(5)).unwrap_or(1) * 3_600;
    let seconds = if rng.below(2) == 0 { hours } else { -hours };
    once(rng, Fault::JumpClock(seconds), Whom::Primary, ms(4_000), ms(8_000))
}

fn drain(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::Drain, Whom::Primary, ms(3_000), ms(8_000))
}

fn rolling_restart(rng: &mut Rng, shape: &Shape) -> Plan {
    let (down, apart) = (ms(400), ms(4_000));
    let first = about(rng, ms(1_000));
    let events = (0..shape.nodes).map(|node| Event {
        at: first + apart * u32::try_from(node).unwrap_or(0),
        fault: Fault::Drain,
        whom: Whom::Node(NodeId(node + 1)),
        lasts: Some(down),
    });
    Plan {
        events: events.collect(),
        load: first + apart * u32::try_from(shape.nodes).unwrap_or(1),
    }
}

fn kill_catching_up(rng: &mut Rng, _: &Shape) -> Plan {
    let first = about(rng, ms(1_000));
    let back = first + ms(3_000);
    let event = |at, whom, lasts| Event {
        at,
        fault: Fault::Kill,
        whom,
        lasts: Some(lasts),
    };
    let again = back + ms(150 + rng.below(700));
    let events = vec![
        event(first, Whom::Backup, ms(3_000)),
        event(again, Whom::Same, ms(1_000)),
        event(again + ms(1_300 + rng.below(500)), Whom::Primary, ms(2_500)),
    ];
    Plan {
        events,
        load: ms(12_000),
    }
}

fn kill_router(rng: &mut Rng, _: &Shape) -> Plan {
    let mut plan = once(rng, Fault::Kill, Whom::Router, ms(1_500), ms(9_000));
    plan.events.push(Event {
        at: about(rng, ms(4_500)),
        lasts: Some(ms(1_500)),
        ..plan.events[0]
    });
    plan
}

fn async_tail(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::KillUnheard, Whom::Primary, ms(4_000), ms(8_000))
}

fn lost_disk(rng: &mut Rng, _: &Shape) -> Plan {
    once(rng, Fault::LoseDisk, Whom::Primary, ms(4_000), ms(14_000))
}

fn machine_pause(rng: &mut Rng, _: &Shape) -> Plan {
    let fault = Fault::Machine(MachineFault::Pause);
    once(rng, fault, Whom::Primary, ms(8_000), ms(14_000))
}

fn machine_restart(rng: &mut Rng, _: &Shape) -> Plan {
    let fault = Fault::Machine(MachineFault::Restart);
    once(rng, fault, Whom::Primary, ms(4_000), ms(14_000))
}

fn machine_drain(rng: &mut Rng, _: &Shape) -> Plan {
    let fault = Fault::Machine(MachineFault::Drain);
    once(rng, fault, Whom::Primary, ms(4_000), ms(14_000))
}

fn rollout(rng: &mut Rng, _: &Shape) -> Plan {
    let mut plan = once(rng, Fault::RollOut, Whom::Nodes, ms(1_000), ms(14_000));
    // Begins when the nodes are done, however long that takes.
    plan.events.push(Event {
        at: about(rng, ms(4_000)),
        whom: Whom::Router,
        ..plan.events[0]
    });
    plan
}

fn random(rng: &mut Rng, shape: &Shape) -> Plan {
    let load = shape.run_time.unwrap_or(ms(14_000));
    schedule::random(rng, load)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SHAPE: Shape = Shape {
        nodes: 5,
        run_time: None,
    };

    #[test]
    fn a_seed_decides_and_seeds_differ() {
        for scenario in ALL {
            assert_eq!(scenario.plan(7, &SHAPE), scenario.plan(7, &SHAPE), "{}", scenario.name);
            assert_ne!(scenario.plan(7, &SHAPE), scenario.plan(8, &SHAPE), "{}", scenario.name);
        }
    }

    #[test]
    fn every_fault_begins_under_load_and_names_are_unique() {
        let names: BTreeSet<&str> = ALL.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names.len(), ALL.len());
        for (scenario, seed) in ALL
            .iter()
            .flat_map(|scenario| (0..50).map(move |seed| (scenario, seed)))
        {
            let plan = scenario.plan(seed, &SHAPE);
            assert!(!plan.events.is_empty(), "{} {seed}", scenario.name);
            for event in &plan.events {
                assert!(event.at < plan.load, "{} {seed}: {event:?}", scenario.name);
            }
        }
    }

    #[test]
    fn a_run_may_be_longer() {
        let shape = Shape {
            run_time: Some(Duration::from_secs(600)),
            ..SHAPE
        };
        let plan = Scenario::named("short-stalls").unwrap().plan(1, &shape);
        assert!(plan.events.len() > 300 && plan.load.as_secs() == 600);
        let long = ms(700);
        assert!(
            plan.events
                .iter()
                .all(|event| event.lasts.is_some_and(|lasts| lasts < long))
        );
    }
}
