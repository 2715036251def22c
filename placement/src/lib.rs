//! Which nodes hold which replicas, and who leads: decided purely, from what the metadata store says.
//!
//! # The promise
//! A group that has lost replicas for good gets others on living nodes, spread over zones as well as can be; primaries are spread over
//! nodes; and nothing of that loses a committed write or feeds on itself. While all is well nothing moves.
//!
//! # The protocol
//! One node of the cluster acts at a time (a lease in the metadata store says which). It looks again and again at a [`Census`]: nodes
//! with their leases, groups with their configurations, as of one revision. Each look is a [`Placement::step`], whose effects
//! are compare-and-swaps on exactly what was seen, and requests to hand over.
//!
//! 1. *Add first.* A node that has been without a lease for `rebuild_after`, or that is drained, is **leaving**. A group with one of those among its
//!    replicas gets another node, as a learner: the group's primary brings it up and lists it in sync by its own word.
//! 2. *Then remove.* A leaving replica goes only once as many living, staying members as the keyspace wants are in sync without it. The
//!    core never touches the in-sync set: only the primary does (DESIGN section 5). A replica that is still listed in
//!    sync is first taken out of `replicas`; its data may go only when the primary has taken it out of the in-sync set, too.
//! 3. *Few at a time.* One rebuild at a receiver, a few in the cluster, none while half of the nodes are gone.
//! 4. *Primaries.* One planned hand-over at a time, between members in sync, from a node that leads two groups more than the
//!    other, with pauses, and only while no group failed over lately and nothing is rebuilt.
//!
//! Whoever acts keeps only time in memory: since when a node is gone, since when an epoch is in force. A successor counts anew, and so does
//! one that could not look for a while: not having seen a lease counts only while looking.
//!
//! # The files
//! `census` is what is looked at, `assessment` what it means, `core` what is done about it, `choose` where a replica goes.
//!
//! # What is left out, and what it costs
//! - Nodes that join are not filled: they get replicas by a rebuild or a drain. Replicas are not moved for better zones.
//! - Bytes and load of a group do not count: a replica is a replica.
//! - Chains of hand-overs: primaries may stay uneven where no single one helps.

mod assessment;
mod census;
mod choose;
mod core;

pub use assessment::{Assessment, Draining, Rebuild, assess};
pub use census::{Census, GroupEntry, NodeEntry, Settings};
pub use choose::{Load, place};
pub use core::{Effect, Held, Placement, Reason};
