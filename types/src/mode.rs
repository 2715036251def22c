//! The choices: how a keyspace replicates, how durable it is, and what a request asks for.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// How a keyspace replicates (DESIGN section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// Acknowledged when durable on every in-sync replica. Linearizable.
    Sync,
    /// Acknowledged when durable on the primary. A failover may lose the unreplicated tail; every loss is recorded.
    Async,
}

/// When an acknowledged write has reached the disk of the replicas that acknowledged it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fsync {
    /// Before it is acknowledged.
    #[default]
    Always,
    /// Within a second or so; a power failure may lose what was acknowledged. Receipts never say durable.
    Interval,
    /// When the operating system pleases. Receipts never say durable.
    Never,
}

/// What a read promises (DESIGN section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// Sees every write acknowledged before the read began. Served by the primary.
    Linearizable,
    /// At most this much behind; served by any replica that can prove it.
    Bounded(Duration),
    /// Not older than the session's token.
    Session,
    /// Whatever the nearest replica has; the receipt still carries the bound.
    Eventual,
}

impl Level {
    /// The name without its parameter: for metrics and messages.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Level::Linearizable => "linearizable",
            Level::Bounded(_) => "bounded",
            Level::Session => "session",
            Level::Eventual => "eventual",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Level::Bounded(d) => write!(f, "bounded({}ms)", d.as_millis()),
            other => f.write_str(other.name()),
        }
    }
}

impl FromStr for Level {
    type Err = String;

    /// Reads what `Display` writes, and `bounded:500ms`; the bound is in `ms` or `s`.
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "linearizable" => return Ok(Level::Linearizable),
            "session" => return Ok(Level::Session),
            "eventual" => return Ok(Level::Eventual),
            _ => {}
        }
        let inner = s.strip_prefix("bounded(").and_then(|rest| rest.strip_suffix(')'));
        inner
            .or_else(|| s.strip_prefix("bounded:"))
            .and_then(bound)
            .map(Level::Bounded)
            .ok_or_else(|| format!("unknown level '{s}': use linearizable, bounded:500ms, session or eventual"))
    }
}

fn bound(text: &str) -> Option<Duration> {
    if let Some(ms) = text.strip_suffix("ms") {
        return ms.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s')?.parse().ok().map(Duration::from_secs)
}

impl Mode {
    /// The name in configuration, API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Mode::Sync => "sync",
            Mode::Async => "async",
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Mode {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "sync" => Ok(Mode::Sync),
            "async" => Ok(Mode::Async),
            other => Err(format!("unknown mode '{other}': use sync or async")),
        }
    }
}

impl Fsync {
    /// The name in configuration, API and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Fsync::Always => "always",
            Fsync::Interval => "interval",
            Fsync::Never => "never",
        }
    }
}

impl fmt::Display for Fsync {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Fsync {
    type Err = String;
    fn from_str(s: &str) -> Result<Self, String> {
        match s {
            "always" => Ok(Fsync::Always),
            "interval" => Ok(Fsync::Interval),
            "never" => Ok(Fsync::Never),
            other => Err(format!("unknown fsync '{other}': use always, interval or never")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_read_back() {
        let bounded = Level::Bounded(Duration::from_millis(250));
        for level in [Level::Linearizable, bounded, Level::Session, Level::Eventual] {
            assert_eq!(level.to_string().parse(), Ok(level));
        }
        assert_eq!("bounded:250ms".parse(), Ok(bounded));
        assert_eq!("bounded:2s".parse(), Ok(Level::Bounded(Duration::from_secs(2))));
        for bad in [
            "",
            "strong",
            "bounded",
            "bounded:",
            "bounded(5",
            "bounded:-1ms",
            "bounded:5",
        ] {
            assert!(bad.parse::<Level>().is_err(), "{bad}");
        }
    }
}
