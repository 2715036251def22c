//! Joins gets of one message of a pipeline that ask for the same of the same group.
//!
//! **The promise.** A get that went jointly is answered as it would have been by itself. The shard-node permits and evaluates a
//! joint once, at one position: that is an answer that each of its gets could have had, with the receipt it would have had.
//! What may concern a single one ends a joint, and its gets then go by themselves: a key that moved to another group, values
//! that are too much together, a lock. What concerns all (a lost answer, a node that does not lead) is met jointly.
//!
//! Left out: gets of different messages. They would have to wait for each other.

use crate::dispatch::Order;
use crate::order::Reading;
use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_common::Keyspace;
use fulcrum_common::routing::Kind;
use fulcrum_types::{GroupId, Level, LogPosition, Operation, Query, ReadRequest};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::time::Instant;

/// Most gets of a joint: what one costs besides its gets is little then, and nobody waits long behind it.
const MOST: usize = 64;

/// What gets must agree in. A group is of one keyspace.
#[derive(PartialEq, Eq, Hash)]
struct Asked {
    group: GroupId,
    level: Level,
    acceptable: Vec<Level>,
    seen: Option<LogPosition>,
    until: Instant,
}

/// Gets that agree.
struct Gets {
    keyspace: Arc<Keyspace>,
    keys: Vec<Bytes>,
    /// Of the operations, in the order of the keys.
    ids: Vec<u64>,
}

/// Gets that agree in all but their keys.
pub(crate) struct Joint {
    asked: Asked,
    gets: Gets,
}

/// A get that may be joined with others.
pub(crate) struct Single<'a> {
    pub(crate) id: u64,
    pub(crate) keyspace: &'a Arc<Keyspace>,
    pub(crate) key: Bytes,
    pub(crate) reading: Reading,
    pub(crate) until: Instant,
}

impl Joint {
    /// Bytes of its keys.
    pub(crate) fn bytes(&self) -> usize {
        self.gets.keys.iter().map(Bytes::len).sum()
    }

    /// What it asks, and for which operations.
    pub(crate) fn into_order(self) -> (Order, Vec<u64>) {
        let Joint { asked, gets } = self;
        let query = match gets.keys.len() {
            1 => Query::Get(gets.keys),
            _ => Query::Joint(gets.keys),
        };
        let order = Order {
            keyspace: gets.keyspace,
            group: asked.group,
            kind: Kind::Read(asked.level),
            operation: Operation::Read(ReadRequest {
                level: asked.level,
                acceptable: asked.acceptable,
                seen: asked.seen,
                query,
            }),
            name: "get",
            until: asked.until,
            pass_on: true,
        };
        (order, gets.ids)
    }
}

/// The gets of a joint, each with the bytes of its key and as an order of its own.
pub(crate) fn parted(order: Order) -> Vec<(usize, Order)> {
    let Operation::Read(ReadRequest {
        level,
        acceptable,
        seen,
        query: Query::Joint(keys),
    }) = order.operation
    else {
        return Vec::new();
    };
    let alone = |key: Bytes| {
        let (bytes, query) = (key.len(), Query::Get(vec![key]));
        let operation = Operation::Read(ReadRequest {
            level,
            acceptable: acceptable.clone(),
            seen,
            query,
        });
        let order = Order {
            keyspace: order.keyspace.clone(),
            operation,
            ..order
        };
        (bytes, order)
    };
    keys.into_iter().map(alone).collect()
}

/// The joints of one message that are not full yet.
#[derive(Default)]
pub(crate) struct Joints {
    open: HashMap<Asked, Gets, RandomState>,
}

impl Joints {
    /// Joins a get with those that agree with it. A joint that is full is given back.
    pub(crate) fn take(&mut self, single: Single<'_>) -> Option<Joint> {
        let group = single.keyspace.group_of(&single.key);
        let asked = Asked {
            group,
            level: single.reading.level,
            seen: single.reading.seen(group),
            acceptable: single.reading.acceptable,
            until: single.until,
        };
        match self.open.entry(asked) {
            Entry::Vacant(vacant) => {
                vacant.insert(Gets {
                    keyspace: single.keyspace.clone(),
                    keys: vec![single.key],
                    ids: vec![single.id],
                });
                None
            }
            Entry::Occupied(mut open) => {
                let gets = open.get_mut();
                gets.keys.push(single.key);
                gets.ids.push(single.id);
                (gets.keys.len() >= MOST).then(|| {
                    let (asked, gets) = open.remove_entry();
                    Joint { asked, gets }
                })
            }
        }
    }

    /// Those that are left.
    pub(crate) fn rest(self) -> impl Iterator<Item = Joint> {
        self.open.into_iter().map(|(asked, gets)| Joint { asked, gets })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::map::{ClusterId, ClusterMap};
    use fulcrum_common::{KeyspaceOptions, NodeInfo};
    use fulcrum_types::{Mode, NodeId};
    use std::time::Duration;

    fn keyspace() -> Arc<Keyspace> {
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

    fn single(keyspace: &Arc<Keyspace>, id: u64, level: Level, until: Instant) -> Single<'_> {
        Single {
            id,
            keyspace,
            key: format!("key {id}").into(),
            reading: Reading {
                level,
                acceptable: Vec::new(),
                session: None,
            },
            until,
        }
    }

    #[test]
    fn only_what_agrees_is_joined_and_nothing_is_left_out() {
        let keyspace = keyspace();
        let now = Instant::now();
        let mut joints = Joints::default();
        let mut joined = Vec::new();
        const GETS: u64 = 600;
        for id in 0..GETS {
            let level = [Level::Linearizable, Level::Eventual][usize::from(id % 3 == 0)];
            let until = now + Duration::from_secs(id / 300);
            joined.extend(joints.take(single(&keyspace, id, level, until)));
        }
        assert!(!joined.is_empty(), "some are full");
        assert!(joined.iter().all(|joint| joint.gets.keys.len() == MOST));
        joined.extend(joints.rest());
        let mut seen = Vec::new();
        for joint in joined {
            let bytes = joint.bytes();
            let (order, ids) = joint.into_order();
            let (group, until, kind) = (order.group, order.until, order.kind);
            let parts = parted(order);
            assert_eq!(parts.iter().map(|(bytes, _)| bytes).sum::<usize>(), bytes);
            assert_eq!(parts.len(), ids.len());
            for ((_, part), id) in parts.into_iter().zip(ids) {
                let level = [Level::Linearizable, Level::Eventual][usize::from(id % 3 == 0)];
                let key = Bytes::from(format!("key {id}"));
                assert_eq!((part.group, part.until, part.kind), (group, until, kind));
                assert_eq!(part.group, keyspace.group_of(&key));
                assert_eq!(part.until, now + Duration::from_secs(id / 300));
                assert_eq!(part.kind, Kind::Read(level));
                let Operation::Read(ReadRequest { query, .. }) = part.operation else {
                    panic!("a read")
                };
                assert_eq!(query, Query::Get(vec![key]));
                seen.push(id);
            }
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..GETS));
    }
}
