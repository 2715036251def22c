//! A switch for the connections between the nodes of one process: tests and the demo cut and heal them.

use fulcrum_types::NodeId;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Which nodes hear which. Clones share it; nodes that are given the same one are in the same network.
#[derive(Clone, Debug, Default)]
pub struct Network {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    any_cut: AtomicBool,
    cut: Mutex<BTreeSet<(NodeId, NodeId)>>,
}

impl Network {
    /// A network in which everybody hears everybody.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    fn change(&self, change: impl FnOnce(&mut BTreeSet<(NodeId, NodeId)>)) {
        let mut cut = self.cut();
        change(&mut cut);
        self.inner.any_cut.store(!cut.is_empty(), Ordering::Release);
    }

    fn cut(&self) -> MutexGuard<'_, BTreeSet<(NodeId, NodeId)>> {
        self.inner.cut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing that `from` says reaches `to` any more.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.change(|cut| {
            cut.insert((from, to));
        });
    }

    /// Neither of the two hears the other any more.
    pub fn cut_between(&self, a: NodeId, b: NodeId) {
        self.change(|cut| cut.extend([(a, b), (b, a)]));
    }

    /// Everybody hears everybody again.
    pub fn heal(&self) {
        self.change(BTreeSet::clear);
    }

    /// Whether `to` hears `from`.
    #[must_use]
    pub fn connects(&self, from: NodeId, to: NodeId) -> bool {
        !self.inner.any_cut.load(Ordering::Acquire) || !self.cut().contains(&(from, to))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuts_have_a_direction() {
        let network = Network::new();
        let [a, b, c] = [1, 2, 3].map(NodeId);
        network.cut_one_way(a, b);
        network.cut_between(b, c);
        let heard = |from, to| network.clone().connects(from, to);
        assert!(!heard(a, b) && heard(b, a) && !heard(b, c) && !heard(c, b) && heard(a, c));
        network.heal();
        assert!(heard(a, b) && heard(c, b));
    }
}
