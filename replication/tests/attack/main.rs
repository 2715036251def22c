//! Stories in which the world is as unkind as the contract allows: very late messages, lost tails, lagging peers. Each one
//! once went wrong.

mod certificates;
mod liveness;
mod rig;
mod snapshots;
