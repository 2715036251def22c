//! The network between nodes, clients and the metadata store: every message may be lost, doubled, delayed or overtaken, and
//! any direction of any link may be cut.

use super::rng::Rng;
use super::time::{MS, Time, US};
use fulcrum_types::NodeId;
use std::collections::BTreeMap;
use std::fmt;

/// Who sends and receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// A shard-node.
    Node(NodeId),
    /// A client, by number.
    Client(u64),
    /// The metadata store.
    Metadata,
    /// A coordinator, by number.
    Coordinator(u64),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Node(node) => write!(f, "{node}"),
            Endpoint::Client(number) => write!(f, "client {number}"),
            Endpoint::Metadata => f.write_str("metadata"),
            Endpoint::Coordinator(number) => write!(f, "coordinator {number}"),
        }
    }
}

/// How well links work.
#[derive(Clone, Copy, Debug)]
pub struct Quality {
    /// Lost, of a million.
    pub loss_ppm: u32,
    /// Sent twice, of a million.
    pub duplicate_ppm: u32,
    /// Much delayed, of a million.
    pub straggler_ppm: u32,
    /// Shortest way.
    pub delay_min: Time,
    /// Usual longest way.
    pub delay_max: Time,
    /// Longest way of a straggler.
    pub straggler_max: Time,
    /// Whether a message never overtakes another on the same link (then none is doubled either).
    pub fifo: bool,
}

impl Quality {
    /// A healthy network.
    pub const GOOD: Quality = Quality {
        loss_ppm: 0,
        duplicate_ppm: 0,
        straggler_ppm: 0,
        delay_min: 100 * US,
        delay_max: 2 * MS,
        straggler_max: 0,
        fifo: true,
    };
}

/// What became of one message: when its copies arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// A cut stopped it.
    Cut,
    /// It was lost.
    Lost,
    /// It arrives.
    Once(Time),
    /// It arrives twice.
    Twice(Time, Time),
}

/// All links.
#[derive(Debug)]
pub struct Network {
    rng: Rng,
    /// How links work now.
    pub quality: Quality,
    /// How many cuts there are on a direction of a link.
    cuts: BTreeMap<(Endpoint, Endpoint), u32>,
    /// Latest arrival on a link, for FIFO.
    latest: BTreeMap<(Endpoint, Endpoint), Time>,
}

impl Network {
    /// A network of some quality.
    #[must_use]
    pub fn new(rng: Rng, quality: Quality) -> Self {
        Self {
            rng,
            quality,
            cuts: BTreeMap::new(),
            latest: BTreeMap::new(),
        }
    }

    /// Cuts one direction. Cuts add up: each is mended for itself.
    pub fn cut(&mut self, from: Endpoint, to: Endpoint) {
        *self.cuts.entry((from, to)).or_default() += 1;
    }

    /// Mends one cut of one direction.
    pub fn mend(&mut self, from: Endpoint, to: Endpoint) {
        if let Some(count) = self.cuts.get_mut(&(from, to)) {
            *count = count.saturating_sub(1);
        }
    }

    /// All is well from now on.
    pub fn heal(&mut self) {
        self.cuts.clear();
        self.quality = Quality::GOOD;
    }

    /// Whether this direction is cut.
    #[must_use]
    pub fn is_cut(&self, from: Endpoint, to: Endpoint) -> bool {
        self.cuts.get(&(from, to)).is_some_and(|count| *count > 0)
    }

    /// What becomes of a message sent now.
    pub fn send(&mut self, now: Time, from: Endpoint, to: Endpoint) -> Fate {
        if self.is_cut(from, to) {
            return Fate::Cut;
        }
        if self.rng.ppm(self.quality.loss_ppm) {
            return Fate::Lost;
        }
        let first = self.arrival(now, from, to);
        if !self.quality.fifo && self.rng.ppm(self.quality.duplicate_ppm) {
            return Fate::Twice(first, self.arrival(now, from, to));
        }
        Fate::Once(first)
    }

    fn arrival(&mut self, now: Time, from: Endpoint, to: Endpoint) -> Time {
        let Quality {
            delay_min,
            delay_max,
            straggler_max,
            straggler_ppm,
            fifo,
            ..
        } = self.quality;
        let mut at = now + self.rng.skewed(delay_min, delay_max);
        if self.rng.ppm(straggler_ppm) {
            at += self.rng.skewed(delay_max, straggler_max);
        }
        let latest = self.latest.entry((from, to)).or_default();
        if fifo {
            at = at.max(*latest + 1);
        }
        *latest = at.max(*latest);
        at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Endpoint = Endpoint::Node(NodeId(1));
    const B: Endpoint = Endpoint::Node(NodeId(2));

    #[test]
    fn cuts_have_a_direction_and_add_up() {
        let mut network = Network::new(Rng::new(1), Quality::GOOD);
        network.cut(A, B);
        network.cut(A, B);
        assert_eq!(network.send(0, A, B), Fate::Cut);
        assert!(matches!(network.send(0, B, A), Fate::Once(_)));
        network.mend(A, B);
        assert_eq!(network.send(0, A, B), Fate::Cut);
        network.mend(A, B);
        assert!(matches!(network.send(0, A, B), Fate::Once(_)));
    }

    #[test]
    fn first_in_first_out_where_asked() {
        let mut network = Network::new(Rng::new(2), Quality::GOOD);
        let arrivals: Vec<Time> = (0..100)
            .map(|now| match network.send(now, A, B) {
                Fate::Once(at) => at,
                other => panic!("{other:?}"),
            })
            .collect();
        assert!(arrivals.is_sorted());
    }
}
