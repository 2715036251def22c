//! Everything that a seed decides before the first event: topology, limits, timings, load and which faults may happen.
//!
//! Each seed enables a random part of the faults ("swarm testing", Groce et al. 2012): runs that do less of everything
//! reach states that runs that do everything cannot.

use super::faults::Fault;
use super::metadata::Manners;
use super::network::Quality;
use super::rng::Rng;
use super::time::{MS, SEC, Time, US};
use super::transactions::plan::TransactionPlan;
use bytes::Bytes;
use fulcrum_common::keyspace::{KeyspaceOptions, RATE_DRIFT_PPM, Timing};
use fulcrum_common::limits::LONGEST_TRANSACTION;
use fulcrum_common::map::{ClusterId, ClusterMap, NodeInfo};
use fulcrum_replication::Options;
use fulcrum_shard_node::state_machine::Limits;
use fulcrum_types::{Fsync, GroupId, KeyspaceId, MapVersion, Mode, NodeId};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

/// Which faults a run may see.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// By seed: one of the others.
    #[default]
    Mixed,
    /// None.
    Calm,
    /// A random part of all.
    Swarm,
    /// Messages and partitions.
    Network,
    /// Crashes, pauses and disks.
    Crash,
    /// The metadata store.
    Metadata,
    /// Planned hand-overs, and cuts right after them.
    HandOver,
    /// Clock rates further apart than the bound: what rests on leases is not judged.
    BeyondBound,
}

impl Profile {
    /// All, with their names.
    pub const ALL: [(&'static str, Profile); 8] = [
        ("mixed", Profile::Mixed),
        ("calm", Profile::Calm),
        ("swarm", Profile::Swarm),
        ("network", Profile::Network),
        ("crash", Profile::Crash),
        ("metadata", Profile::Metadata),
        ("hand-over", Profile::HandOver),
        ("beyond-bound", Profile::BeyondBound),
    ];
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Self::ALL.iter().find(|(_, p)| p == self).map_or("", |(name, _)| name))
    }
}

impl FromStr for Profile {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|(name, _)| *name == s);
        found.map(|(_, p)| *p).ok_or_else(|| {
            let names: Vec<&str> = Self::ALL.iter().map(|(name, _)| *name).collect();
            format!("unknown profile '{s}': use one of {}", names.join(", "))
        })
    }
}

/// What the caller may fix; the seed decides the rest.
#[derive(Clone, Copy, Debug, Default)]
pub struct Choice {
    /// The mode.
    pub mode: Option<Mode>,
    /// The faults.
    pub profile: Profile,
    /// Clients commit transactions, over keyspaces that are `sync`.
    pub transactions: bool,
}

/// One group.
#[derive(Clone, Debug)]
pub struct GroupPlan {
    /// Its keyspace.
    pub keyspace: KeyspaceId,
    /// Its id.
    pub group: GroupId,
    /// Its replicas.
    pub replicas: Vec<NodeId>,
    /// Keys that clients use in it.
    pub keys: Vec<Bytes>,
}

/// How disks behave.
#[derive(Clone, Copy, Debug)]
pub struct DiskManners {
    /// Shortest sync.
    pub sync_min: Time,
    /// Usual longest sync.
    pub sync_max: Time,
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Processes.
    pub processes: u64,
    /// Sessions in each; they share its idempotency keys.
    pub lanes: u64,
    /// Longest pause between two operations of a session.
    pub think_max: Time,
    /// An operation is given up after this.
    pub patience: Time,
    /// Reads, of a hundred operations.
    pub reads: u32,
    /// Bytes of a value, at most.
    pub value_max: u64,
    /// Processes that send no idempotency key, of a hundred.
    pub careless: u32,
}

