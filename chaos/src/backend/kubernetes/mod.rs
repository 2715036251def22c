//! Pods of a release of the Helm chart, on a Kubernetes whose machines are docker containers: kind, or the cluster of `tests/k8s/real`.
//!
//! The release is there before, and stays: this backend looks for its members ([`pods`]), heals what a dead command has left, hurts, and heals again at its end.
//! The load runs in this process, outside of the cluster, and reaches each router by a port of the machine that it is on.
//!
//! | fault | done by | seen by |
//! | --- | --- | --- |
//! | SIGKILL of a node or etcd | all processes of the pod are killed and the pod is deleted with force; a taint keeps its next life from starting until it is healed | no process in the pod's control groups |
//! | SIGKILL of a router | its process; the kubelet starts it again | the same |
//! | SIGTERM | the pod is deleted, as `kubectl drain` does it; the same taint | the same |
//! | SIGSTOP | the process | its state |
//! | cut links | rules in the machines ([`network`]) | datagrams between the pods' networks |
//! | a lost disk | its volume's directory is emptied ([`disks`]) | it is empty |
//! | failpoints | a file in the volume, if the release's settings name it | what the node says |
//! | a machine stands still, breaks down, is emptied | `docker pause`, `docker kill`, `kubectl drain` ([`machines`]) | another machine gets no answer |
//!
//! Left out: slow links (no `netem` in these kernels, and no proxy between pods), full disks (volumes are directories of a disk that machines share), and a kill that
//! nobody may hear of (a pod's network goes with it).

mod command;
mod disks;
mod machines;
mod network;
mod pods;

pub use command::Release;

use super::{Ability, Backend, Condition, Link, MachineCondition, MachineFault, Member, Offer, Passage, Signal};
use crate::load::{nanos, now};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use command::{inside, output};
use disks::Volume;
use fulcrum_types::NodeId;
use futures::future::try_join_all;
use network::Network;
use pods::{Pod, Pods, only};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The kubelet starts what has ended at once, or after a while if it ends too often.
const STARTS_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// As long as a pod's grace, and the budgets, may take.
const EMPTIED_WITHIN: Duration = Duration::from_secs(120);
/// Of machines on which a killed pod is not to come back yet.
const TAINT: &str = "fulcrum-chaos";
/// The Service by which the load reaches routers.
const DOOR: &str = "fulcrum-chaos";
/// In the directory that is the node's volume, and the name that the settings must give it.
const FAILPOINTS: &str = "failpoints";
const FAILPOINTS_PATH: &str = "/var/lib/fulcrum/failpoints";

/// A release, and what it must consist of.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Where it is.
    pub release: Release,
    /// Shard-nodes that it must have.
    pub nodes: u64,
}

/// Why links are not slow.
const NO_DELAY: &str = "kernels here have no netem, and there is no proxy between pods";
/// Why disks are not full.
const NO_FILL: &str = "volumes are directories of a disk that all machines share, which is not filled";

/// What pods can do.
#[must_use]
pub fn offer() -> Offer {
    let no_unheard = "the network of a pod goes with the pod, so that its links do not stay cut";
    Offer::new([
        (Ability::Cut, Ok(())),
        (Ability::Delay, Err(NO_DELAY.to_owned())),
        (Ability::Fill, Err(NO_FILL.to_owned())),
        (Ability::Failpoints, Ok(())),
        (Ability::Unheard, Err(no_unheard.to_owned())),
        (Ability::Machines, Ok(())),
    ])
}

/// A release under test.
pub struct Kubernetes {
    release: Release,
    /// Machines, and their addresses.
    machines: BTreeMap<String, String>,
    /// How many pods each member has, when it is whole.
    numbers: BTreeMap<Member, usize>,
    claims: BTreeMap<NodeId, String>,
    routers: Vec<String>,
    network: Network,
    /// Members that were killed, and the machines that are kept from starting them.
    killed: BTreeMap<Member, BTreeSet<String>>,
    /// Members whose machine suffers, and which that is.
    machine_of: BTreeMap<Member, String>,
    has_failpoints: bool,
}

