//! What clients and operators see of a node: batches, pipelines, errors, status, certificates, metrics.

mod support;

use bytes::Bytes;
use fulcrum_common::KeyspaceOptions;
use fulcrum_common::wire::batch::{BatchBuilder, PipelineRequest};
use fulcrum_common::wire::internal::shard_client::ShardClient;
use fulcrum_common::wire::internal::{self, CertificatesRequest, HandOverRequest};
use fulcrum_common::wire::shard::{Reply, push_request, response_from_wire};
use fulcrum_common::wire::status::refusal_from_status;
use fulcrum_common::wire::v1;
use fulcrum_types::{
    Answer, GroupId, GroupRequest, KeyspaceId, Level, MapVersion, Mode, Operation, Query, ReadRequest, Refusal,
};
use prost::Message;
use std::time::Duration;
use support::{Cluster, channel, get, put, scrape, wait_for};

fn one(mode: Mode) -> KeyspaceOptions {
    KeyspaceOptions::of(mode, 1)
}

fn op(id: u64, op: v1::pipeline_op::Op) -> v1::PipelineOp {
    v1::PipelineOp {
        id,
        op: Some(op),
        deadline_ms: 0,
        trace: Default::default(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_answers_every_operation_by_its_id() {
    use v1::pipeline_answer::Answer as A;
    use v1::pipeline_op::Op;
    let cluster = Cluster::start(1).await;
    cluster.create("users", one(Mode::Sync)).await;
    let puts = (0..500)
        .map(|id| op(id, Op::Put(put("users", &format!("k{id}"), "v"))))
        .collect();
    let others = vec![
        op(1000, Op::Get(get("users", "first"))),
        op(1001, Op::Get(get("nope", "k"))),
        op(1002, Op::Put(put("users", "", "v"))),
        v1::PipelineOp {
            id: 1003,
            op: None,
            deadline_ms: 0,
            trace: Default::default(),
        },
    ];
    let requests = [puts, others].map(|ops: Vec<v1::PipelineOp>| ops.into_iter().collect::<PipelineRequest>());
    let mut kv = cluster.kv(1).await;
    let mut answers = kv.pipeline(futures::stream::iter(requests)).await.unwrap().into_inner();
    let mut seen = std::collections::BTreeMap::new();
    let mut batches = 0;
    while let Some(batch) = answers.message().await.unwrap() {
        batches += 1;
        for answer in batch.items() {
            let answer = answer.unwrap();
            assert!(seen.insert(answer.id, answer.answer.unwrap()).is_none());
        }
    }
    assert_eq!(seen.len(), 504);
    assert!((0..500).all(|id| matches!(seen[&id], A::Write(_))));
    assert!(matches!(&seen[&1000], A::Get(read) if read.value.is_some()));
    let code = |id| match &seen[&id] {
        A::Error(error) => error.code.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!(
        [code(1001), code(1002), code(1003)],
        ["UNKNOWN_KEYSPACE", "INVALID", "INVALID"]
    );
    assert!(batches < 100, "{batches} batches for 504 answers");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_answered_item_by_item() {
    let cluster = Cluster::start(1).await;
    let options = KeyspaceOptions {
        groups: 4,
        ..one(Mode::Sync)
    };
    cluster.store.create_keyspace("users", options).await.unwrap();
    let mut kv = cluster.kv(1).await;
    for i in 0..40 {
        cluster.write("users", &format!("k{i}"), &format!("v{i}")).await;
    }
    let keys = (0..41).map(|i| format!("k{i}").into_bytes().into()).collect();
    let request = v1::BatchGetRequest {
        keyspace: "users".into(),
        keys,
        options: None,
    };
    let answer = kv.batch_get(request).await.unwrap().into_inner();
    assert_eq!(answer.receipts.len(), 4);
    for (i, item) in answer.items.iter().enumerate() {
        match item.result.as_ref().unwrap() {
            v1::batch_get_response::item::Result::Value(value) => assert_eq!(value.value, format!("v{i}").as_bytes()),
            v1::batch_get_response::item::Result::Missing(_) => assert_eq!(i, 40),
            v1::batch_get_response::item::Result::Error(error) => panic!("{error:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_carry_their_details() {
    let cluster = Cluster::start(1).await;
    cluster.create("fast", one(Mode::Async)).await;
    let mut kv = cluster.kv(1).await;
    let mut refusal = async |request| refusal_from_status(&kv.get(request).await.unwrap_err());
    let linearizable = v1::ReadOptions {
        consistency: Some(Level::Linearizable.into()),
        ..Default::default()
    };
    let asked = v1::GetRequest {
        options: Some(linearizable),
        ..get("fast", "k")
    };
    assert_eq!(
        refusal(asked).await,
        Refusal::IllegalLevel {
            level: Level::Linearizable,
            mode: Mode::Async
        }
    );
    assert_eq!(
        refusal(get("slow", "k")).await,
        Refusal::UnknownKeyspace {
            keyspace: "slow".into()
        }
    );
    assert!(matches!(
        refusal(get("fast", &"k".repeat(5000))).await,
        Refusal::Invalid { .. }
    ));
    let scan = kv
        .scan(v1::ScanRequest {
            keyspace: "fast".into(),
            ..Default::default()
        })
        .await;
    assert!(
        matches!(refusal_from_status(&scan.unwrap_err()), Refusal::Invalid { reason } if reason.contains("router"))
    );
    let session = kv.open_session(v1::OpenSessionRequest {}).await.unwrap().into_inner();
    assert!(session.client != 0 && session.issued_at_ms > 1_700_000_000_000);
}

/// Alone, a primary whose keyspace wants two in sync does not acknowledge: the answer comes in time all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_are_kept_and_what_was_ordered_is_unknown() {
    let cluster = Cluster::start(2).await;
    cluster
        .create(
            "users",
            KeyspaceOptions {
                min_in_sync: 2,
                ..KeyspaceOptions::of(Mode::Sync, 2)
            },
        )
        .await;
    cluster.all_in_sync().await;
    let primary = cluster.write("users", "k", "v").await;
    cluster.network.cut_between(1.into(), 2.into());
    let mut request = tonic::Request::new(put("users", "k", "w"));
    request.set_timeout(Duration::from_millis(400));
    let status = cluster.kv(primary).await.put(request).await.unwrap_err();
    assert!(
        matches!(refusal_from_status(&status), Refusal::Unknown { .. }),
        "{status}"
    );
    cluster.network.heal();
    cluster.all_in_sync().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_router_exchanges_batches() {
    let cluster = Cluster::start(1).await;
    cluster.create("users", one(Mode::Sync)).await;
    let mut batch = BatchBuilder::default();
    let mut request = |id: u64, group: u64, pass_on: bool, query: Query| {
        let read = ReadRequest {
            level: Level::Linearizable,
            acceptable: Vec::new(),
            seen: None,
            query,
        };
        let request = GroupRequest {
            keyspace: KeyspaceId(1),
            group: GroupId(group),
            map_version: MapVersion(1),
            deadline: Duration::from_secs(5),
            operation: Operation::Read(read),
        };
        push_request(&mut batch, id, &request.as_ref(), pass_on);
    };
    let first = || Query::Get(vec!["first".into()]);
    request(1, 1, false, first());
    request(2, 99, true, first());
    request(4, 1, true, first());
    request(5, 1, true, Query::Joint(vec!["none".into(), "first".into()]));
    request(6, 1, true, Query::Joint(vec!["first".into(), Bytes::new()]));
    let malformed = internal::Request {
        id: 3,
        ..Default::default()
    };
    batch.push(&malformed);
    let mut shard = ShardClient::new(channel(cluster.nodes[&1].local_addr()).await);
    let mut answers = shard
        .exchange(futures::stream::iter([batch.take()]))
        .await
        .unwrap()
        .into_inner();
    let mut seen = std::collections::BTreeMap::new();
    while let Some(batch) = answers.message().await.unwrap() {
        for response in batch.items() {
            let response = response.unwrap();
            seen.insert(response.id, response_from_wire(response).unwrap());
        }
    }
    let Ok(Reply::Answered(read)) = &seen[&1] else {
        panic!("{:?}", seen[&1]);
    };
    assert!(matches!(&read.answer, Answer::Values(values) if values[0].as_ref().unwrap().value == "write"));
    let Ok(Reply::PassedOn {
        message,
        staleness,
        weaker: false,
    }) = &seen[&4]
    else {
        panic!("{:?}", seen[&4]);
    };
    let passed_on = v1::GetResponse::decode(&message[..]).unwrap();
    assert_eq!(passed_on.value.unwrap().value, "write");
    assert_eq!(
        passed_on.receipt.unwrap().staleness_us.map(Duration::from_micros),
        *staleness
    );
    let Ok(Reply::PassedOnMany { messages, .. }) = &seen[&5] else {
        panic!("{:?}", seen[&5]);
    };
    let many = messages
        .iter()
        .map(|message| v1::GetResponse::decode(&message[..]).unwrap());
    let many: Vec<_> = many
        .map(|got| (got.value.map(|value| value.value), got.receipt.unwrap().index))
        .collect();
    let index = read.receipt.index.0;
    assert_eq!(many, [(None, index), (Some("write".into()), index)]);
    assert!(matches!(seen[&6], Err(Refusal::Invalid { .. })), "{:?}", seen[&6]);
    assert!(matches!(seen[&2], Err(Refusal::WrongGroup { .. })));
    assert!(matches!(seen[&3], Err(Refusal::Invalid { .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_moves_a_primary() {
    let cluster = Cluster::start(3).await;
    cluster.create("users", KeyspaceOptions::of(Mode::Sync, 3)).await;
    cluster.all_in_sync().await;
    let primary = cluster.write("users", "k", "v").await;
    let to = primary % 3 + 1;
    let mut shard = ShardClient::new(channel(cluster.nodes[&primary].local_addr()).await);
    let refused = shard.hand_over(HandOverRequest { group: 1, to: 77 }).await.unwrap_err();
    assert!(matches!(refusal_from_status(&refused), Refusal::Invalid { .. }));
    shard.hand_over(HandOverRequest { group: 1, to }).await.unwrap();
    wait_for("the chosen one to lead", || async {
        (cluster.write("users", "k", "w").await == to).then_some(())
    })
    .await;
    let refused = shard.hand_over(HandOverRequest { group: 1, to: 0 }).await.unwrap_err();
    assert!(matches!(refusal_from_status(&refused), Refusal::NotPrimary { .. }));
    let forced = shard
        .force_start(internal::ForceStartRequest { group: 1 })
        .await
        .unwrap_err();
    assert!(matches!(refusal_from_status(&forced), Refusal::Invalid { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_asynchronous_failover_lost_is_on_record() {
    let mut cluster = Cluster::start(3).await;
    cluster.create("events", KeyspaceOptions::of(Mode::Async, 3)).await;
    cluster.all_in_sync().await;
    let primary = cluster.write("events", "k", "kept").await;
    let others: Vec<u64> = cluster.nodes.keys().copied().filter(|node| *node != primary).collect();
    let mut kv = cluster.kv(primary).await;
    wait_for("replication to catch up", || async {
        let status = cluster.status(primary).await;
        let replica = status.replicas.first()?;
        (replica.peers.iter().all(|peer| peer.lag_entries == 0)).then_some(())
    })
    .await;
    for other in &others {
        cluster.network.cut_between(primary.into(), (*other).into());
    }
    kv.put(put("events", "k", "lost")).await.unwrap();
    cluster.nodes.remove(&primary).unwrap().crash().await;
    cluster.network.heal();
    cluster.write("events", "after", "crash").await;
    cluster.start_node(primary).await;
    let lost = wait_for("the loss to be recorded", || async {
        let mut shard = ShardClient::new(channel(cluster.nodes[&primary].local_addr()).await);
        let request = CertificatesRequest {
            group: 0,
            with_entries: true,
        };
        let parts = shard.certificates(request).await.unwrap().into_inner().parts;
        parts.into_iter().find(|part| part.extent_known)
    })
    .await;
    assert_eq!(
        (lost.keyspace.as_str(), lost.acknowledged_lost, lost.seen_on),
        ("events", 1, primary)
    );
    let written: Vec<_> = lost
        .entries
        .iter()
        .flat_map(|entry| &entry.writes)
        .map(|write| &*write.key)
        .collect();
    assert!(written.contains(&&b"k"[..]), "{lost:?}");
    let metrics = scrape(cluster.nodes[&primary].metrics_addr().unwrap()).await;
    let line = "fulcrum_shard_node_acknowledged_lost_entries_total{keyspace=\"events\"} 1";
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_tell_of_requests_replicas_and_disks() {
    let cluster = Cluster::start(3).await;
    cluster.create("users", KeyspaceOptions::of(Mode::Sync, 3)).await;
    cluster.all_in_sync().await;
    let primary = cluster.write("users", "k", "v").await;
    cluster.kv(primary).await.get(get("users", "k")).await.unwrap();
    let _ = cluster.kv(primary).await.get(get("users", "")).await;
    let at = cluster.nodes[&primary].metrics_addr().unwrap();
    let metrics = wait_for("all metrics", || async {
        let metrics = scrape(at).await;
        let all = [
            "request_seconds_count{keyspace=\"users\",level=\"linearizable\",mode=\"sync\",operation=\"get\"}",
            "request_seconds_count{keyspace=\"users\",level=\"none\",mode=\"sync\",operation=\"write\"}",
            "refusals_total{cause=\"INVALID\",keyspace=\"users\"}",
            "served_staleness_seconds_count{keyspace=\"users\",level=\"linearizable\"}",
            "replication_lag_entries{keyspace=\"users\",peer=",
            "replication_lag_seconds{keyspace=\"users\",peer=",
            "epoch{group=\"1\",keyspace=\"users\"}",
            "replicas{keyspace=\"users\",role=\"primary\"} 1",
            "in_sync_replicas{group=\"1\",keyspace=\"users\"} 3",
            "group_ready{group=\"1\",keyspace=\"users\"} 1",
            "fsync_seconds_count",
            "fsync_operations_count",
            "queue_depth{queue=\"requests\"}",
            "link_up{peer=",
            "peer_messages_sent_total{peer=",
            "metadata_calls_total{operation=\"compare_and_swap\",outcome=\"answered\"}",
            "disk_healthy 1",
        ];
        all.iter()
            .all(|name| metrics.contains(&format!("\nfulcrum_shard_node_{name}")))
            .then_some(metrics)
    })
    .await;
    for line in metrics.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap();
        let base = ["_bucket", "_sum", "_count"]
            .iter()
            .find_map(|end| name.strip_suffix(end))
            .unwrap_or(name);
        let told = metrics.contains(&format!("# HELP {name} ")) || metrics.contains(&format!("# HELP {base} "));
        assert!(told, "{name} has no help text");
    }
}
