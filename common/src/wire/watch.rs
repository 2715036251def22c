//! Conversions of what watches ask and are told, on both sides of a router.

use super::types::millis;
use super::{Malformed, internal, v1};
use fulcrum_types::{
    Answer, Change, ChangeKind, ChangesQuery, Cursor, GroupId, MapVersion, ReplicatedTime, Selection, Version,
    WatchPosition, WatchToken,
};
use std::time::Duration;

impl From<WatchPosition> for v1::WatchPosition {
    fn from(position: WatchPosition) -> Self {
        Self {
            position: Some(position.cursor.position.into()),
            part: position.cursor.part,
            loading: position.loading,
        }
    }
}

impl From<v1::WatchPosition> for WatchPosition {
    fn from(wire: v1::WatchPosition) -> Self {
        Self {
            cursor: Cursor {
                position: wire.position.map(Into::into).unwrap_or_default(),
                part: wire.part,
            },
            loading: wire.loading,
        }
    }
}

fn cursor_to_wire(cursor: Cursor) -> v1::WatchPosition {
    WatchPosition { cursor, loading: None }.into()
}

fn cursor_from_wire(wire: v1::WatchPosition) -> Cursor {
    WatchPosition::from(wire).cursor
}

impl From<WatchToken> for v1::WatchToken {
    fn from(token: WatchToken) -> Self {
        let groups = token.groups.into_iter();
        Self {
            map_version: token.map_version.0,
            groups: groups.map(|(group, position)| (group.0, position.into())).collect(),
        }
    }
}

impl From<v1::WatchToken> for WatchToken {
    fn from(wire: v1::WatchToken) -> Self {
        let groups = wire.groups.into_iter();
        Self {
            map_version: MapVersion(wire.map_version),
            groups: groups
                .map(|(group, position)| (GroupId(group), position.into()))
                .collect(),
        }
    }
}

impl From<Change> for v1::Change {
    fn from(change: Change) -> Self {
        use v1::change::Kind;
        let kind = match change.kind {
            ChangeKind::Put(value) => Kind::Put(value.into()),
            ChangeKind::Delete { version } => Kind::Deleted(version.0),
            ChangeKind::Expire { version } => Kind::Expired(version.0),
        };
        Self {
            position: Some(change.position.into()),
            ordinal: change.ordinal,
            time_ms: change.time.0,
            key: change.key,
            kind: Some(kind),
        }
    }
}

impl TryFrom<v1::Change> for Change {
    type Error = Malformed;

    fn try_from(wire: v1::Change) -> Result<Self, Malformed> {
        use v1::change::Kind;
        let kind = match wire.kind.ok_or_else(|| Malformed::missing("change.kind"))? {
            Kind::Put(value) => ChangeKind::Put(value.into()),
            Kind::Deleted(version) => ChangeKind::Delete {
                version: Version(version),
            },
            Kind::Expired(version) => ChangeKind::Expire {
                version: Version(version),
            },
        };
        Ok(Self {
            position: wire
                .position
                .ok_or_else(|| Malformed::missing("change.position"))?
                .into(),
            ordinal: wire.ordinal,
            time: ReplicatedTime(wire.time_ms),
            key: wire.key,
            kind,
        })
    }
}

pub(super) fn query_to_wire(query: ChangesQuery) -> internal::read::Changes {
    use internal::read::changes::Keys;
    let keys = match query.selection {
        Selection::All => None,
        Selection::Prefix(prefix) => Some(Keys::Prefix(prefix)),
        Selection::Key(key) => Some(Keys::Key(key)),
    };
    internal::read::Changes {
        after: query.after.map(cursor_to_wire),
        keys,
        max_bytes: query.max_bytes,
        wait_ms: u32::try_from(millis(query.wait)).unwrap_or(u32::MAX),
    }
}

pub(super) fn query_from_wire(wire: internal::read::Changes) -> ChangesQuery {
    use internal::read::changes::Keys;
    let selection = match wire.keys {
        None => Selection::All,
        Some(Keys::Prefix(prefix)) => Selection::Prefix(prefix),
        Some(Keys::Key(key)) => Selection::Key(key),
    };
    ChangesQuery {
        after: wire.after.map(cursor_from_wire),
        selection,
        max_bytes: wire.max_bytes,
        wait: Duration::from_millis(wire.wait_ms.into()),
    }
}

