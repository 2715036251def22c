//! Transactions of the fake: one group in which everything is decided at once.

use super::{Fake, conclude};
use fulcrum_common::wire::batch::{TransactionPipelineRequest, TransactionPipelineResponse};
use fulcrum_common::wire::v1::transaction_answer::Answer;
use fulcrum_common::wire::v1::transaction_call::Call;
use fulcrum_common::wire::v1::transactions_server::Transactions;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{
    AbortCause, CommitOutcome, CommitRequest, Committed, CommittedPart, Condition, GroupId, InDoubt, InKeyspace,
    KeyspaceId, ListInDoubt, Mutation, NamedKey, Observed, OutcomeRequest, Participant, Refusal, ResolveRequest, Told,
    TransactionId, TransactionOutcome, TransactionRead, TransactionValues, Version, Versioned,
};
use futures::stream::{self, BoxStream};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use tonic::{Request, Response, Status, Streaming};

/// What became of a transaction.
type Decided = Result<CommitOutcome, AbortCause>;

#[derive(Default)]
pub struct Transacting {
    pub values: BTreeMap<NamedKey, Observed>,
    pub version: u64,
    pub decided: BTreeMap<TransactionId, Decided>,
    /// As they came in, repetitions too.
    pub reads: Vec<TransactionRead>,
    pub commits: Vec<CommitRequest>,
    pub look_ups: Vec<OutcomeRequest>,
    /// Streams of calls that were opened.
    pub streams: usize,
    /// Whether it answers when it is asked for outcomes.
    pub forgetful: bool,
    /// Whether outcomes name a second group.
    pub spanning: bool,
    /// What is told to be in doubt.
    pub in_doubt: InDoubt,
}

impl Transacting {
    /// Writes as somebody else would.
    pub fn set(&mut self, keyspace: &str, key: &str, value: &str) {
        let key = InKeyspace {
            keyspace: keyspace.to_owned(),
            what: key.to_owned().into(),
        };
        self.version += 1;
        self.store(key, Some(value.to_owned().into()));
    }

    pub fn get(&self, keyspace: &str, key: &str) -> Option<String> {
        let key = InKeyspace {
            keyspace: keyspace.to_owned(),
            what: key.to_owned().into(),
        };
        let found = self.values.get(&key)?.value.as_ref()?;
        Some(String::from_utf8(found.value.to_vec()).unwrap())
    }

    fn store(&mut self, key: NamedKey, value: Option<bytes::Bytes>) {
        let version = Version(self.version);
        let value = value.map(|value| Versioned {
            value,
            version,
            expires_at_ms: 0,
        });
        self.values.insert(key, Observed { version, value });
    }

    fn observed(&self, keyspace: &str, key: &bytes::Bytes) -> Observed {
        let key = InKeyspace {
            keyspace: keyspace.to_owned(),
            what: key.clone(),
        };
        self.values.get(&key).cloned().unwrap_or_default()
    }

    fn commit(&mut self, request: &CommitRequest) -> Decided {
        if let Some(decided) = self.decided.get(&request.id) {
            return decided.clone();
        }
        let decided = self.decide(request);
        self.decided.insert(request.id, decided.clone());
        decided
    }

    fn decide(&mut self, request: &CommitRequest) -> Decided {
        for (at, read) in (0..).zip(&request.reads) {
            let now = self.observed(&read.keyspace, &read.what.key);
            if (now.version, now.value.is_some()) != (read.what.version, read.what.exists) {
                return Err(AbortCause::ReadInvalidated {
                    group: GroupId(1),
                    read: at,
                });
            }
        }
        for InKeyspace { keyspace, what } in &request.conditions {
            let now = self.observed(keyspace, &what.key).value;
            if !holds(&what.condition, now.as_ref()) {
                let key = InKeyspace {
                    keyspace: keyspace.clone(),
                    what: what.key.clone(),
                };
                let current = now.map(|value| value.version);
                return Ok(CommitOutcome::ConditionFailed { key, current });
            }
        }
        if !request.writes.is_empty() {
            self.version += 1;
        }
        for InKeyspace { keyspace, what } in &request.writes {
            let key = InKeyspace {
                keyspace: keyspace.clone(),
                what: what.key.clone(),
            };
            match &what.mutation {
                Mutation::Put { value, .. } => self.store(key, Some(value.clone())),
                Mutation::Delete => self.store(key, None),
            }
        }
        Ok(CommitOutcome::Committed {
            versions: request.writes.iter().map(|_| Version(self.version)).collect(),
            rounds: u32::from(!request.writes.is_empty()),
        })
    }

    fn outcome(&mut self, request: &OutcomeRequest) -> TransactionOutcome {
        if request.settle {
            self.decided.entry(request.id).or_insert(Err(AbortCause::Client));
        }
        let part = CommittedPart {
            participant: Participant {
                keyspace: KeyspaceId(1),
                group: GroupId(1),
            },
            version: Version(self.version),
        };
        let parts = 1 + usize::from(self.spanning);
        match self.decided.get(&request.id) {
            Some(Ok(CommitOutcome::Committed { .. })) => TransactionOutcome::Committed(vec![part; parts]),
            Some(Ok(CommitOutcome::ConditionFailed { current, .. })) => {
                TransactionOutcome::Aborted(AbortCause::ConditionFailed {
                    group: GroupId(1),
                    condition: 0,
                    current: *current,
                })
            }
            Some(Err(cause)) => TransactionOutcome::Aborted(*cause),
            None => TransactionOutcome::NotSeen,
        }
    }
}