impl Kubernetes {
    /// Finds the release, heals what may be left, and opens a door to its routers.
    ///
    /// # Errors
    /// It is not there, is not what it should be, or its machines are no containers of docker.
    pub async fn new(setup: Setup) -> Result<Self> {
        let machines = machines_of(&setup.release).await?;
        let mut made = Self {
            release: setup.release,
            machines,
            numbers: BTreeMap::new(),
            claims: BTreeMap::new(),
            routers: Vec::new(),
            network: Network::default(),
            killed: BTreeMap::new(),
            machine_of: BTreeMap::new(),
            has_failpoints: false,
        };
        made.heal_all().await?;
        let pods = pods::list(&made.release).await?;
        let nodes = pods.keys().filter(|member| matches!(member, Member::Node(_))).count();
        if u64::try_from(nodes)? != setup.nodes {
            bail!(
                "the release {} in the namespace {} has {nodes} shard-nodes: say so with --nodes, or install it",
                made.release.name,
                made.release.namespace
            );
        }
        made.numbers = pods.iter().map(|(member, pods)| (*member, pods.len())).collect();
        for (member, pods) in &pods {
            if let (Member::Node(node), Some(pod)) = (member, pods.first()) {
                made.claims.insert(*node, format!("data-{}", pod.name));
            }
        }
        let settings = made
            .release
            .kubectl(&["get", "configmaps", "--output", "jsonpath={.items[*].data}"])
            .await?;
        made.has_failpoints = settings.contains(FAILPOINTS_PATH);
        made.bring_probe().await?;
        made.open_door(&pods).await?;
        Ok(made)
    }

    /// Ends whatever a command may have left: idempotent, and done first and last.
    async fn heal_all(&mut self) -> Result<()> {
        for machine in self.machines.keys() {
            machines::heal(machine).await?;
        }
        try_join_all(self.machines.keys().map(|machine| network::heal(machine))).await?;
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for machine in names {
            self.untaint(&machine).await?;
            output("kubectl", &["uncordon", &machine]).await?;
        }
        let pods = pods::list(&self.release).await?;
        for pod in pods.values().flatten() {
            if let Some(process) = pods::process(pod)
                .await?
                .filter(|one| one.condition == Condition::Stopped)
            {
                inside(pod.machine()?, "kill -CONT \"$1\"", &[&process.pid.to_string()]).await?;
            }
        }
        self.killed.clear();
        self.machine_of.clear();
        Ok(())
    }

    /// Copies this program to all machines: it plays the ends of datagrams there.
    async fn bring_probe(&self) -> Result<()> {
        let own = std::env::current_exe().context("find the own program")?;
        let line = format!("cat >{0}.new && chmod 755 {0}.new && mv {0}.new {0}", network::PROBE);
        for machine in self.machines.keys() {
            let program = std::fs::File::open(&own).with_context(|| format!("open {}", own.display()))?;
            let mut command = Command::new("docker");
            command
                .args(["exec", "--interactive", machine, "sh", "-c", &line])
                .stdin(Stdio::from(program))
                .kill_on_drop(true);
            let status = command.status().await.context("run docker")?;
            if !status.success() {
                bail!("this program could not be copied to {machine}: docker ended with {status}");
            }
        }
        Ok(())
    }

    /// A port of each machine that leads to the router on it, and to no other.
    async fn open_door(&mut self, pods: &Pods) -> Result<()> {
        let selector = json!({
            "app.kubernetes.io/instance": self.release.name,
            "app.kubernetes.io/component": "router",
        });
        let service = json!({
            "apiVersion": "v1", "kind": "Service", "metadata": {"name": DOOR},
            "spec": {"type": "NodePort", "externalTrafficPolicy": "Local", "selector": selector,
                "ports": [{"name": "grpc", "port": 7400, "targetPort": "grpc", "protocol": "TCP"}]},
        });
        self.apply(&service).await?;
        let port = self
            .release
            .kubectl(&["get", "service", DOOR, "--output", "jsonpath={.spec.ports[0].nodePort}"])
            .await?;
        let mut machines = BTreeSet::new();
        for (member, pods) in pods {
            if let (Member::Router(_), Some(pod)) = (member, pods.first()) {
                let machine = pod.machine()?;
                if !machines.insert(machine.to_owned()) {
                    bail!(
                        "two routers are on {machine}, and clients could not choose between them: install with router.spread=hard"
                    );
                }
                let address = self
                    .machines
                    .get(machine)
                    .with_context(|| format!("there is no {machine}"))?;
                self.routers.push(format!("{address}:{}", port.trim()));
            }
        }
        match self.routers.is_empty() {
            true => bail!("the release has no router that runs"),
            false => Ok(()),
        }
    }

