//! Tokens in a whole cluster: what strangers are told, what each right allows at every gate, and when what runs is ended.

mod world;

use fulcrum_client::{Client, Config, KeyspaceSpec, Refusal, Right, Token};
use fulcrum_common::auth::text::Secret;
use fulcrum_common::wire::batch::{PipelineRequest, TransactionPipelineRequest};
use fulcrum_common::wire::internal;
use fulcrum_common::wire::internal::peer_client::PeerClient;
use fulcrum_common::wire::internal::shard_client::ShardClient;
use fulcrum_common::wire::status::{refusal_from_status, refusal_from_wire};
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::pipeline_op::Op;
use fulcrum_common::{Clock, SystemClock};
use fulcrum_types::{ClientId, Sequence, TransactionId};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Code, Response, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use world::{Calls, PATIENCE, World, batch, channel, commit, condition, get, put, scan, watch};

/// By when what runs under a revoked token has ended.
const ENDS_WITHIN: Duration = Duration::from_secs(5);

fn attempt() -> TransactionId {
    static LAST: AtomicU64 = AtomicU64::new(0);
    TransactionId {
        begun_at_ms: SystemClock.now().wall_ms,
        client: ClientId(std::process::id().into()),
        sequence: Sequence(LAST.fetch_add(1, Ordering::Relaxed) + 1),
    }
}

/// What is said of a call: nothing, or what it needs.
fn needs<T>(result: Result<Response<T>, Status>) -> Option<String> {
    let status = result.err()?;
    match refusal_from_status(&status) {
        Refusal::Denied { scope, right } => {
            assert_eq!(status.code(), Code::PermissionDenied);
            Some(format!("{scope}:{right}"))
        }
        other => panic!("neither done nor denied: {other}"),
    }
}

fn message(op: Op) -> PipelineRequest {
    let op = v1::PipelineOp {
        id: 1,
        op: Some(op),
        deadline_ms: u32::try_from(PATIENCE.as_millis()).unwrap(),
        trace: Default::default(),
    };
    [op].into_iter().collect()
}

/// One operation on a pipeline.
async fn pipelined(calls: &Calls, op: Op) -> Option<String> {
    let answers = calls.kv.clone().pipeline(tokio_stream::iter([message(op)])).await;
    let first = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    let answer = first.items().next().unwrap().unwrap();
    match answer.answer.unwrap() {
        v1::pipeline_answer::Answer::Error(error) => match refusal_from_wire(*error) {
            Refusal::Denied { scope, right } => Some(format!("{scope}:{right}")),
            other => panic!("neither done nor denied: {other}"),
        },
        _ => None,
    }
}

