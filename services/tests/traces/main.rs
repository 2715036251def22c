//! One trace from the client to the backups: real processes, and a collector that sees what they export.

mod collector;
#[path = "../support/mod.rs"]
mod support;

use collector::{Collector, Seen};
use fulcrum_client::{Client, Config, Error, Level, Range, TraceContext, WatchEvent};
use fulcrum_common::telemetry::{self, TelemetryConfig};
use fulcrum_common::trace::{self, Kind};
use std::cell::Cell;
use std::collections::BTreeMap;
use support::{PATIENCE, World, until};
use tokio::sync::Mutex;
use tokio_stream::StreamExt;

const ROUTER: &str = "fulcrum-router";
const NODE: &str = "fulcrum-shard-node";

/// Each test has the machine's disk and processors to itself: both bring more than a cluster beside another one has time for.
static ALONE: Mutex<()> = Mutex::const_new(());

thread_local! {
    /// In which span the test is.
    static CURRENT: Cell<Option<TraceContext>> = const { Cell::new(None) };
}

fn current() -> Option<TraceContext> {
    CURRENT.get()
}

/// Does something in a trace of its own; the trace.
async fn in_a_trace<T>(what: impl Future<Output = T>) -> (u128, T) {
    let span = trace::wanted(Kind::Internal, "test");
    let context = span.context().expect("the test records");
    CURRENT.set(Some(context));
    let done = what.await;
    CURRENT.set(None);
    span.end(None);
    (context.trace, done)
}

async fn cluster(traces: (String, &'static str)) -> Option<World> {
    let mut world = World::new().await?;
    world.traces = Some(traces);
    world.add_router();
    for _ in 0..3 {
        world.add_node();
    }
    world.wait_for_router();
    until("three nodes are known", || {
        let status = world.ok(&["status"]);
        status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3)
    })
    .await;
    for keyspace in ["orders", "stock"] {
        world.ok(&["keyspace", "create", keyspace, "--groups", "1"]);
        world.ok(&["--deadline", "20s", "put", keyspace, "first", "1"]);
    }
    until("all nodes are ready", || world.all_ready()).await;
    Some(world)
}

#[tokio::test]
async fn a_request_leaves_one_trace_and_others_leave_none() {
    let _alone = ALONE.lock().await;
    let (collector, endpoint, _between) = Collector::start().await;
    let Some(world) = cluster((endpoint.clone(), "0")).await else {
        return;
    };
    let config = TelemetryConfig {
        otlp_endpoint: Some(endpoint.clone()),
        trace_ratio: 0.0,
        instance: Some("the test".into()),
        ..TelemetryConfig::default()
    };
    let _exports = telemetry::init("test", &config).unwrap();
    let client = Client::connect(Config::new(world.router_address.clone()).trace_parent(current)).await;
    let client = client.unwrap();
    let mut traces = vec![
        a_put(&client, &collector).await,
        a_read(&client, &collector).await,
        a_transaction(&client, &collector).await,
        a_refusal(&client, &collector).await,
    ];
    traces.extend(two_of_many(&client, &collector).await);
    traces.extend(a_watch(&client, &collector).await);
    traces.push(a_snapshot(&client, &collector).await);
    traces.push(a_scan(&world, &client, &collector).await);
    traces.push(a_long_scan(&client, &collector).await);
    traces.push(a_command(&world, &collector, &endpoint).await);
    // With a ratio of 0 nothing else was ever begun, and all that was begun has been seen by now.
    let wanted = traces.iter().map(|id| id.to_be_bytes().to_vec()).collect();
    assert_eq!(collector.traces(), wanted);
}

/// What a read that is not answered at once has.
const WAIT: &str = "fulcrum-shard-node wait";

/// Waits for a trace to have so many spans of these names.
async fn seen(collector: &Collector, id: u128, names: &[(&str, &str, usize)]) -> Vec<Seen> {
    let wanted: BTreeMap<String, usize> = names
        .iter()
        .map(|(service, name, count)| (format!("{service} {name}"), *count))
        .collect();
    let counted = || {
        let mut counts = BTreeMap::new();
        for seen in collector.trace(id) {
            *counts.entry(seen.named()).or_insert(0) += 1;
        }
        // Whether a read has to wait is up to the machine, too.
        counts.remove(WAIT);
        counts
    };
    let begun = support::now();
    while counted() != wanted {
        assert!(
            support::now().since(begun) < PATIENCE,
            "{:#?} is not {wanted:#?}",
            counted()
        );
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    collector.trace(id)
}

fn all<'a>(spans: &'a [Seen], service: &str, name: &str) -> Vec<&'a Seen> {
    let named = format!("{service} {name}");
    spans.iter().filter(|seen| seen.named() == named).collect()
}