    async fn apply(&self, object: &Value) -> Result<()> {
        let file = std::env::temp_dir().join(format!("fulcrum-chaos-{}.json", std::process::id()));
        std::fs::write(&file, object.to_string()).with_context(|| format!("write {}", file.display()))?;
        let applied = self
            .release
            .kubectl(&["apply", "--filename", &file.display().to_string()])
            .await;
        std::fs::remove_file(&file).with_context(|| format!("remove {}", file.display()))?;
        applied.map(drop)
    }

    async fn pods_of(&self, member: Member) -> Result<Vec<Pod>> {
        Ok(pods::list(&self.release).await?.remove(&member).unwrap_or_default())
    }

    /// Keeps pods from starting on their machines, and answers with them.
    async fn hold(&mut self, member: Member) -> Result<Vec<Pod>> {
        let pods = self.pods_of(member).await?;
        let mut machines = BTreeSet::new();
        for pod in &pods {
            machines.insert(pod.machine()?.to_owned());
        }
        let taint = format!("{TAINT}=killed:NoSchedule");
        let held = machines.iter().map(|machine| {
            let taint = taint.clone();
            async move { output("kubectl", &["taint", "node", "--overwrite", machine, &taint]).await }
        });
        // Noted first: what was done in part is undone, too.
        self.killed.insert(member, machines.clone());
        try_join_all(held).await?;
        Ok(pods)
    }

    async fn untaint(&self, machine: &str) -> Result<()> {
        let keys = output(
            "kubectl",
            &["get", "node", machine, "--output", "jsonpath={.spec.taints[*].key}"],
        )
        .await?;
        if keys.split_whitespace().any(|key| key == TAINT) {
            output("kubectl", &["taint", "node", machine, &format!("{TAINT}-")]).await?;
        }
        Ok(())
    }

    async fn kill(&mut self, member: Member) -> Result<()> {
        if let Member::Router(_) = member {
            return self.to_process(member, "KILL").await;
        }
        let pods = self.hold(member).await?;
        try_join_all(pods.iter().map(pods::kill_all)).await?;
        let deleted = pods
            .iter()
            .map(|pod| self.delete(pod, &["--grace-period=0", "--force"]));
        try_join_all(deleted).await?;
        // The kubelet may have seen that the process was gone before it saw that the pod was.
        try_join_all(pods.iter().map(pods::kill_all)).await.map(drop)
    }

    async fn delete(&self, pod: &Pod, how: &[&str]) -> Result<()> {
        let mut arguments = vec!["delete", "pod", &pod.name, "--wait=false"];
        arguments.extend_from_slice(how);
        self.release.kubectl(&arguments).await.map(drop)
    }

    async fn to_process(&self, member: Member, signal: &str) -> Result<()> {
        for pod in self.pods_of(member).await? {
            let process = pods::process(&pod).await?;
            let process = process.with_context(|| format!("{} does not run", pod.name))?;
            let line = format!("kill -{signal} \"$1\"");
            inside(pod.machine()?, &line, &[&process.pid.to_string()]).await?;
        }
        Ok(())
    }

    /// Whether all pods of a member have their process; those that back off are made anew.
    async fn has_started(&self, member: Member) -> Result<bool> {
        let pods = self.pods_of(member).await?;
        let mut running = 0;
        for pod in pods.iter().filter(|pod| !pod.leaves) {
            match pods::process(pod).await? {
                Some(_) => running += 1,
                None if pod.backs_off => self.delete(pod, &[]).await?,
                None => {}
            }
        }
        Ok(running > 0 && Some(&running) == self.numbers.get(&member))
    }

    async fn volume(&self, node: NodeId) -> Result<Volume> {
        let claim = self
            .claims
            .get(&node)
            .with_context(|| format!("node-{} has no claim", node.0))?;
        Volume::of(&self.release, claim).await
    }

    /// The machine that a member is on, or was on when it began to suffer.
    async fn machine(&self, member: Member) -> Result<String> {
        if let Some(machine) = self.machine_of.get(&member) {
            return Ok(machine.clone());
        }
        let pods = pods::list(&self.release).await?;
        Ok(only(&pods, member)?.machine()?.to_owned())
    }

    /// Whether a member answers another machine than its own.
    async fn answers(&self, member: Member, machine: &str) -> Result<bool> {
        let pods = pods::list(&self.release).await?;
        let Some(address) = pods
            .get(&member)
            .and_then(|pods| pods.first())
            .and_then(|pod| pod.address.clone())
        else {
            return Ok(false);
        };
        let other = self.machines.keys().find(|other| *other != machine);
        machines::answers(other.context("there is no other machine to ask from")?, &address).await
    }

