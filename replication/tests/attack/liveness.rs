//! States from which nobody was elected or admitted any more.

use crate::rig::{ME, Rig, append, at, beat, configuration, new_group};
use fulcrum_replication::primary_backup::Body;
use fulcrum_replication::{Effect, Header, Input, Proposal, ProposalId};
use fulcrum_types::{BootId, ConfigVersion, DataId, Epoch, Mode, NodeId};

fn stands(effects: &[Effect]) -> bool {
    effects
        .iter()
        .any(|e| matches!(e, Effect::CompareAndSwap { proposal, .. } if proposal.primary == Some(NodeId(ME))))
}

#[test]
fn a_clock_difference_of_long_ago_does_not_bar_the_last_survivor() {
    let mut rig = Rig::new(Mode::Sync, |_, _| {});
    rig.configure(configuration(3, 1, 2, &[1, 2, 3]));
    for (from, body) in [
        (2, append(at(0, 0), Vec::new(), 0, beat(10))),
        (3, Body::Probe { last: at(0, 0) }),
    ] {
        let header = Header {
            epoch: Epoch(1),
            version: ConfigVersion(3),
            boot: BootId(from * 100),
            data: DataId(from),
            wall_ms: 0,
        };
        rig.hear_as(from, header, body);
    }
    assert!(
        !stands(&rig.pass(2_000)),
        "while both say so, the fault may be ours (rule 11)"
    );
    assert!(stands(&rig.pass(20_000)), "they have been silent since");
}

#[test]
fn a_learner_that_is_always_a_little_behind_joins_under_load() {
    let mut rig = Rig::new(Mode::Sync, |_, _| {});
    rig.configure(new_group(&[1, 2, 3]));
    rig.win();
    rig.ms += 250;
    let effects = rig.acknowledge(3, 2, 1);
    rig.grant(&effects).expect("node 3 holds everything");
    for _ in 0..400 {
        rig.ms += 5;
        let commands = vec![Proposal::new(ProposalId(0), "put".into())];
        rig.take(Input::Propose { commands });
        let last = rig.status().last.index.0;
        // Node 3 is always faster: when node 2 has one entry, the next is durable on both others.
        rig.acknowledge(3, 3, last);
        let effects = rig.acknowledge(2, 3, last - 1);
        let status = rig.status();
        assert!(status.commit.0 + 50 > last, "commit waits only a little: {status:?}");
        if rig.grant(&effects).is_some() {
            return;
        }
    }
    panic!("it never joins: {:?}", rig.status());
}