fn one<'a>(spans: &'a [Seen], service: &str, name: &str) -> &'a Seen {
    let found = all(spans, service, name);
    assert_eq!(found.len(), 1, "{service} {name}");
    found[0]
}

/// Each is a child of the one before, and within its time.
fn chain(spans: &[&Seen]) {
    for pair in spans.windows(2) {
        let (parent, child) = (pair[0], pair[1]);
        assert!(child.is_child_of(parent), "{} of {}", child.named(), parent.named());
        assert!(child.is_within(parent), "{child:#?}\nis not within\n{parent:#?}");
    }
}

fn replicate<'a>(spans: &'a [Seen], write: &Seen) -> Option<&'a Seen> {
    all(spans, NODE, "replicate")
        .into_iter()
        .find(|span| span.is_child_of(write))
}

/// What the backups did for a write.
fn appends<'a>(spans: &'a [Seen], write: &Seen) -> Vec<&'a Seen> {
    let Some(replicate) = replicate(spans, write) else {
        return Vec::new();
    };
    let appends = all(spans, NODE, "append").into_iter();
    appends.filter(|span| span.is_child_of(replicate)).collect()
}

/// A write at its primary: from the span that asked for it to two backups on other nodes.
fn written(spans: &[Seen], asked_by: &Seen, write: &Seen) {
    chain(&[asked_by, write]);
    let replicate = replicate(spans, write).unwrap();
    chain(&[write, replicate]);
    let appends = appends(spans, write);
    let mut nodes: Vec<&str> = appends.iter().map(|seen| seen.instance.as_str()).collect();
    nodes.push(&write.instance);
    nodes.sort_unstable();
    assert_eq!(nodes, ["n1", "n2", "n3"]);
    for append in appends {
        chain(&[replicate, append]);
        let index = |seen: &Seen| seen.attribute("fulcrum.index").unwrap();
        assert_eq!(index(append), index(write));
    }
    for part in ["queue", "propose", "fsync", "apply"] {
        let parts = all(spans, NODE, part).into_iter();
        let parts: Vec<&Seen> = parts.filter(|span| span.is_child_of(write)).collect();
        assert_eq!(parts.len(), 1, "{part}");
        chain(&[write, parts[0]]);
    }
}

const WRITE: [(&str, &str, usize); 7] = [
    (NODE, "write", 1),
    (NODE, "queue", 1),
    (NODE, "propose", 1),
    (NODE, "fsync", 1),
    (NODE, "replicate", 1),
    (NODE, "apply", 1),
    (NODE, "append", 2),
];

const READ: [(&str, &str, usize); 6] = [
    ("test", "test", 1),
    ("test", "fulcrum.v1.Kv/Get", 1),
    (ROUTER, "fulcrum.v1.Kv/Get", 1),
    (ROUTER, "forward", 1),
    (NODE, "read", 1),
    (NODE, "queue", 1),
];

async fn a_put(client: &Client, collector: &Collector) -> u128 {
    let orders = client.keyspace("orders");
    let (id, written_) = in_a_trace(orders.put("k", "v").send()).await;
    let receipt = written_.unwrap().receipt;
    let call = "fulcrum.v1.Kv/Put";
    let others = [
        ("test", "test", 1),
        ("test", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "forward", 1),
    ];
    let spans = seen(collector, id, &[&WRITE[..], &others].concat()).await;
    let forward = one(&spans, ROUTER, "forward");
    chain(&[
        one(&spans, "test", "test"),
        one(&spans, "test", call),
        one(&spans, ROUTER, call),
        forward,
    ]);
    let write = one(&spans, NODE, "write");
    written(&spans, forward, write);
    assert!(one(&spans, "test", "test").span.parent_span_id.is_empty());
    for (name, value) in [
        ("fulcrum.keyspace", "orders".to_owned()),
        ("fulcrum.epoch", receipt.epoch.0.to_string()),
        ("fulcrum.index", receipt.index.0.to_string()),
        ("fulcrum.group", receipt.group.0.to_string()),
        ("fulcrum.outcome", "ok".to_owned()),
    ] {
        assert_eq!(write.attribute(name), Some(value), "{name}");
    }
    assert_eq!(write.instance, receipt.replica.to_string());
    id
}

