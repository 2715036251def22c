//! Joins operations of one message of a pipeline that ask the same group alike: gets with gets, writes with writes.
//!
//! **The promise.** What went jointly is answered as it would have been by itself. The shard-node permits and evaluates a joint of
//! gets once, at one position: that is an answer that each of them could have had, with the receipt it would have had. A joint of
//! writes is one entry of the log, in which each is judged by its own key, lock and condition and remembered for a retry of
//! its own. What may concern a single one ends a joint, and its operations then go by themselves: a key that moved to another
//! group, values that are too much together, a lock, a session whose history is lost. What concerns all (a lost answer, a node that
//! does not lead) is met jointly; whoever was in doubt then stays so on its own way.
//!
//! Writes leave in the order in which they came, as far as they are of one group: so two writes of one key are applied in the order in
//! which the message had them, unless one has to be sent again. That includes a write that met a lock jointly: one of the same key behind it
//! that went alone waits for the lock in the node, and is then applied first.
//!
//! Left out: operations of different messages. They would have to wait for each other.

mod gets;
mod writes;

pub(crate) use gets::SingleGet;
pub(crate) use writes::SingleWrite;

use crate::dispatch::Order;
use crate::identity::{Held, Identity};
use fulcrum_common::wire::batch::PassedOn;
use fulcrum_types::{Operation, Query, ReadRequest};
use std::sync::Arc;

/// Most operations of a joint: what one costs besides them is little then, and nobody waits long behind it.
const MOST: usize = 64;

/// Operations that go as one.
pub(crate) struct Joint {
    pub(crate) order: Order,
    /// What its answers are.
    pub(crate) kind: PassedOn,
    /// Of the operations, in the order of their keys.
    pub(crate) ids: Vec<u64>,
    /// Of their keys and values.
    pub(crate) bytes: usize,
    /// The router's own keys, for writes without one.
    pub(crate) held: Vec<Held>,
}

/// The joints of one message that have not left.
#[derive(Default)]
pub(crate) struct Joints {
    gets: gets::Open,
    writes: writes::Open,
}

impl Joints {
    /// Joins a get with those that agree with it. A joint that is full is given back.
    pub(crate) fn take_get(&mut self, get: SingleGet<'_>) -> Option<Joint> {
        self.gets.take(get)
    }

    /// Joins a write with those of its group. A joint that must leave before it is given back.
    pub(crate) fn take_write(&mut self, write: SingleWrite<'_>, identity: &Arc<Identity>) -> Option<Joint> {
        self.writes.take(write, identity)
    }

    /// Those that are left.
    pub(crate) fn rest(self) -> impl Iterator<Item = Joint> {
        self.writes.rest().chain(self.gets.rest())
    }
}

/// The operations of a joint, each with the bytes of its key and value and as an order of its own.
pub(crate) fn parted(order: Order) -> Vec<(usize, Order)> {
    match order.operation {
        Operation::Read(ReadRequest {
            query: Query::Joint(_), ..
        }) => gets::parted(order),
        Operation::Joint(_) => writes::parted(order),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod testing {
    use fulcrum_common::map::{ClusterId, ClusterMap};
    use fulcrum_common::{Keyspace, KeyspaceOptions, NodeInfo};
    use fulcrum_types::{Mode, NodeId};
    use std::sync::Arc;

    /// A keyspace of two groups.
    pub(super) fn keyspace() -> Arc<Keyspace> {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        let address = "127.0.0.1:1".into();
        map.set_node(NodeId(1), NodeInfo { address, zone: None });
        let options = KeyspaceOptions {
            groups: 2,
            ..KeyspaceOptions::of(Mode::Sync, 1)
        };
        map.add_keyspace("k", options).unwrap();
        map.keyspace_by_name("k").unwrap().clone()
    }
}
