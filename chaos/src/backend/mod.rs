//! Where a cluster runs, and how it is hurt: the contract of backends.
//!
//! A scenario knows members and links, and nothing of processes, containers or pods. A backend starts members, sends them signals, cuts
//! links between them, and can tell by a look at the world, not at its own notes, whether a fault is there: a fault that was not
//! seen to be there makes a run invalid ([`crate::faults`]).
//!
//! There are [`process`], processes of this machine, [`docker`], containers made by compose, and [`kubernetes`], pods. What a backend cannot do
//! it says, with the reason ([`Offer`]), and scenarios that need it are skipped by name.

pub mod docker;
pub mod kubernetes;
pub mod process;

use anyhow::{Result, bail};
use async_trait::async_trait;
use fulcrum_types::NodeId;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::time::Duration;

/// A process of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// The metadata store.
    Etcd,
    /// A shard-node.
    Node(NodeId),
    /// A router, with its coordinator.
    Router(u64),
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Member::Etcd => f.write_str("etcd"),
            Member::Node(node) => write!(f, "node-{}", node.0),
            Member::Router(number) => write!(f, "router-{number}"),
        }
    }
}

/// What goes from one member to another; the other direction is a link of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Link {
    /// Who sends.
    pub from: Member,
    /// Who no longer hears it.
    pub to: Member,
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} -> {}", self.from, self.to)
    }
}

/// What a member can be told by its system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGKILL: nothing is handed over, nothing flushed.
    Kill,
    /// SIGSTOP: it stands still.
    Stop,
    /// SIGCONT: it goes on.
    Continue,
    /// SIGTERM: it shall end in good order.
    Terminate,
}

/// How a member is, as its system tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It runs.
    Running,
    /// It stands still.
    Stopped,
    /// There is no process.
    Gone,
}

/// What a backend may be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Ability {
    /// Links can be cut, each direction for itself.
    Cut,
    /// Links can be delayed.
    Delay,
    /// The disk of a node can be filled without filling that of the machine.
    Fill,
    /// Failpoints of nodes can be set.
    Failpoints,
    /// Links stay cut when whom they belong to is killed.
    Unheard,
    /// The machines that members are on can be hurt.
    Machines,
    /// All members of a kind can be replaced in turn, as by an upgrade.
    Rollouts,
}

impl fmt::Display for Ability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Ability::Cut => "cutting links",
            Ability::Delay => "delaying links",
            Ability::Fill => "a small disk for each node",
            Ability::Failpoints => "failpoints",
            Ability::Unheard => "cut links that stay so when a member is killed",
            Ability::Machines => "machines that can be hurt",
            Ability::Rollouts => "replacing all members of a kind in turn",
        })
    }
}

/// What can happen to the machine that a member is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineFault {
    /// It stands still, with all that is on it.
    Pause,
    /// It breaks down, and is started again.
    Restart,
    /// It is emptied, as before maintenance.
    Drain,
}

/// How a machine was seen to be, by itself and by whether the member on it answers from elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MachineCondition {
    /// The fault is there, and the member does not answer.
    Hurt,
    /// Neither.
    Between,
    /// The fault is gone, and the member answers.
    Whole,
}

/// What a place can do, and why not the rest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer(BTreeMap<Ability, Result<(), String>>);

impl Offer {
    /// Of each ability: it is there, or why not. One that is not named is not there.
    #[must_use]
    pub fn new(abilities: impl IntoIterator<Item = (Ability, Result<(), String>)>) -> Self {
        Self(abilities.into_iter().collect())
    }

    /// What is there.
    #[must_use]
    pub fn abilities(&self) -> BTreeSet<Ability> {
        let there = self.0.iter().filter(|(_, offered)| offered.is_ok());
        there.map(|(ability, _)| *ability).collect()
    }

    /// Why something of this is not there; none if all is.
    #[must_use]
    pub fn lacks(&self, needs: &[Ability]) -> Option<String> {
        needs.iter().find_map(|need| match self.0.get(need) {
            Some(Ok(())) => None,
            Some(Err(why)) => Some(format!("{need}: {why}")),
            None => Some(format!("{need}: nobody knows how to do that here")),
        })
    }
}

/// Why most places offer no machines.
pub(crate) const NO_MACHINES: &str = "all members are on this machine; --backend kind has others";
/// Why most places offer no rollouts.
pub(crate) const NO_ROLLOUTS: &str = "nobody looks after members here; --backend kind has a cluster that does";

/// All members of a cluster, in the order in which they start.
pub(crate) fn all(nodes: u64, routers: u64) -> Vec<Member> {
    let nodes = (1..=nodes).map(|number| Member::Node(NodeId(number)));
    let routers = (1..=routers).map(Member::Router);
    [Member::Etcd].into_iter().chain(nodes).chain(routers).collect()
}

