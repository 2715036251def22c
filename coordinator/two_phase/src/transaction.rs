//! A transaction that is being committed: what a coordinator knows of it, and where it stands.

use crate::contract::{Plan, PlannedPart, Reply, RequestId, Shape};
use crate::timers::Wait;
use fulcrum_types::{
    AbortCause, CommittedPart, Decide, Fingerprint, Mono, Part, Participant, PrepareRequest, Receipt, Refusal,
    Transact, TransactionId, TransactionOperation, Verdict, Version,
};
use std::collections::{BTreeMap, BTreeSet};

/// What transactions under way are told apart by. Clients that use an id twice have two under one id, and the groups tell which of
/// them is refused: this coordinator cannot know whether the other one was committed before.
pub(crate) type Key = (TransactionId, Fingerprint);

/// A transaction under way.
#[derive(Clone, Debug)]
pub(crate) struct Transaction {
    /// Its parts are empty once no votes are asked for any more.
    pub(crate) plan: Plan,
    one_group: bool,
    pub(crate) began: Mono,
    /// Requests that wait for its outcome.
    pub(crate) callers: BTreeSet<RequestId>,
    /// No more votes are waited for then.
    pub(crate) votes_until: Mono,
    /// One for each part of the plan.
    pub(crate) votes: Vec<Standing>,
    pub(crate) stage: Stage,
    /// Since when it stands there.
    pub(crate) since: Mono,
    /// The home group's answer.
    pub(crate) home: Wait,
    /// Why this attempt cannot commit any more, if that is known.
    pub(crate) evidence: Option<Evidence>,
    /// What its clients are told, once that is known.
    pub(crate) outcome: Option<Outcome>,
    /// The newest receipt of each group; those of all parts together cover all that was written.
    pub(crate) receipts: BTreeMap<Participant, Receipt>,
    pub(crate) rounds: u32,
    /// What participants are told, and who has not confirmed it.
    pub(crate) verdict: Option<Verdict>,
    pub(crate) untold: BTreeSet<Participant>,
    /// The home group may forget it once all are told.
    pub(crate) forget: bool,
    /// It is left to the groups then.
    pub(crate) leave: Option<Mono>,
    /// Its end was observed.
    pub(crate) ended: bool,
}

/// What is known of one participant's vote.
#[derive(Clone, Debug, Default)]
pub(crate) struct Standing {
    pub(crate) yes: Option<Version>,
    pub(crate) wait: Wait,
    /// It may hold what it did not answer for.
    pub(crate) unsure: bool,
    /// Its last refusal.
    pub(crate) last: Option<Refusal>,
}

/// Where a transaction stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Votes are collected; of one group, its decision.
    Preparing,
    /// A participant's vote says that the home group may have a record: it is asked.
    Finding(Why),
    /// All others have said yes: the home group is asked, whose yes is the decision.
    Deciding,
    /// The home group is asked to record an abort.
    Aborting {
        cause: AbortCause,
        /// The answer to the client if it is recorded; without it the recorded cause.
        refusal: Option<Refusal>,
    },
    /// Decided: whoever has not heard of it is told.
    Resolving,
}

/// Which vote asked for a look at the home group's records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// A participant has resolved a commit.
    Resolved,
    /// A participant is past the horizon; which.
    TooOld(usize),
}

/// What rules a commit out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Evidence {
    /// A participant marked the attempt as refused: nobody can have all votes.
    Marked,
    /// The home group has recorded an abort.
    Recorded,
    /// The home group has no record and makes none any more. Who still holds the transaction may let go; a client is told nothing by
    /// it, for a commit that was resolved everywhere may have been forgotten.
    PastHorizon,
    /// The home group has recorded the commit of another transaction under this id.
    OtherCommitted,
}

/// What clients are told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Committed; told once there is a receipt of every part.
    Committed(Vec<CommittedPart>),
    /// Aborted, and the proof of it.
    Aborted { cause: AbortCause, receipt: Receipt },
    /// Refused.
    Refused(Refusal),
}

impl Transaction {
    pub(crate) fn new(plan: Plan, now: Mono, votes_until: Mono) -> Self {
        let votes = plan.parts.iter().map(|_| Standing::default()).collect();
        Self {
            one_group: plan.shape() == Shape::OneGroup,
            plan,
            began: now,
            callers: BTreeSet::new(),
            votes_until,
            votes,
            stage: Stage::Preparing,
            since: now,
            home: Wait::Nothing,
            evidence: None,
            outcome: None,
            receipts: BTreeMap::new(),
            rounds: 1,
            verdict: None,
            untold: BTreeSet::new(),
            forget: false,
            leave: None,
            ended: false,
        }
    }

    pub(crate) fn is_of_one_group(&self) -> bool {
        self.one_group
    }

    /// What its participants are to do is of no use any more: it is followed for a while after its client was answered, and may
    /// be large.
    pub(crate) fn drop_parts(&mut self) {
        for planned in &mut self.plan.parts {
            planned.part = Part::default();
        }
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        self.plan.fingerprint
    }