/// The plan of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// What kind of faults (never mixed).
    pub profile: Profile,
    /// Mode of the keyspace.
    pub mode: Mode,
    /// When an acknowledged write is on disk.
    pub fsync: Fsync,
    /// The nodes.
    pub nodes: Vec<NodeId>,
    /// The cluster map.
    pub map: Arc<ClusterMap>,
    /// The groups.
    pub groups: Vec<GroupPlan>,
    /// Options of every replica; group and node are filled in by the node.
    pub options: Options,
    /// Between two ticks.
    pub tick: Time,
    /// Clocks run at most so much fast or slow.
    pub rate_ppm: u64,
    /// Nodes whose wall clocks may jump by hours: fewer than a majority of each group, as nobody could know better than that.
    pub odd_clocks: Vec<NodeId>,
    /// The network during the safety phase.
    pub quality: Quality,
    /// The metadata store during the safety phase.
    pub manners: Manners,
    /// Disks.
    pub disk: DiskManners,
    /// Clients.
    pub load: Load,
    /// Writes are joined at the nodes' doors.
    pub joints: bool,
    /// Watches of each group: none unless a test asks for them, so that seeds stay what they were.
    pub watchers: u64,
    /// Faults that may happen.
    pub faults: Vec<Fault>,
    /// Of the faults, one in four is that a node is drained.
    pub drains: bool,
    /// Longest pause between two faults.
    pub fault_every: Time,
    /// Longest duration of one fault.
    pub fault_max: Time,
    /// Turns that stall in the middle, of a million.
    pub turn_stall_ppm: u32,
    /// How long the safety phase lasts.
    pub safety: Time,
    /// How long healing may take.
    pub healing: Time,
    /// Coordinators and what their clients do, in runs with transactions.
    pub transactions: Option<TransactionPlan>,
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64, choice: Choice) -> Plan {
        if choice.transactions {
            return super::transactions::plan::of(seed, choice);
        }
        let mut rng = Rng::new(seed);
        let profile = match choice.profile {
            Profile::Mixed => match rng.below(100) {
                0..5 => Profile::Calm,
                5..60 => Profile::Swarm,
                60..72 => Profile::Network,
                72..84 => Profile::Crash,
                84..90 => Profile::Metadata,
                90..95 => Profile::HandOver,
                _ => Profile::BeyondBound,
            },
            fixed => fixed,
        };
        let drawn = if rng.percent(65) { Mode::Sync } else { Mode::Async };
        let mode = choice.mode.unwrap_or(drawn);
        let nodes: Vec<NodeId> = (1..=rng.one_of(&[1, 2, 3, 3, 3, 3, 4, 5, 5])).map(NodeId).collect();
        let factor = rng.one_of(&[1, 2, 3, 3, 3, 3, 4, 5]).min(nodes.len());
        let options = options(&mut rng, mode, factor);
        let fsync = if rng.percent(8) { Fsync::Interval } else { Fsync::Always };
        let beyond = profile == Profile::BeyondBound;
        let keyspace = keyspace(&mut rng, beyond, factor, fsync, &options);
        let map = Arc::new(cluster_map(&nodes, keyspace));
        let groups = groups(&map, KeyspaceId(1), rng.range(1, 6) as usize);
        // Two clocks that are fast and slow by half of the bound each are apart by it, and a little more: hence 98 %.
        let within = u64::from(options.drift_ppm) * 49 / 100;
        let heartbeat = options.heartbeat.as_nanos() as Time;
        Plan {
            seed,
            profile,
            mode,
            fsync,
            tick: heartbeat / 4,
            odd_clocks: odd_clocks(seed, &nodes, factor),
            rate_ppm: if beyond { rng.range(100_000, 600_000) } else { within },
            quality: quality(&mut rng, profile, heartbeat),
            manners: manners(&mut rng, profile, heartbeat),
            disk: disk(&mut rng),
            load: load(&mut rng, &options),
            // None of the seeds that are kept.
            joints: seed % 5 == 2,
            watchers: 0,
            faults: faults(&mut rng, profile),
            // None of the seeds that are kept.
            drains: seed % 11 == 6 && profile != Profile::Calm,
            fault_every: rng.range(200 * MS, 2 * SEC),
            fault_max: rng.one_of(&[4, 10, 30]) * options.grace.as_nanos() as Time / 4,
            turn_stall_ppm: rng.one_of(&[0, 200, 1_000, 3_000]),
            safety: rng.range(8, 14) * SEC,
            healing: 20 * SEC,
            transactions: None,
            nodes,
            map,
            groups,
            options,
        }
    }

    /// Limits of the state machines, as the node draws them from the keyspace.
    #[must_use]
    pub fn limits(&self) -> Limits {
        let keyspace = self
            .map
            .keyspace(KeyspaceId(1))
            .map(|k| k.options.clone())
            .unwrap_or_default();
        Limits {
            retention: keyspace.idempotency_retention,
            tombstones: keyspace.tombstone_retention,
            ..Limits::default()
        }
    }

    /// A sync that takes longer means that the disk is not healthy.
    #[must_use]
    pub fn sync_overdue(&self) -> Time {
        self.options.lease.as_nanos() as Time
    }
}

