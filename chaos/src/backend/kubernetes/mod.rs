//! Pods of a release of the Helm chart, on a Kubernetes whose machines are docker containers: kind, or the cluster of `tests/k8s/real`.
//!
//! The release is there before, and stays: this backend looks for its members (`pods`), heals what a dead command has left, hurts, and heals again at its end.
//! The load runs in this process, outside of the cluster, and reaches each router by a port of the machine that it is on.
//!
//! | fault | done by | seen by |
//! | --- | --- | --- |
//! | SIGKILL of a node or etcd | all processes of the pod are killed and the pod is deleted with force; a taint keeps its next life from starting until it is healed | no process in the pod's control groups |
//! | SIGKILL of a router | its process; the kubelet starts it again | the same |
//! | SIGTERM | the pod is deleted, as `kubectl drain` does it; the same taint | the same |
//! | SIGSTOP | the process | its state |
//! | cut links | rules in the machines (`network`) | datagrams between the pods' networks |
//! | a lost disk | its volume's directory is emptied (`disks`) | it is empty |
//! | failpoints | a file in the volume, if the release's settings name it | what the node says |
//! | all members of a kind replaced in turn | `kubectl rollout restart` (`rollout`) | every pod is another one, and ready |
//! | a machine stands still, breaks down, is emptied | `docker pause`, `docker kill`, `kubectl drain` (`machines`) | another machine gets no answer |
//!
//! Left out: slow links (no `netem` in these kernels, and no proxy between pods), full disks (volumes are directories of a disk that machines share), and a kill that
//! nobody may hear of (a pod's network goes with it).

mod command;
mod disks;
mod door;
mod lives;
mod machines;
mod network;
mod pods;
mod rollout;

pub use command::Release;

use super::{Ability, Backend, Condition, Link, MachineCondition, MachineFault, Member, Offer, Passage, Signal};
use crate::load::{nanos, now};
use anyhow::{Context, Result, bail};
use async_trait::async_trait;
use command::{inside, output};
use disks::Volume;
use fulcrum_types::NodeId;
use futures::future::try_join_all;
use lives::Lives;
use network::Network;
use pods::{Pods, only, pods_of};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::Command;

/// The kubelet starts what has ended at once, or after a while if it ends too often.
const STARTS_WITHIN: Duration = Duration::from_secs(120);
const LOOK_EVERY: Duration = Duration::from_millis(100);
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
    /// Clients get in at every machine and are led to some router, as by the release's own Service: for scenarios in which routers move.
    pub any_router: bool,
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
        (Ability::Rollouts, Ok(())),
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
    any_router: bool,
    network: Network,
    lives: Lives,
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
        let machines = machines::of(&setup.release).await?;
        let lives = Lives::of(setup.release.clone());
        let mut made = Self {
            release: setup.release,
            machines,
            numbers: BTreeMap::new(),
            claims: BTreeMap::new(),
            routers: Vec::new(),
            any_router: setup.any_router,
            network: Network::default(),
            lives,
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

    async fn open_door(&mut self, pods: &Pods) -> Result<()> {
        self.routers = match self.any_router {
            true => door::open_to_any(&self.release, &self.machines).await?,
            false => door::open(&self.release, &self.machines, pods).await?,
        };
        Ok(())
    }

    /// Ends whatever a command may have left: idempotent, and done first and last.
    async fn heal_all(&mut self) -> Result<()> {
        for machine in self.machines.keys() {
            machines::heal(machine).await?;
        }
        try_join_all(self.machines.keys().map(|machine| network::heal(machine))).await?;
        let names: Vec<String> = self.machines.keys().cloned().collect();
        for machine in names {
            Lives::untaint(&machine).await?;
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
        self.lives.forget();
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
        self.lives.let_start(member).await?;
        let wanted = self.numbers.get(&member).copied().unwrap_or(1);
        let until = now() + nanos(STARTS_WITHIN);
        while !self.lives.have_started(member, wanted).await? {
            if now() > until {
                bail!("{member} does not run after {} s: see its pod", STARTS_WITHIN.as_secs());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn signal(&mut self, member: Member, signal: Signal) -> Result<()> {
        match signal {
            Signal::Kill => self.lives.kill(member).await,
            Signal::Stop => self.lives.to_process(member, "STOP").await,
            Signal::Continue => self.lives.to_process(member, "CONT").await,
            Signal::Terminate => self.lives.terminate(member).await,
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
        for pod in pods_of(&self.release, member).await? {
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
        let pods = pods_of(&self.release, member)
            .await
            .map_err(|error| format!("{error:#}"))?;
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
            MachineFault::Drain => machines::empty(&machine).await,
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
            // A router may have gone elsewhere meanwhile.
            let pods = pods::list(&self.release).await?;
            self.open_door(&pods).await?;
        }
        Ok(condition)
    }

    async fn roll_out(&mut self, like: Member) -> Result<()> {
        rollout::run(&self.release, like).await
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
        door::close(&self.release).await
    }
}
