//! What clients asked, when, and what they were told.
//!
//! Each client keeps a [`ClientLog`] of its own, so recording takes no lock; [`History::merge`] joins them at the end.
//! An operation is written down when it begins and completed when its answer arrives: what never returns, also because
//! the client died, stays [`Outcome::Unknown`]. All times are nanoseconds on one clock that all clients share.
//!
//! Values are kept as 64-bit fingerprints. Workloads should write values that differ from each other: a checker can
//! then tell which write a read has seen.

use bytes::Bytes;
use fulcrum_types::{ClientId, Epoch, GroupId, Index, Level, LogPosition, NodeId, Receipt, Role, StalenessBasis};
use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

/// Fingerprint of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub u64);

impl ValueId {
    /// The fingerprint of these bytes; the same in every process.
    #[must_use]
    pub fn of(value: &[u8]) -> Self {
        ValueId(xxhash_rust::xxh3::xxh3_64(value))
    }
}

impl fmt::Display for ValueId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What a compare-and-set requires of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Condition {
    /// It has no value.
    Absent,
    /// It has one.
    Exists,
    /// It has one that was written at this version.
    VersionIs(Index),
    /// It has this one.
    ValueIs(ValueId),
}

/// What was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Read at this level.
    Get(Level),
    /// Write, whatever is there.
    Put(ValueId),
    /// Remove, whatever is there.
    Delete,
    /// Write, or remove if there is no new value, under a condition.
    CompareAndSet {
        /// What must hold.
        condition: Condition,
        /// The new value; `None` removes.
        value: Option<ValueId>,
    },
}

impl Call {
    /// The value that this call would leave behind: `Some(None)` for a removal, `None` for a read.
    #[must_use]
    pub const fn writes(&self) -> Option<Option<ValueId>> {
        match self {
            Call::Get(_) => None,
            Call::Put(value) => Some(Some(*value)),
            Call::Delete => Some(None),
            Call::CompareAndSet { value, .. } => Some(*value),
        }
    }
}

/// A key as a client saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Seen {
    /// It had no value.
    Absent,
    /// It had one.
    Present {
        /// The value.
        value: ValueId,
        /// The version of the write that left it, if told.
        version: Option<Index>,
    },
}

impl Seen {
    /// The version of the value seen, if there was one and its version was told.
    #[must_use]
    pub const fn version(&self) -> Option<Index> {
        match self {
            Seen::Absent => None,
            Seen::Present { version, .. } => *version,
        }
    }
}

/// What came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// A read's answer.
    Read(Seen),
    /// The write took effect.
    Written {
        /// Its version, if told.
        version: Option<Index>,
    },
    /// A compare-and-set found its condition not met and wrote nothing.
    Mismatch {
        /// What it found, if told.
        seen: Option<Seen>,
    },
    /// It has had no effect and never will.
    Failed,
    /// It may have had its effect, may have it at any later time, or never.
    Unknown,
}

/// What the receipt of an operation said, as far as it can be checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The group that answered.
    pub group: GroupId,
    /// The node that answered.
    pub replica: NodeId,
    /// What it was to the group.
    pub role: Role,
    /// Level achieved.
    pub achieved: Level,
    /// Position of the write; for a read, of the newest entry it had applied.
    pub position: LogPosition,
    /// Who had made the write durable.
    pub acknowledged_by: Box<[NodeId]>,
    /// Whether the write was on disk at each of them.
    pub durable: bool,
    /// Upper bound of staleness.
    pub staleness: Option<Duration>,
    /// Why that bound holds.
    pub basis: StalenessBasis,
}

impl From<&Receipt> for Facts {
    fn from(receipt: &Receipt) -> Self {
        Facts {
            group: receipt.group,
            replica: receipt.replica,
            role: receipt.role,
            achieved: receipt.achieved,
            position: LogPosition {
                epoch: receipt.epoch,
                index: receipt.index,
            },
            acknowledged_by: receipt.acknowledged_by.as_slice().into(),
            durable: receipt.durable,
            staleness: receipt.staleness,
            basis: receipt.basis,
        }
    }
}

/// One operation of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation {
    /// The client. One client is one session.
    pub client: ClientId,
    /// The key.
    pub key: Bytes,
    /// What was asked.
    pub call: Call,
    /// When it was asked.
    pub invoked: u64,
    /// When the answer came, if one did.
    pub returned: Option<u64>,
    /// The answer.
    pub outcome: Outcome,
    /// Its receipt, if it had one.
    pub receipt: Option<Facts>,
    /// Where a look-up said that a write stands whose own answer, and receipt, never came.
    pub found_at: Option<(GroupId, LogPosition)>,
}

impl Operation {
    /// Whether this one had ended before `other` began. Ends and begins at the same instant count as overlapping.
    #[must_use]
    pub fn precedes(&self, other: &Operation) -> bool {
        self.returned.is_some_and(|end| end < other.invoked)
    }

    /// What a read saw.
    #[must_use]
    pub const fn seen(&self) -> Option<Seen> {
        match self.outcome {
            Outcome::Read(seen) => Some(seen),
            Outcome::Mismatch { seen } => seen,
            _ => None,
        }
    }

    /// The level of a successful read: the one achieved, without a receipt the one asked.
    #[must_use]
    pub fn read_level(&self) -> Option<Level> {
        match (&self.call, &self.outcome) {
            (Call::Get(asked), Outcome::Read(_)) => Some(self.receipt.as_ref().map_or(*asked, |r| r.achieved)),
            _ => None,
        }
    }

    /// The version at which an acknowledged write took effect, if told.
    #[must_use]
    pub const fn written_version(&self) -> Option<Index> {
        match self.outcome {
            Outcome::Written { version } => version,
            _ => None,
        }
    }

