//! The anomalies by name.
//!
//! Names and definitions: Adya, *Weak Consistency* (1999), section 4.2; Elle (2020), sections 4 to 6.

/// What is wrong with a history.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Anomaly {
    /// A list has an element that nobody appended.
    UnwrittenValue,
    /// A list has an element twice.
    DuplicateAppend,
    /// A list has an element of a transaction that failed.
    AbortedRead,
    /// A transaction has read its own appends wrongly, or one list in two ways.
    Internal,
    /// Two reads of a list do not agree on the order of its elements.
    IncompatibleOrders,
    /// A transaction has seen another one half done: an append that was not its last to that key.
    IntermediateRead,
    /// An acknowledged append is in no list, though one was read that should have it.
    LostAppend,
    /// Transactions have overwritten each other in a circle: edges ww.
    DirtyWrite,
    /// Information has flowed in a circle: edges ww and wr.
    CircularInformationFlow,
    /// Two transactions have read the same list and both appended to it: one edge rw and edges ww, all on one key.
    LostUpdate,
    /// A transaction has seen one part of the world older than another: exactly one edge rw.
    ReadSkew,
    /// Readers disagree in which order things happened: several edges rw, none behind another.
    LongFork,
    /// Each has read what the other changed: edges rw behind each other.
    WriteSkew,
    /// Serializable, but only in an order that real time forbids: stale reads, reads from the future.
    RealTime,
}

impl Anomaly {
    /// All of them, the plainest first.
    pub const ALL: [Anomaly; 14] = [
        Anomaly::UnwrittenValue,
        Anomaly::DuplicateAppend,
        Anomaly::AbortedRead,
        Anomaly::Internal,
        Anomaly::IncompatibleOrders,
        Anomaly::IntermediateRead,
        Anomaly::LostAppend,
        Anomaly::DirtyWrite,
        Anomaly::CircularInformationFlow,
        Anomaly::LostUpdate,
        Anomaly::ReadSkew,
        Anomaly::LongFork,
        Anomaly::WriteSkew,
        Anomaly::RealTime,
    ];

    /// Its short name: the property of its [`Violation`](crate::Violation).
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Anomaly::UnwrittenValue => "unwritten value",
            Anomaly::DuplicateAppend => "duplicate append",
            Anomaly::AbortedRead => "G1a (aborted read)",
            Anomaly::Internal => "internal inconsistency",
            Anomaly::IncompatibleOrders => "incompatible orders",
            Anomaly::IntermediateRead => "G1b (intermediate read)",
            Anomaly::LostAppend => "lost append",
            Anomaly::DirtyWrite => "G0 (dirty write)",
            Anomaly::CircularInformationFlow => "G1c (circular information flow)",
            Anomaly::LostUpdate => "G-single (lost update)",
            Anomaly::ReadSkew => "G-single (read skew)",
            Anomaly::LongFork => "G-nonadjacent (long fork)",
            Anomaly::WriteSkew => "G2 (write skew)",
            Anomaly::RealTime => "real-time violation",
        }
    }
}
