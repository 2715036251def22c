//! Faults: each is done, seen to be there, ended, and seen to be gone.
//!
//! A fault that was asked for and is not there proves nothing about the store, so whoever strikes looks at the world: at the process's state, at
//! datagrams, at what the disk takes, at what a node says of its failpoints. What was not seen makes the run invalid, which is
//! no pass.
//!
//! | file | faults |
//! | --- | --- |
//! | `processes` | kill, pause, drain, lose the disk, of nodes, routers and etcd |
//! | `links` | cut and delayed links |
//! | `disks` | full disks, fsyncs that hang or fail |
//! | `clocks` | wall clocks that jump |
//! | `machines` | machines of pods that stand still, break down or are emptied |
//!
//! [`heal`] ends all of them at once.

mod clocks;
mod disks;
pub mod heal;
mod links;
mod machines;
mod processes;

use crate::backend::{Backend, Condition, Link, MachineFault, Member};
use crate::load::now;
use anyhow::{Context, Result, bail};
use fulcrum_client::Admin;
use fulcrum_types::{GroupId, NodeId};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Whom a fault hits; found out at the moment when it strikes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whom {
    /// The node that leads the most groups of the run, of both modes.
    Primary,
    /// A node that leads the fewest.
    Backup,
    /// The node that was hit last.
    Same,
    /// This node.
    Node(NodeId),
    /// All nodes: the first one stands for them.
    Nodes,
    /// The router that tellers speak to first.
    Router,
    /// etcd.
    Etcd,
}

impl fmt::Display for Whom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Whom::Primary => f.write_str("a primary"),
            Whom::Backup => f.write_str("a backup"),
            Whom::Same => f.write_str("the same node"),
            Whom::Node(node) => write!(f, "node-{}", node.0),
            Whom::Nodes => f.write_str("all nodes"),
            Whom::Router => f.write_str("a router"),
            Whom::Etcd => f.write_str("etcd"),
        }
    }
}

/// From whom a member is cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// Everybody.
    All,
    /// The other nodes; not etcd, not the routers.
    Nodes,
    /// etcd alone.
    Etcd,
    /// The routers.
    Routers,
    /// Every second other node: those two sides still share a third.
    SomeNodes,
}

/// Which way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Neither hears the other.
    Both,
    /// It hears nobody, and is heard.
    In,
    /// It is not heard, and hears.
    Out,
}

/// What can be done to a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL; healed by a start on the same data.
    Kill,
    /// The links to its peers are cut, then SIGKILL: the last writes are on its disk alone.
    KillUnheard,
    /// SIGKILL, and its disk is gone; healed by a start on an empty one.
    LoseDisk,
    /// SIGSTOP, then SIGCONT.
    Pause,
    /// SIGTERM: it hands over and ends; healed by a start.
    Drain,
    /// Links are cut.
    Cut(Others, Way),
    /// All its links are slow.
    Slow(Duration),
    /// Its disk has no room; healed by room, and a start if it has ended.
    FillDisk,
    /// Its fsyncs hang.
    StallSync,
    /// An fsync fails, so that it ends; healed by a start.
    FailSync,
    /// Its wall clock is off by so many seconds.
    JumpClock(i64),
    /// The machine that it is on is hurt.
    Machine(MachineFault),
    /// It and all others of its kind are replaced in turn, as by an upgrade. That ends by itself.
    RollOut,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Kill => f.write_str("SIGKILL"),
            Fault::KillUnheard => f.write_str("cut off from its peers, then SIGKILL"),
            Fault::LoseDisk => f.write_str("SIGKILL and its disk lost"),
            Fault::Pause => f.write_str("SIGSTOP"),
            Fault::Drain => f.write_str("SIGTERM"),
            Fault::Cut(others, way) => {
                let others = match others {
                    Others::All => "everybody",
                    Others::Nodes => "the other nodes",
                    Others::Etcd => "etcd",
                    Others::Routers => "the routers",
                    Others::SomeNodes => "some nodes",
                };
                let way = match way {
                    Way::Both => "",
                    Way::In => ", hears nothing from them",
                    Way::Out => ", is not heard by them",
                };
                write!(f, "cut off from {others}{way}")
            }
            Fault::Slow(by) => write!(f, "links slower by {} ms", by.as_millis()),
            Fault::FillDisk => f.write_str("disk full"),
            Fault::StallSync => f.write_str("fsync hangs"),
            Fault::FailSync => f.write_str("fsync fails"),
            Fault::JumpClock(seconds) => write!(f, "wall clock off by {seconds} s"),
            Fault::Machine(MachineFault::Pause) => f.write_str("its machine stands still"),
            Fault::Machine(MachineFault::Restart) => f.write_str("its machine breaks down"),
            Fault::Machine(MachineFault::Drain) => f.write_str("its machine is emptied"),
            Fault::RollOut => f.write_str("it and all of its kind replaced in turn"),
        }
    }
}

impl Fault {
    /// Whether whoever is hit can surely not serve any more, so that a write acknowledged later was acknowledged by another.
    #[must_use]
    pub fn replaces(self) -> bool {
        matches!(
            self,
            Fault::Kill
                | Fault::KillUnheard
                | Fault::LoseDisk
                | Fault::Pause
                | Fault::Cut(Others::All, _)
                | Fault::StallSync
                | Fault::FailSync
                | Fault::FillDisk
                | Fault::Machine(MachineFault::Pause | MachineFault::Restart)
        )
    }
}

/// A fault that is there.
#[derive(Clone, Debug)]
pub struct Struck {
    /// Which.
    pub fault: Fault,
    /// Whom.
    pub member: Member,
    /// When, on the clients' clock: right before it was done.
    pub at: u64,
    /// Groups that the node led.
    pub led: BTreeSet<GroupId>,
    /// Links that were changed.
    pub(crate) links: Vec<Link>,
}

