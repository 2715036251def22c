//! Short ways to write histories down in tests.

use crate::history::{Call, Condition, Facts, History, Operation, Outcome, Seen, ValueId};
use crate::transactions::{Element, Step, Transaction, TransactionKey, TransactionOutcome};
use bytes::Bytes;
use fulcrum_types::{ClientId, Epoch, GroupId, Index, KeyspaceId, Level, LogPosition, NodeId, Role, StalenessBasis};

/// A small generator of random numbers (splitmix64).
pub(crate) struct Rng(pub(crate) u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub(crate) fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// An operation of client 1 on key `k` over `[begin, end]`, to be completed by the methods of [`Shape`].
pub(crate) fn op(times: (u64, u64), call: Call, outcome: Outcome) -> Operation {
    Operation {
        client: ClientId(1),
        key: Bytes::from_static(b"k"),
        call,
        invoked: times.0,
        returned: (outcome != Outcome::Unknown).then_some(times.1),
        outcome,
        receipt: None,
        found_at: None,
    }
}

pub(crate) fn written(version: u64) -> Outcome {
    Outcome::Written {
        version: Some(Index(version)),
    }
}

pub(crate) fn present(value: u64, version: u64) -> Seen {
    Seen::Present {
        value: ValueId(value),
        version: Some(Index(version)),
    }
}

pub(crate) fn put(times: (u64, u64), value: u64, version: u64) -> Operation {
    op(times, Call::Put(ValueId(value)), written(version))
}

pub(crate) fn put_unknown(begin: u64, value: u64) -> Operation {
    op((begin, 0), Call::Put(ValueId(value)), Outcome::Unknown)
}

pub(crate) fn delete(times: (u64, u64), version: u64) -> Operation {
    op(times, Call::Delete, written(version))
}

pub(crate) fn cas(times: (u64, u64), condition: Condition, value: u64, outcome: Outcome) -> Operation {
    let value = Some(ValueId(value));
    op(times, Call::CompareAndSet { condition, value }, outcome)
}

pub(crate) fn get(times: (u64, u64), seen: Seen) -> Operation {
    get_at(Level::Linearizable, times, seen)
}

pub(crate) fn get_at(level: Level, times: (u64, u64), seen: Seen) -> Operation {
    op(times, Call::Get(level), Outcome::Read(seen))
}

pub(crate) fn history(operations: impl IntoIterator<Item = Operation>) -> History {
    operations.into_iter().collect()
}

pub(crate) fn at(epoch: u64, index: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(epoch),
        index: Index(index),
    }
}

pub(crate) trait Shape {
    fn by(self, client: u64) -> Self;
    fn on(self, key: &'static str) -> Self;
    /// Adds a receipt of group 1 that is right in every way: from primary n1, durable on n1 and n2.
    fn receipt(self, epoch: u64, index: u64) -> Self;
    fn with(self, change: impl FnOnce(&mut Facts)) -> Self;
    /// No receipt, but a look-up that found it here in group 1.
    fn found(self, epoch: u64, index: u64) -> Self;
}

impl Shape for Operation {
    fn by(mut self, client: u64) -> Self {
        self.client = ClientId(client);
        self
    }

    fn on(mut self, key: &'static str) -> Self {
        self.key = Bytes::from_static(key.as_bytes());
        self
    }

    fn receipt(mut self, epoch: u64, index: u64) -> Self {
        let acknowledged_by: &[NodeId] = match self.is_written() {
            true => &[NodeId(1), NodeId(2)],
            false => &[],
        };
        let achieved = match self.call {
            Call::Get(level) => level,
            _ => Level::Linearizable,
        };
        self.receipt = Some(Facts {
            group: GroupId(1),
            replica: NodeId(1),
            role: Role::Primary,
            achieved,
            position: at(epoch, index),
            acknowledged_by: acknowledged_by.into(),
            durable: self.is_written(),
            staleness: None,
            basis: StalenessBasis::Lease,
        });
        self
    }

    fn with(mut self, change: impl FnOnce(&mut Facts)) -> Self {
        change(self.receipt.as_mut().expect("give it a receipt first"));
        self
    }

    fn found(mut self, epoch: u64, index: u64) -> Self {
        self.found_at = Some((GroupId(1), at(epoch, index)));
        self
    }
}

/// A committed transaction of client 1 over `[begin, end]`: `x+3` appends 3 to the list x, `x=1,2` reads it, `x=` reads
/// nothing. A key with a dash is in another keyspace: `2-x`.
pub(crate) fn transaction(times: (u64, u64), steps: &str) -> Transaction {
    let number = |text: &str| Element(text.parse().expect("a number"));
    let step = |text: &str| match (text.split_once('+'), text.split_once('=')) {
        (Some((name, element)), _) => Step::Append {
            key: transaction_key(name),
            element: number(element),
        },
        (None, Some((name, seen))) => Step::Read {
            key: transaction_key(name),
            seen: seen.split(',').filter(|e| !e.is_empty()).map(number).collect(),
        },
        _ => panic!("'{text}' is no step"),
    };
    Transaction {
        client: ClientId(1),
        steps: steps.split_whitespace().map(step).collect(),
        invoked: times.0,
        returned: Some(times.1),
        outcome: TransactionOutcome::Committed,
    }
}

fn transaction_key(name: &str) -> TransactionKey {
    let (keyspace, key) = name.split_once('-').unwrap_or(("1", name));
    TransactionKey {
        keyspace: KeyspaceId(keyspace.parse().expect("a number")),
        key: Bytes::copy_from_slice(key.as_bytes()),
    }
}

impl Transaction {
    pub(crate) fn failed(self) -> Self {
        let outcome = TransactionOutcome::Failed;
        Transaction { outcome, ..self }
    }

    pub(crate) fn unknown(self) -> Self {
        Transaction {
            outcome: TransactionOutcome::Unknown,
            returned: None,
            ..self
        }
    }
}
