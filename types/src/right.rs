//! What a token may do with a keyspace.

use std::fmt;
use std::str::FromStr;

/// A right, in one keyspace or in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Right {
    /// See the keyspace, and what is in it.
    Read,
    /// Change what is in it, without seeing it.
    Write,
    /// Both, and what operators do.
    Admin,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As it is written.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Right::Read => "read",
            Right::Write => "write",
            Right::Admin => "admin",
        }
    }

    /// Whether who has this right needs no other for `wanted`.
    #[must_use]
    pub fn covers(self, wanted: Self) -> bool {
        self == wanted || self == Right::Admin
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Right {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|right| right.name() == text)
            .ok_or_else(|| format!("'{text}' is no right: use read, write or admin"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_admin_covers_another() {
        let covered = |have: Right| Right::ALL.map(|wanted| have.covers(wanted));
        assert_eq!(covered(Right::Read), [true, false, false]);
        assert_eq!(covered(Right::Write), [false, true, false]);
        assert_eq!(covered(Right::Admin), [true, true, true]);
    }

    #[test]
    fn they_are_read_as_they_are_written() {
        for right in Right::ALL {
            assert_eq!(right.to_string().parse(), Ok(right));
        }
        assert!("Read".parse::<Right>().unwrap_err().contains("admin"));
    }
}
