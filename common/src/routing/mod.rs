//! Where a request goes, and what to do when it comes back refused: pure, shared by the router and by smart clients.
//!
//! [`View`] is one consistent picture of the cluster: the map and what is known of each group's primary. [`Attempts`] is
//! the decision table of one request: it names the next node, or a pause, or the refusal to hand to the caller. A
//! request is sent again only if that is safe: it was surely not applied, or it changes nothing, or its idempotency key
//! lets the group recognise it. [`Groups`] is how one asks a group without caring for any of this.
//!
//! Left out: moving slots (a later release); a group is found by the map alone.

mod attempts;
mod groups;
mod view;

pub use attempts::{Attempts, Failure, Kind, Next};
pub use groups::Groups;
pub use view::{Primary, RoutingTable, View};
