//! Transactions end to end: a client, a router, three nodes.

mod support;

use bytes::Bytes;
use fulcrum_common::limits::{LONGEST_TRANSACTION, MAX_TRANSACTION_KEYS, MAX_VALUE_BYTES};
use fulcrum_common::wire::status::refusal_from_status;
use fulcrum_types::*;
use std::collections::BTreeSet;
use std::time::Duration;
use support::*;

fn committed(result: &Result<Committed, Refusal>) -> bool {
    matches!(
        result,
        Ok(Committed {
            outcome: CommitOutcome::Committed { .. },
            ..
        })
    )
}

fn aborted(result: Result<Committed, Refusal>) -> AbortCause {
    match result {
        Err(Refusal::Aborted { cause, .. }) => cause,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_committed_is_there_in_all_groups_and_keyspaces() {
    let world = World::new().await;
    let named = [("accounts", "a"), ("accounts", "b"), ("stock", "x"), ("stock", "y")];
    let all = named.map(|(keyspace, name)| key(keyspace, name));
    let map = world.map().await;
    let groups: BTreeSet<_> = all.iter().map(|key| world.group_of(&map, key)).collect();
    assert!(groups.len() > 1, "the keys are to lie in several groups");

    let request = writes(named.map(|(keyspace, name)| put(keyspace, name, "1")).to_vec());
    let id = request.id;
    let first = world.transactions.commit(request.clone()).await.unwrap();
    assert_eq!(rounds(&first), 2);
    assert_eq!(first.receipts.len(), groups.len());
    let CommitOutcome::Committed { versions, .. } = first.outcome.clone() else {
        panic!("{first:?}")
    };
    let seen = world.transactions.consistent(&all).await;
    assert_eq!(seen.iter().map(|one| one.version).collect::<Vec<_>>(), versions);
    assert!(seen.iter().all(|one| text(one).as_deref() == Some("1")));

    let again = world.transactions.commit(request.clone()).await.unwrap();
    assert_eq!(again.outcome, first.outcome, "the very same again has the same answer");
    let other = CommitRequest {
        writes: vec![put("accounts", "a", "2")],
        ..request
    };
    let refused = world.transactions.commit(other).await.unwrap_err();
    assert_eq!(refused, Refusal::TransactionIdReused { id });
    world.settled().await;
    for first_written in [Some(key("accounts", "a")), None] {
        let asked = OutcomeRequest {
            id,
            first_written,
            settle: true,
        };
        let told = world.transactions.outcome(asked).await.unwrap();
        let TransactionOutcome::Committed(parts) = told.outcome else {
            panic!("{told:?}")
        };
        assert_eq!(parts.len(), groups.len());
    }

    let of_one_group = writes(vec![put("stock", "{s}1", "1"), put("stock", "{s}2", "2")]);
    let one = world.transactions.commit(of_one_group).await.unwrap();
    assert_eq!((rounds(&one), one.receipts.len()), (1, 1));
    assert!(world.settled().await < Duration::from_secs(3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn conditions_and_reads_are_held_to() {
    let world = World::new().await;
    let transactions = &world.transactions;
    let keys = [key("accounts", "a"), key("stock", "x")];
    let request = writes(vec![put("accounts", "a", "1"), put("stock", "x", "1")]);
    assert!(committed(&transactions.commit(request).await));

    // A condition that does not hold is an outcome, and names its key.
    let mut request = writes(vec![put("accounts", "a", "2"), put("stock", "x", "2")]);
    request.conditions = vec![
        condition("accounts", "a", Condition::Exists),
        condition("stock", "x", Condition::ValueIs(Bytes::from_static(b"1"))),
        condition("stock", "none", Condition::Exists),
    ];
    let failed = transactions.commit(request.clone()).await.unwrap();
    let expected = CommitOutcome::ConditionFailed {
        key: key("stock", "none"),
        current: None,
    };
    assert_eq!(failed.outcome, expected);
    assert_eq!(
        transactions.commit(request).await.unwrap().outcome,
        expected,
        "for good"
    );
    let asked = |first_written| OutcomeRequest {
        id: attempt(),
        first_written,
        settle: false,
    };
    let never = transactions.outcome(asked(Some(key("stock", "x")))).await.unwrap();
    assert_eq!(never.outcome, TransactionOutcome::NotSeen);

    // A read that has changed aborts; one that still holds does not.
    let mut late = writes(vec![put("accounts", "a", "3"), put("stock", "y", "3")]);
    let seen = transactions.observe(late.id, &keys).await;
    late.reads = keys.iter().zip(&seen).map(|(key, seen)| check(key, seen)).collect();
    let mut early = writes(vec![put("stock", "x", "4")]);
    early.reads.clone_from(&late.reads);
    assert!(committed(&transactions.commit(early).await));
    assert!(matches!(
        aborted(transactions.commit(late).await),
        AbortCause::ReadInvalidated { .. }
    ));
    let now = transactions.consistent(&keys).await;
    assert_eq!(
        now.iter().map(text).collect::<Vec<_>>(),
        [Some("1".into()), Some("4".into())]
    );

    // Without writes a commit tells whether its reads are of one moment.
    let only_reads = |seen: &[Observed]| CommitRequest {
        reads: keys.iter().zip(seen).map(|(key, seen)| check(key, seen)).collect(),
        ..writes(vec![])
    };
    let valid = transactions.commit(only_reads(&now)).await.unwrap();
    assert_eq!(rounds(&valid), 0);
    let stale = transactions.commit(only_reads(&seen)).await;
    assert!(matches!(aborted(stale), AbortCause::ReadInvalidated { .. }));
    // Absence is validated, too.
    let gone = key("accounts", "absent");
    let mut first = writes(vec![put("accounts", "absent", "1"), put("stock", "z", "1")]);
    let seen = transactions.observe(first.id, std::slice::from_ref(&gone)).await;
    first.reads = vec![check(&gone, &seen[0])];
    let mut second = writes(vec![put("accounts", "absent", "2")]);
    second.reads.clone_from(&first.reads);
    assert!(committed(&transactions.commit(first).await));
    assert!(matches!(
        aborted(transactions.commit(second).await),
        AbortCause::ReadInvalidated { .. }
    ));
    world.settled().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_is_refused_and_leaves_nothing() {
    let world = World::new().await;
    let transactions = &world.transactions;
    let refused = async |request| transactions.commit(request).await.unwrap_err();
    let cache = refused(writes(vec![put("accounts", "a", "1"), put("cache", "a", "1")])).await;
    let no_transactions = Refusal::NoTransactions {
        keyspace: "cache".into(),
        mode: Mode::Async,
    };
    assert_eq!(cache, no_transactions);
    let read_cache = TransactionRead {
        id: attempt(),
        keys: vec![key("cache", "a")],
        ..TransactionRead::default()
    };
    assert_eq!(transactions.read(read_cache).await.unwrap_err(), no_transactions);
    let unknown = refused(writes(vec![put("none", "a", "1")])).await;
    assert_eq!(
        unknown,
        Refusal::UnknownKeyspace {
            keyspace: "none".into()
        }
    );
    let twice = refused(writes(vec![put("accounts", "a", "1"), put("accounts", "a", "2")])).await;
    assert!(twice.to_string().contains("written twice"), "{twice}");
    let empty = refused(writes(vec![])).await;
    assert!(empty.to_string().contains("empty"), "{empty}");
    let many = (0..=MAX_TRANSACTION_KEYS)
        .map(|n| put("accounts", &format!("k{n}"), "1"))
        .collect();
    let many = refused(writes(many)).await;
    assert!(many.to_string().contains("at most 1024"), "{many}");
    let large = "x".repeat(MAX_VALUE_BYTES);
    let large = (0..9).map(|n| put("accounts", &format!("k{n}"), &large)).collect();
    let large = refused(writes(large)).await;
    assert!(large.to_string().contains("bytes of keys and values"), "{large}");

    let moved = |request: CommitRequest, by: i64| {
        let begun_at_ms = request.id.begun_at_ms.saturating_add_signed(by);
        let id = TransactionId {
            begun_at_ms,
            ..request.id
        };
        CommitRequest {
            id,
            priority: Priority(id),
            ..request
        }
    };
    let horizon = i64::try_from(LONGEST_TRANSACTION.as_millis()).unwrap();
    for writes in [
        writes(vec![put("accounts", "a", "1")]),
        writes(vec![
            put("accounts", "a", "1"),
            put("accounts", "b", "1"),
            put("stock", "x", "1"),
        ]),
    ] {
        let old = refused(moved(writes.clone(), -2 * horizon)).await;
        assert_eq!(old, Refusal::TooOldToTell);
        let future = refused(moved(writes, 2 * horizon)).await;
        assert_eq!(future.code(), "INVALID", "{future}");
    }
    let unborn = OutcomeRequest {
        id: moved(writes(vec![]), 2 * horizon).id,
        first_written: Some(key("accounts", "a")),
        settle: true,
    };
    assert_eq!(transactions.outcome(unborn).await.unwrap_err().code(), "INVALID");
    let group = GroupId(999);
    assert_eq!(
        transactions.resolve(attempt(), group).await.unwrap_err().code(),
        "INVALID"
    );
    world.settled().await;
    let seen = transactions
        .consistent(&[key("accounts", "a"), key("stock", "x")])
        .await;
    assert!(seen.iter().all(|one| one.value.is_none()), "{seen:?}");
}

/// As large as a transaction may be, through every queue and message on the way.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_transaction_passes() {
    let world = World::new().await;
    let value = "x".repeat(MAX_VALUE_BYTES);
    let names: Vec<String> = (0..9).map(|number| format!("large/{number}")).collect();
    let large = |names: &[String]| writes(names.iter().map(|name| put("accounts", name, &value)).collect());
    for part in [&names[..7], &names[7..]] {
        assert!(committed(&world.transactions.commit(large(part)).await));
    }
    let many = (0..MAX_TRANSACTION_KEYS).map(|n| put("stock", &format!("many/{n}"), "1"));
    assert!(committed(&world.transactions.commit(writes(many.collect())).await));
    let keys: Vec<_> = names.iter().map(|name| key("accounts", name)).collect();
    let seen = world.transactions.consistent(&keys[..7]).await;
    assert!(seen.iter().all(|one| text(one).is_some_and(|text| text == value)));
    let read = TransactionRead {
        id: attempt(),
        keys,
        ..TransactionRead::default()
    };
    let refused = world.transactions.read(read).await.unwrap_err();
    assert!(refused.to_string().contains("read fewer keys"), "{refused}");
    world.settled().await;
}

/// The very same commit several times at once, and others under the same id: one transaction at most takes effect, once, and whoever asks
/// for it is told the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_id_is_one_transaction() {
    let world = World::new().await;
    for round in 0..12 {
        let name = format!("once/{round}");
        let of = |value: &str| vec![put("accounts", &name, value), put("stock", &name, value)];
        let one = writes(of("one"));
        let other = CommitRequest {
            writes: of("other"),
            ..one.clone()
        };
        let all = [one.clone(), other.clone(), one.clone(), other];
        let calls = all.into_iter().map(|request| world.transactions.commit(request));
        let results = futures::future::join_all(calls).await;
        let both = [&results[0], &results[1]].map(committed);
        assert!(!(both[0] && both[1]), "two transactions under one id: {results:?}");
        for (first, again) in [(0, 2), (1, 3)] {
            assert_eq!(committed(&results[first]), committed(&results[again]), "{results:?}");
        }
        for result in &results {
            let is_known = matches!(
                result,
                Ok(_) | Err(Refusal::Aborted { .. } | Refusal::TransactionIdReused { .. })
            );
            assert!(is_known, "{result:?}");
        }
        world.settled().await;
        let seen = world
            .transactions
            .consistent(&[key("accounts", &name), key("stock", &name)])
            .await;
        let expected = match both {
            [true, _] => Some("one".to_owned()),
            [_, true] => Some("other".to_owned()),
            _ => None,
        };
        assert!(seen.iter().all(|one| text(one) == expected), "{seen:?}, {results:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_can_be_settled_and_then_nothing_comes_after_it() {
    let world = World::new().await;
    let request = writes(vec![put("accounts", "a", "1"), put("stock", "x", "1")]);
    let asked = OutcomeRequest {
        id: request.id,
        first_written: Some(key("accounts", "a")),
        settle: true,
    };
    let told = world.transactions.outcome(asked).await.unwrap();
    assert_eq!(told.outcome, TransactionOutcome::Aborted(AbortCause::Client));
    let late = world.transactions.commit(request.clone()).await.unwrap_err();
    assert!(
        matches!(
            late,
            Refusal::Aborted {
                cause: AbortCause::Client,
                ..
            }
        ),
        "{late}"
    );
    assert_eq!(late.act(), Act::Reject);
    world.settled().await;

    let map = world.map().await;
    let home = world.group_of(&map, &key("accounts", "a"));
    let other = writes(vec![put("accounts", "a", "1"), put("stock", "x", "1")]);
    let told = world.transactions.resolve(other.id, home).await.unwrap();
    assert_eq!(told.outcome, TransactionOutcome::Aborted(AbortCause::Operator));
    assert!(matches!(
        aborted(world.transactions.commit(other).await),
        AbortCause::Operator
    ));
    let third = writes(vec![put("accounts", "a", "1"), put("stock", "x", "1")]);
    assert!(committed(&world.transactions.commit(third.clone()).await));
    let told = world.transactions.resolve(third.id, home).await.unwrap();
    assert!(
        matches!(told.outcome, TransactionOutcome::Committed(_)),
        "too late to abort: {told:?}"
    );
}

/// A call that is dropped at whatever moment leaves no lock behind, and its transaction whole or not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_vanishes_leaves_no_lock() {
    let world = World::new().await;
    let mut gone = Vec::new();
    for number in 0..40_u64 {
        let name = format!("v{number}");
        let request = writes(vec![put("accounts", &name, "1"), put("stock", &name, "1")]);
        // A connection of its own, so that it breaks.
        let transactions = Transactions::at(world.cluster.router_address());
        let call = tokio::spawn({
            let request = request.clone();
            async move { transactions.commit(request).await }
        });
        tokio::time::sleep(Duration::from_micros(400 * number)).await;
        call.abort();
        gone.push((name, request));
    }
    let took = world.settled().await;
    assert!(took < Duration::from_secs(5), "in doubt for {took:?}");
    let mut there = 0;
    for (name, request) in gone {
        let keys = [key("accounts", &name), key("stock", &name)];
        let seen = world.transactions.consistent(&keys).await;
        assert_eq!(
            seen[0].value.is_some(),
            seen[1].value.is_some(),
            "half of {name} is there"
        );
        // Sent again it has a definite answer, which is a commit: nobody aborted it because a connection broke.
        there += usize::from(seen[0].value.is_some());
        let again = world.transactions.commit(request).await;
        assert!(committed(&again), "{name}: {again:?}");
        for at in &keys {
            let keyspace = world.client.keyspace(&at.keyspace);
            keyspace.put(at.what.clone(), "2").await.unwrap();
        }
    }
    assert!(there > 0, "no call got as far as a commit before it was dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_that_passed_has_done_nothing() {
    let world = World::new().await;
    let request = writes(vec![put("accounts", "a", "1"), put("stock", "x", "1")]);
    let mut message = tonic::Request::new(request.clone().into());
    message.metadata_mut().insert("grpc-timeout", "0n".parse().unwrap());
    let status = world.transactions.rpc.clone().commit(message).await.unwrap_err();
    let refusal = refusal_from_status(&status);
    assert!(
        matches!(refusal, Refusal::DeadlineExceeded | Refusal::Unknown { .. }),
        "{refusal}"
    );
    world.settled().await;
    let told = world.transactions.outcome(OutcomeRequest {
        id: request.id,
        first_written: Some(key("accounts", "a")),
        settle: true,
    });
    assert_eq!(
        told.await.unwrap().outcome,
        TransactionOutcome::Aborted(AbortCause::Client)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_are_counted() {
    let world = World::new().await;
    let pair = || vec![put("accounts", "a", "1"), put("stock", "x", "1")];
    assert!(committed(&world.transactions.commit(writes(pair())).await));
    let mut stale = writes(pair());
    stale.reads = vec![check(&key("accounts", "a"), &Observed::default())];
    aborted(world.transactions.commit(stale).await);
    world.settled().await;
    let metrics = scrape(world.cluster.router_metrics_address().unwrap()).await;
    for line in [
        "fulcrum_coordinator_transactions_total{outcome=\"committed\"} 1",
        "fulcrum_coordinator_transactions_total{outcome=\"aborted\"} 1",
        "fulcrum_coordinator_aborts_total{cause=\"read_invalidated\"} 1",
        // The stale one was prepared, too, before its home group looked at what it had read.
        "fulcrum_coordinator_phase_seconds_count{phase=\"prepare\"} 2",
        "fulcrum_coordinator_phase_seconds_count{phase=\"decide\"} 1",
        "fulcrum_coordinator_commit_rounds_sum 2",
        "fulcrum_coordinator_open_transactions{stage=\"preparing\"} 0",
        "fulcrum_coordinator_undecided_oldest_seconds 0",
        "fulcrum_coordinator_read_repeats_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in:\n{metrics}");
    }
    for family in metrics
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE fulcrum_coordinator_"))
    {
        let name = family.split(' ').next().unwrap();
        assert!(
            metrics.contains(&format!("# HELP fulcrum_coordinator_{name} ")),
            "{name} has no help"
        );
    }
    let wanted = [
        "fulcrum_shard_node_transactions_committed_total{keyspace=\"accounts\"}",
        "fulcrum_shard_node_transactions_in_doubt{keyspace=\"accounts\"} 0",
        "fulcrum_shard_node_transactions_in_doubt_oldest_seconds{keyspace=\"accounts\"} 0",
        "# HELP fulcrum_shard_node_transaction_in_doubt_seconds ",
        "fulcrum_shard_node_transactions_unresolved{keyspace=\"stock\"} 0",
        "fulcrum_shard_node_lock_waiters{keyspace=\"stock\"} 0",
    ];
    let began = tokio::time::Instant::now();
    loop {
        // Gauges are refreshed once a second.
        let mut all = String::new();
        for node in world.cluster.nodes().collect::<Vec<_>>() {
            all += &scrape(world.cluster.node_metrics_address(node).unwrap()).await;
        }
        let Some(missing) = wanted.iter().find(|name| !all.contains(**name)) else {
            break;
        };
        assert!(began.elapsed() < PATIENCE, "{missing} is not in:\n{all}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