async fn a_read(client: &Client, collector: &Collector) -> u128 {
    let orders = client.keyspace("orders");
    let (id, got) = in_a_trace(orders.get("k").at(Level::Linearizable).send()).await;
    assert_eq!(got.unwrap().value.unwrap().value, "v");
    let spans = seen(collector, id, &READ).await;
    let read = one(&spans, NODE, "read");
    chain(&[one(&spans, ROUTER, "forward"), read, one(&spans, NODE, "queue")]);
    assert_eq!(read.attribute("fulcrum.level").as_deref(), Some("linearizable"));
    id
}

/// Two groups, by way of the router's coordinator: the home group prepares last, and its yes is the commit.
async fn a_transaction(client: &Client, collector: &Collector) -> u128 {
    let commit = client.commit().put("orders", "t", "1").put("stock", "t", "1");
    let (id, done) = in_a_trace(commit.into_future()).await;
    assert!(done.unwrap().outcome.is_ok());
    until("every step is on two backups", || {
        let spans = collector.trace(id);
        // The home group's own record of the end may be replicated in this trace, too: what counts is whose appends there are.
        let on_backups = |step| {
            let steps = all(&spans, NODE, step);
            steps.iter().any(|write| appends(&spans, write).len() == 2)
        };
        ["prepare", "commit", "resolve"].into_iter().all(on_backups) && !all(&spans, "test", "test").is_empty()
    })
    .await;
    let spans = collector.trace(id);
    let call = "fulcrum.v1.Transactions/Commit";
    let commits = all(&spans, ROUTER, "commit");
    let served = one(&spans, ROUTER, call);
    // The coordinator's own span, and under it the question to the home group, which is called so too.
    let commit = commits.iter().find(|span| span.is_child_of(served)).unwrap();
    chain(&[one(&spans, "test", "test"), one(&spans, "test", call), served, commit]);
    assert_eq!(commit.attribute("fulcrum.participants").as_deref(), Some("2"));
    let mut groups = Vec::new();
    for step in ["prepare", "commit"] {
        let asked = all(&spans, ROUTER, step).into_iter();
        let asked = asked.filter(|span| span.is_child_of(commit)).collect::<Vec<_>>();
        assert_eq!(asked.len(), 1, "{step}");
        chain(&[commit, asked[0]]);
        let served = one(&spans, NODE, step);
        written(&spans, asked[0], served);
        groups.push(served.attribute("fulcrum.group"));
    }
    assert_ne!(groups[0], groups[1]);
    // It comes after the answer: a child of the commit, and not within it.
    let resolve = one(&spans, ROUTER, "resolve");
    assert!(resolve.is_child_of(commit));
    written(&spans, resolve, one(&spans, NODE, "resolve"));
    id
}

async fn a_refusal(client: &Client, collector: &Collector) -> u128 {
    let nowhere = client.keyspace("nowhere");
    let (id, refused) = in_a_trace(nowhere.get("k").send()).await;
    assert!(matches!(refused, Err(Error::Refused(_))));
    let call = "fulcrum.v1.Kv/Get";
    let spans = seen(
        collector,
        id,
        &[("test", "test", 1), ("test", call, 1), (ROUTER, call, 1)],
    )
    .await;
    for service in ["test", ROUTER] {
        let span = one(&spans, service, call);
        assert_eq!(span.attribute("error.type").as_deref(), Some("UNKNOWN_KEYSPACE"));
        let status = span.span.status.clone().unwrap();
        assert_eq!((status.code, status.message.contains("nowhere")), (2, true));
    }
    id
}