    /// Whether it was told to have taken effect.
    #[must_use]
    pub const fn is_written(&self) -> bool {
        matches!(self.outcome, Outcome::Written { .. })
    }

    /// Group and position, where a receipt or a look-up names them.
    #[must_use]
    pub fn position(&self) -> Option<(GroupId, LogPosition)> {
        let receipt = self.receipt.as_ref().map(|r| (r.group, r.position));
        receipt.or(self.found_at)
    }

    /// The epoch in which an acknowledged write was ordered.
    #[must_use]
    pub fn written_epoch(&self) -> Option<Epoch> {
        let (_, position) = self.position().filter(|_| self.is_written())?;
        Some(position.epoch)
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}..", self.client, self.invoked)?;
        match self.returned {
            Some(end) => write!(f, "{end}] ")?,
            None => f.write_str("?] ")?,
        }
        match &self.call {
            Call::Get(level) => write!(f, "get at {level}")?,
            Call::Put(value) => write!(f, "put {value}")?,
            Call::Delete => f.write_str("delete")?,
            Call::CompareAndSet { condition, value } => {
                write!(f, "cas if {condition:?} ")?;
                match value {
                    Some(value) => write!(f, "put {value}")?,
                    None => f.write_str("delete")?,
                }
            }
        }
        match &self.outcome {
            Outcome::Read(seen) => write!(f, " -> {seen}")?,
            Outcome::Written { version: Some(v) } => write!(f, " -> written at {v}")?,
            Outcome::Written { version: None } => f.write_str(" -> written")?,
            Outcome::Mismatch { seen: Some(seen) } => write!(f, " -> mismatch, found {seen}")?,
            Outcome::Mismatch { seen: None } => f.write_str(" -> mismatch")?,
            Outcome::Failed => f.write_str(" -> failed")?,
            Outcome::Unknown => f.write_str(" -> unknown")?,
        }
        if let Some((group, at)) = self.found_at {
            write!(f, " (looked up in {group}: {at})")?;
        }
        let Some(r) = &self.receipt else {
            return Ok(());
        };
        write!(f, " ({} {} {} {})", r.group, r.replica, r.role, r.position)
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Seen::Absent => f.write_str("absent"),
            Seen::Present {
                value,
                version: Some(v),
            } => write!(f, "{value} at {v}"),
            Seen::Present { value, version: None } => write!(f, "{value}"),
        }
    }
}

/// One client's operations, written by that client alone.
#[derive(Clone, Debug)]
pub struct ClientLog {
    client: ClientId,
    operations: Vec<Operation>,
}

/// Names an operation that has begun, until its answer is written down.
#[derive(Debug)]
#[must_use = "an operation whose answer is not written down counts as unknown"]
pub struct Ticket(usize);

impl ClientLog {
    /// An empty log.
    #[must_use]
    pub const fn new(client: ClientId) -> Self {
        ClientLog {
            client,
            operations: Vec::new(),
        }
    }

    /// Writes down that an operation begins.
    pub fn begin(&mut self, now: u64, key: Bytes, call: Call) -> Ticket {
        self.operations.push(Operation {
            client: self.client,
            key,
            call,
            invoked: now,
            returned: None,
            outcome: Outcome::Unknown,
            receipt: None,
            found_at: None,
        });
        Ticket(self.operations.len() - 1)
    }

    /// Writes down its answer.
    pub fn end(&mut self, ticket: Ticket, now: u64, outcome: Outcome, receipt: Option<Facts>) {
        let operation = &mut self.operations[ticket.0];
        operation.returned = (outcome != Outcome::Unknown).then_some(now);
        operation.outcome = outcome;
        operation.receipt = receipt;
    }

    /// Writes down what a look-up told of a write whose own answer never came, and where it stands.
    pub fn find(&mut self, ticket: Ticket, now: u64, outcome: Outcome, at: (GroupId, LogPosition)) {
        let place = ticket.0;
        self.end(ticket, now, outcome, None);
        self.operations[place].found_at = Some(at);
    }

    /// How many operations have begun.
    #[must_use]
    pub fn len(&self) -> usize {
        self.operations.len()
    }

    /// Whether none has begun.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }
}

/// All operations of all clients on one keyspace, in the order in which they began.
#[derive(Clone, Debug, Default)]
pub struct History {
    operations: Vec<Operation>,
}

impl History {
    /// Joins what the clients wrote down.
    #[must_use]
    pub fn merge(logs: impl IntoIterator<Item = ClientLog>) -> Self {
        logs.into_iter().flat_map(|log| log.operations).collect()
    }

    /// The operations, in the order in which they began.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        &self.operations
    }

    /// Places of each key's operations, keys in order.
    #[must_use]
    pub fn by_key(&self) -> Vec<(&Bytes, Vec<usize>)> {
        let mut slots: HashMap<&Bytes, usize> = HashMap::new();
        let mut keys: Vec<(&Bytes, Vec<usize>)> = Vec::new();
        for (place, operation) in self.operations.iter().enumerate() {
            let slot = *slots.entry(&operation.key).or_insert(keys.len());
            if slot == keys.len() {
                keys.push((&operation.key, Vec::new()));
            }
            keys[slot].1.push(place);
        }
        keys.sort_unstable_by_key(|(key, _)| *key);
        keys
    }
}

impl FromIterator<Operation> for History {
    fn from_iter<T: IntoIterator<Item = Operation>>(iter: T) -> Self {
        let mut operations: Vec<Operation> = iter.into_iter().collect();
        operations.sort_by_key(|o| (o.invoked, o.returned.unwrap_or(u64::MAX), o.client));
        History { operations }
    }
}
