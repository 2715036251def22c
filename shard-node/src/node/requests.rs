//! Requests that wait, and when their clients give up.

use crate::event::RequestId;
use foldhash::fast::RandomState;
use fulcrum_types::{GroupId, Mono};
use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap};

/// The waiting requests of a node: by id, and by deadline.
#[derive(Debug, Default)]
pub(super) struct Requests {
    waiting: HashMap<RequestId, (GroupId, Mono), RandomState>,
    deadlines: BTreeSet<(Mono, RequestId)>,
}

impl Requests {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Registers a request, unless it is already.
    pub(super) fn insert(&mut self, id: RequestId, group: GroupId, deadline: Mono) {
        if let Entry::Vacant(entry) = self.waiting.entry(id) {
            entry.insert((group, deadline));
            self.deadlines.insert((deadline, id));
        }
    }

    /// Forgets a request: it was answered or given up. The group at which it waited, if it did.
    pub(super) fn remove(&mut self, id: RequestId) -> Option<GroupId> {
        let (group, deadline) = self.waiting.remove(&id)?;
        self.deadlines.remove(&(deadline, id));
        Some(group)
    }

    /// Takes out one request whose deadline has passed.
    pub(super) fn expired(&mut self, now: Mono) -> Option<(RequestId, GroupId)> {
        let (deadline, id) = *self.deadlines.first()?;
        if deadline > now {
            return None;
        }
        self.remove(id).map(|group| (id, group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_expire_in_the_order_of_their_deadlines() {
        let mut requests = Requests::default();
        requests.insert(RequestId(1), GroupId(1), Mono(30));
        requests.insert(RequestId(2), GroupId(2), Mono(10));
        requests.insert(RequestId(3), GroupId(1), Mono(20));
        assert_eq!(requests.remove(RequestId(3)), Some(GroupId(1)));
        assert_eq!(requests.expired(Mono(9)), None);
        assert_eq!(requests.expired(Mono(30)), Some((RequestId(2), GroupId(2))));
        assert_eq!(requests.expired(Mono(30)), Some((RequestId(1), GroupId(1))));
        assert_eq!((requests.expired(Mono(99)), requests.len()), (None, 0));
    }
}
