//! The way by which the load gets in: a port of each machine, which leads to the router on it and to no other; or to any of them, where routers move.

use super::super::Member;
use super::command::Release;
use super::pods::Pods;
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// The Service's name.
const DOOR: &str = "fulcrum-chaos";

/// Opens it: the address of each router, in their order.
pub(super) async fn open(release: &Release, machines: &BTreeMap<String, String>, pods: &Pods) -> Result<Vec<String>> {
    let port = make(release, "Local").await?;
    let (mut routers, mut taken) = (Vec::new(), BTreeSet::new());
    for (member, pods) in pods {
        if let (Member::Router(_), Some(pod)) = (member, pods.first()) {
            let machine = pod.machine()?;
            if !taken.insert(machine.to_owned()) {
                bail!(
                    "two routers are on {machine}, and clients could not choose between them: install with router.spread=hard"
                );
            }
            let address = machines
                .get(machine)
                .with_context(|| format!("there is no {machine}"))?;
            routers.push(format!("{address}:{port}"));
        }
    }
    match routers.is_empty() {
        true => bail!("the release has no router that runs"),
        false => Ok(routers),
    }
}

/// Opens it at every machine, wherever the routers are.
pub(super) async fn open_to_any(release: &Release, machines: &BTreeMap<String, String>) -> Result<Vec<String>> {
    let port = make(release, "Cluster").await?;
    Ok(machines.values().map(|address| format!("{address}:{port}")).collect())
}

/// The port, the same at all machines.
async fn make(release: &Release, policy: &str) -> Result<String> {
    let selector = json!({
        "app.kubernetes.io/instance": release.name,
        "app.kubernetes.io/component": "router",
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": DOOR},
        "spec": {"type": "NodePort", "externalTrafficPolicy": policy, "selector": selector,
            "ports": [{"name": "grpc", "port": 7400, "targetPort": "grpc", "protocol": "TCP"}]},
    });
    apply(release, &service).await?;
    let port = release
        .kubectl(&["get", "service", DOOR, "--output", "jsonpath={.spec.ports[0].nodePort}"])
        .await?;
    Ok(port.trim().to_owned())
}

async fn apply(release: &Release, object: &Value) -> Result<()> {
    let file = std::env::temp_dir().join(format!("fulcrum-chaos-{}.json", std::process::id()));
    std::fs::write(&file, object.to_string()).with_context(|| format!("write {}", file.display()))?;
    let applied = release
        .kubectl(&["apply", "--filename", &file.display().to_string()])
        .await;
    std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
    applied.map(drop)
}

/// Closes it.
pub(super) async fn close(release: &Release) -> Result<()> {
    release
        .kubectl(&["delete", "service", DOOR, "--ignore-not-found"])
        .await
        .map(drop)
}
