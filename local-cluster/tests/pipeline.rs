//! Gets of one message of a pipeline go jointly; each is answered as it would be by itself.

mod support;

use bytes::Bytes;
use fulcrum_common::limits::{MAX_BATCH_BYTES, MAX_KEY_BYTES, MAX_MESSAGE_BYTES, MAX_VALUE_BYTES};
use fulcrum_common::wire::status::refusal_from_wire;
use fulcrum_common::wire::v1::consistency as level;
use fulcrum_common::wire::v1::kv_client::KvClient;
use fulcrum_common::wire::v1::pipeline_answer::Answer;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::wire::v1::{self, consistency::Level};
use fulcrum_types::Refusal;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use support::{PATIENCE, World, scrape};
use tonic::transport::Channel;

type Kv = KvClient<Channel>;

fn kv(address: SocketAddr) -> Kv {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    KvClient::new(endpoint.connect_lazy())
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES)
}

fn get(key: impl Into<Bytes>, level: Option<Level>, session: Option<&v1::SessionToken>) -> Op {
    Op::Get(v1::GetRequest {
        keyspace: "accounts".into(),
        key: key.into(),
        options: Some(v1::ReadOptions {
            consistency: level.map(|level| v1::Consistency { level: Some(level) }),
            acceptable: Vec::new(),
            session: session.cloned(),
        }),
    })
}

/// Sends all in one message, and takes an answer to each.
async fn pipelined(kv: &mut Kv, ops: &[Option<Op>]) -> BTreeMap<u64, Answer> {
    let ops = (0..).zip(ops).map(|(id, op)| v1::PipelineOp {
        id,
        op: op.clone(),
        deadline_ms: u32::try_from(PATIENCE.as_millis()).unwrap(),
        trace: Default::default(),
    });
    let message = futures::stream::iter([ops.collect()]);
    let mut answers = kv.pipeline(message).await.unwrap().into_inner();
    let mut seen = BTreeMap::new();
    while let Some(message) = answers.message().await.unwrap() {
        for answer in message.items() {
            let answer = answer.unwrap();
            let before = seen.insert(answer.id, answer.answer.unwrap());
            assert!(before.is_none(), "{} is answered twice", answer.id);
        }
    }
    seen
}

async fn put(kv: &mut Kv, key: String, value: impl Into<Bytes>) -> v1::Receipt {
    let put = v1::PutRequest {
        keyspace: "accounts".into(),
        key: key.into(),
        value: value.into(),
        ..Default::default()
    };
    kv.put(put).await.unwrap().into_inner().receipt.unwrap()
}

fn got(answer: &Answer) -> (Option<&[u8]>, &v1::Receipt) {
    let Answer::Get(got) = answer else { panic!("{answer:?}") };
    let value = got.value.as_ref().map(|value| &value.value[..]);
    (value, got.receipt.as_ref().unwrap())
}

fn refusal(answer: &Answer) -> Refusal {
    let Answer::Error(error) = answer else {
        panic!("{answer:?}")
    };
    refusal_from_wire((**error).clone())
}

