//! Followed transactions: a span for what a client asks, and under it one for every question to a group.
//!
//! The core knows nothing of traces. Questions of reads and look-ups come with the request that they are asked for, the others name the
//! transaction that they are about, and by that they find its span: also those that come after the client was answered, when participants
//! are told of the decision.

use crate::event::Wanted;
use foldhash::fast::RandomState;
use fulcrum_common::trace::{self, Kind, Span};
use fulcrum_two_phase::{Reply, RequestId};
use fulcrum_types::{Mono, Participant, Refusal, TraceContext, TransactionId, TransactionOperation};
use std::collections::HashMap;
use std::time::Duration;

/// Transactions that are followed at a time; further ones are carried out as any other.
const FOLLOWED: usize = 1024;
/// A transaction is told to its groups soon after its end, or not from here.
const AFTERWARDS: Duration = Duration::from_secs(5);

struct Followed {
    context: Option<TraceContext>,
    /// Since when its client has its answer.
    ended: Option<Mono>,
    request: RequestId,
}

#[derive(Default)]
pub(crate) struct Traces {
    spans: HashMap<RequestId, (TransactionId, Span), RandomState>,
    transactions: HashMap<TransactionId, Followed, RandomState>,
}

impl Traces {
    pub(crate) fn asked(&mut self, request: RequestId, wanted: &Wanted, asked_by: TraceContext) {
        if self.transactions.len() >= FOLLOWED {
            return;
        }
        let (name, id) = match wanted {
            Wanted::Commit(plan) => ("commit", plan.id),
            Wanted::Read { id, .. } => ("read", *id),
            Wanted::LookUp { id, .. } => ("look_up", *id),
        };
        let mut span = trace::follow(Kind::Internal, name, Some(asked_by));
        if span.is_recorded() {
            span.set("fulcrum.transaction", id.to_string());
        }
        let followed = Followed {
            context: span.context(),
            ended: None,
            request,
        };
        self.transactions.insert(id, followed);
        self.spans.insert(request, (id, span));
    }

    /// A client is answered.
    pub(crate) fn replied(&mut self, now: Mono, request: RequestId, result: &Result<Reply, Refusal>) {
        if self.spans.is_empty() {
            return;
        }
        let Some((id, mut span)) = self.spans.remove(&request) else {
            return;
        };
        if let Ok(Reply::Committed { parts, rounds, .. }) = result {
            span.set("fulcrum.participants", parts.len() as u64);
            span.set("fulcrum.rounds", u64::from(*rounds));
        }
        span.end(result.as_ref().err());
        if let Some(followed) = self.transactions.get_mut(&id)
            && followed.request == request
        {
            followed.ended = Some(now);
        }
    }

    /// A client has gone.
    pub(crate) fn gone(&mut self, request: RequestId) {
        if let Some((id, _)) = self.spans.remove(&request) {
            self.transactions.remove(&id);
        }
    }

    /// A group is asked, perhaps for one request alone: the span that is told to it.
    pub(crate) fn asks(&self, to: Participant, operation: &TransactionOperation, request: Option<RequestId>) -> Span {
        if self.transactions.is_empty() {
            return Span::none();
        }
        let asked_by = match request {
            Some(request) => self.spans.get(&request).and_then(|(_, span)| span.context()),
            None => self.about(operation).and_then(|id| self.transactions.get(&id)?.context),
        };
        let mut span = trace::follow(Kind::Client, operation.name(), asked_by);
        span.set_rpc("fulcrum.internal.v1.Shard", "Exchange");
        span.set("fulcrum.group", to.group.0);
        span
    }

    /// Which transaction a question is about. One about several is followed if one of them is: with the first.
    fn about(&self, operation: &TransactionOperation) -> Option<TransactionId> {
        use TransactionOperation as Op;
        let followed = |id: &TransactionId| self.transactions.contains_key(id);
        match operation {
            Op::Transact(request) => Some(request.id),
            Op::Prepare(request) => Some(request.id),
            Op::Decide(decide) => Some(decide.id),
            Op::Resolve(all) => all.iter().map(|one| one.id).find(followed),
            Op::Forget(ids) => ids.iter().copied().find(followed),
            Op::Read { .. } | Op::Validate { .. } | Op::LookUp(_) | Op::Heartbeat(_) | Op::List { .. } => None,
        }
    }

    /// Forgets what ended long ago.
    pub(crate) fn expire(&mut self, now: Mono) {
        if !self.transactions.is_empty() {
            let recent = |ended: Mono| now.since(ended) < AFTERWARDS;
            self.transactions
                .retain(|_, followed| followed.ended.is_none_or(recent));
        }
    }
}
