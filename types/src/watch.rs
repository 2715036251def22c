//! What a watch asks of one group, and what it is told: the changes that applied entries made, in order.
//!
//! A watch is a cursor over a group's log. Its position moves on entry by entry, also over entries that changed nothing it
//! looks for, so that a watch which was told nothing knows how far nothing happened.

use crate::entry::LogPosition;
use crate::ids::{Epoch, GroupId, Index, MapVersion};
use crate::operation::{Version, Versioned};
use crate::time::ReplicatedTime;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Which keys a watch looks at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Selection {
    /// All keys of the keyspace.
    #[default]
    All,
    /// Keys that begin so.
    Prefix(Bytes),
    /// One key.
    Key(Bytes),
}

impl Selection {
    /// Whether it looks at that key.
    #[must_use]
    pub fn matches(&self, key: &[u8]) -> bool {
        match self {
            Selection::All => true,
            Selection::Prefix(prefix) => key.starts_with(prefix),
            Selection::Key(wanted) => key == wanted.as_ref(),
        }
    }
}

/// How far a watch has come in a group's log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cursor {
    /// The newest entry of which something was said.
    pub position: LogPosition,
    /// How many of that entry's changes were said; none means all. An entry may hold many, and a watch may end between two.
    pub part: Option<u32>,
}

impl Cursor {
    /// Behind all that an entry did.
    #[must_use]
    pub const fn behind(position: LogPosition) -> Self {
        Self { position, part: None }
    }
}

/// What happened to a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was set.
    Put(Versioned),
    /// It was deleted; it had a value.
    Delete {
        /// Version of the tombstone.
        version: Version,
    },
    /// Its time to live ran out.
    Expire {
        /// Version of the value that went.
        version: Version,
    },
}

/// One change that an applied entry made. The same on every replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The entry.
    pub position: LogPosition,
    /// Its number among the changes of that entry, from 0.
    pub ordinal: u32,
    /// The entry's replicated time.
    pub time: ReplicatedTime,
    /// The key.
    pub key: Bytes,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// How far a watch has come in one group: in its log, and before that in its initial state if it asked for that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchPosition {
    /// In the log.
    pub cursor: Cursor,
    /// The initial state was said through this key (empty: nothing yet); none if it was said, or was not asked for. Of
    /// keys behind it no change was said either: their state is still to come.
    pub loading: Option<Bytes>,
}

/// What a watch goes on from, at any router: a position in each of its groups, and the newest cluster map seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WatchToken {
    /// Newest cluster map seen.
    pub map_version: MapVersion,
    /// Of every group that the watch looks at.
    pub groups: BTreeMap<GroupId, WatchPosition>,
}

/// A text that is no token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NotAToken(String);

impl fmt::Display for NotAToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "'{}' is no token of a watch: use what a watch gave", self.0)
    }
}

impl std::error::Error for NotAToken {}

/// One word of text: `w1;map;group=epoch.index[+part][~loading in hexadecimal],...`.
impl fmt::Display for WatchToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "w1;{};", self.map_version.0)?;
        for (at, (group, position)) in self.groups.iter().enumerate() {
            let comma = if at == 0 { "" } else { "," };
            let LogPosition { epoch, index } = position.cursor.position;
            write!(f, "{comma}{}={}.{}", group.0, epoch.0, index.0)?;
            if let Some(part) = position.cursor.part {
                write!(f, "+{part}")?;
            }
            if let Some(loading) = &position.loading {
                f.write_str("~")?;
                loading.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
            }
        }
        Ok(())
    }
}

impl FromStr for WatchToken {
    type Err = NotAToken;

    fn from_str(text: &str) -> Result<Self, NotAToken> {
        parse(text.trim()).ok_or_else(|| NotAToken(text.to_owned()))
    }
}

fn parse(text: &str) -> Option<WatchToken> {
    let (map_version, groups) = text.strip_prefix("w1;")?.split_once(';')?;
    let groups = groups.split(',').filter(|group| !group.is_empty());
    Some(WatchToken {
        map_version: MapVersion(map_version.parse().ok()?),
        groups: groups.map(parse_group).collect::<Option<_>>()?,
    })
}

fn parse_group(text: &str) -> Option<(GroupId, WatchPosition)> {
    let (group, position) = text.split_once('=')?;
    let (position, loading) = match position.split_once('~') {
        Some((position, loading)) => (position, Some(from_hex(loading)?)),
        None => (position, None),
    };
    let (position, part) = match position.split_once('+') {
        Some((position, part)) => (position, Some(part.parse().ok()?)),
        None => (position, None),
    };
    let (epoch, index) = position.split_once('.')?;
    let position = LogPosition {
        epoch: Epoch(epoch.parse().ok()?),
        index: Index(index.parse().ok()?),
    };
    let cursor = Cursor { position, part };
    Some((GroupId(group.parse().ok()?), WatchPosition { cursor, loading }))
}

fn from_hex(text: &str) -> Option<Bytes> {
    let digits: Vec<u32> = text.chars().map(|digit| digit.to_digit(16)).collect::<Option<_>>()?;
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(high * 16 + low).ok(),
        _ => None,
    });
    bytes.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_survives_as_text() {
        let position = LogPosition {
            epoch: Epoch(3),
            index: Index(70),
        };
        let positions = [
            (None, None),
            (Some(2), None),
            (None, Some(Bytes::new())),
            (Some(0), Some(Bytes::from_static(b"key\xff"))),
        ];
        let positions = positions.map(|(part, loading)| WatchPosition {
            cursor: Cursor { position, part },
            loading,
        });
        let token = WatchToken {
            map_version: MapVersion(9),
            groups: (1..).map(GroupId).zip(positions).collect(),
        };
        let text = token.to_string();
        assert_eq!(text, "w1;9;1=3.70,2=3.70+2,3=3.70~,4=3.70+0~6b6579ff");
        assert_eq!(text.parse(), Ok(token));
        let empty = WatchToken::default();
        assert_eq!(empty.to_string().parse(), Ok(empty));
        for bad in [
            "",
            "w1;",
            "1;1;",
            "w1;1;1",
            "w1;1;1=2",
            "w1;1;1=2.3+",
            "w1;1;1=2.3~f",
            "w1;1;1=2.3~zz",
            "w1;x;",
        ] {
            assert!(bad.parse::<WatchToken>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_selection_takes_what_it_names() {
        let prefix = Selection::Prefix(Bytes::from_static(b"a/"));
        assert!(prefix.matches(b"a/1") && prefix.matches(b"a/") && !prefix.matches(b"a"));
        let key = Selection::Key(Bytes::from_static(b"a"));
        assert!(key.matches(b"a") && !key.matches(b"a/"));
        assert!(Selection::All.matches(b""));
    }
}