/// Operations of a pipeline are followed one by one.
async fn two_of_many(client: &Client, collector: &Collector) -> Vec<u128> {
    let pipeline = client.pipeline();
    let orders = client.keyspace("orders");
    let (mut pending, mut followed) = (Vec::new(), Vec::new());
    for number in 0..100 {
        let put = orders.put(format!("many/{number}"), "v").submit(&pipeline);
        let submitted = if number % 50 == 25 {
            let (id, submitted) = in_a_trace(put).await;
            followed.push(id);
            submitted
        } else {
            put.await
        };
        pending.push(submitted.unwrap());
    }
    for written in pending {
        assert!(written.await.unwrap().applied());
    }
    let call = "fulcrum.v1.Kv/Pipeline";
    let others = [
        ("test", "test", 1),
        ("test", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "forward", 1),
    ];
    for id in &followed {
        let spans = seen(collector, *id, &[&WRITE[..], &others].concat()).await;
        let forward = one(&spans, ROUTER, "forward");
        chain(&[one(&spans, "test", call), one(&spans, ROUTER, call), forward]);
        written(&spans, forward, one(&spans, NODE, "write"));
    }
    followed
}

/// Its opening is followed, and nothing that comes after.
async fn a_watch(client: &Client, collector: &Collector) -> [u128; 2] {
    let orders = client.keyspace("orders");
    let mut events = orders.watch().key("watched").events();
    let (id, begun) = in_a_trace(events.next()).await;
    assert!(matches!(begun, Some(Ok(WatchEvent::Progress(_)))), "{begun:?}");
    let call = "fulcrum.v1.Kv/Watch";
    let names = [
        ("test", "test", 1),
        ("test", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "forward", 1),
        (NODE, "watch", 1),
        (NODE, "queue", 1),
    ];
    let spans = seen(collector, id, &names).await;
    let watch = one(&spans, NODE, "watch");
    chain(&[
        one(&spans, "test", "test"),
        one(&spans, "test", call),
        one(&spans, ROUTER, call),
        one(&spans, ROUTER, "forward"),
        watch,
        one(&spans, NODE, "queue"),
    ]);
    assert_eq!(watch.attribute("fulcrum.keyspace").as_deref(), Some("orders"));
    orders.put("watched", "v").await.unwrap();
    let is_change = |event: &Option<Result<WatchEvent, Error>>| matches!(event, Some(Ok(WatchEvent::Change { .. })));
    while !is_change(&events.next().await) {}
    // What the same processes send later comes later: if anything else had been followed it would be here by then.
    let later = a_read(client, collector).await;
    assert_eq!(collector.trace(id).len(), spans.len());
    [id, later]
}

/// Two groups and two rounds: what was read, and whether it still holds.
async fn a_snapshot(client: &Client, collector: &Collector) -> u128 {
    let keys = [("orders", "t"), ("stock", "t")];
    let (id, values) = in_a_trace(client.transactions().snapshot(keys)).await;
    assert!(values.unwrap().values.iter().all(Option::is_some));
    let call = "fulcrum.v1.Transactions/Read";
    let names = [
        ("test", "test", 1),
        ("test", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "read", 1),
        (ROUTER, "transaction_read", 2),
        (ROUTER, "validate", 2),
        (NODE, "transaction_read", 2),
        (NODE, "validate", 2),
        (NODE, "queue", 4),
    ];
    let spans = seen(collector, id, &names).await;
    let read = one(&spans, ROUTER, "read");
    chain(&[
        one(&spans, "test", "test"),
        one(&spans, "test", call),
        one(&spans, ROUTER, call),
        read,
    ]);
    for round in ["transaction_read", "validate"] {
        let mut groups = Vec::new();
        for served in all(&spans, NODE, round) {
            let mut asked = all(&spans, ROUTER, round).into_iter();
            let asked = asked.find(|asked| served.is_child_of(asked)).unwrap();
            chain(&[read, asked, served]);
            assert_eq!(asked.attribute("fulcrum.group"), served.attribute("fulcrum.group"));
            groups.push(served.attribute("fulcrum.group"));
        }
        assert_ne!(groups[0], groups[1], "{round}");
    }
    id
}