/// The map: one keyspace, placed as the shipped code places it.
fn cluster_map(nodes: &[NodeId], keyspace: KeyspaceOptions) -> ClusterMap {
    let mut map = ClusterMap::new(ClusterId::new("simulation").expect("a good name"));
    for node in nodes {
        map.set_node(
            *node,
            NodeInfo {
                address: format!("{node}"),
                zone: None,
            },
        );
    }
    map.add_keyspace("simulation", keyspace).expect("the plan makes sense");
    map.with_version(MapVersion(1))
}

fn keyspace(rng: &mut Rng, beyond: bool, factor: usize, fsync: Fsync, options: &Options) -> KeyspaceOptions {
    // Replicated time runs by clocks: beyond the bound on their rates it may be ahead by seconds, for as long.
    let least = Duration::from_secs(if beyond { 60 } else { 0 });
    // Where transactions may run no version recurs while one lasts.
    let shortest = match options.mode {
        Mode::Sync => 2 * LONGEST_TRANSACTION,
        Mode::Async => Duration::ZERO,
    };
    KeyspaceOptions {
        groups: rng.one_of(&[1, 1, 2, 3]),
        min_in_sync: options.min_in_sync as u32,
        fsync,
        idempotency_retention: Duration::from_secs(rng.one_of(&[3, 60, 600])).max(least),
        tombstone_retention: Duration::from_secs(rng.one_of(&[1, 60])).max(shortest),
        timing: Timing {
            heartbeat: options.heartbeat,
            lease: options.lease,
            grace: options.grace,
        },
        ..KeyspaceOptions::of(options.mode, factor as u32)
    }
}

fn odd_clocks(seed: u64, nodes: &[NodeId], factor: usize) -> Vec<NodeId> {
    let first = (seed % nodes.len() as u64) as usize;
    nodes.iter().cycle().skip(first).take(factor / 2).copied().collect()
}

/// The groups of a keyspace, with so many keys each.
pub(super) fn groups(map: &ClusterMap, keyspace: KeyspaceId, keys: usize) -> Vec<GroupPlan> {
    let of = |group| {
        let names = (0..).map(|number| Bytes::from(format!("key {number}")));
        names
            .filter(|name| map.group_of(keyspace, name) == Some(group))
            .take(keys)
            .collect()
    };
    let groups = map.groups_of(keyspace);
    groups
        .map(|group| GroupPlan {
            keyspace,
            group,
            replicas: map.replicas(group).to_vec(),
            keys: of(group),
        })
        .collect()
}

fn options(rng: &mut Rng, mode: Mode, replicas: usize) -> Options {
    let heartbeat = Duration::from_millis(rng.range(20, 60));
    let lease = heartbeat * rng.range(4, 10) as u32;
    let slack = heartbeat * rng.range(1, 4) as u32;
    let mut options = Options::new(GroupId::ZERO, NodeId::ZERO, mode);
    options.heartbeat = heartbeat;
    options.lease = lease;
    options.drift_ppm = RATE_DRIFT_PPM;
    options.grace = options.stretched(lease) + slack;
    options.silent_after = lease * rng.range(2, 6) as u32 / 4;
    options.lag_after = lease * rng.range(1, 6) as u32;
    options.lag_entries = rng.one_of(&[8, 64, 20_000]);
    options.acknowledge_within = lease * rng.range(1, 4) as u32;
    options.retry_after = heartbeat * rng.range(1, 4) as u32;
    options.append_bytes = rng.one_of(&[200, 2_000, 512 * 1024]);
    options.in_flight_bytes = options.append_bytes * rng.range(1, 8) as usize;
    options.retain_bytes = rng.one_of(&[0, 500, 4_000, 4 * 1024 * 1024]);
    options.waiting_max = rng.one_of(&[4, 32, 10_000]);
    options.min_in_sync = match mode {
        Mode::Sync => rng.range(1, (replicas as u64 / 2 + 1).max(1)) as usize,
        Mode::Async => 1,
    };
    options
}

