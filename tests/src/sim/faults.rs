//! The faults that a run may see, and their names in the summary.

use std::fmt;

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// A node dies, loses what was not synced and starts again later.
    Crash,
    /// All nodes do at once.
    CrashAll,
    /// A node dies and starts again with an empty disk (only where another in-sync replica is left).
    Wipe,
    /// A node stands still for a while (SIGSTOP), then everything reaches it at once.
    Pause,
    /// One node is cut off from the others; often not from its clients.
    Isolate,
    /// The nodes fall into two parts.
    Split,
    /// One node can send but not receive, or the other way round.
    OneWay,
    /// Two nodes cannot talk to each other, the others can to both.
    Link,
    /// The whole network loses, doubles and delays much.
    Storm,
    /// A disk does nothing for a while.
    DiskStall,
    /// A disk is slow for a while.
    DiskSlow,
    /// A clock runs at another rate (within the plan's bound).
    ClockRate,
    /// A wall clock jumps.
    WallJump,
    /// The metadata store is unreachable for everyone.
    MetadataOutage,
    /// The metadata store is unreachable for one node.
    MetadataCut,
    /// An operator asks a primary to hand over.
    HandOver,
    /// A node is told to stop: it hands over, leaves the in-sync sets, dies and starts again later. Not drawn with the others, so that
    /// seeds stay what they were: see [`super::plan::Plan::drains`].
    Drain,
}

impl Fault {
    /// All that a plan draws from.
    pub const ALL: [Fault; 16] = [
        Fault::Crash,
        Fault::CrashAll,
        Fault::Wipe,
        Fault::Pause,
        Fault::Isolate,
        Fault::Split,
        Fault::OneWay,
        Fault::Link,
        Fault::Storm,
        Fault::DiskStall,
        Fault::DiskSlow,
        Fault::ClockRate,
        Fault::WallJump,
        Fault::MetadataOutage,
        Fault::MetadataCut,
        Fault::HandOver,
    ];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::Crash => "crash",
            Fault::CrashAll => "crash of all",
            Fault::Wipe => "lost disk",
            Fault::Pause => "pause",
            Fault::Isolate => "isolated node",
            Fault::Split => "split",
            Fault::OneWay => "one-way cut",
            Fault::Link => "cut link",
            Fault::Storm => "network storm",
            Fault::DiskStall => "disk stall",
            Fault::DiskSlow => "slow disk",
            Fault::ClockRate => "clock rate",
            Fault::WallJump => "wall clock jump",
            Fault::MetadataOutage => "metadata outage",
            Fault::MetadataCut => "metadata cut",
            Fault::HandOver => "hand-over",
            Fault::Drain => "drain",
        })
    }
}
