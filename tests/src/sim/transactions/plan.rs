//! What a seed decides about transactions, beside what it decides about nodes and faults.

use crate::sim::plan::{Choice, Plan, Profile, groups};
use crate::sim::rng::Rng;
use crate::sim::time::{MS, SEC, Time};
use fulcrum_common::map::ClusterMap;
use fulcrum_two_phase::Options;
use fulcrum_types::{KeyspaceId, MapVersion, Mode};
use std::sync::Arc;
use std::time::Duration;

/// Coordinators and what their clients do.
#[derive(Clone, Debug)]
pub struct TransactionPlan {
    /// Coordinators.
    pub coordinators: usize,
    /// Clients, the first of which works on lists.
    pub clients: usize,
    /// Clients that work on the bank, of a hundred.
    pub bankers: u32,
    /// Options of every core.
    pub options: Options,
    /// Coordinators that die before an effect, of a million effects.
    pub crash_ppm: u32,
    /// Longest time that a dead coordinator stays away.
    pub away_max: Time,
    /// Longest pause between two transactions of a client.
    pub think_max: Time,
    /// Longest time that a client gives a commit.
    pub patience: Time,
    /// Clients that vanish in the middle of a commit, of a hundred commits.
    pub vanishing: u32,
    /// Commits sent to two coordinators at once, of a hundred.
    pub doubled: u32,
    /// Commits under an id that is given to another transaction, too, of a hundred.
    pub reused: u32,
    /// Commits that are sent once more after their client was told, of a hundred.
    pub repeated: u32,
    /// Operations of one key without a coordinator, of a hundred.
    pub plain: u32,
    /// Backups are made while all this goes on.
    pub backups: bool,
    /// Ids of clients were issued so long ago: near the horizon some attempts become too old on their way.
    pub issued_before_ms: Vec<u64>,
}

/// The plan of a seed with transactions: two keyspaces, `sync`, on the nodes and with the faults that it has without.
#[must_use]
pub fn of(seed: u64, choice: Choice) -> Plan {
    let nodes_only = Choice {
        mode: Some(Mode::Sync),
        transactions: false,
        ..choice
    };
    let mut plan = Plan::of(seed, nodes_only);
    if plan.profile == Profile::BeyondBound {
        // Beyond the bound on clocks no lease holds, and with it no linearizable read.
        let profile = Profile::Swarm;
        plan = Plan::of(seed, Choice { profile, ..nodes_only });
    }
    let mut rng = Rng::new(seed ^ 0x7a45_0c71);
    plan.map = Arc::new(map(&plan, &mut rng));
    let keys = rng.range(1, 2) as usize;
    plan.groups = [KeyspaceId(1), KeyspaceId(2)]
        .into_iter()
        .flat_map(|keyspace| groups(&plan.map, keyspace, keys))
        .collect();
    plan.load.processes = 0;
    // None of the seeds that are kept.
    plan.joints = seed % 7 == 6;
    plan.safety = rng.range(3, 6) * SEC;
    // None of the seeds that are kept.
    let backups = matches!(seed % 11, 4 | 6 | 8 | 10);
    plan.transactions = Some(TransactionPlan {
        backups,
        ..chosen(&mut rng)
    });
    plan
}

/// One keyspace more, with the options of the first but for its groups.
fn map(plan: &Plan, rng: &mut Rng) -> ClusterMap {
    let mut map = ClusterMap::clone(&plan.map);
    let first = map.keyspace(KeyspaceId(1)).map(|keyspace| keyspace.options.clone());
    let mut second = first.expect("the plan has a keyspace");
    second.groups = rng.one_of(&[1, 1, 2]);
    map.add_keyspace("second", second).expect("as the first");
    map.with_version(MapVersion(1))
}

fn chosen(rng: &mut Rng) -> TransactionPlan {
    let spread = Duration::from_millis(rng.one_of(&[100, 300]));
    let horizon = 30_000;
    TransactionPlan {
        coordinators: rng.one_of(&[1, 2, 2, 3]),
        clients: rng.range(2, 5) as usize,
        bankers: rng.one_of(&[0, 40, 40, 100]),
        options: Options {
            heartbeat: spread,
            prepare_max: Duration::from_millis(rng.one_of(&[800, 3_000, 3_000])),
            decide_reserve: Duration::from_millis(rng.one_of(&[50, 200])),
            pause: Duration::from_millis(rng.one_of(&[20, 50])),
            linger: Duration::from_millis(rng.one_of(&[500, 3_000, 10_000])),
            forget_batch: rng.one_of(&[1, 4, 64]),
            ..Options::default()
        },
        crash_ppm: rng.one_of(&[0, 2_000, 10_000, 30_000]),
        away_max: rng.one_of(&[50, 500, 3_000]) * MS,
        think_max: rng.one_of(&[20, 60, 120]) * MS,
        patience: rng.one_of(&[500, 1_500, 4_000]) * MS,
        vanishing: rng.one_of(&[0, 3, 10]),
        doubled: rng.one_of(&[0, 10, 30]),
        reused: rng.one_of(&[0, 0, 0, 15]),
        repeated: rng.one_of(&[0, 5, 20]),
        plain: rng.one_of(&[0, 20, 40]),
        backups: false,
        issued_before_ms: match rng.below(4) {
            0 => vec![0, horizon - 3_000, horizon - 1_500],
            _ => vec![0],
        },
    }
}
