//! Gets that agree in all but their keys.

use super::{Joint, MOST};
use crate::dispatch::Order;
use crate::order::Reading;
use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_common::Keyspace;
use fulcrum_common::routing::Kind;
use fulcrum_common::wire::batch::PassedOn;
use fulcrum_types::{GroupId, Level, LogPosition, Operation, Query, ReadRequest};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;
use tokio::time::Instant;

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

/// A get that may be joined with others.
pub(crate) struct SingleGet<'a> {
    pub(crate) id: u64,
    pub(crate) keyspace: &'a Arc<Keyspace>,
    pub(crate) key: Bytes,
    pub(crate) reading: Reading,
    pub(crate) until: Instant,
}

fn joint(asked: Asked, gets: Gets) -> Joint {
    let bytes = gets.keys.iter().map(Bytes::len).sum();
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
        in_doubt: false,
    };
    Joint {
        order,
        kind: PassedOn::Get,
        ids: gets.ids,
        bytes,
        held: Vec::new(),
    }
}

/// The gets of a joint, each with the bytes of its key and as an order of its own.
pub(super) fn parted(order: Order) -> Vec<(usize, Order)> {
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

/// Those of one message that are not full yet.
#[derive(Default)]
pub(super) struct Open {
    open: HashMap<Asked, Gets, RandomState>,
}

impl Open {
    pub(super) fn take(&mut self, single: SingleGet<'_>) -> Option<Joint> {
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
                    joint(asked, gets)
                })
            }
        }
    }

    pub(super) fn rest(self) -> impl Iterator<Item = Joint> {
        self.open.into_iter().map(|(asked, gets)| joint(asked, gets))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joints::testing::keyspace;
    use std::time::Duration;

    fn single(keyspace: &Arc<Keyspace>, id: u64, level: Level, until: Instant) -> SingleGet<'_> {
        SingleGet {
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
        let mut joints = Open::default();
        let mut joined = Vec::new();
        const GETS: u64 = 600;
        for id in 0..GETS {
            let level = [Level::Linearizable, Level::Eventual][usize::from(id % 3 == 0)];
            let until = now + Duration::from_secs(id / 300);
            joined.extend(joints.take(single(&keyspace, id, level, until)));
        }
        assert!(!joined.is_empty(), "some are full");
        assert!(joined.iter().all(|joint| joint.ids.len() == MOST));
        joined.extend(joints.rest());
        let mut seen = Vec::new();
        for joint in joined {
            let Joint { order, ids, bytes, .. } = joint;
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
