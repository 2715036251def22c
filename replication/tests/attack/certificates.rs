//! Losses of `async` groups: nothing is lost silently, and no state that lacks something is taken for fresh.

use crate::rig::{ME, Rig, SECOND, append, at, beat, changes, configuration, entries, hard, new_group};
use fulcrum_replication::primary_backup::{Beat, Body};
use fulcrum_replication::{Answered, Divergence, Effect, Input, LogChange, Proposal, ProposalId, ReadId, ReadWanted};
use fulcrum_types::{BootId, DataId, Epoch, Index, Mode};

/// The old primary of epoch 1, started again, with `log` entries of it, all committed.
fn old_primary(log: u64, change: impl FnOnce(&mut fulcrum_replication::Options)) -> Rig {
    Rig::new(Mode::Async, |options, restored| {
        restored.hard_state = Some(hard(configuration(2, 1, ME, &[1, 2, 3]), log, 1));
        restored.log = entries(1..=log, 1);
        change(options);
    })
}

fn diverged(effects: &[Effect]) -> Vec<&Divergence> {
    changes(effects)
        .into_iter()
        .filter_map(|change| match change {
            LogChange::Diverged(divergence) => Some(divergence),
            _ => None,
        })
        .collect()
}

#[test]
fn a_deposed_primary_compacts_nothing_that_its_successor_may_lack() {
    let mut rig = old_primary(20, |options| options.retain_bytes = 400);
    rig.configure(configuration(3, 2, 2, &[2, 3]));
    let effects = rig.hear(2, 2, 3, append(at(10, 1), entries(11..=11, 2), 11, beat(10)));
    let [loss] = diverged(&effects)[..] else {
        panic!("one record of what is lost: {effects:?}")
    };
    let indexes: Vec<u64> = loss.entries.iter().map(|e| e.position.index.0).collect();
    assert_eq!(indexes, (11..=20).collect::<Vec<_>>());
}

#[test]
fn who_may_have_lost_its_tail_does_not_certify_that_nothing_was_lost() {
    let mut rig = Rig::new(Mode::Async, |_, restored| {
        restored.hard_state = Some(hard(configuration(2, 1, ME, &[1, 2, 3]), 14, 1));
        restored.log = entries(1..=14, 1);
        // Unclean end: what it acknowledged beyond 14 is gone (rule 5).
        restored.data = DataId(77);
    });
    rig.configure(configuration(3, 2, 2, &[2, 3]));
    let effects = rig.hear(2, 2, 3, append(at(14, 1), entries(15..=15, 2), 15, beat(10)));
    assert_eq!(rig.status().last, at(15, 2));
    assert_eq!(
        diverged(&effects),
        Vec::<&Divergence>::new(),
        "the extent stays unknown"
    );
}

#[test]
fn what_a_later_primary_may_have_acknowledged_counts_as_acknowledged() {
    let mut rig = Rig::new(Mode::Async, |_, _| {});
    rig.configure(new_group(&[1, 2, 3]));
    rig.win();
    // With a second clock it knows the time, and takes writes.
    rig.hear(2, 1, 2, Body::Probe { last: at(0, 0) });
    let commands = (0..4).map(|i| Proposal::new(ProposalId(i), "put".into())).collect();
    rig.take(Input::Propose { commands });
    assert_eq!(rig.status().last, at(5, 1));
    // Epoch 2 keeps all that and orders one more; epoch 3 starts from a backup that lagged far behind.
    rig.configure(configuration(3, 2, 2, &[2, 3]));
    rig.hear(2, 2, 3, append(at(5, 1), entries(6..=6, 2), 6, beat(10)));
    rig.configure(configuration(4, 3, 3, &[3]));
    let effects = rig.hear(3, 3, 4, append(at(3, 1), entries(4..=4, 3), 4, beat(10)));
    let [loss] = diverged(&effects)[..] else {
        panic!("one record of what is lost: {effects:?}")
    };
    assert_eq!((loss.entries.len(), loss.acknowledged_through), (3, Index(6)));
    assert_eq!(loss.new_epoch, Epoch(3));
}

#[test]
fn a_state_of_a_lost_history_proves_no_staleness_bound() {
    let mut rig = old_primary(20, |_| {});
    rig.configure(configuration(3, 2, 2, &[2, 3]));
    let echo = Beat {
        primary_clock: fulcrum_types::Mono(10),
        echoed_backup_clock: Some(rig.mono()),
        echoed_boot: BootId(100),
        ..Beat::default()
    };
    // The primary's log does not reach back far enough to compare: a bare beat while a snapshot is on its way.
    rig.hear(2, 2, 3, append(at(0, 0), Vec::new(), 18, echo));
    let wanted = ReadWanted::Bounded(SECOND);
    let effects = rig.give(Input::Read { id: ReadId(1), wanted });
    let served = effects.iter().any(|e| {
        matches!(
            e,
            Effect::AnswerRead {
                answer: Answered::Permit(_),
                ..
            }
        )
    });
    assert!(!served, "entries 11 to 20 are in no surviving history: {effects:?}");
    assert_eq!(rig.status().staleness, None);
}

#[test]
fn what_was_compacted_away_counts_as_lost_and_a_no_op_does_not() {
    let mut loss = Divergence {
        old_epoch: Epoch(1),
        new_epoch: Epoch(2),
        common: at(10, 1),
        entries: entries(18..=20, 1),
        acknowledged_through: Index(19),
        complete: true,
    };
    assert_eq!(loss.acknowledged_lost(), 9);
    loss.entries.clear();
    assert_eq!(loss.acknowledged_lost(), 9);
    loss.acknowledged_through = Index(10);
    assert_eq!(loss.acknowledged_lost(), 0);
}

#[test]
fn a_primary_that_only_took_over_lost_nothing_of_its_clients() {
    let mut rig = Rig::new(Mode::Async, |_, _| {});
    rig.configure(new_group(&[1, 2, 3]));
    rig.win();
    assert_eq!(rig.status().last, at(1, 1));
    rig.configure(configuration(3, 2, 2, &[2, 3]));
    let effects = rig.hear(2, 2, 3, append(at(0, 0), entries(1..=1, 2), 1, beat(10)));
    let [loss] = diverged(&effects)[..] else {
        panic!("one record of what is lost: {effects:?}")
    };
    assert_eq!((loss.entries.len(), loss.acknowledged_lost()), (1, 0));
}
