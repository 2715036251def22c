//! From the public API's requests to what a group is asked, by a cluster map; and from answers back.

use bytes::Bytes;
use fulcrum_common::key::{bytes_of, validate_batch, validate_write};
use fulcrum_common::wire::{types, v1};
use fulcrum_common::{ClusterMap, Keyspace};
use fulcrum_types::{
    Answer, Answered, GroupId, GroupRequest, IdempotencyKey, Level, LogPosition, Mutation, Operation, Query,
    ReadRequest, RecordedOutcome, Refusal, SessionToken, Versioned, WriteOp, WriteOutcome,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// A cluster map and the time that a request has. What breaks a limit by itself is refused here, what one group's part breaks by the node.
pub(super) struct Frame {
    pub(super) map: Arc<ClusterMap>,
    pub(super) deadline: Duration,
}

impl Frame {
    fn keyspace(&self, name: &str) -> Result<&Keyspace, Refusal> {
        let unknown = || Refusal::UnknownKeyspace {
            keyspace: name.to_owned(),
        };
        self.map
            .keyspace_by_name(name)
            .map(|keyspace| &**keyspace)
            .ok_or_else(unknown)
    }

    /// A session that has seen a newer map must not be served by an older one: who owned a slot by it may no longer
    /// (rule 8).
    fn session(&self, token: Option<v1::SessionToken>) -> Result<Option<SessionToken>, Refusal> {
        let token: Option<SessionToken> = token.map(Into::into);
        match &token {
            Some(token) if token.map_version > self.map.version() => Err(Refusal::WrongGroup {
                map_version: self.map.version(),
            }),
            _ => Ok(token),
        }
    }

    fn request(&self, keyspace: &Keyspace, group: GroupId, operation: Operation) -> GroupRequest {
        let map_version = self.map.version();
        GroupRequest {
            keyspace: keyspace.id,
            group,
            map_version,
            deadline: self.deadline,
            operation,
        }
    }

    pub(super) fn get(&self, wire: v1::GetRequest) -> Result<GroupRequest, Refusal> {
        let keyspace = self.keyspace(&wire.keyspace)?;
        let reading = self.reading(keyspace, wire.options)?;
        let group = keyspace.group_of(&wire.key);
        Ok(self.request(keyspace, group, reading.of(group, vec![wire.key])))
    }

    fn reading(&self, keyspace: &Keyspace, options: Option<v1::ReadOptions>) -> Result<Reading, Refusal> {
        let options = options.unwrap_or_default();
        let level = options.consistency.map(TryInto::try_into).transpose()?;
        Ok(Reading {
            level: level.unwrap_or(keyspace.options.default_level),
            acceptable: options
                .acceptable
                .into_iter()
                .map(TryInto::try_into)
                .collect::<Result<_, _>>()?,
            session: self.session(options.session)?,
        })
    }

    pub(super) fn put(&self, wire: v1::PutRequest) -> Result<GroupRequest, Refusal> {
        let mutation = Mutation::Put {
            value: wire.value,
            ttl: types::ttl(wire.ttl_ms),
        };
        let op = WriteOp {
            key: wire.key,
            condition: types::condition(wire.condition),
            mutation,
        };
        self.write(&wire.keyspace, op, wire.idempotency, wire.session)
    }

    pub(super) fn delete(&self, wire: v1::DeleteRequest) -> Result<GroupRequest, Refusal> {
        let op = WriteOp {
            key: wire.key,
            condition: types::condition(wire.condition),
            mutation: Mutation::Delete,
        };
        self.write(&wire.keyspace, op, wire.idempotency, wire.session)
    }

    fn write(
        &self,
        keyspace: &str,
        op: WriteOp,
        idempotency: Option<v1::IdempotencyKey>,
        session: Option<v1::SessionToken>,
    ) -> Result<GroupRequest, Refusal> {
        let keyspace = self.keyspace(keyspace)?;
        let group = keyspace.group_of(&op.key);
        let seen = seen(self.session(session)?.as_ref(), group);
        validate_write(&op)?;
        let idempotency = idempotency.map(TryInto::try_into).transpose()?;
        Ok(self.request(
            keyspace,
            group,
            Operation::Write {
                idempotency,
                seen,
                ops: vec![op],
            },
        ))
    }

    pub(super) fn batch_get(&self, wire: v1::BatchGetRequest) -> Result<Vec<Part>, Refusal> {
        let keyspace = self.keyspace(&wire.keyspace)?;
        validate_batch(wire.keys.len(), wire.keys.iter().map(Bytes::len).sum())?;
        let reading = self.reading(keyspace, wire.options)?;
        let parts = split(wire.keys, |key| keyspace.group_of(key));
        let part = |(group, (at, keys))| Part {
            at,
            request: self.request(keyspace, group, reading.of(group, keys)),
        };
        Ok(parts.into_iter().map(part).collect())
    }

    pub(super) fn batch_write(&self, wire: v1::BatchWriteRequest) -> Result<Vec<Part>, Refusal> {
        let keyspace = self.keyspace(&wire.keyspace)?;
        let session = self.session(wire.session)?;
        let idempotency: Option<IdempotencyKey> = wire.idempotency.map(TryInto::try_into).transpose()?;
        let ops = wire
            .writes
            .into_iter()
            .map(TryInto::try_into)
            .collect::<Result<Vec<WriteOp>, _>>()?;
        validate_batch(ops.len(), ops.iter().map(bytes_of).sum())?;
        let parts = split(ops, |op| keyspace.group_of(&op.key));
        let part = |(group, (at, ops))| {
            let operation = Operation::Write {
                idempotency,
                seen: seen(session.as_ref(), group),
                ops,
            };
            Part {
                at,
                request: self.request(keyspace, group, operation),
            }
        };
        Ok(parts.into_iter().map(part).collect())
    }

    pub(super) fn outcome(&self, wire: v1::GetOutcomeRequest) -> Result<GroupRequest, Refusal> {
        let keyspace = self.keyspace(&wire.keyspace)?;
        let reason = "idempotency is missing: it says which write is meant".to_owned();
        let key = wire.idempotency.ok_or(Refusal::Invalid { reason })?;
        Ok(self.request(
            keyspace,
            keyspace.group_of(&wire.key),
            Operation::Outcome(key.try_into()?),
        ))
    }
}

/// How to read.
struct Reading {
    level: Level,
    acceptable: Vec<Level>,
    session: Option<SessionToken>,
}

impl Reading {
    fn of(&self, group: GroupId, keys: Vec<Bytes>) -> Operation {
        Operation::Read(ReadRequest {
            level: self.level,
            acceptable: self.acceptable.clone(),
            seen: seen(self.session.as_ref(), group),
            query: Query::Get(keys),
        })
    }
}

fn seen(session: Option<&SessionToken>, group: GroupId) -> Option<LogPosition> {
    session.and_then(|token| token.groups.get(&group).copied())
}

/// What one group is asked of a batch, and where in the batch its items stood.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) at: Vec<usize>,
    pub(super) request: GroupRequest,
}