/// One commit on a stream of transactions.
async fn streamed(calls: &Calls, commit: v1::CommitRequest) -> Option<String> {
    let call = v1::TransactionCall {
        id: 1,
        call: Some(v1::transaction_call::Call::Commit(commit)),
        deadline_ms: 0,
        trace: Default::default(),
    };
    let asked = tokio_stream::iter([[call].into_iter().collect::<TransactionPipelineRequest>()]);
    let answers = calls.transactions.clone().pipeline(asked).await;
    let first = answers.unwrap().into_inner().message().await.unwrap().unwrap();
    match first.items().next().unwrap().unwrap().answer.unwrap() {
        v1::transaction_answer::Answer::Error(error) => match refusal_from_wire(*error) {
            Refusal::Denied { scope, right } => Some(format!("{scope}:{right}")),
            other => panic!("neither done nor denied: {other}"),
        },
        _ => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_does_nothing_and_learns_nothing() {
    let world = World::new().await;
    let good = world.token("app", &["*:admin"]).await;
    let revoked = world.token("gone", &["*:admin"]).await;
    let admin = world.client(&world.root).await.admin();
    admin.revoke_token("gone").await.unwrap();
    let expired = world
        .expiring("late", &["*:admin"], Some(Duration::from_millis(1)))
        .await;
    let id = good.split('_').nth(1).unwrap();
    let wrong = Secret::random().unwrap();
    let shown = [
        None,
        Some("Bearer".to_owned()),
        Some(good.clone()),
        Some(format!("Bearer {}", wrong.to_text(id))),
        Some(format!("Bearer {}", wrong.to_text("0123456789abcdef"))),
        Some(format!("Bearer {}", wrong.to_text("root"))),
        Some(format!("Bearer {revoked}")),
        Some(format!("Bearer {expired}")),
    ];
    let mut told = BTreeSet::new();
    for header in &shown {
        for status in knock(&world, header.as_deref()).await {
            assert_eq!(status.code(), Code::Unauthenticated, "{header:?}: {status}");
            told.insert((status.message().to_owned(), status.details().to_vec()));
        }
    }
    assert_eq!(told.len(), 1, "the same to all of them, everywhere");

    // Internal gates open to no client at all, and health and reflection to everybody.
    let token = format!("Bearer {good}");
    for header in [None, Some(token.as_str()), Some(&format!("Bearer {}", world.root))] {
        for status in knock_inside(&world, header).await {
            assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        }
    }
    for at in [world.router(), world.node()] {
        let connected = Channel::from_shared(format!("http://{at}"))
            .unwrap()
            .connect()
            .await
            .unwrap();
        let asked = HealthCheckRequest {
            service: "fulcrum.v1.Kv".into(),
        };
        HealthClient::new(connected).check(asked).await.unwrap();
    }
    let got = world.calls(world.router(), &good).kv.get(get("a")).await.unwrap();
    assert_eq!(got.into_inner().value.unwrap().value, "v");
}

/// What every gate for clients says.
async fn knock(world: &World, header: Option<&str>) -> Vec<Status> {
    let mut said = Vec::new();
    for at in [world.router(), world.node()] {
        let mut kv = v1::kv_client::KvClient::new(channel(at, header));
        said.push(kv.open_session(v1::OpenSessionRequest {}).await.unwrap_err());
        said.push(kv.get(get("a")).await.unwrap_err());
        said.push(kv.put(put("a")).await.unwrap_err());
        let op = tokio_stream::iter([message(Op::Put(put("a")))]);
        said.push(kv.pipeline(op).await.unwrap_err());
    }
    let at_router = channel(world.router(), header);
    let mut kv = v1::kv_client::KvClient::new(at_router.clone());
    said.push(kv.scan(scan("a")).await.unwrap_err());
    said.push(kv.watch(watch("a")).await.unwrap_err());
    let mut transactions = v1::transactions_client::TransactionsClient::new(at_router.clone());
    said.push(transactions.commit(commit(attempt(), &[], &["a"])).await.unwrap_err());
    said.push(
        transactions
            .list_in_doubt(v1::ListInDoubtRequest::default())
            .await
            .unwrap_err(),
    );
    let mut admin = v1::admin_client::AdminClient::new(at_router);
    said.push(admin.status(v1::StatusRequest::default()).await.unwrap_err());
    said.push(admin.watch_map(v1::WatchMapRequest {}).await.unwrap_err());
    said.push(admin.list_tokens(v1::ListTokensRequest {}).await.unwrap_err());
    said
}

/// What a node's internal gates say.
async fn knock_inside(world: &World, header: Option<&str>) -> Vec<Status> {
    let at_node = channel(world.node(), header);
    let mut shard = ShardClient::new(at_node.clone());
    let mut peer = PeerClient::new(at_node);
    let status = shard.node_status(internal::NodeStatusRequest {}).await.unwrap_err();
    let exchange = shard.exchange(tokio_stream::iter([])).await.unwrap_err();
    let force = shard
        .force_start(internal::ForceStartRequest { group: 1 })
        .await
        .unwrap_err();
    let link = peer
        .link(tokio_stream::iter([internal::PeerBatch::default()]))
        .await
        .unwrap_err();
    vec![status, exchange, force, link]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_right_allows_what_it_says_at_every_gate() {
    let world = World::new().await;
    let read = world.token("reader", &["a:read"]).await;
    let write = world.token("writer", &["a:write"]).await;
    let both = world.token("both", &["a:read", "a:write"]).await;
    for at in [world.router(), world.node()] {
        reads_and_writes(&world.calls(at, &read), None, Some("a:write"), Some("a:write")).await;
        reads_and_writes(&world.calls(at, &write), Some("a:read"), None, Some("a:read")).await;
    }
    // Only the router knows where every key is: what is allowed is done there.
    at_the_router_only(&world.calls(world.router(), &read), None, Some("a:write")).await;
    at_the_router_only(&world.calls(world.router(), &write), Some("a:read"), None).await;
    reads_and_writes(&world.calls(world.router(), &both), None, None, None).await;
}

/// Allowed or denied; at a node what is allowed may have to be asked elsewhere, and is not looked into.
fn said<T>(result: Result<Response<T>, Status>) -> Option<String> {
    match result {
        Err(status) if !matches!(refusal_from_status(&status), Refusal::Denied { .. }) => {
            assert_ne!(status.code(), Code::Unauthenticated);
            None
        }
        other => needs(other),
    }
}

async fn reads_and_writes(calls: &Calls, read: Option<&str>, write: Option<&str>, conditional: Option<&str>) {
    let mut kv = calls.kv.clone();
    assert_eq!(said(kv.get(get("a")).await).as_deref(), read);
    let many = v1::BatchGetRequest {
        keyspace: "a".into(),
        keys: vec!["k".into()],
        options: None,
    };
    assert_eq!(said(kv.batch_get(many).await).as_deref(), read);
    assert_eq!(said(kv.put(put("a")).await).as_deref(), write);
    let delete = v1::DeleteRequest {
        keyspace: "a".into(),
        key: "k".into(),
        ..v1::DeleteRequest::default()
    };
    assert_eq!(said(kv.delete(delete).await).as_deref(), write);
    assert_eq!(said(kv.batch_write(batch("a", None)).await).as_deref(), write);
    let when = v1::PutRequest {
        condition: Some(condition()),
        ..put("a")
    };
    assert_eq!(
        said(kv.put(when).await).as_deref(),
        conditional,
        "a condition is a read"
    );
    assert_eq!(
        said(kv.batch_write(batch("a", Some(condition()))).await).as_deref(),
        conditional
    );
    let outcome = v1::GetOutcomeRequest {
        keyspace: "a".into(),
        key: "k".into(),
        idempotency: Some(v1::IdempotencyKey::default()),
    };
    assert_eq!(said(kv.get_outcome(outcome).await).as_deref(), write);
}

async fn at_the_router_only(calls: &Calls, read: Option<&str>, write: Option<&str>) {
    let (mut kv, mut transactions) = (calls.kv.clone(), calls.transactions.clone());
    assert_eq!(needs(kv.scan(scan("a")).await).as_deref(), read);
    assert_eq!(needs(kv.watch(watch("a")).await).as_deref(), read);
    assert_eq!(pipelined(calls, Op::Get(get("a"))).await.as_deref(), read);
    assert_eq!(pipelined(calls, Op::Put(put("a"))).await.as_deref(), write);
    let keys = v1::TransactionReadRequest {
        id: Some(attempt().into()),
        keys: vec![v1::KeyRef {
            keyspace: "a".into(),
            key: "k".into(),
        }],
        ..v1::TransactionReadRequest::default()
    };
    assert_eq!(needs(transactions.read(keys).await).as_deref(), read);
    let writes = commit(attempt(), &[], &["a"]);
    assert_eq!(needs(transactions.commit(writes.clone()).await).as_deref(), write);
    assert_eq!(streamed(calls, commit(attempt(), &[], &["a"])).await.as_deref(), write);
    let reads = commit(attempt(), &["a"], &[]);
    assert_eq!(needs(transactions.commit(reads).await).as_deref(), read);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_keyspace_without_a_right_is_as_one_that_does_not_exist() {
    let world = World::new().await;
    let calls = world.calls(world.router(), &world.token("a", &["a:read", "a:write"]).await);
    for keyspace in ["b", "nowhere"] {
        let mut kv = calls.kv.clone();
        assert_eq!(needs(kv.get(get(keyspace)).await).unwrap(), format!("{keyspace}:read"));
        assert_eq!(needs(kv.put(put(keyspace)).await).unwrap(), format!("{keyspace}:write"));
        assert_eq!(
            needs(kv.scan(scan(keyspace)).await).unwrap(),
            format!("{keyspace}:read")
        );
        assert_eq!(
            needs(kv.watch(watch(keyspace)).await).unwrap(),
            format!("{keyspace}:read")
        );
        let put = pipelined(&calls, Op::Put(put(keyspace))).await;
        assert_eq!(put.unwrap(), format!("{keyspace}:write"));
        let mut transactions = calls.transactions.clone();
        let over_both = commit(attempt(), &["a"], &["a", keyspace]);
        assert_eq!(
            needs(transactions.commit(over_both).await).unwrap(),
            format!("{keyspace}:write")
        );
        let reads_other = commit(attempt(), &[keyspace], &["a"]);
        assert_eq!(
            needs(transactions.commit(reads_other).await).unwrap(),
            format!("{keyspace}:read")
        );
        let name = v1::GetKeyspaceRequest { name: keyspace.into() };
        assert_eq!(
            needs(calls.admin.clone().get_keyspace(name).await).unwrap(),
            format!("{keyspace}:read")
        );
        let only = v1::StatusRequest {
            keyspace: keyspace.into(),
        };
        assert_eq!(
            needs(calls.admin.clone().status(only).await).unwrap(),
            format!("{keyspace}:read")
        );
    }
    let untouched = world.client(&world.root).await.keyspace("b").get("k").await.unwrap();
    assert_eq!(untouched.value.unwrap().value, "v");
    let alone = commit(attempt(), &["a"], &["a"]);
    assert_eq!(needs(calls.transactions.clone().commit(alone).await), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_show_what_may_be_read() {
    let world = World::new().await;
    let mut reader = world.calls(world.router(), &world.token("reader", &["a:read"]).await);
    let mut writer = world.calls(world.router(), &world.token("writer", &["b:write"]).await);
    let listed = reader
        .admin
        .list_keyspaces(v1::ListKeyspacesRequest {})
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = listed.keyspaces.iter().map(|keyspace| keyspace.name.as_str()).collect();
    assert_eq!(names, ["a"]);
    let status = reader
        .admin
        .status(v1::StatusRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert!(status.groups.iter().all(|group| group.keyspace == "a") && status.groups.len() == 2);
    assert_eq!(status.nodes.len(), 3);
    for (calls, sees) in [(&mut reader, "a"), (&mut writer, "b")] {
        let mut maps = calls
            .admin
            .watch_map(v1::WatchMapRequest {})
            .await
            .unwrap()
            .into_inner();
        let map = maps.message().await.unwrap().unwrap();
        let names: Vec<_> = map.keyspaces.iter().map(|keyspace| keyspace.name.as_str()).collect();
        assert_eq!((names, map.groups.len()), (vec![sees], 2));
    }
    // Who may read nothing has nothing to look at.
    let denied = writer.admin.status(v1::StatusRequest::default()).await;
    assert_eq!(needs(denied).unwrap(), "any keyspace:read");
    // Whatever is in doubt elsewhere is not told, and a keyspace may be named only by who may read it.
    reader
        .transactions
        .list_in_doubt(v1::ListInDoubtRequest::default())
        .await
        .unwrap();
    let of_b = v1::ListInDoubtRequest {
        keyspace: "b".into(),
        ..v1::ListInDoubtRequest::default()
    };
    assert_eq!(needs(reader.transactions.list_in_doubt(of_b).await).unwrap(), "b:read");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_verbs_need_admin_and_are_written_down() {
    let world = World::new().await;
    let data = world.token("data", &["*:read", "*:write"]).await;
    let mut calls = world.calls(world.router(), &data);
    let group = *world
        .cluster
        .store()
        .load_map()
        .await
        .unwrap()
        .groups()
        .keys()
        .next()
        .unwrap();
    let name = || "new".to_owned();
    let create = v1::CreateKeyspaceRequest {
        name: name(),
        spec: None,
    };
    assert_eq!(needs(calls.admin.create_keyspace(create).await).unwrap(), "new:admin");
    let drop = v1::DropKeyspaceRequest { name: "a".into() };
    assert_eq!(needs(calls.admin.drop_keyspace(drop.clone()).await).unwrap(), "a:admin");
    let promote = v1::PromoteRequest {
        group: group.0,
        node: 0,
    };
    assert_eq!(
        needs(calls.admin.promote(promote).await).unwrap(),
        format!("group {group}:admin")
    );
    let nowhere = v1::PromoteRequest { group: 999, node: 0 };
    assert_eq!(needs(calls.admin.promote(nowhere).await).unwrap(), "group g999:admin");
    let force = v1::ForceStartRequest {
        group: group.0,
        node: 1,
    };
    assert_eq!(
        needs(calls.admin.force_start(force).await).unwrap(),
        format!("group {group}:admin")
    );
    let drain = v1::DrainNodeRequest { node: 1, abort: true };
    assert_eq!(needs(calls.admin.drain_node(drain).await).unwrap(), "*:admin");
    let patient = v1::PlacementRequest {
        rebuilds: Some(1),
        ..v1::PlacementRequest::default()
    };
    assert_eq!(needs(calls.admin.placement(patient).await).unwrap(), "*:admin");
    assert_eq!(
        needs(calls.admin.placement(v1::PlacementRequest::default()).await),
        None
    );
    let resolve = v1::ResolveRequest {
        id: Some(attempt().into()),
        home_group: group.0,
    };
    assert_eq!(needs(calls.transactions.resolve(resolve).await).unwrap(), "*:admin");
    let begin = v1::BeginCutRequest::default();
    assert_eq!(needs(calls.backup.begin(begin).await).unwrap(), "*:admin");
    let read = v1::ReadCutRequest::default();
    assert_eq!(needs(calls.backup.read(read).await).unwrap(), "*:admin");
    let keep = v1::KeepCutRequest::default();
    assert_eq!(needs(calls.backup.keep(keep).await).unwrap(), "*:admin");
    let end = v1::EndCutRequest::default();
    assert_eq!(needs(calls.backup.end(end).await).unwrap(), "*:admin");
    let make = v1::CreateTokenRequest {
        name: name(),
        ..v1::CreateTokenRequest::default()
    };
    assert_eq!(needs(calls.admin.create_token(make).await).unwrap(), "*:admin");
    assert_eq!(
        needs(calls.admin.list_tokens(v1::ListTokensRequest {}).await).unwrap(),
        "*:admin"
    );
    let revoke = v1::RevokeTokenRequest { token: "data".into() };
    assert_eq!(needs(calls.admin.revoke_token(revoke).await).unwrap(), "*:admin");
    let rights = v1::SetTokenRightsRequest {
        token: "data".into(),
        rights: Vec::new(),
    };
    assert_eq!(needs(calls.admin.set_token_rights(rights).await).unwrap(), "*:admin");

    // Whoever is admin of one keyspace may do there what concerns it alone.
    let mut of_a = world.calls(world.router(), &world.token("of-a", &["a:admin"]).await);
    assert_eq!(needs(of_a.admin.drop_keyspace(drop).await), None);
    let drop = v1::DropKeyspaceRequest { name: "b".into() };
    assert_eq!(needs(of_a.admin.drop_keyspace(drop).await).unwrap(), "b:admin");

    let lines: Vec<Value> = world
        .audit()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    for verb in fulcrum_common::auth::Verb::ALL {
        let refused = lines
            .iter()
            .find(|line| line["verb"] == verb.name() && line["phase"] == "refused");
        let refused = refused.unwrap_or_else(|| panic!("{} was refused, and is not written down", verb.name()));
        assert_eq!(
            (&refused["name"], &refused["outcome"]),
            (&"data".into(), &"PERMISSION_DENIED".into())
        );
        assert_eq!(refused["token"], data.split('_').nth(1).unwrap());
        assert!(refused["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    }
    let of = |name: &str, verb: &str| -> Vec<String> {
        let mine = lines.iter().filter(|line| line["name"] == name && line["verb"] == verb);
        mine.map(|line| line["phase"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(of("of-a", "keyspace.drop"), ["begin", "end", "refused"]);
    assert!(of("root", "keyspace.create").starts_with(&["begin".into(), "end".into()]));
}

/// A watch and a pipeline that are served.
async fn running(calls: &Calls) -> (mpsc::Sender<PipelineRequest>, Vec<tokio::task::JoinHandle<Status>>) {
    let mut kv = calls.kv.clone();
    let mut watched = kv.watch(watch("a")).await.unwrap().into_inner();
    watched.message().await.unwrap().unwrap();
    let (send, asked) = mpsc::channel(4);
    send.send(message(Op::Get(get("a")))).await.unwrap();
    let mut answers = kv.pipeline(ReceiverStream::new(asked)).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let until_it_ends = tokio::spawn(async move {
        loop {
            match watched.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the watch ended in good order"),
                Err(status) => return status,
            }
        }
    });
    let end = tokio::spawn(async move {
        loop {
            match answers.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("the pipeline ended in good order"),
                Err(status) => return status,
            }
        }
    });
    (send, vec![until_it_ends, end])
}

async fn ended(streams: Vec<tokio::task::JoinHandle<Status>>) -> Vec<Code> {
    let mut codes = Vec::new();
    for stream in streams {
        let status = tokio::time::timeout(ENDS_WITHIN, stream).await.expect("it still runs");
        codes.push(status.unwrap().code());
    }
    codes
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_ends_with_its_token_at_every_service() {
    let mut world = World::new().await;
    let other_router = world.cluster.add_router().await.unwrap();
    let admin = world.client(&world.root).await.admin();
    let unauthenticated = vec![Code::Unauthenticated; 2];

    let text = world.token("app", &["a:read"]).await;
    let calls = world.calls(world.router(), &text);
    let (send, streams) = running(&calls).await;
    let elsewhere = world.calls(other_router, &text);
    let (send_elsewhere, streams_elsewhere) = loop {
        // The other router hears of a new token by its watch.
        if elsewhere.kv.clone().get(get("a")).await.is_ok() {
            break running(&elsewhere).await;
        }
    };
    admin.revoke_token("app").await.unwrap();
    let refused = calls.kv.clone().get(get("a")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated, "at once");
    assert_eq!(ended(streams).await, unauthenticated);
    assert_eq!(ended(streams_elsewhere).await, unauthenticated);
    drop((send, send_elsewhere));

    // Other rights end streams, which may be opened anew.
    let calls = world.calls(world.router(), &world.token("second", &["a:read"]).await);
    let (_send, streams) = running(&calls).await;
    admin
        .set_token_rights("second", &["a:write".parse().unwrap()])
        .await
        .unwrap();
    assert!(ended(streams).await.iter().all(|code| *code == Code::Unknown));
    assert_eq!(needs(calls.kv.clone().put(put("a")).await), None);
    assert_eq!(needs(calls.kv.clone().get(get("a")).await).unwrap(), "a:read");

    let soon = world.expiring("third", &["a:read"], Some(Duration::from_secs(2))).await;
    let (_send, streams) = running(&world.calls(world.router(), &soon)).await;
    assert_eq!(ended(streams).await, unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_client_library_shows_its_token_everywhere() {
    let world = World::new().await;
    let address = world.router().to_string();
    let stranger = Client::connect(Config::new(&address)).await.err().unwrap();
    assert_eq!(stranger.refusal(), Some(&Refusal::Unauthenticated), "{stranger}");
    let stranger = Client::connect_smart(Config::new(&address)).await.err().unwrap();
    assert_eq!(stranger.refusal(), Some(&Refusal::Unauthenticated), "{stranger}");

    let path = world.folder.path().join("token");
    std::fs::write(&path, world.token("app", &["a:read", "a:write"]).await).unwrap();
    let config = Config::new(&address).token(Token::from_file(&path).unwrap());
    for client in [
        Client::connect(config.clone()).await.unwrap(),
        Client::connect_smart(config.clone()).await.unwrap(),
    ] {
        let (a, b) = (client.keyspace("a"), client.keyspace("b"));
        a.put("x", "1").await.unwrap();
        assert_eq!(a.get("x").await.unwrap().value.unwrap().value, "1");
        let pipeline = client.pipeline();
        assert!(
            a.put("x", "2")
                .submit(&pipeline)
                .await
                .unwrap()
                .await
                .unwrap()
                .applied()
        );
        let denied = b.put("x", "1").submit(&pipeline).await.unwrap().await.unwrap_err();
        let needs = Refusal::Denied {
            scope: "b".into(),
            right: Right::Write,
        };
        assert_eq!(denied.refusal(), Some(&needs));
        assert_eq!(b.put("x", "1").await.unwrap_err().refusal(), Some(&needs));
        let moved = client.transaction(async |t| {
            let seen = t.get("a", "x").await?;
            t.put("a", "y", seen.unwrap_or_default());
            Ok::<_, fulcrum_client::Error>(())
        });
        moved.await.unwrap();
    }

    // A token is replaced while the client runs, its pipeline too.
    let client = Client::connect(config).await.unwrap();
    let (a, pipeline) = (client.keyspace("a"), client.pipeline());
    assert!(
        a.put("x", "3")
            .submit(&pipeline)
            .await
            .unwrap()
            .await
            .unwrap()
            .applied()
    );
    std::fs::write(&path, world.token("next", &["a:read", "a:write"]).await).unwrap();
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let admin = world.client(&world.root).await.admin();
    admin.revoke_token("app").await.unwrap();
    assert!(
        a.put("x", "4")
            .submit(&pipeline)
            .await
            .unwrap()
            .await
            .unwrap()
            .applied()
    );
    admin.revoke_token("next").await.unwrap();
    let refused = a.put("x", "5").submit(&pipeline).await.unwrap().await.unwrap_err();
    assert!(
        matches!(refused.refusal(), Some(Refusal::Unauthenticated)) || !refused.nothing_applied(),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_are_kept_nowhere() {
    let world = World::new().await;
    let app = world.token("app", &["a:write"]).await;
    world.client(&app).await.keyspace("a").put("k", "v").await.unwrap();
    let spec = KeyspaceSpec::default();
    world
        .client(&app)
        .await
        .admin()
        .create_keyspace("c", spec)
        .await
        .unwrap_err();
    let listed = world.client(&world.root).await.admin().list_tokens().await.unwrap();
    assert_eq!(listed.len(), 1);
    let digits = app.rsplit('_').next().unwrap().to_owned();
    assert!(!format!("{listed:?}").contains(&digits));
    let (root, data) = (
        world.root.rsplit('_').next().unwrap().to_owned(),
        world.folder.path().to_owned(),
    );
    let mut looked_at = 0;
    let mut folders = vec![data];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.file_name().unwrap() != "root" {
                let bytes = std::fs::read(&path).unwrap();
                looked_at += 1;
                for secret in [&digits, &root] {
                    let found = bytes.windows(secret.len()).any(|window| window == secret.as_bytes());
                    assert!(!found, "{}", path.display());
                }
            }
        }
    }
    assert!(looked_at > 5, "the metadata, the nodes' data and the audit log");
}
