//! When a write is answered, and with what.

use super::fake::*;
use crate::event::{Event, Output, RequestId};
use fulcrum_replication::primary_backup::Body;
use fulcrum_replication::{Effect, Header, Input, LogChange, Message, Proposal, ProposalRefusal};
use fulcrum_types::*;

/// A core that orders every command from index 1 on, in epoch 1, with write 1.
fn order(_: Now, input: Input) -> Vec<Effect> {
    let Input::Propose { commands } = input else {
        return Vec::new();
    };
    let entries = (1..).zip(&commands).map(|(index, proposal)| Entry {
        position: position(1, index),
        time: ReplicatedTime(1),
        payload: Payload::Command(proposal.command.clone()),
    });
    let mut effects = vec![Effect::Write {
        id: WriteId(1),
        change: LogChange::Append(entries.collect()),
    }];
    effects.extend((1..).zip(commands).map(|(i, proposal)| Effect::Proposed {
        id: proposal.id,
        position: position(1, i),
    }));
    effects
}

fn acknowledge(through: u64) -> Vec<Effect> {
    let through = Index(through);
    vec![
        Effect::Commit { through },
        Effect::Acknowledge {
            through,
            by: vec![NodeId(1), NodeId(2)],
            recheck_before: None,
        },
    ]
}

/// An `async` write is durable under a lease that ends at 500 ms; the turn ends when the test says.
fn async_write_in_a_turn_that_ends(bench: &mut Bench, end_ms: u64) -> Vec<(u64, Result<Answered, Refusal>)> {
    bench.script(order);
    bench.ask(0, 7, write(vec![put("a", "1")]));
    bench.turn(0);
    let through = Index(1);
    bench.begin_effects(
        100,
        vec![
            Effect::Commit { through },
            Effect::Acknowledge {
                through,
                by: vec![ME],
                recheck_before: Some(at(500).mono),
            },
        ],
    );
    bench.turn(end_ms);
    bench.replies()
}

#[test]
fn an_async_write_is_answered_only_while_the_lease_holds() {
    let fresh = || Bench::new(options(Mode::Async, Fsync::Always));
    let answered = async_write_in_a_turn_that_ends(&mut fresh(), 499);
    assert!(matches!(answered.as_slice(), [(7, Ok(_))]), "{answered:?}");

    let late = async_write_in_a_turn_that_ends(&mut fresh(), 500);
    let [(7, Err(refusal))] = late.as_slice() else {
        panic!("{late:?}")
    };
    assert_eq!(refusal.act(), Act::LookUp, "it is in the log: {refusal}");

    let mut renewed = fresh();
    renewed.stage.status.lock().unwrap().lease_left = Some(std::time::Duration::from_millis(50));
    let answered = async_write_in_a_turn_that_ends(&mut renewed, 600);
    assert!(
        matches!(answered.as_slice(), [(7, Ok(_))]),
        "the lease holds again: {answered:?}"
    );
}

fn two_writes(fsync: Fsync) -> Bench {
    let mut bench = Bench::new(options(Mode::Sync, fsync));
    bench.script(order);
    bench.ask(0, 7, write(vec![put("a", "1")]));
    bench.ask(0, 8, write(vec![put("b", "2"), put("c", "3")]));
    bench.turn(0);
    bench
}

#[test]
fn writes_of_a_turn_go_to_the_core_together_and_share_a_batch() {
    let bench = two_writes(Fsync::Always);
    let proposed: Vec<usize> = bench
        .inputs()
        .iter()
        .filter_map(|input| match input {
            Input::Propose { commands } => Some(commands.len()),
            _ => None,
        })
        .collect();
    assert_eq!(proposed, [2]);
    assert!(bench.disk.complete().is_some());
    assert!(bench.disk.complete().is_none(), "one batch for both");
}

