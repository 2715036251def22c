//! `fulcrum dev`: a whole cluster in this process, until it is stopped.

use crate::args::DevArgs;
use crate::commands::cert::{config_of, exports};
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use fulcrum_common::config::check_listen;
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions, MetricsPorts};
use fulcrum_types::NodeId;
use serde_json::{Value, json};
use std::io;
use tokio::signal::unix::{SignalKind, signal};

/// Runs a cluster.
pub async fn run(context: &Context, args: &DevArgs) -> Ending {
    // Metrics are served in plain text here.
    let ports = [
        ("listen", Some(args.listen), args.tls.is_some()),
        ("metrics-listen", args.metrics_listen, false),
    ];
    for (flag, address, encrypted) in ports {
        let Some(address) = address else { continue };
        check_listen(flag, address, encrypted || args.insecure_listen).map_err(|_| {
            let why = format!("{address} can be reached from other machines, without encryption");
            Failure::usage(format!("--{flag}"), why).remedy("a loopback address, or --insecure-listen if you mean it")
        })?;
    }
    let mut stopping = Stopping::listen()?;
    let options = LocalClusterOptions {
        nodes: args.nodes,
        data_dir: args.data_dir.clone(),
        listen: args.listen,
        insecure_listen: args.insecure_listen,
        metrics: args.metrics_listen.map_or(MetricsPorts::None, MetricsPorts::From),
        tls: args.tls.as_deref().map(config_of).unwrap_or_default(),
        ..LocalClusterOptions::default()
    };
    let mut cluster = LocalCluster::start(options)
        .await
        .map_err(|error| Failure::start("cannot start the cluster", &error))?;
    match context.json() {
        true => print(&format!("{}\n", as_json(&cluster)))?,
        false => print(&welcome(context, &cluster, args))?,
    }
    let result = serve(&mut cluster, &mut stopping).await;
    note("stopping ...");
    for (node, why) in cluster.stop().await {
        note(&format!("{node} did not end cleanly: {why}"));
    }
    result
}

/// Until somebody stops it, or no node is left.
pub(crate) async fn serve(cluster: &mut LocalCluster, stopping: &mut Stopping) -> Ending {
    let mut up: usize = cluster
        .nodes()
        .filter(|node| cluster.node_address(*node).is_some())
        .count();
    while up > 0 {
        let (node, why) = tokio::select! {
            () = stopping.asked() => return Ok(Exit::Ok),
            ended = cluster.node_ended() => ended,
        };
        cluster.forget_node(node);
        up -= 1;
        note(&format!("{node} has stopped: {why}"));
        note(&format!(
            "{up} nodes are left; the groups that still have a majority of their replicas go on"
        ));
    }
    Err(Failure::new(
        Exit::Failed,
        "STOPPED",
        "the cluster has stopped",
        "no node is left",
    ))
}

/// Ctrl-C or SIGTERM.
pub(crate) struct Stopping {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl Stopping {
    pub(crate) fn listen() -> Result<Self, Failure> {
        let listen = |kind| signal(kind).map_err(|error: io::Error| Failure::file("cannot wait for signals", error));
        Ok(Stopping {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

fn welcome(context: &Context, cluster: &LocalCluster, args: &DevArgs) -> String {
    let paint = context.paint;
    let router = cluster.router_address();
    let kept = match &args.data_dir {
        Some(path) => format!("data stays in {}", path.display()),
        None => "data goes when it stops (--data-dir keeps it)".to_owned(),
    };
    let mut text = format!(
        "{}: 1 router and {} shard-nodes in this process; {kept}\n\n",
        paint.bold(&format!("cluster {}", cluster.store().cluster_id())),
        args.nodes
    );
    let mut line = |name: &str, what: String| text.push_str(&format!("  {name:<9}{what}\n"));
    line("router", paint.cyan(&router.to_string()));
    for node in cluster.nodes() {
        line(&node.to_string(), address(cluster, node));
    }
    if let Some(metrics) = cluster.router_metrics_address() {
        line("metrics", format!("http://{metrics}/metrics (nodes behind it)"));
    }
    let mut flag = match router.to_string().as_str() {
        "127.0.0.1:7400" => String::new(),
        other => format!("  export FULCRUM_ROUTER={other}\n"),
    };
    if let Some(dir) = &args.tls {
        flag.push_str(&format!("  {}\n", exports(dir)));
    }
    text.push_str(&format!(
        "\n{}\n{flag}  fulcrum keyspace create test\n  fulcrum put test hello world\n  fulcrum get test hello\n  fulcrum status\n\nCtrl-C stops it.\n",
        paint.dim("In another terminal:")
    ));
    text
}

fn address(cluster: &LocalCluster, node: NodeId) -> String {
    cluster
        .node_address(node)
        .map_or("down".to_owned(), |address| address.to_string())
}

fn as_json(cluster: &LocalCluster) -> Value {
    let nodes = cluster.nodes().map(|node| {
        json!({
            "id": node.0,
            "address": cluster.node_address(node).map(|address| address.to_string()),
            "metrics": cluster.node_metrics_address(node).map(|address| address.to_string()),
        })
    });
    json!({
        "cluster_id": cluster.store().cluster_id().to_string(),
        "router": cluster.router_address().to_string(),
        "metrics": cluster.router_metrics_address().map(|address| address.to_string()),
        "nodes": nodes.collect::<Vec<_>>(),
        "data_dir": cluster.data_dir().display().to_string(),
    })
}