/// The items of each group with their places.
fn split<T>(items: Vec<T>, group_of: impl Fn(&T) -> GroupId) -> BTreeMap<GroupId, (Vec<usize>, Vec<T>)> {
    let mut parts: BTreeMap<GroupId, (Vec<usize>, Vec<T>)> = BTreeMap::new();
    for (at, item) in items.into_iter().enumerate() {
        let (places, items) = parts.entry(group_of(&item)).or_default();
        places.push(at);
        items.push(item);
    }
    parts
}

/// An answer of another kind than asked for: the node's mistake, not the client's.
fn mismatch() -> Refusal {
    Refusal::Unknown {
        reason: "the node answered something else than it was asked".to_owned(),
    }
}

pub(super) fn get_response(answered: Answered) -> Result<v1::GetResponse, Refusal> {
    let Answer::Values(mut values) = answered.answer else {
        return Err(mismatch());
    };
    let value = values.pop().flatten().map(Into::into);
    Ok(v1::GetResponse {
        value,
        receipt: Some(answered.receipt.into()),
    })
}

pub(super) fn write_response(answered: Answered) -> Result<v1::WriteResponse, Refusal> {
    let Answer::Written(mut outcomes) = answered.answer else {
        return Err(mismatch());
    };
    let outcome = outcomes.pop().ok_or_else(mismatch)?;
    Ok(v1::WriteResponse {
        outcome: Some(outcome.into()),
        receipt: Some(answered.receipt.into()),
    })
}

