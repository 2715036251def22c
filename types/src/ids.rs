//! Names of things: one newtype each, so that an epoch is never taken for an index.

use std::fmt;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $short:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The smallest value; for counters it means "none yet".
            pub const ZERO: Self = Self(0);
            /// The value after this one.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
            /// The value before this one; stays at zero.
            #[must_use]
            pub const fn prev(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($short, "{}"), self.0)
            }
        }

        impl From<u64> for $name {
            fn from(value: u64) -> Self {
                Self(value)
            }
        }
    };
}

id!(
    /// A shard-node.
    NodeId, "n"
);
id!(
    /// A shard group: the replicas that hold a set of slots of one keyspace.
    GroupId, "g"
);
id!(
    /// A keyspace. Never reused, also after the keyspace is dropped.
    KeyspaceId, "k"
);
id!(
    /// Grows with every change of primary, and with every life of a primary. Messages of an older one are refused.
    Epoch, "e"
);
id!(
    /// A position in a group's log. The first entry has index 1; 0 means "nothing".
    Index, ""
);
id!(
    /// Version of a group's configuration: the compare-and-swap token of the metadata store.
    ConfigVersion, "v"
);
id!(
    /// Version of the cluster map.
    MapVersion, "m"
);
id!(
    /// Identity of a replica's *data*. A replica that may have lost what it acknowledged takes a new one (rule 5).
    DataId, "d"
);
id!(
    /// Identity of one life of a node process. Promises and acknowledgements of an earlier life do not count (rule 4).
    BootId, "b"
);
id!(
    /// A client, for the retry table.
    ClientId, "c"
);
id!(
    /// A client's number for one of its requests.
    Sequence, "s"
);
id!(
    /// Orders what one core has asked to be made durable; see `replication::Effect`.
    WriteId, "w"
);

/// One of a keyspace's 1024 hash slots.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// Slots of a keyspace: fixed, so that a slot number never changes meaning.
pub const SLOTS: u16 = 1024;

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}