    /// Empties a machine as an operator does; budgets are kept.
    async fn empty(&self, machine: &str) -> Result<()> {
        let mut command = Command::new("kubectl");
        let within = format!("--timeout={}s", EMPTIED_WITHIN.as_secs());
        command
            .args([
                "drain",
                machine,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
                &within,
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let status = command.status().await.context("run kubectl")?;
        match status.success() {
            true => Ok(()),
            false => bail!("{machine} could not be emptied: kubectl drain ended with {status}"),
        }
    }
}

/// The machines of the cluster that are containers of docker, and their addresses.
async fn machines_of(release: &Release) -> Result<BTreeMap<String, String>> {
    let line = "jsonpath={range .items[*]}{.metadata.name} {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}";
    let said = release.kubectl(&["get", "nodes", "--output", line]).await?;
    let mut machines = BTreeMap::new();
    for (machine, address) in said.lines().filter_map(|line| line.split_once(' ')) {
        machines::state(machine)
            .await
            .with_context(|| format!("the machine {machine} is no container of this docker: only such can be hurt"))?;
        machines.insert(machine.to_owned(), address.to_owned());
    }
    match machines.is_empty() {
        true => bail!("the cluster has no machines"),
        false => Ok(machines),
    }
}

#[async_trait]
impl Backend for Kubernetes {
    fn name(&self) -> String {
        "kubernetes".to_owned()
    }

    fn abilities(&self) -> BTreeSet<Ability> {
        let mut abilities = offer().abilities();
        if !self.has_failpoints {
            abilities.remove(&Ability::Failpoints);
        }
        abilities
    }

    fn members(&self) -> Vec<Member> {
        self.numbers.keys().copied().collect()
    }

    fn routers(&self) -> Vec<String> {
        self.routers.clone()
    }

    async fn start(&mut self, member: Member) -> Result<()> {
        if let Some(machines) = self.killed.remove(&member) {
            let still: BTreeSet<String> = self.killed.values().flatten().cloned().collect();
            for machine in machines.difference(&still) {
                self.untaint(machine).await?;
            }
        }
        let until = now() + nanos(STARTS_WITHIN);
        while !self.has_started(member).await? {
            if now() > until {
                bail!("{member} does not run after {} s: see its pod", STARTS_WITHIN.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn signal(&mut self, member: Member, signal: Signal) -> Result<()> {
        match signal {
            Signal::Kill => self.kill(member).await,
            Signal::Stop => self.to_process(member, "STOP").await,
            Signal::Continue => self.to_process(member, "CONT").await,
            Signal::Terminate => {
                let pods = self.hold(member).await?;
                try_join_all(pods.iter().map(|pod| self.delete(pod, &[])))
                    .await
                    .map(drop)
            }
        }
    }

    async fn condition(&mut self, member: Member) -> Result<Condition> {
        if let Some(machine) = self.machine_of.get(&member) {
            match machines::state(machine).await? {
                machines::State::Paused => return Ok(Condition::Stopped),
                machines::State::Down => return Ok(Condition::Gone),
                machines::State::Running => {}
            }
        }
        let mut seen = BTreeSet::new();
        for pod in self.pods_of(member).await? {
            seen.extend(
                pods::process(&pod)
                    .await?
                    .map(|process| process.condition == Condition::Running),
            );
        }
        Ok(match (seen.contains(&true), seen.contains(&false)) {
            (true, _) => Condition::Running,
            (false, true) => Condition::Stopped,
            (false, false) => Condition::Gone,
        })
    }

    async fn ready(&mut self, member: Member) -> Result<(), String> {
        let pods = self.pods_of(member).await.map_err(|error| format!("{error:#}"))?;
        let ready = pods.iter().filter(|pod| pod.ready && !pod.leaves).count();
        let wanted = self.numbers.get(&member).copied().unwrap_or(1);
        match ready == wanted {
            true => Ok(()),
            false => Err(format!("{ready} of {wanted} pods are ready")),
        }
    }

    async fn cut(&mut self, link: Link) -> Result<()> {
        self.cut_all(&[link]).await
    }

    async fn cut_all(&mut self, links: &[Link]) -> Result<()> {
        let pods = pods::list(&self.release).await?;
        self.network.cut(links, &pods).await
    }

    async fn mend(&mut self, link: Link) -> Result<()> {
        self.network.mend(&[link]).await
    }

    async fn mend_all(&mut self, links: &[Link]) -> Result<()> {
        self.network.mend(links).await
    }

    async fn delay(&mut self, _: Link, _: Duration) -> Result<()> {
        bail!("links between pods are not delayed: {NO_DELAY}")
    }

    async fn passage(&mut self, link: Link) -> Result<Passage> {
        let pods = pods::list(&self.release).await?;
        self.network.passage(link, &pods).await
    }

    async fn transit(&mut self, _: Link) -> Result<Duration> {
        bail!("links between pods are not delayed: there is nothing to measure")
    }

    async fn wipe(&mut self, node: NodeId) -> Result<()> {
        if self.condition(Member::Node(node)).await? != Condition::Gone {
            bail!("node-{} runs: its data is not taken from under it", node.0);
        }
        self.volume(node).await?.empty().await
    }

    async fn fill(&mut self, node: NodeId) -> Result<()> {
        bail!("the disk of node-{} is not filled: {NO_FILL}", node.0)
    }

    async fn takes_data(&mut self, _: NodeId) -> Result<bool> {
        Ok(true)
    }

    async fn unfill(&mut self, _: NodeId) -> Result<()> {
        Ok(())
    }

    async fn set_failpoints(&mut self, node: NodeId, lines: &str) -> Result<()> {
        if !self.has_failpoints {
            bail!("install the release with failpoints = \"{FAILPOINTS_PATH}\" in [shard_node] of shardNode.config");
        }
        self.volume(node).await?.put(FAILPOINTS, lines).await
    }

    async fn failpoints(&mut self, node: NodeId) -> Result<String> {
        self.volume(node).await?.take(&format!("{FAILPOINTS}.seen")).await
    }

    async fn cuts(&mut self) -> Result<Vec<Link>> {
        Ok(self.network.cuts())
    }

    async fn filled(&mut self) -> Result<Vec<NodeId>> {
        Ok(Vec::new())
    }

    async fn hurt_machine(&mut self, member: Member, how: MachineFault) -> Result<()> {
        let machine = self.machine(member).await?;
        self.machine_of.insert(member, machine.clone());
        match how {
            MachineFault::Drain => self.empty(&machine).await,
            _ => machines::hurt(&machine, how).await,
        }
    }

    async fn heal_machine(&mut self, member: Member, how: MachineFault) -> Result<()> {
        let machine = self.machine(member).await?;
        match how {
            MachineFault::Drain => output("kubectl", &["uncordon", &machine]).await.map(drop),
            _ => machines::heal(&machine).await,
        }
    }

    async fn machine_condition(&mut self, member: Member, how: MachineFault) -> Result<MachineCondition> {
        let machine = self.machine(member).await?;
        let state = machines::state(&machine).await?;
        let answers = self.answers(member, &machine).await?;
        let hurt = match how {
            MachineFault::Pause => state == machines::State::Paused,
            MachineFault::Restart => state == machines::State::Down,
            MachineFault::Drain => {
                let said = output(
                    "kubectl",
                    &["get", "node", &machine, "--output", "jsonpath={.spec.unschedulable}"],
                )
                .await?;
                said.trim() == "true"
            }
        };
        let condition = match (hurt, answers) {
            (true, false) => MachineCondition::Hurt,
            (false, true) => MachineCondition::Whole,
            _ => MachineCondition::Between,
        };
        if condition == MachineCondition::Whole {
            self.machine_of.remove(&member);
        }
        Ok(condition)
    }

    async fn keep_logs(&mut self, into: &Path) -> Result<()> {
        std::fs::create_dir_all(into).with_context(|| format!("make {}", into.display()))?;
        for (member, pods) in pods::list(&self.release).await? {
            for pod in pods {
                for (suffix, previous) in [("", "--previous=false"), (".previous", "--previous=true")] {
                    // A pod that never started, or was never started again, has no log.
                    let log = self
                        .release
                        .kubectl(&["logs", &pod.name, previous])
                        .await
                        .unwrap_or_default();
                    let file = into.join(format!("{member}-{}{suffix}.log", pod.name));
                    std::fs::write(&file, log).with_context(|| format!("write {}", file.display()))?;
                }
            }
        }
        Ok(())
    }

    async fn end(&mut self) -> Result<()> {
        self.heal_all().await?;
        self.release
            .kubectl(&["delete", "service", DOOR, "--ignore-not-found"])
            .await
            .map(drop)
    }
}
