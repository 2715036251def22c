//! States from which nobody was elected or admitted any more.

use crate::rig::{ME, Rig, append, at, beat, configuration};
use fulcrum_replication::Effect;
use fulcrum_replication::Header;
use fulcrum_replication::primary_backup::Body;
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