#[test]
fn a_write_is_answered_once_it_is_acknowledged_and_applied() {
    let mut bench = two_writes(Fsync::Always);
    bench.sync(1);
    assert!(bench.replies().is_empty(), "durable here, not acknowledged");
    bench.effects(2, vec![Effect::Commit { through: Index(2) }]);
    assert!(bench.replies().is_empty(), "applied, not acknowledged");
    bench.effects(3, acknowledge(1));
    let replies = bench.replies();
    assert_eq!(replies.len(), 1);
    let (id, Ok(answered)) = &replies[0] else {
        panic!("{replies:?}")
    };
    assert_eq!(*id, 7);
    assert_eq!(
        answered.answer,
        Answer::Written(vec![WriteOutcome::Applied {
            version: Version(1),
            existed: false
        }])
    );
    let receipt = &answered.receipt;
    assert_eq!(
        (receipt.epoch, receipt.index, receipt.durable),
        (Epoch(1), Index(1), true)
    );
    assert_eq!(
        (receipt.asked, receipt.achieved),
        (Level::Linearizable, Level::Linearizable)
    );
    assert_eq!(receipt.acknowledged_by, [NodeId(1), NodeId(2)]);
    assert_eq!(receipt.elapsed.as_millis(), 3);
    bench.effects(4, acknowledge(2));
    assert_eq!(bench.replies().len(), 1);
}

#[test]
fn without_fsync_a_receipt_never_says_durable() {
    let mut bench = two_writes(Fsync::Never);
    assert_eq!(bench.disk.pending().map(|(_, sync)| sync), Some(false));
    bench.sync(1);
    bench.effects(2, acknowledge(2));
    let durable: Vec<bool> = bench
        .replies()
        .into_iter()
        .map(|(_, r)| r.unwrap().receipt.durable)
        .collect();
    assert_eq!(durable, [false, false]);
}

#[test]
fn what_was_ordered_and_is_abandoned_has_an_unknown_outcome() {
    let mut bench = two_writes(Fsync::Always);
    bench.effects(1, acknowledge(1));
    bench.effects(
        2,
        vec![Effect::Abandon {
            through: Index(2),
            reason: "a newer epoch began",
        }],
    );
    let replies = bench.replies();
    assert!(replies[0].1.is_ok());
    assert!(matches!(&replies[1], (8, Err(Refusal::Unknown { reason })) if reason == "a newer epoch began"));
}

#[test]
fn another_primarys_entries_are_no_answer() {
    let mut bench = two_writes(Fsync::Always);
    let truncate = LogChange::Truncate { from: Index(2) };
    bench.effects(
        1,
        vec![
            Effect::Write {
                id: WriteId(2),
                change: truncate,
            },
            append(3, 2, 2, &[put("x", "9")]),
        ],
    );
    let replies = bench.replies();
    assert!(
        matches!(&replies[..], [(8, Err(Refusal::Unknown { .. }))]),
        "{replies:?}"
    );
    bench.effects(2, acknowledge(2));
    assert_eq!(bench.replies().len(), 1);
}

#[test]
fn a_refused_proposal_names_who_must_act() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    *bench.stage.status.lock().unwrap() = status(Role::Backup);
    bench.handle(0, Event::Tick { disk_healthy: true });
    bench.script(|_, input| match input {
        Input::Propose { commands } => {
            let refuse = |proposal: Proposal| Effect::ProposalRefused {
                id: proposal.id,
                reason: ProposalRefusal::NotPrimary,
            };
            commands.into_iter().map(refuse).collect()
        }
        _ => Vec::new(),
    });
    bench.ask(0, 1, write(vec![put("a", "1")]));
    bench.turn(0);
    assert_eq!(
        bench.replies(),
        [(1, Err(Refusal::NotPrimary { hint: Some(NodeId(2)) }))]
    );
}

#[test]
fn a_deadline_leaves_an_ordered_write_unknown() {
    let mut bench = two_writes(Fsync::Always);
    bench.script(|_, _| Vec::new());
    bench.handle(1000, Event::Tick { disk_healthy: true });
    bench.turn(1000);
    let replies = bench.replies();
    assert!(
        replies.iter().all(|(_, r)| matches!(r, Err(Refusal::Unknown { .. }))),
        "{replies:?}"
    );
    assert_eq!(replies.len(), 2);
    bench.effects(1001, acknowledge(2));
    assert!(bench.replies().is_empty(), "nobody is answered twice");
}

#[test]
fn a_cancelled_write_that_was_not_ordered_is_not_proposed() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    bench.script(order);
    bench.ask(0, 7, write(vec![put("a", "1")]));
    bench.handle(0, Event::Cancel { id: RequestId(7) });
    bench.turn(0);
    assert!(bench.replies().is_empty());
    assert!(
        !bench
            .inputs()
            .iter()
            .any(|input| matches!(input, Input::Propose { .. }))
    );
}

