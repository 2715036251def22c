//! Replays the stories of `testscripts`; the verbs are those of [`script`].

mod script;
mod world;

use fulcrum_core_testing::golden::Stories;
use script::Script;

fn stories() -> Stories {
    Stories::of(env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn scripts_print_what_they_say() {
    stories().hold(Script::default);
}

/// Each planted bug changes at least one story.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_change_a_story() {
    use fulcrum_two_phase::planted::Bug;
    let stories = stories();
    let mut survivors = Vec::new();
    // Cuts are made by a core of their own: its story is beside it, and changes with its bug.
    for bug in Bug::ALL.iter().filter(|bug| **bug != Bug::TrustLapsedHolds) {
        let changed = stories.changed_by(|| Script::with_bug(*bug));
        println!("{:<26} {}", bug.name(), changed.join(" "));
        if changed.is_empty() {
            survivors.push(bug.name());
        }
    }
    assert!(survivors.is_empty(), "no story tells of {survivors:?}");
}
