//! What is refused before a core is asked.

use super::fake::*;
use crate::event::{Event, RequestId};
use bytes::Bytes;
use fulcrum_common::keyspace::KeyspaceOptions;
use fulcrum_replication::Input;
use fulcrum_types::*;
use std::time::Duration;

fn refusal(bench: &mut Bench, change: impl FnOnce(&mut GroupRequest)) -> Refusal {
    let mut request = GroupRequest {
        keyspace: KEYSPACE,
        group: GROUP,
        map_version: MapVersion(1),
        deadline: Duration::from_secs(1),
        operation: write(vec![put("a", "1")]),
    };
    change(&mut request);
    bench.handle(
        0,
        Event::Request {
            id: RequestId(1),
            request,
        },
    );
    bench.turn(0);
    let replies = bench.replies();
    let asked = bench
        .inputs()
        .iter()
        .any(|input| matches!(input, Input::Propose { .. } | Input::Read { .. }));
    assert!(!asked, "the core was asked");
    replies.into_iter().next().expect("a refusal").1.expect_err("a refusal")
}

#[test]
fn who_goes_by_another_map_is_told_ours() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let ours = Refusal::WrongGroup {
        map_version: MapVersion(1),
    };
    assert_eq!(refusal(&mut bench, |r| r.map_version = MapVersion(2)), ours);
    assert_eq!(refusal(&mut bench, |r| r.group = GroupId(9)), ours);
    let unknown = Refusal::UnknownKeyspace {
        keyspace: KeyspaceId(9).to_string(),
    };
    assert_eq!(refusal(&mut bench, |r| r.keyspace = KeyspaceId(9)), unknown);
}

#[test]
fn a_key_of_another_group_is_refused() {
    let mut bench = Bench::new(KeyspaceOptions {
        groups: 4,
        ..KeyspaceOptions::of(Mode::Sync, 3)
    });
    let map = map(KeyspaceOptions {
        groups: 4,
        ..KeyspaceOptions::of(Mode::Sync, 3)
    });
    let names: [&'static str; 8] = ["a", "b", "c", "d", "e", "f", "g", "h"];
    let foreign = |key: &&str| map.group_of(KEYSPACE, key.as_bytes()) != Some(GROUP);
    let key = names.into_iter().find(foreign).expect("a key of another group");
    let wrong = Refusal::WrongGroup {
        map_version: MapVersion(1),
    };
    assert_eq!(refusal(&mut bench, |r| r.operation = write(vec![put(key, "1")])), wrong);
    assert_eq!(
        refusal(&mut bench, |r| r.operation = get(key, Level::Eventual, vec![])),
        wrong
    );
}

#[test]
fn limits_are_named() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    let mut says = |operation, words: &str| {
        let refusal = refusal(&mut bench, |r| r.operation = operation);
        assert!(
            matches!(&refusal, Refusal::Invalid { reason } if reason.contains(words)),
            "{refusal:?}"
        );
    };
    says(write(vec![]), "empty");
    says(write(vec![put("", "1")]), "key is empty");
    let mut large = put("a", "");
    large.mutation = Mutation::Put {
        value: Bytes::from(vec![0; 1024 * 1024 + 1]),
        ttl: None,
    };
    says(write(vec![large]), "1048576");
    says(write(vec![put("a", "1"); 1025]), "1024");
    says(get("", Level::Eventual, vec![]), "key is empty");
}

#[test]
fn no_time_left_is_not_worth_a_try() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    assert_eq!(
        refusal(&mut bench, |r| r.deadline = Duration::ZERO),
        Refusal::DeadlineExceeded
    );
}

#[test]
fn more_than_may_wait_is_refused_as_overload() {
    let mut bench = Bench::new(options(Mode::Sync, Fsync::Always));
    bench.node.shared.settings.waiting_max = 1;
    bench.ask(0, 7, get("a", Level::Linearizable, vec![]));
    bench.inputs();
    assert_eq!(refusal(&mut bench, |_| {}), Refusal::Overloaded);
    bench.node.shared.settings.waiting_max = 10;
    bench.node.shared.settings.staged_bytes_max = 100;
    bench.effects(0, vec![append(1, 1, 1, &[put("a", "1"), put("b", "1"), put("c", "1")])]);
    assert_eq!(refusal(&mut bench, |_| {}), Refusal::Overloaded);
}
