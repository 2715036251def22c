//! The contract between a protocol core and whoever runs it.

mod effect;
mod input;
mod message;
mod options;
mod status;

pub use effect::{Answered, Divergence, Effect, LogChange, ProposalRefusal, ReadPermit, ReadRefusal, SnapshotMeta};
pub use input::{
    CasId, CasOutcome, Input, Proposal, ProposalId, ReadId, ReadWanted, Restored, SnapshotChunk, TransferId,
};
pub use message::{Header, Message};
pub use options::Options;
pub use status::{HardState, PeerStatus, Status};

use fulcrum_types::Now;

/// One replica of one group under some protocol.
pub trait Replica {
    /// Takes one input at a moment and pushes what must happen, in order, to `effects`.
    fn step(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>);

    /// What the replica knows of itself and its group: for metrics, `status` and routing.
    fn status(&self, now: Now) -> Status;

    /// Checks every invariant that can be seen from one replica; the error says which is broken.
    ///
    /// # Errors
    /// The broken invariant, in words.
    fn check_invariants(&self) -> Result<(), String>;
}
