//! Links between pods, cut by rules in the machines that they are on.
//!
//! Pods are routed, also to others of the same machine (kindnet and the cluster of `tests/k8s/real` make point-to-point links), so that all that one pod
//! sends another passes the chain FORWARD of both machines. A link is cut by a rule at the head of both, before those that let established connections through: one
//! direction, one pair of addresses. A NetworkPolicy would not do: whether it concerns connections that are there already is up to each network.
//!
//! Rules bear a comment, by which what a dead command has left is found. A pod that is made anew has another address: links are mended by the rules that were
//! made, not by where pods are now.

use super::super::process::datagrams::{self, PROBE_PORT};
use super::super::{Link, Member, Passage};
use super::command::inside;
use super::pods::{Pod, Pods, in_network};
use anyhow::{Context, Result, bail};
use futures::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The way into a pod is long: an engine, a shell, a namespace.
const HEARD_WITHIN: Duration = Duration::from_secs(2);
/// Where this program is on the machines.
pub(super) const PROBE: &str = "/usr/local/bin/fulcrum-chaos";

/// Removes all rules that cut; the argument is the comment.
const REMOVE_ALL: &str = r#"
iptables -w -S FORWARD | grep -e "--comment $1 " | sed 's/^-A/-D/' | while read -r rule; do iptables -w $rule || exit 1; done"#;
const RULES: &str = r#"iptables -w -S FORWARD | grep -c -e "--comment $1 " || true"#;
const COMMENT: &str = "fulcrum-chaos";

/// A rule: what is dropped, and on which machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rule {
    machine: String,
    from: String,
    to: String,
}

/// The links that are cut.
#[derive(Default)]
pub(super) struct Network {
    cut: BTreeMap<Link, BTreeSet<Rule>>,
}

impl Network {
    /// Cuts them, all machines at once.
    pub(super) async fn cut(&mut self, links: &[Link], pods: &Pods) -> Result<()> {
        let mut added = BTreeSet::new();
        for link in links {
            if self.cut.contains_key(link) {
                continue;
            }
            let rules = rules(*link, pods)?;
            added.extend(rules.iter().cloned());
            self.cut.insert(*link, rules);
        }
        change("-I", &added).await
    }

    /// Mends them, all machines at once.
    pub(super) async fn mend(&mut self, links: &[Link]) -> Result<()> {
        let rules: BTreeSet<Rule> = links
            .iter()
            .filter_map(|link| self.cut.remove(link))
            .flatten()
            .collect();
        change("-D", &rules).await
    }

    /// Sends datagrams from inside the one pod's network and awaits them inside the other's. Of a member with several pods the first stands for all.
    pub(super) async fn passage(&self, link: Link, pods: &Pods) -> Result<Passage> {
        let first = |member: Member| {
            let pod = pods.get(&member).and_then(|all: &Vec<Pod>| all.first());
            pod.with_context(|| format!("{member} has no pod"))
        };
        let (from, to) = (first(link.from)?, first(link.to)?);
        let at = format!("{}:{PROBE_PORT}", to.address()?);
        datagrams::passage_by(PROBE.as_ref(), &in_network(from)?, &in_network(to)?, &at, HEARD_WITHIN).await
    }

    /// The links that are cut.
    pub(super) fn cuts(&self) -> Vec<Link> {
        self.cut.keys().copied().collect()
    }
}

/// The rules that cut a link: of every pair of pods, on the machines of both.
fn rules(link: Link, pods: &Pods) -> Result<BTreeSet<Rule>> {
    let of = |member: Member| pods.get(&member).with_context(|| format!("{member} has no pod"));
    let mut rules = BTreeSet::new();
    for from in of(link.from)? {
        for to in of(link.to)? {
            for pod in [from, to] {
                rules.insert(Rule {
                    machine: pod.machine()?.to_owned(),
                    from: from.address()?.to_owned(),
                    to: to.address()?.to_owned(),
                });
            }
        }
    }
    Ok(rules)
}

/// Adds or removes rules, with one command a machine.
async fn change(how: &str, rules: &BTreeSet<Rule>) -> Result<()> {
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    for Rule { machine, from, to } in rules {
        let line = format!("iptables -w {how} FORWARD -s {from} -d {to} -m comment --comment {COMMENT} -j DROP\n");
        lines
            .entry(machine)
            .or_insert_with(|| "set -e\n".to_owned())
            .push_str(&line);
    }
    let all = lines.iter().map(|(machine, lines)| inside(machine, lines, &[]));
    try_join_all(all).await.map(drop)
}

/// Removes what any command has left on a machine, and sees that nothing is left.
pub(super) async fn heal(machine: &str) -> Result<()> {
    inside(machine, REMOVE_ALL, &[COMMENT]).await?;
    let left = inside(machine, RULES, &[COMMENT]).await?;
    match left.trim() {
        "0" => Ok(()),
        left => bail!("{machine} still has {left} rules with the comment {COMMENT}: remove them"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::NodeId;

    fn pod(name: &str, machine: &str, address: &str) -> Pod {
        Pod {
            name: name.to_owned(),
            uid: name.to_owned(),
            machine: Some(machine.to_owned()),
            address: Some(address.to_owned()),
            container: None,
            ready: true,
            backs_off: false,
            leaves: false,
        }
    }

    #[test]
    fn a_link_is_cut_for_every_pair_of_pods_on_both_machines_and_in_one_direction() {
        let node = Member::Node(NodeId(1));
        let pods = Pods::from([
            (node, vec![pod("n", "m1", "10.0.1.1")]),
            (
                Member::Etcd,
                vec![pod("e0", "m1", "10.0.1.2"), pod("e1", "m2", "10.0.2.2")],
            ),
        ]);
        let link = Link {
            from: node,
            to: Member::Etcd,
        };
        let shown: Vec<String> = rules(link, &pods)
            .unwrap()
            .iter()
            .map(|rule| format!("{}: {} {}", rule.machine, rule.from, rule.to))
            .collect();
        assert_eq!(
            shown,
            [
                "m1: 10.0.1.1 10.0.1.2",
                "m1: 10.0.1.1 10.0.2.2",
                "m2: 10.0.1.1 10.0.2.2"
            ]
        );
        let nobody = Link {
            from: node,
            to: Member::Router(1),
        };
        assert!(rules(nobody, &pods).is_err());
    }
}
