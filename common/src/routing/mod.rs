//! Where a request goes, what to do when it comes back refused, and the streams that carry it: shared by routers, coordinators,
//! shard-nodes that ask other groups, and smart clients.
//!
//! [`View`] is one consistent picture of the cluster: the map and what is known of each group's primary. [`Attempts`] is
//! the decision table of one request: it names the next node, or a pause, or the refusal to hand to the caller. A
//! request is sent again only if that is safe: it was surely not applied, or it changes nothing, or its idempotency key
//! lets the group recognise it. Both are pure. [`Backends`] are the streams to shard-nodes, and an [`Errand`] is carried over
//! them as the table says. [`Groups`] is how one asks a group without caring for any of this; [`StreamedGroups`] does. [`follow()`] keeps a view fresh.
//!
//! Left out: moving slots (a later release); a group is found by the map alone.

mod attempts;
mod backends;
mod errand;
mod follow;
mod groups;
mod streamed;
mod view;

pub use attempts::{Attempts, Failure, Kind, Next, parts};
pub use backends::{Asker, Attempt, Backends, NodeClient, Outcome};
pub use errand::{Errand, not_in_map, understood};
pub use follow::follow;
pub use groups::{Groups, Question, Told};
pub use streamed::StreamedGroups;
pub use view::{Primary, RoutingTable, View};
