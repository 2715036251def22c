//! Writes of one key each, of one group, with one deadline; no key twice.

use super::{Joint, MOST};
use crate::dispatch::Order;
use crate::identity::{Held, Identity};
use crate::order;
use bytes::Bytes;
use foldhash::fast::RandomState;
use fulcrum_common::Keyspace;
use fulcrum_common::key::bytes_of;
use fulcrum_common::wire::batch::PassedOn;
use fulcrum_types::{GroupId, IdempotencyKey, JoinedWrite, LogPosition, Operation, SessionToken, WriteOp};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use tokio::time::Instant;

/// Most bytes of keys and values in a joint: what it saves is little beyond, and the entry must not grow large. One larger write goes
/// by itself.
const MOST_BYTES: usize = 64 * 1024;

/// A write that may be joined with others.
pub(crate) struct SingleWrite<'a> {
    pub(crate) id: u64,
    pub(crate) keyspace: &'a Arc<Keyspace>,
    pub(crate) op: WriteOp,
    pub(crate) idempotency: Option<IdempotencyKey>,
    pub(crate) session: Option<SessionToken>,
    pub(crate) until: Instant,
}

impl SingleWrite<'_> {
    fn seen(&self, group: GroupId) -> Option<LogPosition> {
        let session = self.session.as_ref()?;
        session.groups.get(&group).copied()
    }
}

/// Writes of one group on their way into a joint.
struct Writes {
    keyspace: Arc<Keyspace>,
    until: Instant,
    writes: Vec<JoinedWrite>,
    keys: HashSet<Bytes, RandomState>,
    ids: Vec<u64>,
    bytes: usize,
    held: Vec<Held>,
}

impl Writes {
    fn new(keyspace: &Arc<Keyspace>, until: Instant) -> Self {
        Self {
            keyspace: keyspace.clone(),
            until,
            writes: Vec::new(),
            keys: HashSet::default(),
            ids: Vec::new(),
            bytes: 0,
            held: Vec::new(),
        }
    }

    fn has_room_for(&self, single: &SingleWrite<'_>) -> bool {
        self.writes.len() < MOST
            && self.bytes + bytes_of(&single.op) <= MOST_BYTES
            && self.until == single.until
            && !self.keys.contains(&single.op.key)
    }

    fn push(&mut self, group: GroupId, single: SingleWrite<'_>, identity: &Arc<Identity>) {
        let seen = single.seen(group);
        let SingleWrite {
            id, op, idempotency, ..
        } = single;
        // The router sends again what got lost: every write must be recognised.
        let idempotency = idempotency.unwrap_or_else(|| {
            let held = identity.next();
            let key = held.key;
            self.held.push(held);
            key
        });
        self.keys.insert(op.key.clone());
        self.bytes += bytes_of(&op);
        self.ids.push(id);
        self.writes.push(JoinedWrite {
            idempotency: Some(idempotency),
            seen,
            op,
        });
    }

    fn joint(self, group: GroupId) -> Joint {
        let operation = match <[JoinedWrite; 1]>::try_from(self.writes) {
            Ok([write]) => alone(write),
            Err(writes) => Operation::Joint(writes),
        };
        let order = Order {
            pass_on: true,
            ..order::write(self.keyspace, group, operation, self.until)
        };
        Joint {
            order,
            kind: PassedOn::Write,
            ids: self.ids,
            bytes: self.bytes,
            held: self.held,
        }
    }
}

fn alone(write: JoinedWrite) -> Operation {
    let JoinedWrite { idempotency, seen, op } = write;
    Operation::Write {
        idempotency,
        seen,
        ops: vec![op],
    }
}

/// The writes of a joint, each with its bytes and as an order of its own.
pub(super) fn parted(order: Order) -> Vec<(usize, Order)> {
    let Operation::Joint(writes) = order.operation else {
        return Vec::new();
    };
    let alone = |write: JoinedWrite| {
        let bytes = bytes_of(&write.op);
        let order = Order {
            keyspace: order.keyspace.clone(),
            operation: alone(write),
            ..order
        };
        (bytes, order)
    };
    writes.into_iter().map(alone).collect()
}

/// Those of one message, one of each group: a group's writes leave in the order in which they came.
#[derive(Default)]
pub(super) struct Open {
    open: HashMap<GroupId, Writes, RandomState>,
}

impl Open {
    pub(super) fn take(&mut self, single: SingleWrite<'_>, identity: &Arc<Identity>) -> Option<Joint> {
        let group = single.keyspace.group_of(&single.op.key);
        match self.open.entry(group) {
            Entry::Vacant(vacant) => {
                let writes = vacant.insert(Writes::new(single.keyspace, single.until));
                writes.push(group, single, identity);
                None
            }
            Entry::Occupied(mut open) => {
                let writes = open.get_mut();
                let before = (!writes.has_room_for(&single)).then(|| {
                    let next = Writes::new(single.keyspace, single.until);
                    std::mem::replace(writes, next).joint(group)
                });
                writes.push(group, single, identity);
                before
            }
        }
    }