pub(super) fn outcome_response(answered: Answered) -> Result<v1::GetOutcomeResponse, Refusal> {
    use v1::get_outcome_response::State;
    let Answer::Outcome(recorded) = answered.answer else {
        return Err(mismatch());
    };
    let (state, outcomes) = match recorded {
        RecordedOutcome::Known(outcomes) => (State::Known, outcomes),
        RecordedOutcome::NotSeen => (State::NotSeen, Vec::new()),
        RecordedOutcome::TooOld => (State::TooOld, Vec::new()),
    };
    Ok(v1::GetOutcomeResponse {
        state: state.into(),
        outcomes: outcomes.into_iter().map(Into::into).collect(),
        receipt: Some(answered.receipt.into()),
    })
}

/// The items of one part of a batch, and its receipt.
pub(super) type PartAnswer<Item> = Result<(Vec<Item>, v1::Receipt), Refusal>;

/// The values of one part of a batch, and its receipt.
pub(super) fn values(answered: Answered) -> PartAnswer<v1::batch_get_response::Item> {
    use v1::batch_get_response::{Item, Missing, item};
    let Answer::Values(values) = answered.answer else {
        return Err(mismatch());
    };
    let item = |value: Option<Versioned>| Item {
        result: Some(match value {
            Some(value) => item::Result::Value(value.into()),
            None => item::Result::Missing(Missing {}),
        }),
    };
    Ok((values.into_iter().map(item).collect(), answered.receipt.into()))
}

/// The outcomes of one part of a batch, and its receipt.
pub(super) fn outcomes(answered: Answered) -> PartAnswer<v1::batch_write_response::Item> {
    use v1::batch_write_response::{Item, item};
    let Answer::Written(outcomes) = answered.answer else {
        return Err(mismatch());
    };
    let item = |outcome: WriteOutcome| Item {
        result: Some(item::Result::Outcome(outcome.into())),
    };
    Ok((outcomes.into_iter().map(item).collect(), answered.receipt.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::{ClusterId, KeyspaceOptions, NodeInfo};
    use fulcrum_types::{MapVersion, Mode, NodeId};

    fn map() -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        map.set_node(
            NodeId(1),
            NodeInfo {
                address: "127.0.0.1:1".into(),
                zone: None,
            },
        );
        map.add_keyspace("users", KeyspaceOptions::of(Mode::Sync, 1)).unwrap();
        map.with_version(MapVersion(5))
    }

    fn frame(map: &ClusterMap) -> Frame {
        Frame {
            map: Arc::new(map.clone()),
            deadline: Duration::from_secs(1),
        }
    }

    #[test]
    fn an_unknown_keyspace_is_named() {
        let map = map();
        let get = |keyspace: &str| {
            frame(&map).get(v1::GetRequest {
                keyspace: keyspace.into(),
                ..Default::default()
            })
        };
        assert_eq!(
            get("nope"),
            Err(Refusal::UnknownKeyspace {
                keyspace: "nope".into()
            })
        );
        assert!(get("users").is_ok());
    }

    #[test]
    fn a_session_from_a_newer_map_is_sent_elsewhere() {
        let map = map();
        let token = v1::SessionToken {
            map_version: 6,
            ..Default::default()
        };
        let wire = v1::DeleteRequest {
            keyspace: "users".into(),
            session: Some(token),
            ..Default::default()
        };
        assert_eq!(
            frame(&map).delete(wire),
            Err(Refusal::WrongGroup {
                map_version: MapVersion(5)
            })
        );
    }

    #[test]
    fn a_batch_is_split_by_group_and_every_item_keeps_its_place() {
        let map = map();
        let keys: Vec<Bytes> = (0..100).map(|i| format!("key{i}").into()).collect();
        let wire = v1::BatchGetRequest {
            keyspace: "users".into(),
            keys: keys.clone(),
            options: None,
        };
        let parts = frame(&map).batch_get(wire).unwrap();
        assert!(parts.len() > 1);
        let mut seen = vec![0; keys.len()];
        for Part { at, request } in parts {
            let Operation::Read(ReadRequest {
                query: Query::Get(asked),
                ..
            }) = request.operation
            else {
                panic!()
            };
            for (at, key) in at.into_iter().zip(asked) {
                assert_eq!(key, keys[at]);
                seen[at] += 1;
            }
        }
        assert_eq!(seen, vec![1; keys.len()]);
    }

    #[test]
    fn a_batch_beyond_the_limits_is_refused() {
        let map = map();
        let wire = v1::BatchGetRequest {
            keyspace: "users".into(),
            keys: vec![Bytes::new(); 2000],
            options: None,
        };
        assert!(matches!(frame(&map).batch_get(wire), Err(Refusal::Invalid { .. })));
    }
}