/// What a cluster is made of, and where.
#[derive(Clone, Debug)]
pub enum Setup {
    /// Of processes.
    Process(process::Setup),
    /// Of containers.
    Docker(docker::Engine, docker::Setup),
    /// Of pods.
    Kubernetes(kubernetes::Setup),
}

impl Setup {
    /// Makes its network and places; starts no member yet.
    ///
    /// # Errors
    /// What could not be made.
    pub async fn make(self, folder: process::folder::Folder) -> Result<Box<dyn Backend>> {
        Ok(match self {
            Setup::Process(setup) => Box::new(process::Processes::new(setup, folder).await?),
            Setup::Docker(engine, setup) => Box::new(docker::Docker::new(engine, setup, folder).await?),
            Setup::Kubernetes(setup) => Box::new(kubernetes::Kubernetes::new(setup).await?),
        })
    }
}

/// What a link was seen to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Passage {
    /// What is sent arrives.
    Open,
    /// Nothing that is sent arrives.
    Closed,
}

/// A place where a cluster runs.
#[async_trait]
pub trait Backend: Send {
    /// Its name, for reports.
    fn name(&self) -> String;

    /// What it can do.
    fn abilities(&self) -> BTreeSet<Ability>;

    /// All members, in the order in which they start.
    fn members(&self) -> Vec<Member>;

    /// Where clients find the routers, first that of number 1.
    fn routers(&self) -> Vec<String>;

    /// Starts a member on the data that it has.
    async fn start(&mut self, member: Member) -> Result<()>;

    /// Sends a signal to it.
    async fn signal(&mut self, member: Member, signal: Signal) -> Result<()>;

    /// How it is.
    async fn condition(&mut self, member: Member) -> Result<Condition>;

    /// Ready, by its own answer; or why not.
    async fn ready(&mut self, member: Member) -> Result<(), String>;

    /// Lets nothing through any more.
    async fn cut(&mut self, link: Link) -> Result<()>;

    /// Lets everything through again, at once.
    async fn mend(&mut self, link: Link) -> Result<()>;

    /// As [`Backend::cut`], of several at once.
    async fn cut_all(&mut self, links: &[Link]) -> Result<()> {
        for link in links {
            self.cut(*link).await?;
        }
        Ok(())
    }

    /// As [`Backend::mend`], of several at once.
    async fn mend_all(&mut self, links: &[Link]) -> Result<()> {
        for link in links {
            self.mend(*link).await?;
        }
        Ok(())
    }

    /// Lets everything through, so much later.
    async fn delay(&mut self, link: Link, by: Duration) -> Result<()>;

    /// Sees whether something gets through now.
    async fn passage(&mut self, link: Link) -> Result<Passage>;

    /// Sees how long something takes to get through.
    async fn transit(&mut self, link: Link) -> Result<Duration>;

    /// Removes all data of a node that does not run.
    async fn wipe(&mut self, node: NodeId) -> Result<()>;

    /// Fills a node's disk to the last byte.
    async fn fill(&mut self, node: NodeId) -> Result<()>;

    /// Whether a node's disk takes something now.
    async fn takes_data(&mut self, node: NodeId) -> Result<bool>;

    /// Gives the room back.
    async fn unfill(&mut self, node: NodeId) -> Result<()>;

    /// Writes what a node's failpoints shall do, one a line; nothing without a line.
    async fn set_failpoints(&mut self, node: NodeId, lines: &str) -> Result<()>;

    /// What a node says that its failpoints do, and have done.
    async fn failpoints(&mut self, node: NodeId) -> Result<String>;

    /// The links that are cut or slow now.
    async fn cuts(&mut self) -> Result<Vec<Link>>;

    /// The nodes whose disks are filled now.
    async fn filled(&mut self) -> Result<Vec<NodeId>>;
    /// Hurts the machine that a member is on.
    async fn hurt_machine(&mut self, member: Member, _: MachineFault) -> Result<()> {
        bail!("{member} has no machine of its own: {NO_MACHINES}")
    }

    /// Ends that.
    async fn heal_machine(&mut self, member: Member, _: MachineFault) -> Result<()> {
        bail!("{member} has no machine of its own: {NO_MACHINES}")
    }

    /// Sees whether the fault is there.
    async fn machine_condition(&mut self, member: Member, _: MachineFault) -> Result<MachineCondition> {
        bail!("{member} has no machine of its own: {NO_MACHINES}")
    }

    /// Has all members of this one's kind replaced in turn, as an upgrade does it, and sees that each is another one.
    async fn roll_out(&mut self, like: Member) -> Result<()> {
        bail!("{like} is not replaced: {NO_ROLLOUTS}")
    }

    /// Keeps what members have logged, for people.
    async fn keep_logs(&mut self, into: &Path) -> Result<()>;

    /// Ends everything that was started.
    async fn end(&mut self) -> Result<()>;
}
