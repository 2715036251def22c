//! Which operation comes next: YCSB's core mixes.

use super::keys::Choice;
use super::rng::Rng;
use std::fmt;
use std::str::FromStr;

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Step {
    /// Reads a key.
    Read,
    /// Writes a key that is there.
    Update,
    /// Writes a new key.
    Insert,
    /// Reads some keys in order.
    Scan,
    /// Reads a key and writes it if it has not changed since.
    ReadModifyWrite,
}

impl Step {
    /// The name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Step::Read => "read",
            Step::Update => "update",
            Step::Insert => "insert",
            Step::Scan => "scan",
            Step::ReadModifyWrite => "read-modify-write",
        }
    }
}

/// YCSB's core workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mix {
    /// Update heavy: half reads, half updates.
    A,
    /// Read mostly: 95 % reads, 5 % updates.
    B,
    /// Read only.
    C,
    /// Read latest: 95 % reads, 5 % inserts.
    D,
    /// Short ranges: 95 % scans, 5 % inserts.
    E,
    /// Half reads, half read-modify-writes.
    F,
}

impl Mix {
    /// Parts in a hundred of each step.
    const fn parts(self) -> [(Step, u64); 2] {
        match self {
            Mix::A => [(Step::Read, 50), (Step::Update, 50)],
            Mix::B => [(Step::Read, 95), (Step::Update, 5)],
            Mix::C => [(Step::Read, 100), (Step::Update, 0)],
            Mix::D => [(Step::Read, 95), (Step::Insert, 5)],
            Mix::E => [(Step::Scan, 95), (Step::Insert, 5)],
            Mix::F => [(Step::Read, 50), (Step::ReadModifyWrite, 50)],
        }
    }

    /// How YCSB chooses keys for this mix.
    #[must_use]
    pub const fn usual_choice(self) -> Choice {
        match self {
            Mix::D => Choice::Latest,
            _ => Choice::Zipfian,
        }
    }

    /// The next step.
    pub fn draw(self, rng: &mut Rng) -> Step {
        let [(first, share), (second, _)] = self.parts();
        if rng.below(100) < share { first } else { second }
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        [Mix::A, Mix::B, Mix::C, Mix::D, Mix::E, Mix::F]
            .into_iter()
            .find(|mix| mix.to_string().eq_ignore_ascii_case(text))
            .ok_or_else(|| format!("unknown workload '{text}': use a letter from A to F"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_each_mix_are_a_hundred_and_are_kept() {
        for mix in [Mix::A, Mix::B, Mix::C, Mix::D, Mix::E, Mix::F] {
            let [(first, share), (_, rest)] = mix.parts();
            assert_eq!(share + rest, 100);
            let mut rng = Rng::new(5);
            let drawn = (0..10_000).filter(|_| mix.draw(&mut rng) == first).count() as u64;
            assert!(drawn.abs_diff(share * 100) < 200, "{mix}: {drawn}");
            assert_eq!(mix.to_string().to_lowercase().parse(), Ok(mix));
        }
        assert!("G".parse::<Mix>().is_err());
        assert!("".parse::<Mix>().is_err());
    }
}
