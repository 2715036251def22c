//! The pods of a release: which is which member, and the processes in them.
//!
//! What a member is called is the chart's doing: `NAME-shard-node-0` is node 1. Which process is a pod's is told by the machine: control groups bear the pod's
//! uid and the container's id, whatever runtime made them, and the first process of a container has the number 1 in its own namespace. So nothing here depends
//! on docker or containerd inside the machines.

use super::super::{Condition, Member};
use super::command::{Release, inside};
use anyhow::{Context, Result, bail};
use fulcrum_types::NodeId;
use serde::Deserialize;
use std::collections::BTreeMap;

#[derive(Deserialize)]
struct List {
    items: Vec<Raw>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Raw {
    metadata: Metadata,
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    name: String,
    uid: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    deletion_timestamp: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Spec {
    node_name: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Status {
    #[serde(rename = "podIP")]
    pod_ip: Option<String>,
    conditions: Vec<Said>,
    container_statuses: Vec<Container>,
}

#[derive(Deserialize)]
struct Said {
    #[serde(rename = "type")]
    kind: String,
    status: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    #[serde(rename = "containerID")]
    container_id: Option<String>,
    state: BTreeMap<String, serde_json::Value>,
}

/// A pod, as the cluster tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) uid: String,
    /// Where it runs; none: nowhere yet.
    pub(super) machine: Option<String>,
    pub(super) address: Option<String>,
    /// Without the name of the runtime; none: it was never started.
    pub(super) container: Option<String>,
    pub(super) ready: bool,
    /// Waits to be started again because it ended too often.
    pub(super) backs_off: bool,
    /// Is to go.
    pub(super) leaves: bool,
}

impl Pod {
    pub(super) fn machine(&self) -> Result<&str> {
        self.machine
            .as_deref()
            .with_context(|| format!("{} runs on no machine", self.name))
    }

    pub(super) fn address(&self) -> Result<&str> {
        self.address
            .as_deref()
            .with_context(|| format!("{} has no address", self.name))
    }
}

/// All members, each with its pods: etcd may have several.
pub(super) type Pods = BTreeMap<Member, Vec<Pod>>;

/// Asks for them.
pub(super) async fn list(release: &Release) -> Result<Pods> {
    let selector = format!("app.kubernetes.io/instance={}", release.name);
    let said = release
        .kubectl(&["get", "pods", "--selector", &selector, "--output", "json"])
        .await?;
    read(&said)
}

/// The pods of one member.
pub(super) async fn pods_of(release: &Release, member: Member) -> Result<Vec<Pod>> {
    Ok(list(release).await?.remove(&member).unwrap_or_default())
}

fn read(said: &str) -> Result<Pods> {
    let list: List = serde_json::from_str(said).context("understand what kubectl says of the pods")?;
    let mut pods = Pods::new();
    let mut routers = Vec::new();
    for raw in list.items {
        let component = raw.metadata.labels.get("app.kubernetes.io/component").cloned();
        let pod = pod(raw);
        match component.as_deref() {
            Some("etcd") => pods.entry(Member::Etcd).or_default().push(pod),
            Some("shard-node") => {
                let member = Member::Node(number(&pod.name)?);
                pods.entry(member).or_default().push(pod);
            }
            Some("router") if !pod.leaves => routers.push(pod),
            _ => {}
        }
    }
    routers.sort_by(|one, other| one.name.cmp(&other.name));
    for (number, router) in (1..).zip(routers) {
        pods.insert(Member::Router(number), vec![router]);
    }
    Ok(pods)
}

fn pod(raw: Raw) -> Pod {
    let container = raw.status.container_statuses.into_iter().next().unwrap_or_default();
    let waits = container.state.get("waiting").and_then(|waiting| waiting.get("reason"));
    let ready = |said: &Said| said.kind == "Ready" && said.status == "True";
    Pod {
        name: raw.metadata.name,
        uid: raw.metadata.uid,
        machine: raw.spec.node_name,
        address: raw.status.pod_ip,
        container: container
            .container_id
            .and_then(|id| id.rsplit_once("//").map(|(_, id)| id.to_owned())),
        ready: raw.status.conditions.iter().any(ready),
        backs_off: waits.is_some_and(|reason| reason == "CrashLoopBackOff"),
        leaves: raw.metadata.deletion_timestamp.is_some(),
    }
}

fn number(name: &str) -> Result<NodeId> {
    let ordinal = name
        .rsplit_once('-')
        .and_then(|(_, ordinal)| ordinal.parse::<u64>().ok());
    let ordinal = ordinal.with_context(|| format!("the pod {name} has no number at its end"))?;
    Ok(NodeId(ordinal + 1))
}

/// A container's first process: its number on the machine, and its state.
const FIRST_PROCESS: &str = r#"
for group in $(grep -ls "$1" /proc/[0-9]*/cgroup); do
    process=${group%/cgroup}
    [ "$(sed -n 's/^NSpid:.*[[:space:]]//p' "$process/status" 2>/dev/null)" = 1 ] || continue
    echo "${process#/proc/} $(sed -n 's/^State:[[:space:]]*\(.\).*/\1/p' "$process/status")"
done"#;

/// A process on a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) condition: Condition,
}

/// The process that a pod is there for; none if it does not run.
pub(super) async fn process(pod: &Pod) -> Result<Option<Process>> {
    let (Some(machine), Some(container)) = (&pod.machine, &pod.container) else {
        return Ok(None);
    };
    first_of(&inside(machine, FIRST_PROCESS, &[container]).await?)
}

fn first_of(said: &str) -> Result<Option<Process>> {
    let Some(line) = said.lines().next() else {
        return Ok(None);
    };
    let (pid, state) = line.split_once(' ').with_context(|| format!("no process: {line}"))?;
    let condition = match state {
        "T" | "t" => Condition::Stopped,
        "Z" | "X" | "" => return Ok(None),
        _ => Condition::Running,
    };
    let pid = pid.parse().with_context(|| format!("no process: {line}"))?;
    Ok(Some(Process { pid, condition }))
}

/// Runs something in the network of a pod: `$1` is its uid, and the others follow.
const IN_ITS_NETWORK: &str = r#"
under=$(echo "$1" | tr - _)
group=$(grep -ls -e "$1" -e "$under" /proc/[0-9]*/cgroup | head -n 1)
[ -n "$group" ] || { echo "the pod has no process" >&2; exit 9; }
process=${group%/cgroup}
shift
exec nsenter --target "${process#/proc/}" --net "$@""#;

/// What puts a command into the network of a pod.
pub(super) fn in_network(pod: &Pod) -> Result<Vec<String>> {
    let words = [
        "docker",
        "exec",
        pod.machine()?,
        "sh",
        "-c",
        IN_ITS_NETWORK,
        "sh",
        &pod.uid,
    ];
    Ok(words.map(str::to_owned).to_vec())
}

/// SIGKILL for all processes of a pod, until there is none: the kubelet may have started one again meanwhile.
const KILL_ALL: &str = r#"
under=$(echo "$1" | tr - _)
for _ in 1 2 3; do
    for group in $(grep -ls -e "$1" -e "$under" /proc/[0-9]*/cgroup); do
        process=${group%/cgroup}
        kill -9 "${process#/proc/}" 2>/dev/null
    done
done
exit 0"#;

/// Kills all that runs in a pod.
pub(super) async fn kill_all(pod: &Pod) -> Result<()> {
    inside(pod.machine()?, KILL_ALL, &[&pod.uid]).await.map(drop)
}

/// The only pod of a member.
pub(super) fn only(pods: &Pods, member: Member) -> Result<&Pod> {
    match pods.get(&member).map(Vec::as_slice) {
        Some([pod]) => Ok(pod),
        Some(several) => bail!("{member} has {} pods", several.len()),
        None => bail!("{member} has no pod"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAID: &str = r#"{"items": [
        {"metadata": {"name": "f-router-b", "uid": "u2", "labels": {"app.kubernetes.io/component": "router"}},
         "spec": {"nodeName": "m2"}, "status": {"podIP": "10.0.0.2", "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [{"containerID": "containerd://abc", "state": {"running": {}}}]}},
        {"metadata": {"name": "f-router-a", "uid": "u1", "labels": {"app.kubernetes.io/component": "router"}}, "spec": {}},
        {"metadata": {"name": "f-router-0", "uid": "u0", "labels": {"app.kubernetes.io/component": "router"}, "deletionTimestamp": "now"}, "spec": {}},
        {"metadata": {"name": "f-etcd-1", "uid": "u3", "labels": {"app.kubernetes.io/component": "etcd"}}, "spec": {}},
        {"metadata": {"name": "f-etcd-0", "uid": "u4", "labels": {"app.kubernetes.io/component": "etcd"}}, "spec": {}},
        {"metadata": {"name": "f-shard-node-2", "uid": "u5", "labels": {"app.kubernetes.io/component": "shard-node"}}, "spec": {"nodeName": "m1"},
         "status": {"containerStatuses": [{"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}}]}"#;

    #[test]
    fn pods_are_told_apart_by_component_and_name() {
        let pods = read(SAID).unwrap();
        assert_eq!(pods[&Member::Etcd].len(), 2);
        let router = only(&pods, Member::Router(2)).unwrap();
        assert_eq!(
            (router.name.as_str(), router.container.as_deref(), router.ready),
            ("f-router-b", Some("abc"), true)
        );
        assert_eq!(
            only(&pods, Member::Router(1)).unwrap().name,
            "f-router-a",
            "one that leaves is none"
        );
        let node = only(&pods, Member::Node(NodeId(3))).unwrap();
        assert!(node.backs_off && !node.ready && node.address().is_err());
        assert!(only(&pods, Member::Node(NodeId(1))).is_err());
    }

    #[test]
    fn the_state_of_a_process_is_read() {
        let condition = |said| first_of(said).unwrap().map(|process| (process.pid, process.condition));
        assert_eq!(condition("17 S\n"), Some((17, Condition::Running)));
        assert_eq!(condition("17 T\n"), Some((17, Condition::Stopped)));
        assert_eq!(condition("17 Z\n"), None);
        assert_eq!(condition(""), None);
        assert!(first_of("nonsense").is_err());
    }
}