#[test]
fn a_write_after_a_lost_history_is_refused() {
    let mut bench = two_writes(Fsync::Always);
    let seen = |position| Operation::Write {
        idempotency: None,
        seen: Some(position),
        ops: vec![put("a", "2")],
    };
    bench.script(|_, _| Vec::new());
    bench.ask(1, 20, seen(position(1, 9)));
    bench.ask(1, 21, seen(position(1, 2)));
    bench.ask(1, 22, seen(position(5, 9)));
    bench.turn(1);
    let lost = Refusal::HistoryLost {
        group: GROUP,
        seen: position(1, 9),
    };
    assert_eq!(
        bench.replies(),
        [(20, Err(lost)), (22, Err(Refusal::NotPrimary { hint: None }))]
    );
}

#[test]
fn a_joint_that_cannot_be_one_is_refused_as_a_whole() {
    let mut bench = two_writes(Fsync::Always);
    let joined = |key, seen| JoinedWrite {
        idempotency: None,
        seen,
        op: put(key, "2"),
    };
    bench.script(|_, _| Vec::new());
    let lost = position(1, 9);
    bench.ask(
        1,
        20,
        Operation::Joint(vec![joined("a", None), joined("b", Some(lost))]),
    );
    bench.ask(
        1,
        21,
        Operation::Joint(vec![joined("a", None), joined("b", None), joined("a", None)]),
    );
    bench.ask(1, 22, Operation::Joint(vec![joined("a", None), joined("", None)]));
    bench.ask(1, 23, Operation::Joint(Vec::new()));
    bench.ask(
        1,
        24,
        Operation::Joint(vec![joined("a", Some(position(1, 2))), joined("b", None)]),
    );
    bench.turn(1);
    let replies = bench.replies();
    let seen = lost;
    assert_eq!(replies[0], (20, Err(Refusal::HistoryLost { group: GROUP, seen })));
    for (reply, says) in replies[1..].iter().zip(["a key twice", "empty", "empty"]) {
        assert!(
            matches!(reply, (_, Err(Refusal::Invalid { reason })) if reason.contains(says)),
            "{reply:?}"
        );
    }
    let numbers: Vec<u64> = replies.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, [20, 21, 22, 23], "the last one waits to be ordered");
}

#[test]
fn a_session_of_another_history_keeps_no_other_write_of_its_joint_back() {
    let mut bench = two_writes(Fsync::Always);
    bench.script(|_, _| Vec::new());
    let seen = position(9, 1);
    let joined = |key, seen| JoinedWrite {
        idempotency: None,
        seen,
        op: put(key, "2"),
    };
    let joint = Operation::Joint(vec![joined("a", None), joined("b", Some(seen))]);
    bench.ask(1, 20, joint);
    bench.ask(
        1,
        21,
        Operation::Write {
            idempotency: None,
            seen: Some(seen),
            ops: vec![put("b", "2")],
        },
    );
    bench.turn(1);
    let [joint, alone] = &bench.replies()[..] else {
        panic!("both are refused at once")
    };
    let Err(refusal) = &joint.1 else { panic!("{joint:?}") };
    assert!(fulcrum_common::routing::parts(refusal), "{refusal:?}");
    assert!(matches!(alone, (21, Err(Refusal::NotPrimary { .. }))), "{alone:?}");
}

#[test]
fn a_message_waits_for_its_write_and_others_do_not() {
    let message = |version| Message {
        header: Header {
            version: ConfigVersion(version),
            ..Header::default()
        },
        body: Body::Stale {
            configuration: GroupConfiguration::default(),
        },
    };
    let send = |version, after: Option<u64>| Effect::Send {
        to: NodeId(2),
        message: message(version),
        after: after.map(WriteId),
    };
    let sent = |bench: &mut Bench| -> Vec<u64> {
        let versions = bench.out.drain(..).filter_map(|output| match output {
            Output::Send { message, .. } => Some(message.header.version.0),
            _ => None,
        });
        versions.collect()
    };
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    bench.effects(
        0,
        vec![
            append(1, 1, 1, &[put("a", "1")]),
            send(1, Some(1)),
            send(2, None),
            append(2, 1, 2, &[put("b", "1")]),
        ],
    );
    assert_eq!(sent(&mut bench), [2]);
    bench.inputs();
    bench.effects(1, vec![send(3, Some(2)), send(4, Some(1))]);
    assert!(sent(&mut bench).is_empty());
    bench.sync(2);
    assert_eq!(sent(&mut bench), [1, 4, 3]);
    let through = bench.inputs().into_iter().find_map(|input| match input {
        Input::Persisted { through } => Some(through),
        _ => None,
    });
    assert_eq!(through, Some(WriteId(2)));
}
