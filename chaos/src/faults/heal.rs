//! The end of all faults at once, whoever made them: before a run, after the last one, and when somebody presses Ctrl-C.
//!
//! It looks at the world and not at what was done, so that it may be called at any time and as often as one likes. No run begins on a cluster on which something is
//! left: what it would find were the last run's faults.

use super::LOOK_EVERY;
use crate::backend::{Ability, Backend, Condition, Link, Member, Signal};
use crate::load::{nanos, now};
use anyhow::{Context, Result, bail};
use fulcrum_types::NodeId;
use std::time::Duration;

const HEALED_WITHIN: Duration = Duration::from_secs(10);

/// Ends every fault that is there, and sees that none is left.
///
/// # Errors
/// Something cannot be ended, or is still there: the cluster is not to be used.
pub async fn all(backend: &mut dyn Backend) -> Result<()> {
    all_within(backend, HEALED_WITHIN).await
}

async fn all_within(backend: &mut dyn Backend, within: Duration) -> Result<()> {
    let found = Found::look(backend).await?;
    if found.is_nothing() {
        return Ok(());
    }
    found.end(backend).await?;
    let until = now() + nanos(within);
    loop {
        let left = Found::look(backend).await?;
        if left.is_nothing() {
            return Ok(());
        }
        if now() > until {
            bail!("the cluster is not healed: {}", left.told().join(", "));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The faults that are there.
#[derive(Default)]
struct Found {
    cuts: Vec<Link>,
    filled: Vec<NodeId>,
    members: Vec<Hurt>,
}

/// A member with which something is wrong.
struct Hurt {
    member: Member,
    /// Of a node.
    failpoints: String,
    condition: Condition,
}

impl Found {
    async fn look(backend: &mut dyn Backend) -> Result<Self> {
        let mut found = Self {
            cuts: backend.cuts().await.context("see which links are cut")?,
            filled: backend.filled().await.context("see which disks are full")?,
            members: Vec::new(),
        };
        for member in backend.members() {
            let condition = backend.condition(member).await?;
            let failpoints = match member {
                Member::Node(node) if backend.abilities().contains(&Ability::Failpoints) => {
                    backend.failpoints(node).await?
                }
                _ => String::new(),
            };
            if condition != Condition::Running || !failpoints.is_empty() {
                found.members.push(Hurt {
                    member,
                    failpoints,
                    condition,
                });
            }
        }
        Ok(found)
    }

    fn is_nothing(&self) -> bool {
        self.cuts.is_empty() && self.filled.is_empty() && self.members.is_empty()
    }

    async fn end(&self, backend: &mut dyn Backend) -> Result<()> {
        for link in &self.cuts {
            backend.mend(*link).await.with_context(|| format!("mend {link}"))?;
        }
        for node in &self.filled {
            backend
                .unfill(*node)
                .await
                .with_context(|| format!("give node-{} room", node.0))?;
        }
        for Hurt {
            member,
            failpoints,
            condition,
        } in &self.members
        {
            if let (Member::Node(node), false) = (*member, failpoints.is_empty()) {
                backend.set_failpoints(node, "").await?;
            }
            match condition {
                Condition::Stopped => backend.signal(*member, Signal::Continue).await,
                Condition::Gone => backend.start(*member).await,
                Condition::Running => Ok(()),
            }
            .with_context(|| format!("bring {member} back"))?;
        }
        Ok(())
    }

    fn told(&self) -> Vec<String> {
        let cuts = self.cuts.iter().map(|link| format!("{link} is cut"));
        let filled = self
            .filled
            .iter()
            .map(|node| format!("the disk of node-{} is full", node.0));
        let mut told: Vec<String> = cuts.chain(filled).collect();
        for one in &self.members {
            let member = one.member;
            if one.condition != Condition::Running {
                told.push(format!("{member} is {:?}", one.condition));
            }
            let lines = one.failpoints.lines();
            told.extend(lines.map(|line| format!("{member} has a failpoint: {line}")));
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend::Passage;
    use async_trait::async_trait;
    use std::collections::{BTreeMap, BTreeSet};
    use std::path::Path;

    /// A cluster of three that does what it is told, and writes down what that was.
    #[derive(Default)]
    struct Told {
        conditions: BTreeMap<Member, Condition>,
        cut: BTreeSet<Link>,
        filled: BTreeSet<NodeId>,
        failpoints: BTreeMap<NodeId, String>,
        stubborn: bool,
        done: Vec<String>,
        looks: u32,
    }

    const ONE: NodeId = NodeId(1);
    const LINK: Link = Link {
        from: Member::Node(ONE),
        to: Member::Etcd,
    };

    fn hurt() -> Told {
        Told {
            conditions: BTreeMap::from([(Member::Node(ONE), Condition::Stopped), (Member::Etcd, Condition::Gone)]),
            cut: BTreeSet::from([LINK]),
            filled: BTreeSet::from([ONE]),
            failpoints: BTreeMap::from([(ONE, "set sync stall\n".to_owned())]),
            ..Told::default()
        }
    }

    #[async_trait]
    impl Backend for Told {
        fn name(&self) -> String {
            "told".to_owned()
        }
        fn abilities(&self) -> BTreeSet<Ability> {
            BTreeSet::from([Ability::Failpoints])
        }
        fn members(&self) -> Vec<Member> {
            vec![Member::Etcd, Member::Node(ONE), Member::Router(1)]
        }
        fn routers(&self) -> Vec<String> {
            Vec::new()
        }
        async fn start(&mut self, member: Member) -> Result<()> {
            self.done.push(format!("start {member}"));
            self.conditions.insert(member, Condition::Running);
            Ok(())
        }
        async fn signal(&mut self, member: Member, signal: Signal) -> Result<()> {
            self.done.push(format!("{signal:?} {member}"));
            self.conditions.insert(member, Condition::Running);
            Ok(())
        }
        async fn condition(&mut self, member: Member) -> Result<Condition> {
            Ok(self.conditions.get(&member).copied().unwrap_or(Condition::Running))
        }
        async fn ready(&mut self, _: Member) -> Result<(), String> {
            Ok(())
        }
        async fn cut(&mut self, _: Link) -> Result<()> {
            bail!("nobody cuts here")
        }
        async fn mend(&mut self, link: Link) -> Result<()> {
            self.done.push(format!("mend {link}"));
            if !self.stubborn {
                self.cut.remove(&link);
            }
            Ok(())
        }
        async fn delay(&mut self, _: Link, _: Duration) -> Result<()> {
            bail!("nobody delays here")
        }
        async fn passage(&mut self, _: Link) -> Result<Passage> {
            Ok(Passage::Open)
        }
        async fn transit(&mut self, _: Link) -> Result<Duration> {
            Ok(Duration::ZERO)
        }
        async fn wipe(&mut self, _: NodeId) -> Result<()> {
            bail!("nobody wipes here")
        }
        async fn fill(&mut self, _: NodeId) -> Result<()> {
            bail!("nobody fills here")
        }
        async fn takes_data(&mut self, node: NodeId) -> Result<bool> {
            Ok(!self.filled.contains(&node))
        }
        async fn unfill(&mut self, node: NodeId) -> Result<()> {
            self.done.push(format!("unfill node-{}", node.0));
            self.filled.remove(&node);
            Ok(())
        }
        async fn set_failpoints(&mut self, node: NodeId, lines: &str) -> Result<()> {
            self.done.push(format!("failpoints of node-{}: '{lines}'", node.0));
            self.failpoints.insert(node, lines.to_owned());
            Ok(())
        }
        async fn failpoints(&mut self, node: NodeId) -> Result<String> {
            Ok(self.failpoints.get(&node).cloned().unwrap_or_default())
        }
        async fn cuts(&mut self) -> Result<Vec<Link>> {
            self.looks += 1;
            Ok(self.cut.iter().copied().collect())
        }
        async fn filled(&mut self) -> Result<Vec<NodeId>> {
            Ok(self.filled.iter().copied().collect())
        }
        async fn keep_logs(&mut self, _: &Path) -> Result<()> {
            Ok(())
        }
        async fn end(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn every_fault_ends_and_a_second_time_nothing_is_done() {
        let mut cluster = hurt();
        assert_eq!(Found::look(&mut cluster).await.unwrap().told().len(), 5);
        all(&mut cluster).await.unwrap();
        assert_eq!(
            std::mem::take(&mut cluster.done),
            [
                "mend node-1 -> etcd",
                "unfill node-1",
                "start etcd",
                "failpoints of node-1: ''",
                "Continue node-1"
            ]
        );
        let before = cluster.looks;
        all(&mut cluster).await.unwrap();
        assert!(cluster.done.is_empty(), "{:?}", cluster.done);
        assert_eq!(cluster.looks, before + 1, "one look is enough where nothing is wrong");
    }

    #[tokio::test]
    async fn a_cluster_on_which_something_is_left_is_refused() {
        let mut cluster = Told {
            stubborn: true,
            ..hurt()
        };
        let refused = all_within(&mut cluster, Duration::ZERO).await.unwrap_err();
        assert_eq!(refused.to_string(), "the cluster is not healed: node-1 -> etcd is cut");
    }
}