    pub(crate) fn participants(&self) -> impl Iterator<Item = Participant> + '_ {
        self.plan.parts.iter().map(|planned| planned.participant)
    }

    /// Whether votes are waited for.
    pub(crate) fn collects_votes(&self) -> bool {
        matches!(self.stage, Stage::Preparing | Stage::Deciding)
    }

    pub(crate) fn is_undecided(&self) -> bool {
        self.outcome.is_none()
    }

    /// The question to a participant.
    pub(crate) fn vote_asked(&self, part: usize) -> Option<(Participant, TransactionOperation)> {
        let planned = self.plan.parts.get(part)?;
        let (id, fingerprint) = (self.plan.id, self.plan.fingerprint);
        let (seen, part) = (planned.seen, planned.part.clone());
        let to_home = planned.participant == self.plan.home;
        let operation = if self.is_of_one_group() {
            TransactionOperation::Transact(Box::new(Transact {
                id,
                fingerprint,
                seen,
                part,
            }))
        } else {
            TransactionOperation::Prepare(Box::new(PrepareRequest {
                id,
                priority: self.plan.priority,
                fingerprint,
                home: self.plan.home,
                participants: self.participants().collect(),
                seen,
                votes: match to_home {
                    true => self.votes_of_others()?,
                    false => Vec::new(),
                },
                part,
            }))
        };
        Some((planned.participant, operation))
    }

    /// The question to the home group, where there is one.
    pub(crate) fn home_asked(&self) -> Option<TransactionOperation> {
        let id = self.plan.id;
        match &self.stage {
            Stage::Preparing | Stage::Deciding | Stage::Resolving => None,
            Stage::Finding(_) => Some(TransactionOperation::LookUp(id)),
            Stage::Aborting { cause, .. } => Some(TransactionOperation::Decide(Decide {
                id,
                fingerprint: Some(self.fingerprint()),
                cause: *cause,
            })),
        }
    }

    /// The home group's part, where others have one, too: it is asked last.
    pub(crate) fn home_part(&self) -> Option<usize> {
        let home = self.participants().position(|one| one == self.plan.home);
        home.filter(|_| !self.is_of_one_group())
    }

    /// The yes of all but the home group, if all have said so.
    pub(crate) fn votes_of_others(&self) -> Option<Vec<CommittedPart>> {
        let yes = self.participants().zip(&self.votes);
        yes.filter(|(participant, _)| *participant != self.plan.home)
            .map(|(participant, standing)| {
                let version = standing.yes?;
                Some(CommittedPart { participant, version })
            })
            .collect()
    }

    /// A bug on purpose: the one vote that is missing beside the home group's is made up.
    pub(crate) fn take_the_last_for_granted(&mut self) {
        let home = self.home_part();
        let missing = self.votes.iter_mut().enumerate();
        let mut missing = missing.filter(|(part, standing)| home != Some(*part) && standing.yes.is_none());
        if let (Some((_, last)), None) = (missing.next(), missing.next()) {
            last.yes = Some(Version::default());
        }
    }

    /// Whether a refusal of this participant means that nothing is there.
    pub(crate) fn is_sure(&self, part: usize) -> bool {
        self.votes.get(part).is_some_and(|standing| !standing.unsure)
    }

    /// Why it cannot commit if the home group keeps its id for another transaction.
    pub(crate) fn refused_by_home(&self) -> AbortCause {
        AbortCause::NotPrepared {
            group: self.plan.home.group,
        }
    }

    pub(crate) fn not_prepared(&self, part: usize) -> AbortCause {
        let planned = self.plan.parts.get(part);
        planned.map_or(AbortCause::OutOfTime, |planned| AbortCause::NotPrepared {
            group: planned.participant.group,
        })
    }

    /// Why it is given up: the first participant that has not said yes. The home group is asked after all others.
    pub(crate) fn missing_vote(&self) -> AbortCause {
        let is_home = |planned: &PlannedPart| planned.participant == self.plan.home;
        let missing = self.plan.parts.iter().zip(&self.votes).filter(|(_, s)| s.yes.is_none());
        match missing.min_by_key(|(planned, _)| is_home(planned)) {
            Some((
                _,
                Standing {
                    last: Some(Refusal::Locked { by }),
                    ..
                },
            )) => AbortCause::LockTimeout { by: *by },
            Some((planned, _)) => AbortCause::NotPrepared {
                group: planned.participant.group,
            },
            None => AbortCause::OutOfTime,
        }
    }

    /// What a client is told, if that is complete.
    pub(crate) fn answer(&self) -> Option<Result<Reply, Refusal>> {
        match self.outcome.as_ref()? {
            Outcome::Committed(parts) => {
                let receipts = parts.iter().map(|part| self.receipts.get(&part.participant).cloned());
                Some(Ok(Reply::Committed {
                    parts: parts.clone(),
                    receipts: receipts.collect::<Option<_>>()?,
                    rounds: self.rounds,
                }))
            }
            Outcome::Aborted { cause, receipt } => Some(aborted(self.plan.id, *cause, receipt)),
            Outcome::Refused(refusal) => Some(Err(refusal.clone())),
        }
    }
}

/// How a client hears of an abort: a condition that did not hold is an outcome, all else an error.
fn aborted(id: TransactionId, cause: AbortCause, receipt: &Receipt) -> Result<Reply, Refusal> {
    match cause {
        AbortCause::ConditionFailed {
            group,
            condition,
            current,
        } => Ok(Reply::ConditionFailed {
            group,
            condition,
            current,
            receipts: vec![receipt.clone()],
        }),
        cause => Err(Refusal::Aborted { id, cause }),
    }
}