pub(super) fn changes_to_wire(changes: Vec<Change>, reached: Cursor, time: ReplicatedTime) -> internal::Changes {
    internal::Changes {
        changes: changes.into_iter().map(Into::into).collect(),
        reached: Some(cursor_to_wire(reached)),
        time_ms: time.0,
    }
}

pub(super) fn changes_from_wire(wire: internal::Changes) -> Result<Answer, Malformed> {
    let reached = wire.reached.ok_or_else(|| Malformed::missing("changes.reached"))?;
    Ok(Answer::Changes {
        changes: wire
            .changes
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<_, _>>()?,
        reached: cursor_from_wire(reached),
        time: ReplicatedTime(wire.time_ms),
    })
}

#[cfg(test)]
mod tests {
    use super::super::shard;
    use super::*;
    use bytes::Bytes;
    use fulcrum_types::{
        Answered, Epoch, GroupRequest, Index, KeyspaceId, Level, LogPosition, Mode, NodeId, Operation, Query,
        ReadRequest, Receipt, Role, StalenessBasis, Versioned,
    };

    fn position(index: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(3),
            index: Index(index),
        }
    }

    fn changes() -> Vec<Change> {
        let kinds = [
            ChangeKind::Put(Versioned {
                value: Bytes::from_static(b"v"),
                version: Version(7),
                expires_at_ms: 9,
            }),
            ChangeKind::Delete { version: Version(7) },
            ChangeKind::Expire { version: Version(4) },
        ];
        let made = (0..).zip(kinds).map(|(ordinal, kind)| Change {
            position: position(7),
            ordinal,
            time: ReplicatedTime(99),
            key: Bytes::from_static(b"k"),
            kind,
        });
        made.collect()
    }

    #[test]
    fn a_token_comes_back_as_it_was() {
        let positions = [
            WatchPosition::default(),
            WatchPosition {
                cursor: Cursor {
                    position: position(7),
                    part: Some(2),
                },
                loading: Some(Bytes::new()),
            },
        ];
        let token = WatchToken {
            map_version: MapVersion(5),
            groups: (1..).map(GroupId).zip(positions).collect(),
        };
        assert_eq!(WatchToken::from(v1::WatchToken::from(token.clone())), token);
    }

    #[test]
    fn questions_and_answers_come_back_as_they_were() {
        for selection in [
            Selection::All,
            Selection::Key(Bytes::from_static(b"k")),
            Selection::Prefix(Bytes::new()),
        ] {
            let query = ChangesQuery {
                after: Some(Cursor {
                    position: position(6),
                    part: Some(1),
                }),
                selection,
                max_bytes: 1000,
                wait: Duration::from_millis(500),
            };
            let request = GroupRequest {
                keyspace: KeyspaceId(1),
                group: GroupId(2),
                map_version: MapVersion(3),
                deadline: Duration::from_secs(1),
                operation: Operation::Read(ReadRequest {
                    level: Level::Eventual,
                    acceptable: vec![],
                    seen: None,
                    query: Query::Changes(query),
                }),
            };
            assert_eq!(shard::tests::over_the_wire(&request), Ok(request));
        }
        let answered = Answered {
            answer: Answer::Changes {
                changes: changes(),
                reached: Cursor::behind(position(8)),
                time: ReplicatedTime(100),
            },
            receipt: Receipt {
                mode: Mode::Sync,
                asked: Level::Eventual,
                achieved: Level::Eventual,
                group: GroupId(2),
                replica: NodeId(1),
                role: Role::Backup,
                epoch: Epoch(3),
                index: Index(8),
                acknowledged_by: vec![],
                durable: false,
                staleness: None,
                basis: StalenessBasis::None,
                map_version: MapVersion(3),
                rounds: 0,
                elapsed: Duration::ZERO,
            },
        };
        let wire = shard::response_to_wire(4, Ok(answered.clone()));
        assert_eq!(
            shard::response_from_wire(wire),
            Ok(Ok(shard::Reply::Answered(Box::new(answered))))
        );
    }

    #[test]
    fn a_change_without_a_kind_is_named() {
        let wire = v1::Change::default();
        assert!(Change::try_from(wire).unwrap_err().0.contains("change.kind"));
    }
}
