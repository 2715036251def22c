//! What a request of the public API asks of one group, by a view of the cluster.

use crate::dispatch::Order;
use fulcrum_common::Keyspace;
use fulcrum_common::routing::{Kind, View};
use fulcrum_common::wire::{types, v1};
use fulcrum_types::{
    GroupId, IdempotencyKey, Level, LogPosition, Mutation, Operation, Query, ReadRequest, Refusal, SessionToken,
    WriteOp,
};
use std::sync::Arc;
use tokio::time::Instant;

/// How to read, decoded.
#[derive(Clone, Debug)]
pub(crate) struct Reading {
    pub(crate) level: Level,
    pub(crate) acceptable: Vec<Level>,
    pub(crate) session: Option<SessionToken>,
}

impl Reading {
    /// What it asks of one group.
    pub(crate) fn request(&self, group: GroupId, query: Query) -> Operation {
        Operation::Read(ReadRequest {
            level: self.level,
            acceptable: self.acceptable.clone(),
            seen: self.seen(group),
            query,
        })
    }

    /// The newest position of a group that the session has seen.
    pub(crate) fn seen(&self, group: GroupId) -> Option<LogPosition> {
        self.session
            .as_ref()
            .and_then(|token| token.groups.get(&group).copied())
    }
}

/// The keyspace of that name.
pub(crate) fn keyspace<'a>(view: &'a View, name: &str) -> Result<&'a Arc<Keyspace>, Refusal> {
    view.map.keyspace_by_name(name).ok_or_else(|| unknown_keyspace(name))
}

pub(crate) fn reading(keyspace: &Keyspace, options: Option<v1::ReadOptions>) -> Result<Reading, Refusal> {
    let options = options.unwrap_or_default();
    let level = match options.consistency {
        Some(level) => level.try_into()?,
        None => keyspace.options.default_level,
    };
    let acceptable = options
        .acceptable
        .into_iter()
        .map(TryInto::try_into)
        .collect::<Result<Vec<Level>, _>>()?;
    Ok(Reading {
        level,
        acceptable,
        session: options.session.map(Into::into),
    })
}

pub(crate) fn get(view: &View, request: v1::GetRequest, until: Instant) -> Result<Order, Refusal> {
    let keyspace = keyspace(view, &request.keyspace)?;
    let reading = reading(keyspace, request.options)?;
    let group = keyspace.group_of(&request.key);
    Ok(Order {
        keyspace: keyspace.clone(),
        group,
        kind: Kind::Read(reading.level),
        operation: reading.request(group, Query::Get(vec![request.key])),
        name: "get",
        until,
        pass_on: true,
        in_doubt: false,
    })
}

/// A write of one key, decoded.
pub(crate) struct WriteOfOne {
    keyspace: String,
    pub(crate) op: WriteOp,
    pub(crate) idempotency: Option<IdempotencyKey>,
    pub(crate) session: Option<SessionToken>,
}

impl WriteOfOne {
    pub(crate) fn put(request: v1::PutRequest) -> Result<Self, Refusal> {
        let mutation = Mutation::Put {
            value: request.value,
            ttl: types::ttl(request.ttl_ms),
        };
        Ok(Self {
            keyspace: request.keyspace,
            op: WriteOp {
                key: request.key,
                condition: types::condition(request.condition),
                mutation,
            },
            idempotency: request.idempotency.map(TryInto::try_into).transpose()?,
            session: request.session.map(Into::into),
        })
    }

    pub(crate) fn delete(request: v1::DeleteRequest) -> Result<Self, Refusal> {
        Ok(Self {
            keyspace: request.keyspace,
            op: WriteOp {
                key: request.key,
                condition: types::condition(request.condition),
                mutation: Mutation::Delete,
            },
            idempotency: request.idempotency.map(TryInto::try_into).transpose()?,
            session: request.session.map(Into::into),
        })
    }

    /// Where it belongs.
    pub(crate) fn keyspace<'a>(&self, view: &'a View) -> Result<&'a Arc<Keyspace>, Refusal> {
        keyspace(view, &self.keyspace)
    }

    /// What it asks of its group.
    pub(crate) fn order(self, view: &View, until: Instant) -> Result<Order, Refusal> {
        let keyspace = self.keyspace(view)?;
        let group = keyspace.group_of(&self.op.key);
        let operation = Operation::Write {
            idempotency: self.idempotency,
            seen: self.session.and_then(|token| token.groups.get(&group).copied()),
            ops: vec![self.op],
        };
        Ok(Order {
            pass_on: true,
            ..write(keyspace.clone(), group, operation, until)
        })
    }
}

pub(crate) fn put(view: &View, request: v1::PutRequest, until: Instant) -> Result<Order, Refusal> {
    WriteOfOne::put(request)?.order(view, until)
}

pub(crate) fn delete(view: &View, request: v1::DeleteRequest, until: Instant) -> Result<Order, Refusal> {
    WriteOfOne::delete(request)?.order(view, until)
}

pub(crate) fn outcome(view: &View, request: v1::GetOutcomeRequest, until: Instant) -> Result<Order, Refusal> {
    let keyspace = keyspace(view, &request.keyspace)?;
    let key = request.idempotency.ok_or_else(|| Refusal::Invalid {
        reason: "idempotency is missing: which write?".into(),
    })?;
    Ok(Order {
        keyspace: keyspace.clone(),
        group: keyspace.group_of(&request.key),
        operation: Operation::Outcome(key.try_into()?),
        kind: Kind::Read(Level::Linearizable),
        name: "get_outcome",
        until,
        pass_on: false,
        in_doubt: false,
    })
}

/// Writes of one group. The router may send them twice: they carry the client's key, or get the router's own.
pub(crate) fn write(keyspace: Arc<Keyspace>, group: GroupId, operation: Operation, until: Instant) -> Order {
    Order {
        keyspace,
        group,
        operation,
        kind: Kind::Write { safe_twice: true },
        name: "write",
        until,
        pass_on: false,
        in_doubt: false,
    }
}

pub(crate) fn unknown_keyspace(name: &str) -> Refusal {
    if name.is_empty() {
        return Refusal::Invalid {
            reason: "keyspace is missing: name one, see `fulcrum keyspace list`".into(),
        };
    }
    Refusal::UnknownKeyspace {
        keyspace: name.to_owned(),
    }
}