fn holds(condition: &Condition, now: Option<&Versioned>) -> bool {
    match condition {
        Condition::None => true,
        Condition::Absent => now.is_none(),
        Condition::Exists => now.is_some(),
        Condition::VersionIs(version) => now.is_some_and(|now| now.version == *version),
        Condition::ValueIs(value) => now.is_some_and(|now| now.value == *value),
        Condition::UnchangedSince(version) => now.is_none_or(|now| now.version <= *version),
    }
}

fn refused(refusal: &Refusal) -> Status {
    status::refusal_to_status(refusal)
}

#[tonic::async_trait]
impl Transactions for Fake {
    async fn read(
        &self,
        request: Request<v1::TransactionReadRequest>,
    ) -> Result<Response<v1::TransactionReadResponse>, Status> {
        let read = TransactionRead::try_from(request.into_inner()).unwrap();
        let values = self.with(|state| {
            let transactions = &mut state.transactions;
            let observed = read
                .keys
                .iter()
                .map(|key| transactions.observed(&key.keyspace, &key.what));
            let observed = observed.collect();
            transactions.reads.push(read);
            let receipts = vec![self.receipt(transactions.version).try_into().unwrap()];
            TransactionValues { observed, receipts }
        });
        conclude(self.next_reaction(), Response::new(values.into())).await
    }

    async fn commit(&self, request: Request<v1::CommitRequest>) -> Result<Response<v1::CommitResponse>, Status> {
        let request = CommitRequest::try_from(request.into_inner()).unwrap();
        let id = request.id;
        let reaction = self.next_reaction();
        let decided = self.with(|state| {
            state.transactions.commits.push(request.clone());
            let decided = reaction.applies().then(|| state.transactions.commit(&request));
            let receipt = self.receipt(state.transactions.version).try_into().unwrap();
            decided.map(|decided| {
                decided.map(|outcome| Committed {
                    outcome,
                    receipts: vec![receipt],
                })
            })
        });
        match decided {
            None => conclude(reaction, Response::new(v1::CommitResponse::default())).await,
            Some(Ok(committed)) => conclude(reaction, Response::new(committed.into())).await,
            Some(Err(cause)) => {
                conclude(reaction, ()).await?;
                Err(refused(&Refusal::Aborted { id, cause }))
            }
        }
    }

    type PipelineStream = BoxStream<'static, Result<TransactionPipelineResponse, Status>>;

    /// Each call as one by itself. [`Reaction::Lose`] and [`Reaction::Vanish`] break the stream.
    async fn pipeline(
        &self,
        request: Request<Streaming<TransactionPipelineRequest>>,
    ) -> Result<Response<Self::PipelineStream>, Status> {
        let fake = self.clone();
        self.with(|state| state.transactions.streams += 1);
        let calls = request
            .into_inner()
            .map_ok(|batch| stream::iter(batch.items().map(|call| Ok(call.unwrap()))));
        let answers = calls
            .try_flatten()
            .map_ok(move |call| fake.clone().called(call))
            .try_buffer_unordered(1_000)
            .map_ok(|answer| [answer].into_iter().collect());
        Ok(Response::new(answers.boxed()))
    }

    async fn get_outcome(
        &self,
        request: Request<v1::TransactionOutcomeRequest>,
    ) -> Result<Response<v1::TransactionOutcomeResponse>, Status> {
        let request = OutcomeRequest::try_from(request.into_inner()).unwrap();
        let (outcome, index) = self.with(|state| {
            let transactions = &mut state.transactions;
            transactions.look_ups.push(request.clone());
            let outcome = (!transactions.forgetful).then(|| transactions.outcome(&request));
            (outcome, transactions.version)
        });
        let outcome = outcome.ok_or_else(|| refused(&Refusal::NotReady))?;
        let receipt = self.receipt(index).try_into().unwrap();
        Ok(Response::new(Told { outcome, receipt }.into()))
    }

    async fn list_in_doubt(
        &self,
        request: Request<v1::ListInDoubtRequest>,
    ) -> Result<Response<v1::ListInDoubtResponse>, Status> {
        let request = ListInDoubt::from(request.into_inner());
        let mut list = self.with(|state| state.transactions.in_doubt.clone());
        if request.limit > 0 {
            list.transactions.truncate(request.limit as usize);
        }
        Ok(Response::new(list.into()))
    }

    async fn resolve(&self, request: Request<v1::ResolveRequest>) -> Result<Response<v1::ResolveResponse>, Status> {
        let ResolveRequest { id, .. } = ResolveRequest::try_from(request.into_inner()).unwrap();
        let outcome = self.with(|state| {
            let decided = &mut state.transactions.decided;
            decided.entry(id).or_insert(Err(AbortCause::Operator));
            state.transactions.outcome(&OutcomeRequest {
                id,
                ..OutcomeRequest::default()
            })
        });
        let receipt = self.receipt(1).try_into().unwrap();
        Ok(Response::new(Told { outcome, receipt }.into()))
    }
}

impl Fake {
    async fn called(self, call: v1::TransactionCall) -> Result<v1::TransactionAnswer, Status> {
        let answer = match call.call.unwrap() {
            Call::Read(read) => {
                let values = Transactions::read(&self, Request::new(read)).await;
                values.map(|values| Answer::Read(values.into_inner()))
            }
            Call::Commit(commit) => {
                let committed = self.commit(Request::new(commit)).await;
                committed.map(|committed| Answer::Commit(committed.into_inner()))
            }
        };
        let answer = match answer {
            Err(broken) if broken.details().is_empty() => return Err(broken),
            Err(refusal) => Answer::Error(Box::new(status::refusal_to_wire(&status::refusal_from_status(
                &refusal,
            )))),
            Ok(answer) => answer,
        };
        Ok(v1::TransactionAnswer {
            id: call.id,
            answer: Some(answer),
        })
    }
}