/// Every group is asked, and each says which it is.
async fn a_scan(world: &World, client: &Client, collector: &Collector) -> u128 {
    world.ok(&["keyspace", "create", "wide", "--groups", "2"]);
    until("all nodes are ready", || world.all_ready()).await;
    let wide = client.keyspace("wide").within(PATIENCE);
    wide.put("one", "row").await.unwrap();
    let rows = || async { wide.scan(Range::all()).rows().collect::<Result<Vec<_>, _>>().await };
    // Both groups answer by now.
    rows().await.unwrap();
    let (id, rows) = in_a_trace(rows()).await;
    assert_eq!(rows.unwrap().len(), 1);
    let call = "fulcrum.v1.Kv/Scan";
    let names = [
        ("test", "test", 1),
        ("test", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "forward", 2),
        (NODE, "scan", 2),
        (NODE, "queue", 2),
    ];
    let spans = seen(collector, id, &names).await;
    let served = one(&spans, ROUTER, call);
    chain(&[one(&spans, "test", "test"), one(&spans, "test", call), served]);
    assert_eq!(served.attribute("fulcrum.pages").as_deref(), Some("1"));
    let mut groups = Vec::new();
    for scan in all(&spans, NODE, "scan") {
        let mut forwards = all(&spans, ROUTER, "forward").into_iter();
        let forward = forwards.find(|forward| scan.is_child_of(forward)).unwrap();
        chain(&[served, forward, scan]);
        assert_eq!(forward.attribute("db.operation.name").as_deref(), Some("scan"));
        groups.push(scan.attribute("fulcrum.group"));
    }
    assert_ne!(groups[0], groups[1]);
    id
}

/// Of many pages the first ones are followed, and the rest is counted.
async fn a_long_scan(client: &Client, collector: &Collector) -> u128 {
    const FOLLOWED: usize = 8;
    let stock = client.keyspace("stock").within(PATIENCE);
    let value = "v".repeat(600 * 1024);
    for number in 0..2 * FOLLOWED + 2 {
        stock.put(format!("large/{number}"), value.clone()).await.unwrap();
    }
    let range = Range::prefix("large/");
    let pages = async { stock.scan(range).pages().collect::<Result<Vec<_>, _>>().await };
    let (id, pages) = in_a_trace(pages).await;
    let pages = pages.unwrap().len();
    assert!(pages > FOLLOWED, "{pages} pages");
    let call = "fulcrum.v1.Kv/Scan";
    let names = [
        ("test", "test", 1),
        ("test", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "forward", FOLLOWED),
        (NODE, "scan", FOLLOWED),
        (NODE, "queue", FOLLOWED),
    ];
    let spans = seen(collector, id, &names).await;
    let served = one(&spans, ROUTER, call);
    assert_eq!(served.attribute("fulcrum.pages"), Some(pages.to_string()));
    assert_eq!(served.attribute("fulcrum.outcome").as_deref(), Some("ok"));
    id
}

/// `fulcrum --trace` says which trace it was.
async fn a_command(world: &World, collector: &Collector, endpoint: &str) -> u128 {
    let mut command = world.command(&["--trace", endpoint, "put", "orders", "by-command", "v"]);
    // The collector goes on meanwhile.
    let output = tokio::task::spawn_blocking(move || command.output()).await;
    let output = output.unwrap().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let id = told.lines().find_map(|line| line.strip_prefix("trace ")).expect(&told);
    let id = u128::from_str_radix(id, 16).unwrap();
    let call = "fulcrum.v1.Kv/Put";
    let others = [
        ("fulcrum", "fulcrum", 1),
        ("fulcrum", call, 1),
        (ROUTER, call, 1),
        (ROUTER, "forward", 1),
    ];
    let spans = seen(collector, id, &[&WRITE[..], &others].concat()).await;
    written(&spans, one(&spans, ROUTER, "forward"), one(&spans, NODE, "write"));
    id
}

/// Every request is followed, nobody takes the spans, and more of them come than may wait.
#[tokio::test]
async fn a_collector_that_is_gone_is_no_trouble_for_requests() {
    let _alone = ALONE.lock().await;
    let Some(world) = cluster(("http://127.0.0.1:9".into(), "1")).await else {
        return;
    };
    let client = Client::connect(Config::new(world.router_address.clone()))
        .await
        .unwrap();
    let (pipeline, orders) = (client.pipeline(), client.keyspace("orders"));
    let mut pending = Vec::new();
    for number in 0..3_000 {
        pending.push(orders.put(format!("{number}"), "v").submit(&pipeline).await.unwrap());
    }
    for written in pending {
        assert!(written.await.unwrap().applied());
    }
    assert_eq!(orders.get("2999").await.unwrap().value.unwrap().value, "v");
}