/// Does and ends faults.
pub struct Striker<'a> {
    /// Where.
    pub backend: &'a mut dyn Backend,
    /// Says who leads.
    pub admin: Admin,
    /// The keyspaces of the run.
    pub keyspaces: &'a [String],
    /// The node that was hit last.
    pub last: Option<NodeId>,
    /// Nodes that are hurt now: they are not chosen again.
    pub hurt: BTreeSet<NodeId>,
}

impl Striker<'_> {
    /// Finds whom to hit, does it, and sees that it is there.
    ///
    /// # Errors
    /// It could not be done, or was not seen to be there.
    pub async fn strike(&mut self, fault: Fault, whom: Whom) -> Result<Struck> {
        let (member, led) = self.find(whom).await?;
        if let Member::Node(node) = member {
            self.last = Some(node);
            self.hurt.insert(node);
        }
        let mut struck = Struck {
            fault,
            member,
            at: now(),
            led,
            links: Vec::new(),
        };
        let what = || format!("{member}: {fault}");
        match fault {
            Fault::Kill => self.kill(member).await,
            Fault::KillUnheard => self.kill_unheard(member, &mut struck).await,
            Fault::LoseDisk => self.lose_disk(node_of(member)?).await,
            Fault::Pause => self.pause(member).await,
            Fault::Drain => self.drain(member).await,
            Fault::Cut(others, way) => {
                struck.links = links::between(self.backend.members(), member, others, way);
                self.cut(&struck.links).await
            }
            Fault::Slow(by) => {
                struck.links = links::between(self.backend.members(), member, Others::All, Way::Both);
                self.slow(&struck.links, by).await
            }
            Fault::FillDisk => self.fill(node_of(member)?).await,
            Fault::StallSync => self.stall_sync(node_of(member)?).await,
            Fault::FailSync => self.fail_sync(node_of(member)?).await,
            Fault::JumpClock(seconds) => self.jump_clock(node_of(member)?, seconds).await,
            Fault::Machine(how) => self.hurt_machine(member, how).await,
            Fault::RollOut => self.backend.roll_out(member).await,
        }
        .with_context(what)?;
        Ok(struck)
    }

    /// Ends a fault, and sees that it is gone.
    ///
    /// # Errors
    /// It could not be ended, or is still there.
    pub async fn heal(&mut self, struck: &Struck) -> Result<()> {
        let member = struck.member;
        if let Member::Node(node) = member {
            self.hurt.remove(&node);
        }
        let what = || format!("end of {member}: {}", struck.fault);
        match struck.fault {
            Fault::LoseDisk => self.start_until_taken(member).await,
            Fault::Kill | Fault::Drain => self.start(member).await,
            Fault::KillUnheard => self.revive(struck).await,
            Fault::Pause => self.unpause(member).await,
            Fault::Cut(..) | Fault::Slow(_) => self.mend(&struck.links).await,
            Fault::FillDisk => self.unfill(node_of(member)?).await,
            Fault::Machine(how) => self.heal_machine(member, how).await,
            Fault::RollOut => self.start(member).await,
            Fault::StallSync | Fault::FailSync | Fault::JumpClock(_) => self.clear_failpoints(node_of(member)?).await,
        }
        .with_context(what)
    }

    async fn find(&mut self, whom: Whom) -> Result<(Member, BTreeSet<GroupId>)> {
        let member = match whom {
            Whom::Etcd => return Ok((Member::Etcd, BTreeSet::new())),
            Whom::Router => return Ok((Member::Router(1), BTreeSet::new())),
            Whom::Node(node) => Some(node),
            Whom::Nodes => Some(NodeId(1)),
            Whom::Same => self.last,
            Whom::Primary | Whom::Backup => None,
        };
        let status = self.admin.status(None).await.context("see who leads")?;
        let ours = status
            .groups
            .iter()
            .filter(|group| self.keyspaces.contains(&group.keyspace));
        let ours: Vec<_> = ours.collect();
        let led = |node: NodeId| ours.iter().filter(move |group| group.primary == Some(node));
        let modes = |node| led(node).map(|group| group.mode).collect::<BTreeSet<_>>().len();
        let mut up = Vec::new();
        for member in self.backend.members() {
            if let Member::Node(node) = member
                && !self.hurt.contains(&node)
                && self.backend.condition(member).await? == Condition::Running
            {
                up.push(node);
            }
        }
        let node = match (member, whom) {
            (Some(node), _) => Some(node),
            (None, Whom::Backup) => up.into_iter().min_by_key(|node| led(*node).count()),
            (None, _) => up.into_iter().max_by_key(|node| (modes(*node), led(*node).count())),
        };
        let node = node.with_context(|| format!("nobody is {whom}"))?;
        let groups: BTreeSet<GroupId> = match whom {
            Whom::Nodes => ours.iter().map(|group| group.id).collect(),
            _ => led(node).map(|group| group.id).collect(),
        };
        if whom == Whom::Primary && groups.is_empty() {
            bail!("nobody leads a group");
        }
        Ok((Member::Node(node), groups))
    }

    /// Looks until something is seen.
    async fn until(
        &mut self,
        what: &str,
        within: Duration,
        mut so: impl AsyncFnMut(&mut dyn Backend) -> Result<bool>,
    ) -> Result<()> {
        let until = now() + crate::load::nanos(within);
        loop {
            if so(self.backend).await? {
                return Ok(());
            }
            if now() > until {
                bail!("not seen within {} ms: {what}", within.as_millis());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn node_of(member: Member) -> Result<NodeId> {
    match member {
        Member::Node(node) => Ok(node),
        other => bail!("{other} is no shard-node"),
    }
}
