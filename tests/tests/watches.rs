//! Watches through all the faults that the simulator knows: nothing missing, nothing twice, nothing that was not so.

use fulcrum_tests::planted::Planted;
use fulcrum_tests::sim::plan::{Choice, Plan, Profile};
use fulcrum_tests::sim::pool;
use fulcrum_tests::sim::run::run_plan;
use fulcrum_types::Mode;

fn keeps_its_logs(seed: u64) -> bool {
    seed.is_multiple_of(2)
}

fn seeds(mode: Mode, profile: Profile, count: u64) {
    let choice = Choice {
        mode: Some(mode),
        profile,
        ..Choice::default()
    };
    let (mut steps, mut anew, mut short) = (0, 0, 0);
    let seeds: Vec<u64> = (1..=count).collect();
    let one = |seed| {
        let mut plan = Plan::of(seed, choice);
        plan.watchers = 2;
        // Every other seed keeps its logs, so that watches see all of them.
        if keeps_its_logs(seed) {
            plan.options.retain_bytes = 64 * 1024 * 1024;
        }
        run_plan(plan, Planted::default(), false)
    };
    pool::each(&seeds, 2, one, |report| {
        assert_eq!(report.failure, None, "seed {} of {profile}, {mode}", report.seed);
        let reached = |what| report.record.reached.get(what).copied().unwrap_or(0);
        steps += reached("watch step");
        anew += reached("watch begun anew");
        short += reached("watch cut short");
        let whole = !keeps_its_logs(report.seed) || reached("watch cut short") == 0;
        assert!(whole, "seed {} of {profile}, {mode}: nobody compacts here", report.seed);
        true
    });
    assert!(steps > 20 * count, "the watches asked too little: {steps}");
    println!("{mode} {profile}: {steps} steps, {anew} begun anew, {short} cut short");
}

#[test]
fn of_sync_groups() {
    seeds(Mode::Sync, Profile::Swarm, 20);
    seeds(Mode::Sync, Profile::Crash, 10);
}

#[test]
fn of_async_groups() {
    seeds(Mode::Async, Profile::Swarm, 20);
    seeds(Mode::Async, Profile::Network, 10);
}