    pub(super) fn rest(self) -> impl Iterator<Item = Joint> {
        self.open.into_iter().map(|(group, writes)| writes.joint(group))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::joints::testing::keyspace;
    use fulcrum_common::SystemClock;
    use fulcrum_types::{ClientId, Condition, Epoch, Index, Mutation, Sequence};
    use std::time::Duration;

    fn put(key: String, value: usize) -> WriteOp {
        WriteOp {
            key: key.into(),
            condition: Condition::None,
            mutation: Mutation::Put {
                value: vec![0; value].into(),
                ttl: None,
            },
        }
    }

    fn idempotency(id: u64) -> IdempotencyKey {
        IdempotencyKey {
            client: ClientId(1),
            sequence: Sequence(id),
            issued_at_ms: 7,
            low_water: Sequence(1),
        }
    }

    fn single(keyspace: &Arc<Keyspace>, id: u64, op: WriteOp, until: Instant) -> SingleWrite<'_> {
        SingleWrite {
            id,
            keyspace,
            op,
            idempotency: id.is_multiple_of(2).then(|| idempotency(id)),
            session: None,
            until,
        }
    }

    /// All joints of these writes, in the order in which they leave.
    fn joints(keyspace: &Arc<Keyspace>, writes: impl IntoIterator<Item = (u64, WriteOp, Instant)>) -> Vec<Joint> {
        let identity = Identity::new(Arc::new(SystemClock));
        let mut open = Open::default();
        let mut joints = Vec::new();
        for (id, op, until) in writes {
            joints.extend(open.take(single(keyspace, id, op, until), &identity));
        }
        joints.extend(open.rest());
        joints
    }

    fn keys(order: &Order) -> Vec<Bytes> {
        match &order.operation {
            Operation::Joint(writes) => writes.iter().map(|write| write.op.key.clone()).collect(),
            Operation::Write { ops, .. } => ops.iter().map(|op| op.key.clone()).collect(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_left_out_and_every_write_can_be_recognised() {
        let (keyspace, now) = (keyspace(), Instant::now());
        const WRITES: u64 = 600;
        let all = joints(&keyspace, (0..WRITES).map(|id| (id, put(format!("key {id}"), 10), now)));
        assert!(all.len() < 20, "{} joints", all.len());
        let mut seen = Vec::new();
        for joint in all {
            let Joint { order, ids, bytes, .. } = joint;
            assert!(ids.len() <= MOST);
            assert!(keys(&order).iter().all(|key| keyspace.group_of(key) == order.group));
            let parts = parted(order);
            assert_eq!(parts.iter().map(|(bytes, _)| bytes).sum::<usize>(), bytes);
            for ((_, part), id) in parts.into_iter().zip(&ids) {
                let Operation::Write {
                    idempotency: key, ops, ..
                } = &part.operation
                else {
                    panic!("{:?}", part.operation)
                };
                assert_eq!(ops[0].key, format!("key {id}"));
                let own = id.is_multiple_of(2).then(|| idempotency(*id));
                assert!(own.is_none_or(|own| *key == Some(own)) && key.is_some());
            }
            seen.extend(ids);
        }
        seen.sort_unstable();
        assert!(seen.into_iter().eq(0..WRITES));
    }

    #[test]
    fn writes_of_one_key_leave_one_after_the_other() {
        let (keyspace, now) = (keyspace(), Instant::now());
        let key = |id: u64| format!("key {}", id % 7);
        let until = |id: u64| now + Duration::from_secs(id % 3);
        let all = joints(&keyspace, (0..100).map(|id| (id, put(key(id), 1), until(id))));
        let mut last: HashMap<Bytes, u64> = HashMap::new();
        for joint in all {
            let keys = keys(&joint.order);
            assert_eq!(keys.iter().collect::<HashSet<_>>().len(), keys.len(), "no key twice");
            for (key, id) in keys.into_iter().zip(joint.ids) {
                let before = last.insert(key, id);
                assert!(before.is_none_or(|before| before < id));
            }
        }
    }

    #[test]
    fn a_joint_is_bounded_in_bytes_and_a_large_write_goes_alone() {
        let (keyspace, now) = (keyspace(), Instant::now());
        let sizes = [1000, MOST_BYTES * 2, 1000, 1000, MOST_BYTES / 2, MOST_BYTES / 2, 10];
        let writes = (0..)
            .zip(sizes)
            .map(|(id, size)| (id, put(format!("{{k}}{id}"), size), now));
        let all = joints(&keyspace, writes);
        for joint in &all {
            assert!(joint.ids.len() == 1 || joint.bytes <= MOST_BYTES);
        }
        assert!(all.iter().any(|joint| joint.ids == [1]), "the large one");
    }

    #[test]
    fn the_position_that_a_session_has_seen_goes_along() {
        let (keyspace, now) = (keyspace(), Instant::now());
        let identity = Identity::new(Arc::new(SystemClock));
        let op = put("k".into(), 1);
        let group = keyspace.group_of(&op.key);
        let position = LogPosition {
            epoch: Epoch(3),
            index: Index(9),
        };
        let mut session = SessionToken::default();
        session.groups.insert(group, position);
        let mut open = Open::default();
        let one = SingleWrite {
            session: Some(session),
            ..single(&keyspace, 1, op, now)
        };
        assert!(open.take(one, &identity).is_none());
        let joint = open.rest().next().unwrap();
        assert!(matches!(joint.order.operation, Operation::Write { seen, .. } if seen == Some(position)));
        assert_eq!(joint.held.len(), 1);
    }
}