/// The sum of a metric over its gets.
fn count(metrics: &str, name: &str) -> u64 {
    let of_gets = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains("operation=\"get\"");
    let lines = metrics.lines().filter(of_gets);
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gets_of_several_groups_levels_and_sessions_are_each_answered() {
    const KEYS: u64 = 150;
    let world = World::new().await;
    let mut kv = kv(world.cluster.router_address());
    let mut session = v1::SessionToken::default();
    for key in 0..KEYS {
        let receipt = put(&mut kv, format!("k{key}"), format!("v{key}")).await;
        let position = v1::LogPosition {
            epoch: receipt.epoch,
            index: receipt.index,
        };
        session.groups.insert(receipt.group, position);
        session.map_version = receipt.map_version;
    }
    assert!(session.groups.len() > 1, "the keys fall into several groups");

    // Every third key was not written.
    let number = |at: u64| at * 3 / 2;
    let mut ops = Vec::new();
    for at in 0..KEYS {
        let key = format!("k{}", number(at));
        ops.push(Some(match at % 4 {
            0 => get(key, None, None),
            1 => get(key, Some(Level::BoundedMs(60_000)), None),
            2 => get(key, Some(Level::Session(level::Session {})), Some(&session)),
            _ => get(key, Some(Level::Linearizable(level::Linearizable {})), Some(&session)),
        }));
    }
    let good = ops.len() as u64;
    ops.push(Some(get("", None, None)));
    ops.push(Some(get(vec![b'k'; MAX_KEY_BYTES + 1], None, None)));
    ops.push(None);
    ops.push(Some(Op::Get(v1::GetRequest {
        keyspace: "nowhere".into(),
        key: "k".into(),
        options: None,
    })));
    ops.push(Some(Op::Delete(v1::DeleteRequest {
        keyspace: "accounts".into(),
        key: "another".into(),
        ..Default::default()
    })));
    let seen = pipelined(&mut kv, &ops).await;

    assert_eq!(seen.len(), ops.len());
    for at in 0..good {
        let (value, receipt) = got(&seen[&at]);
        let expected = format!("v{}", number(at));
        let expected = (number(at) < KEYS).then_some(expected.as_bytes());
        // A replica within the bound need not have the newest.
        let may_lack_it = at % 4 == 1 && value.is_none();
        assert!(value == expected || may_lack_it, "k{}: {value:?}", number(at));
        let asked = receipt.asked.unwrap().level.unwrap();
        match at % 4 {
            1 => assert_eq!(asked, Level::BoundedMs(60_000)),
            2 => assert!(matches!(asked, Level::Session(_))),
            _ => assert!(matches!(asked, Level::Linearizable(_))),
        }
        assert!(receipt.index >= session.groups[&receipt.group].index || at % 4 == 1);
    }
    for at in [good, good + 1, good + 2] {
        assert!(matches!(refusal(&seen[&at]), Refusal::Invalid { .. }));
    }
    assert!(matches!(refusal(&seen[&(good + 3)]), Refusal::UnknownKeyspace { .. }));
    assert!(matches!(seen[&(good + 4)], Answer::Write(_)));

    let metrics = scrape(world.cluster.router_metrics_address().unwrap()).await;
    let counted = count(&metrics, "fulcrum_router_requests_total");
    assert_eq!(counted, good + 2, "each get, also the two with keys that are refused");
    let journeys = count(&metrics, "fulcrum_router_request_duration_seconds_count");
    assert!(journeys < good / 2, "most went jointly: {journeys}");
    assert!(metrics.contains("fulcrum_router_requests_under_way 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_are_too_much_together_are_read_one_by_one() {
    const TOO_MANY: usize = MAX_BATCH_BYTES / MAX_VALUE_BYTES + 4;
    let world = World::new().await;
    let mut kv = kv(world.cluster.router_address());
    // All are in one group.
    let options = fulcrum_client::KeyspaceSpec {
        groups: Some(1),
        ..Default::default()
    };
    world.client.admin().create_keyspace("large", options).await.unwrap();
    let in_large = |op: Op| match op {
        Op::Get(get) => Op::Get(v1::GetRequest {
            keyspace: "large".into(),
            ..get
        }),
        other => other,
    };
    for key in 0..TOO_MANY {
        let put = v1::PutRequest {
            keyspace: "large".into(),
            key: format!("k{key}").into(),
            value: vec![u8::try_from(key).unwrap(); MAX_VALUE_BYTES].into(),
            ..Default::default()
        };
        kv.put(put).await.unwrap();
    }
    let ops: Vec<_> = (0..TOO_MANY + 1)
        .map(|key| Some(in_large(get(format!("k{key}"), None, None))))
        .collect();
    let seen = pipelined(&mut kv, &ops).await;
    assert_eq!(seen.len(), TOO_MANY + 1);
    for (id, answer) in &seen {
        let (value, _) = got(answer);
        let at = usize::try_from(*id).unwrap();
        let expected = (at < TOO_MANY).then(|| vec![u8::try_from(at).unwrap(); MAX_VALUE_BYTES]);
        assert_eq!(value.map(<[u8]>::len), expected.as_ref().map(Vec::len), "k{at}");
        assert!(value == expected.as_deref(), "k{at} has another's value");
    }
    let metrics = scrape(world.cluster.router_metrics_address().unwrap()).await;
    assert_eq!(count(&metrics, "fulcrum_router_requests_total"), seen.len() as u64);
    assert!(metrics.contains("fulcrum_router_requests_under_way 0"));
}

fn write(keyspace: &str, key: impl Into<Bytes>, value: impl Into<Bytes>) -> v1::PutRequest {
    v1::PutRequest {
        keyspace: keyspace.into(),
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

/// What a write became, and its receipt.
fn wrote(answer: &Answer) -> (v1::write_outcome::Outcome, &v1::Receipt) {
    let Answer::Write(wrote) = answer else {
        panic!("{answer:?}")
    };
    let outcome = wrote.outcome.and_then(|outcome| outcome.outcome);
    (outcome.unwrap(), wrote.receipt.as_ref().unwrap())
}

fn version(answer: &Answer) -> u64 {
    match wrote(answer).0 {
        v1::write_outcome::Outcome::Applied(applied) => applied.version,
        other => panic!("{other:?}"),
    }
}

/// The sum of a metric over its writes.
fn count_writes(metrics: &str, name: &str) -> u64 {
    let of_writes = |line: &&str| line.starts_with(&format!("{name}{{")) && line.contains("operation=\"write\"");
    let lines = metrics.lines().filter(of_writes);
    lines
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_one_message_are_each_judged_and_answered() {
    const KEYS: u64 = 150;
    let world = World::new().await;
    let mut kv = kv(world.cluster.router_address());
    let before = scrape(world.cluster.router_metrics_address().unwrap()).await;
    let only_new = |key: String| {
        Op::Put(v1::PutRequest {
            condition: Some(v1::Condition {
                must: Some(v1::condition::Must::Absent(v1::condition::Absent {})),
            }),
            ..write("accounts", key, "second")
        })
    };
    let mut ops: Vec<_> = (0..KEYS)
        .map(|key| Some(Op::Put(write("accounts", format!("k{key}"), format!("v{key}")))))
        .collect();
    ops.extend((0..KEYS).map(|key| Some(only_new(format!("k{}", key * 2)))));
    let good = ops.len() as u64;
    ops.push(Some(Op::Put(write("accounts", "", "v"))));
    ops.push(Some(Op::Put(write("accounts", "large", vec![0; MAX_VALUE_BYTES + 1]))));
    ops.push(Some(Op::Put(write("nowhere", "k", "v"))));
    let seen = pipelined(&mut kv, &ops).await;

    assert_eq!(seen.len(), ops.len());
    for key in 0..KEYS {
        let (outcome, receipt) = wrote(&seen[&key]);
        let v1::write_outcome::Outcome::Applied(applied) = outcome else {
            panic!("k{key}: {outcome:?}")
        };
        assert!(!applied.existed);
        assert_eq!((applied.version, receipt.acknowledged_by.len()), (receipt.index, 3));
    }
    // They came behind the others: every second one found its key taken.
    for at in 0..KEYS {
        let (outcome, _) = wrote(&seen[&(KEYS + at)]);
        let taken = matches!(outcome, v1::write_outcome::Outcome::ConditionFailed(_));
        assert_eq!(taken, at * 2 < KEYS, "k{}: {outcome:?}", at * 2);
    }
    for at in [good, good + 1] {
        assert!(matches!(refusal(&seen[&at]), Refusal::Invalid { .. }));
    }
    assert!(matches!(refusal(&seen[&(good + 2)]), Refusal::UnknownKeyspace { .. }));

    let ops: Vec<_> = (0..KEYS).map(|key| Some(get(format!("k{key}"), None, None))).collect();
    for (at, answer) in &pipelined(&mut kv, &ops).await {
        assert_eq!(got(answer).0, Some(format!("v{at}").as_bytes()), "k{at}");
    }
    let metrics = scrape(world.cluster.router_metrics_address().unwrap()).await;
    let since = |name| count_writes(&metrics, name) - count_writes(&before, name);
    let counted = since("fulcrum_router_requests_total");
    assert_eq!(counted, good + 2, "each write, also the two that are refused");
    let journeys = since("fulcrum_router_request_duration_seconds_count");
    assert!(journeys < good / 2, "most went jointly: {journeys}");
    assert!(metrics.contains("fulcrum_router_requests_under_way 0"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_of_one_key_are_applied_in_the_order_of_the_message() {
    const ROUNDS: u64 = 40;
    let world = World::new().await;
    let mut kv = kv(world.cluster.router_address());
    let key = |at: u64| format!("k{}", at % 7);
    let ops: Vec<_> = (0..7 * ROUNDS)
        .map(|at| Some(Op::Put(write("accounts", key(at), at.to_string()))))
        .collect();
    let seen = pipelined(&mut kv, &ops).await;
    for at in 7..7 * ROUNDS {
        assert!(version(&seen[&(at - 7)]) < version(&seen[&at]), "{} of {}", at, key(at));
    }
    let ops: Vec<_> = (0..7).map(|at| Some(get(key(at), None, None))).collect();
    for (at, answer) in &pipelined(&mut kv, &ops).await {
        let last = (7 * (ROUNDS - 1) + at).to_string();
        assert_eq!(got(answer).0, Some(last.as_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_was_joined_is_recognised_when_it_is_sent_again() {
    let world = World::new().await;
    let mut kv = kv(world.cluster.router_address());
    let identity = kv.open_session(v1::OpenSessionRequest {}).await.unwrap().into_inner();
    let keyed = |number: u64| v1::PutRequest {
        idempotency: Some(v1::IdempotencyKey {
            client: identity.client,
            sequence: number + 1,
            issued_at_ms: identity.issued_at_ms,
            low_water: 1,
        }),
        ..write("accounts", format!("k{number}"), "v")
    };
    let ops: Vec<_> = (0..50).map(|number| Some(Op::Put(keyed(number)))).collect();
    let first = pipelined(&mut kv, &ops).await;
    let again = pipelined(&mut kv, &ops).await;
    for number in 0..50 {
        assert_eq!(version(&first[&number]), version(&again[&number]), "k{number}");
        let alone = kv.put(keyed(number)).await.unwrap().into_inner();
        let alone = Answer::Write(alone);
        assert_eq!(version(&first[&number]), version(&alone), "k{number}");
    }
}