fn quality(rng: &mut Rng, profile: Profile, heartbeat: Time) -> Quality {
    let delay_max = rng.range(MS, heartbeat / 4);
    if matches!(profile, Profile::Calm) || rng.percent(20) {
        return Quality {
            delay_max,
            ..Quality::GOOD
        };
    }
    Quality {
        loss_ppm: rng.one_of(&[0, 1_000, 20_000, 100_000]),
        duplicate_ppm: rng.one_of(&[0, 5_000, 50_000]),
        straggler_ppm: rng.one_of(&[0, 2_000, 20_000, 60_000]),
        delay_min: rng.range(50 * US, MS),
        delay_max,
        straggler_max: heartbeat * rng.range(2, 60),
        fifo: rng.percent(25),
    }
}

fn manners(rng: &mut Rng, profile: Profile, heartbeat: Time) -> Manners {
    let delay_max = rng.range(MS, heartbeat);
    if matches!(profile, Profile::Calm) || (profile != Profile::Metadata && rng.percent(30)) {
        return Manners {
            delay_max,
            ..Manners::GOOD
        };
    }
    Manners {
        delay_max,
        timeout: heartbeat * rng.range(4, 20),
        answer_lost_ppm: rng.one_of(&[0, 20_000, 200_000]),
        request_lost_ppm: rng.one_of(&[0, 20_000, 200_000]),
        late_ppm: rng.one_of(&[0, 20_000, 150_000]),
        late_max: heartbeat * rng.range(4, 80),
        watch_max: heartbeat * rng.range(1, 30),
        watch_twice_ppm: rng.one_of(&[0, 100_000]),
    }
}

fn disk(rng: &mut Rng) -> DiskManners {
    let sync_min = rng.one_of(&[20 * US, 200 * US, 2 * MS]);
    DiskManners {
        sync_min,
        sync_max: sync_min * rng.range(1, 10),
    }
}

fn load(rng: &mut Rng, options: &Options) -> Load {
    let lease = options.lease.as_nanos() as Time;
    Load {
        processes: rng.range(2, 5),
        lanes: rng.range(1, 3),
        think_max: rng.one_of(&[20, 60, 120]) * MS,
        patience: lease * rng.range(2, 8),
        reads: rng.range(20, 70) as u32,
        value_max: rng.one_of(&[16, 16, 100, 3_000]),
        careless: rng.one_of(&[0, 0, 20]),
    }
}

fn faults(rng: &mut Rng, profile: Profile) -> Vec<Fault> {
    let network = [Fault::Isolate, Fault::Split, Fault::OneWay, Fault::Link, Fault::Storm];
    let crash = [
        Fault::Crash,
        Fault::CrashAll,
        Fault::Wipe,
        Fault::Pause,
        Fault::DiskStall,
        Fault::DiskSlow,
    ];
    let metadata = [
        Fault::MetadataOutage,
        Fault::MetadataCut,
        Fault::Crash,
        Fault::Isolate,
        Fault::Pause,
    ];
    let candidates: &[Fault] = match profile {
        Profile::Calm => &[],
        Profile::Network => &network,
        Profile::Crash => &crash,
        Profile::Metadata => &metadata,
        Profile::HandOver => &[Fault::HandOver, Fault::HandOver, Fault::Isolate, Fault::Pause],
        _ => &Fault::ALL,
    };
    candidates.iter().copied().filter(|_| rng.percent(60)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_keeps_the_promises_possible() {
        for seed in 0..2_000 {
            let plan = Plan::of(seed, Choice::default());
            plan.options.validate().unwrap();
            assert!(plan.options.min_in_sync <= plan.groups[0].replicas.len(), "seed {seed}");
        }
    }
}
