//! Traffic between nodes and the metadata store.

use super::network::Endpoint;
use super::time::MS;
use super::world::{Happening, Swap, World};
use crate::invariants::configurations;
use fulcrum_replication::{CasId, CasOutcome};
use fulcrum_shard_node::event::Event;
use fulcrum_types::{BootId, ConfigVersion, GroupConfiguration, GroupId, NodeId};

impl World {
    /// A node asks for a compare-and-swap: how it fares is decided now.
    pub(super) fn send_swap(
        &mut self,
        by: NodeId,
        group: GroupId,
        attempt: CasId,
        expected: ConfigVersion,
        proposal: GroupConfiguration,
    ) {
        let (reaches, hears) = self.connection(by);
        let boot = self.hosts[&by].boot;
        let passage = self.metadata.passage(self.now, reaches, hears);
        self.record
            .event(self.now, &[30, by.0, group.0, attempt.0, expected.0], || {
                format!("{by} asks to change {group} from {expected} to {proposal:?}: {passage:?}")
            });
        if let Some(at) = passage.lands {
            let answer_at = passage.answered.then_some(passage.ends);
            let swap = Swap {
                by,
                boot,
                group,
                attempt,
                expected,
                proposal,
                answer_at,
            };
            self.queue.at(at, Happening::Swap(Box::new(swap)));
        }
        if !passage.answered {
            self.record.reached("unknown outcome of a compare-and-swap");
            let outcome = CasOutcome::Unknown;
            self.queue.at(
                passage.ends,
                Happening::Swapped {
                    node: by,
                    boot,
                    group,
                    attempt,
                    outcome,
                },
            );
        }
    }

    /// A compare-and-swap reaches the store.
    pub(super) fn swap(&mut self, swap: Swap) {
        let Swap {
            by,
            boot,
            group,
            attempt,
            expected,
            proposal,
            answer_at,
        } = swap;
        if self.hosts[&by].is_void(boot) {
            return;
        }
        let swapped = self.metadata.compare_and_swap(self.now, by, group, expected, proposal);
        let (won, version) = match &swapped {
            Ok(change) => (true, change.after.version),
            Err(current) => (false, current.version),
        };
        self.record.event(
            self.now,
            &[31, by.0, group.0, attempt.0, u64::from(won), version.0],
            || match &swapped {
                Ok(change) => format!("{group} is changed by {by}: {:?}", change.after),
                Err(_) => format!("{by} is too late to change {group}: it has {version}"),
            },
        );
        let outcome = match swapped {
            Err(current) => CasOutcome::Lost(current),
            Ok(change) => {
                let verdict = configurations::check(&change);
                self.must("configurations", verdict);
                if answer_at.is_none() {
                    self.record.reached("compare-and-swap that landed unheard");
                }
                self.note_change(&change.before, &change.after);
                self.announce(group, &change.after);
                let after = change.after.clone();
                self.changes.push(change);
                CasOutcome::Won(after)
            }
        };
        if let Some(at) = answer_at {
            self.queue.at(
                at,
                Happening::Swapped {
                    node: by,
                    boot,
                    group,
                    attempt,
                    outcome,
                },
            );
        }
    }

    fn note_change(&mut self, before: &GroupConfiguration, after: &GroupConfiguration) {
        self.record.reached(if before.in_sync.is_empty() {
            "first start"
        } else if after.epoch > before.epoch {
            "promotion"
        } else if after.in_sync.len() > before.in_sync.len() {
            "admission"
        } else {
            "eviction"
        });
    }

    /// Watchers hear of a change, each in its own time.
    fn announce(&mut self, group: GroupId, configuration: &GroupConfiguration) {
        for node in configuration.replicas.clone() {
            let boot = self.hosts[&node].boot;
            let (first, second) = self.metadata.watch_arrivals(self.now);
            for at in [Some(first), second].into_iter().flatten() {
                self.queue
                    .at(at, Happening::Configuration(node, boot, group, configuration.clone()));
            }
        }
    }

    /// A compare-and-swap has ended for the one who asked, if it still lives.
    pub(super) fn swapped(&mut self, node: NodeId, boot: BootId, group: GroupId, attempt: CasId, outcome: CasOutcome) {
        if self.hosts[&node].lives(boot) {
            self.deliver(
                node,
                Event::CasOutcome {
                    group,
                    attempt,
                    outcome,
                },
            );
        }
    }

    /// A node reads a configuration back. A read that fails is tried again, as the runner does.
    pub(super) fn look_up(&mut self, node: NodeId, boot: BootId, group: GroupId) {
        if !self.hosts[&node].lives(boot) {
            return;
        }
        let (reaches, hears) = self.connection(node);
        let passage = self.metadata.passage(self.now, reaches, hears);
        if passage.answered {
            let configuration = self.metadata.read(group).clone();
            self.queue
                .at(passage.ends, Happening::Configuration(node, boot, group, configuration));
        } else {
            self.queue.at(passage.ends, Happening::Lookup(node, boot, group));
        }
    }

    /// A configuration reaches a node. While the store cannot reach it, the watch reconnects.
    pub(super) fn configuration(
        &mut self,
        node: NodeId,
        boot: BootId,
        group: GroupId,
        configuration: GroupConfiguration,
    ) {
        if !self.hosts[&node].lives(boot) {
            return;
        }
        if !self.connection(node).1 {
            let at = self.now + 50 * MS;
            return self
                .queue
                .at(at, Happening::Configuration(node, boot, group, configuration));
        }
        self.record
            .event(self.now, &[32, node.0, group.0, configuration.version.0], || {
                format!("{node} hears that {group} is at {}", configuration.version)
            });
        self.deliver(node, Event::Configuration { group, configuration });
    }

    /// A node asks whether another one has a lease. Here a lease goes with the node that is down.
    pub(super) fn look_for_lease(&mut self, node: NodeId, group: GroupId, of: NodeId) {
        let (reaches, hears) = self.connection(node);
        let answered = reaches && hears && self.now >= self.metadata.outage_until;
        if answered && self.hosts.get(&of).is_some_and(|host| host.node.is_none()) {
            self.deliver(node, Event::LeaseGone { group, node: of });
        }
    }

    /// Whether a node reaches the store, and hears from it.
    fn connection(&self, node: NodeId) -> (bool, bool) {
        let (node, store) = (Endpoint::Node(node), Endpoint::Metadata);
        (!self.network.is_cut(node, store), !self.network.is_cut(store, node))
    }
}
