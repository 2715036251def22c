//! The metadata store as nodes see it: one linearizable copy of each group's configuration, behind a connection that may
//! lose a request, lose its answer, or let it land long after the asker was told "unknown".

use super::rng::Rng;
use super::time::{MS, Time};
use fulcrum_types::{ConfigVersion, GroupConfiguration, GroupId, NodeId};
use std::collections::BTreeMap;

/// One change of a group's configuration that took effect.
#[derive(Clone, Debug)]
pub struct Change {
    /// When.
    pub at: Time,
    /// Who asked.
    pub by: NodeId,
    /// The group.
    pub group: GroupId,
    /// Before.
    pub before: GroupConfiguration,
    /// After.
    pub after: GroupConfiguration,
}

/// How a request to the store fares, decided when it is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// When the request reaches the store, if ever.
    pub lands: Option<Time>,
    /// When the asker has its answer: the real one if `answered`, else "unknown".
    pub ends: Time,
    /// Whether the real answer arrives by then.
    pub answered: bool,
}

/// How the connections to the store behave.
#[derive(Clone, Copy, Debug)]
pub struct Manners {
    /// Usual time each way.
    pub delay_max: Time,
    /// An asker gives up after this.
    pub timeout: Time,
    /// Requests whose answer is lost, of a million.
    pub answer_lost_ppm: u32,
    /// Requests that are lost, of a million.
    pub request_lost_ppm: u32,
    /// Requests that land after the asker gave up, of a million.
    pub late_ppm: u32,
    /// How late, at most.
    pub late_max: Time,
    /// Longest way of a watch event.
    pub watch_max: Time,
    /// Watch events that come twice, of a million.
    pub watch_twice_ppm: u32,
}

impl Manners {
    /// A healthy store near by.
    pub const GOOD: Manners = Manners {
        delay_max: 3 * MS,
        timeout: 500 * MS,
        answer_lost_ppm: 0,
        request_lost_ppm: 0,
        late_ppm: 0,
        late_max: 0,
        watch_max: 10 * MS,
        watch_twice_ppm: 0,
    };
}

/// The store.
#[derive(Debug)]
pub struct MetadataStore {
    rng: Rng,
    /// How connections behave now.
    pub manners: Manners,
    /// Unreachable for everyone until then.
    pub outage_until: Time,
    configurations: BTreeMap<GroupId, GroupConfiguration>,
}

impl MetadataStore {
    /// A store with the first configuration of each group.
    #[must_use]
    pub fn new(rng: Rng, manners: Manners, configurations: BTreeMap<GroupId, GroupConfiguration>) -> Self {
        Self {
            rng,
            manners,
            outage_until: 0,
            configurations,
        }
    }

    /// A group's configuration now.
    #[must_use]
    pub fn read(&self, group: GroupId) -> &GroupConfiguration {
        &self.configurations[&group]
    }

    /// All configurations now.
    #[must_use]
    pub fn all(&self) -> &BTreeMap<GroupId, GroupConfiguration> {
        &self.configurations
    }

    /// Swaps if the version still holds. Versions grow by leaps, as a store's revisions do.
    ///
    /// # Errors
    /// What is in force instead.
    pub fn compare_and_swap(
        &mut self,
        at: Time,
        by: NodeId,
        group: GroupId,
        expected: ConfigVersion,
        proposal: GroupConfiguration,
    ) -> Result<Change, GroupConfiguration> {
        let before = self.configurations[&group].clone();
        if before.version != expected {
            return Err(before);
        }
        let version = ConfigVersion(expected.0 + self.rng.range(1, 3));
        let after = GroupConfiguration { version, ..proposal };
        self.configurations.insert(group, after.clone());
        Ok(Change {
            at,
            by,
            group,
            before,
            after,
        })
    }

    /// Decides how a request sent now fares. `connected`: whether the asker can reach the store and hear from it.
    pub fn passage(&mut self, now: Time, reaches: bool, hears: bool) -> Passage {
        let manners = self.manners;
        let gives_up = now + manners.timeout;
        let late = gives_up + self.rng.skewed(MS, manners.late_max.max(MS));
        let lost = Passage {
            lands: None,
            ends: gives_up,
            answered: false,
        };
        if !reaches || self.rng.ppm(manners.request_lost_ppm) {
            return lost;
        }
        if now < self.outage_until {
            let kept = manners.late_max > 0 && self.rng.percent(50);
            return Passage {
                lands: kept.then(|| late.max(self.outage_until)),
                ..lost
            };
        }
        if self.rng.ppm(manners.late_ppm) {
            return Passage {
                lands: Some(late),
                ..lost
            };
        }
        let lands = now + self.rng.skewed(MS / 2, manners.delay_max);
        let ends = lands + self.rng.skewed(MS / 2, manners.delay_max);
        let answered = hears && ends < gives_up && !self.rng.ppm(manners.answer_lost_ppm);
        Passage {
            lands: Some(lands),
            ends: if answered { ends } else { gives_up },
            answered,
        }
    }

    /// When the watch event of a change arrives: once or twice.
    pub fn watch_arrivals(&mut self, now: Time) -> (Time, Option<Time>) {
        let manners = self.manners;
        let first = now.max(self.outage_until) + self.rng.skewed(MS, manners.watch_max);
        let twice = self.rng.ppm(manners.watch_twice_ppm);
        (
            first,
            twice.then(|| first + self.rng.skewed(MS, manners.watch_max.max(MS) * 4)),
        )
    }

    /// Reachable and well-mannered from now on.
    pub fn heal(&mut self) {
        self.outage_until = 0;
        self.manners = Manners::GOOD;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_two_swaps_wins() {
        let group = GroupId(1);
        let first = GroupConfiguration {
            version: ConfigVersion(1),
            ..GroupConfiguration::default()
        };
        let mut store = MetadataStore::new(Rng::new(1), Manners::GOOD, BTreeMap::from([(group, first.clone())]));
        let won = store
            .compare_and_swap(0, NodeId(1), group, ConfigVersion(1), first.clone())
            .unwrap();
        assert!(won.after.version > won.before.version);
        let lost = store
            .compare_and_swap(1, NodeId(2), group, ConfigVersion(1), first)
            .unwrap_err();
        assert_eq!(lost, won.after);
    }
}
