//! Which key comes next.

use super::rng::{Rng, mix};
use super::zipfian::Zipfian;
use bytes::Bytes;
use std::str::FromStr;

/// How keys are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Few keys very often, spread over the whole key space.
    Zipfian,
    /// The newest ones most often.
    Latest,
    /// All equally often.
    Uniform,
}

impl Choice {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Choice::Zipfian => "zipfian",
            Choice::Latest => "latest",
            Choice::Uniform => "uniform",
        }
    }
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Choice::Zipfian, Choice::Latest, Choice::Uniform]
            .into_iter()
            .find(|choice| choice.name() == text)
            .ok_or_else(|| format!("unknown distribution '{text}': use zipfian, latest or uniform"))
    }
}

/// Chooses among records numbered from 0.
#[derive(Clone, Debug)]
pub struct KeyChooser {
    choice: Choice,
    records: u64,
    zipfian: Zipfian,
}

impl KeyChooser {
    /// Chooses among so many records; at least one.
    #[must_use]
    pub fn new(choice: Choice, records: u64) -> Self {
        KeyChooser {
            choice,
            records: records.max(1),
            zipfian: Zipfian::new(records),
        }
    }

    /// Takes records into account that were added since.
    pub fn grow(&mut self, records: u64) {
        if records > self.records {
            self.records = records;
            self.zipfian.grow(records);
        }
    }

    /// The number of the record to use next.
    pub fn choose(&self, rng: &mut Rng) -> u64 {
        match self.choice {
            Choice::Uniform => rng.below(self.records),
            Choice::Latest => self.records - 1 - self.zipfian.draw(rng),
            Choice::Zipfian => mix(self.zipfian.draw(rng).wrapping_add(1)) % self.records,
        }
    }
}

/// The key of a record of the benchmark. In order of insertion the keys are spread over the key space.
#[must_use]
pub fn key_name(record: u64) -> Bytes {
    Bytes::from(format!("user{:020}", mix(record.wrapping_add(1))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn histogram(choice: Choice, records: u64) -> BTreeMap<u64, u32> {
        let (chooser, mut rng) = (KeyChooser::new(choice, records), Rng::new(11));
        let mut counts = BTreeMap::new();
        for _ in 0..20_000 {
            *counts.entry(chooser.choose(&mut rng)).or_default() += 1;
        }
        counts
    }

    #[test]
    fn uniform_reaches_all_alike() {
        let counts = histogram(Choice::Uniform, 100);
        assert_eq!(counts.len(), 100);
        assert!(counts.values().all(|count| (100..320).contains(count)), "{counts:?}");
    }

    #[test]
    fn latest_prefers_the_end_and_zipfian_hides_its_favourites() {
        let latest = histogram(Choice::Latest, 1000);
        assert_eq!(
            latest.iter().max_by_key(|(_, count)| **count).map(|(key, _)| *key),
            Some(999)
        );
        let zipfian = histogram(Choice::Zipfian, 1000);
        let favourite = zipfian.iter().max_by_key(|(_, count)| **count).map(|(key, _)| *key);
        assert_eq!(favourite, Some(mix(1) % 1000));
    }

    #[test]
    fn added_records_are_chosen() {
        let (mut chooser, mut rng) = (KeyChooser::new(Choice::Latest, 10), Rng::new(2));
        chooser.grow(5_000);
        assert!((0..200).any(|_| chooser.choose(&mut rng) == 4_999));
    }

    #[test]
    fn keys_are_distinct_and_equally_long() {
        let keys: BTreeSet<Bytes> = (0..10_000).map(key_name).collect();
        assert_eq!(keys.len(), 10_000);
        assert!(keys.iter().all(|key| key.len() == 24));
    }
}
