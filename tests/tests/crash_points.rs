//! At least one story for each row of the table of crash points in `docs/transactions.md`: `testscripts/crash_points`, named by row.

mod story;

use fulcrum_tests::sim::transactions::rows::ROWS;
use std::collections::BTreeSet;

/// What the table calls a row: what its name begins with.
fn row(name: &str) -> &str {
    name.split([' ', '_']).next().unwrap_or_default()
}

#[test]
fn each_crash_point_ends_as_its_story_says() {
    let mut told = BTreeSet::new();
    story::tell("crash_points", |path, printed, world| {
        let name = path.file_stem().and_then(|name| name.to_str()).unwrap_or_default();
        let of = row(name).to_uppercase();
        // Judged by what groups had recorded when the process died, whatever the script believes.
        if !world.record.rows.keys().any(|hit| row(hit) == of) {
            return Err(format!("nobody died there, only in {:?}", world.record.rows));
        }
        if !printed.ends_with("nothing is left\n") {
            return Err(format!("it ends otherwise than with nothing left:\n{printed}"));
        }
        told.insert(of);
        Ok(())
    });
    let missing: Vec<_> = ROWS.iter().filter(|name| !told.contains(row(name))).collect();
    assert!(missing.is_empty(), "no story of {missing:?}");
}

/// Bugs that show elsewhere than in one commit and a crash: in backups, reads, versions, ages, several coordinators at once, ids used twice. The
/// simulation and the golden scripts of the core tell of them.
#[cfg(feature = "planted-bugs")]
const NOT_OF_CRASHES: [&str; 12] = [
    "node CommitPastLocks",
    "node ReleaseReadLocksEarly",
    "node ApplyIntentsTwice",
    "node VersionOfTheResolve",
    "node PromiseWhileHeld",
    "node CutWithoutIntents",
    "coordinator SkipSecondRound",
    "coordinator TooOldIsAborted",
    "coordinator IgnoreFingerprint",
    "coordinator UndecidedIsAborted",
    "coordinator NoHeartbeats",
    "coordinator TrustLapsedHolds",
];

/// All other bugs of coordinators and participants change a story.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_change_a_story() {
    use fulcrum_tests::planted::Planted;
    let mut survivors = Vec::new();
    for bug in Planted::all().into_iter().filter(|bug| bug.is_of_transactions()) {
        let names = story::told_otherwise("crash_points", bug);
        println!("{:<34} {}", bug.name(), names.join(" "));
        if names.is_empty() && !NOT_OF_CRASHES.contains(&bug.name().as_str()) {
            survivors.push(bug.name());
        }
    }
    assert!(survivors.is_empty(), "no story tells of {survivors:?}");
}
