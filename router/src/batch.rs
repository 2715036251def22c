//! Batches: split by group, sent in parallel, joined in the order asked. One group's failure is that group's items' alone.

use crate::dispatch::Order;
use crate::order;
use crate::service::{KvService, map_read, map_seen, unexpected, written};
use bytes::Bytes;
use fulcrum_common::Keyspace;
use fulcrum_common::key::{bytes_of, validate_batch};
use fulcrum_common::routing::Kind;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{Answer, Answered, GroupId, Operation, Query, Refusal, SessionToken, TraceContext, WriteOp};
use futures::future::join_all;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// Positions in the batch, by the group that owns the key.
fn by_group<'a>(keyspace: &Keyspace, keys: impl Iterator<Item = &'a [u8]>) -> BTreeMap<GroupId, Vec<usize>> {
    let mut groups: BTreeMap<GroupId, Vec<usize>> = BTreeMap::new();
    for (position, key) in keys.enumerate() {
        groups.entry(keyspace.group_of(key)).or_default().push(position);
    }
    groups
}

pub(crate) async fn get(
    service: &KvService,
    request: v1::BatchGetRequest,
    until: Instant,
    asked_by: Option<TraceContext>,
) -> Result<v1::BatchGetResponse, Refusal> {
    use v1::batch_get_response::{Item, Missing, item::Result as R};
    validate_batch(request.keys.len(), request.keys.iter().map(Bytes::len).sum())?;
    service.catch_up(map_read(request.options.as_ref()), until).await?;
    let keyspace = service.keyspace(&request.keyspace)?;
    let reading = order::reading(&keyspace, request.options)?;
    let groups = by_group(&keyspace, request.keys.iter().map(AsRef::as_ref));
    let calls = groups.iter().map(|(group, positions)| {
        let keys = positions
            .iter()
            .map(|position| request.keys[*position].clone())
            .collect();
        let operation = reading.request(*group, Query::Get(keys));
        let order = Order {
            keyspace: keyspace.clone(),
            group: *group,
            operation,
            kind: Kind::Read(reading.level),
            name: "batch_get",
            until,
            pass_on: false,
            in_doubt: false,
        };
        service.dispatch.ask(order, asked_by)
    });
    let results = join_all(calls).await;
    let mut items = vec![Item::default(); request.keys.len()];
    let mut receipts = Vec::with_capacity(groups.len());
    for (positions, result) in groups.values().zip(results) {
        match result.and_then(|answered| values(answered, positions.len())) {
            Ok((values, receipt)) => {
                receipts.push(receipt);
                for (position, value) in positions.iter().zip(values) {
                    items[*position].result = Some(value.map_or(R::Missing(Missing {}), |v| R::Value(v.into())));
                }
            }
            Err(refusal) => {
                for position in positions {
                    items[*position].result = Some(R::Error(status::refusal_to_wire(&refusal)));
                }
            }
        }
    }
    Ok(v1::BatchGetResponse { items, receipts })
}

type Values = (Vec<Option<fulcrum_types::Versioned>>, v1::Receipt);

fn values(answered: Answered, expected: usize) -> Result<Values, Refusal> {
    match answered.answer {
        Answer::Values(values) if values.len() == expected => Ok((values, answered.receipt.into())),
        other => Err(unexpected(&other)),
    }
}

pub(crate) async fn write(
    service: &KvService,
    request: v1::BatchWriteRequest,
    until: Instant,
    asked_by: Option<TraceContext>,
) -> Result<v1::BatchWriteResponse, Refusal> {
    use v1::batch_write_response::{Item, item::Result as R};
    let ops = request
        .writes
        .into_iter()
        .map(TryInto::try_into)
        .collect::<Result<Vec<WriteOp>, _>>()?;
    validate_batch(ops.len(), ops.iter().map(bytes_of).sum())?;
    service.catch_up(map_seen(request.session.as_ref()), until).await?;
    let keyspace = service.keyspace(&request.keyspace)?;
    let session: Option<SessionToken> = request.session.map(Into::into);
    let key = request.idempotency.map(TryInto::try_into).transpose()?;
    let groups = by_group(&keyspace, ops.iter().map(|op| op.key.as_ref()));
    let calls = groups.iter().map(|(group, positions)| {
        let mine = positions.iter().map(|position| ops[*position].clone()).collect();
        let seen = session.as_ref().and_then(|token| token.groups.get(group).copied());
        let operation = Operation::Write {
            idempotency: key,
            seen,
            ops: mine,
        };
        let order = order::write(keyspace.clone(), *group, operation, until);
        service.dispatch.ask(order, asked_by)
    });
    let results = join_all(calls).await;
    let mut items = vec![Item::default(); ops.len()];
    let mut receipts = Vec::with_capacity(groups.len());
    for (positions, result) in groups.values().zip(results) {
        match result.and_then(written) {
            Ok((outcomes, receipt)) => {
                receipts.push(receipt.into());
                for (position, outcome) in positions.iter().zip(outcomes) {
                    items[*position].result = Some(R::Outcome(outcome.into()));
                }
            }
            Err(refusal) => {
                for position in positions {
                    items[*position].result = Some(R::Error(status::refusal_to_wire(&refusal)));
                }
            }
        }
    }
    Ok(v1::BatchWriteResponse { items, receipts })
}
