//! The world in words.

use super::Source;
use super::group::Outcome;
use fulcrum_two_phase::{Effect, Observation, Reply};
use fulcrum_types::{
    AbortCause, CommittedPart, Decision, Observations, Refusal, Resolution, Resolved, TransactionAnswer, TransactionId,
    TransactionOperation, TransactionState, Validation, Verdict, Vote,
};

pub fn group(number: u64) -> String {
    format!("g{number}")
}

pub fn source(source: Source) -> String {
    match source {
        Source::Core(name, _) => name.to_string(),
        Source::Group(number, _) => group(number),
    }
}

/// Stories number their transactions; each begins when it is first asked for.
pub fn id(id: TransactionId) -> String {
    format!("t{}", id.sequence.0)
}

fn ids(all: &[TransactionId]) -> String {
    all.iter().map(|one| id(*one)).collect::<Vec<_>>().join(" ")
}

fn parts(all: &[CommittedPart]) -> String {
    let part = |part: &CommittedPart| format!("{}@{}", group(part.participant.group.0), part.version.0);
    all.iter().map(part).collect::<Vec<_>>().join(" ")
}

fn cause(cause: AbortCause) -> String {
    match cause {
        AbortCause::Conflict { with } => format!("conflict with {}", id(with)),
        AbortCause::LockTimeout { by } => format!("lock_timeout by {}", id(by)),
        AbortCause::ReadInvalidated { group, read } => format!("read_invalidated g{} read {read}", group.0),
        AbortCause::ConditionFailed { group, condition, .. } => {
            format!("condition_failed g{} condition {condition}", group.0)
        }
        AbortCause::NotPrepared { group } => format!("not_prepared g{}", group.0),
        other => other.name().to_owned(),
    }
}

fn decision(decision: &Decision) -> String {
    match decision {
        Decision::Committed { parts: all, .. } => format!("commit of {}", parts(all)),
        Decision::Aborted(why) => format!("abort: {}", cause(*why)),
    }
}

fn resolution(resolution: &Resolution) -> String {
    let name = id(resolution.id);
    match resolution.verdict {
        Verdict::Commit(_) => format!("{name} committed"),
        Verdict::Abort { cause: why, .. } => format!("{name} aborted: {}", cause(why)),
    }
}

pub fn operation(operation: &TransactionOperation) -> String {
    match operation {
        TransactionOperation::Transact(transact) => format!("transact {}", id(transact.id)),
        TransactionOperation::Prepare(prepare) if prepare.decides() => {
            format!("commit {} with {}", id(prepare.id), parts(&prepare.votes))
        }
        TransactionOperation::Prepare(prepare) => format!("prepare {}", id(prepare.id)),
        TransactionOperation::Decide(decide) => format!("decide {}: abort: {}", id(decide.id), cause(decide.cause)),
        TransactionOperation::Resolve(all) => {
            format!("resolve {}", all.iter().map(resolution).collect::<Vec<_>>().join(", "))
        }
        TransactionOperation::Forget(all) => format!("forget {}", ids(all)),
        TransactionOperation::Heartbeat(all) => format!("be patient with {}", ids(all)),
        TransactionOperation::LookUp(one) => format!("look up {}", id(*one)),
        TransactionOperation::Read { keys, .. } => format!("read {} keys", keys.len()),
        TransactionOperation::Validate { reads, .. } => format!("validate {} reads", reads.len()),
        TransactionOperation::List { .. } => "list".to_owned(),
    }
}

fn state(state: &TransactionState) -> String {
    match state {
        TransactionState::Decided(known) => decision(known),
        TransactionState::Promised { home } => format!("undecided, home {}", group(home.group.0)),
        TransactionState::NotSeen => "not seen".into(),
        TransactionState::TooOld => "too old".into(),
    }
}

fn values(values: &Observations) -> String {
    let value = |seen: &fulcrum_types::Observed| match &seen.value {
        Some(value) => format!("{}@{}", value.value.escape_ascii(), seen.version.0),
        None => format!("none@{}", seen.version.0),
    };
    let met = if values.met_intents { " past intents" } else { "" };
    values.observed.iter().map(value).collect::<Vec<_>>().join(" ") + met
}

pub fn answer(answer: &Outcome) -> String {
    match answer {
        Ok(TransactionAnswer::Vote(Vote::Prepared { version })) => format!("prepared@{}", version.0),
        Ok(TransactionAnswer::Vote(Vote::Refused(why))) => format!("refused: {}", cause(*why)),
        Ok(TransactionAnswer::Vote(Vote::Resolved { version })) => format!("resolved@{}", version.0),
        Ok(TransactionAnswer::Vote(Vote::Decided(known)) | TransactionAnswer::Decision(known)) => decision(known),
        Ok(TransactionAnswer::Resolved(found)) => {
            let word = |found: &Resolved| match found {
                Resolved::Now => "now",
                Resolved::Before => "before",
                Resolved::Nothing => "nothing",
            };
            found.iter().map(word).collect::<Vec<_>>().join(" ")
        }
        Ok(TransactionAnswer::Done) => "done".into(),
        Ok(TransactionAnswer::State(known)) => state(known),
        Ok(TransactionAnswer::Observations(seen)) => values(seen),
        Ok(TransactionAnswer::Validation(Validation::Valid)) => "valid".into(),
        Ok(TransactionAnswer::Validation(Validation::Invalidated { read })) => format!("read {read} has changed"),
        Ok(TransactionAnswer::Validation(Validation::Intents(seen))) => {
            let intent = |seen: &fulcrum_types::IntentSeen| format!("{} of home g{}", id(seen.id), seen.home.group.0);
            format!("intents: {}", seen.iter().map(intent).collect::<Vec<_>>().join(", "))
        }
        Ok(TransactionAnswer::List(list)) => format!("{} pending", list.len()),
        Err(refusal) => refused(refusal),
    }
}

pub fn refused(refusal: &Refusal) -> String {
    match refusal {
        Refusal::Aborted { id: one, cause: why } => format!("ABORTED {}: {}", id(*one), cause(*why)),
        Refusal::Unknown { reason } => format!("UNKNOWN: {reason}"),
        Refusal::Locked { by } => format!("LOCKED by {}", id(*by)),
        other => other.code().to_owned(),
    }
}

fn reply(reply: &Reply) -> String {
    let proofs = |receipts: &[fulcrum_types::Receipt]| {
        let proof = |receipt: &fulcrum_types::Receipt| format!("g{}:{}", receipt.group.0, receipt.index.0);
        receipts.iter().map(proof).collect::<Vec<_>>().join(" ")
    };
    match reply {
        Reply::Committed {
            parts: all, receipts, ..
        } if all.is_empty() => {
            format!("all of one moment, proved by {}", proofs(receipts))
        }
        Reply::Committed {
            parts: all,
            receipts,
            rounds,
        } => format!(
            "committed {} in {rounds} rounds, proved by {}",
            parts(all),
            proofs(receipts)
        ),
        Reply::ConditionFailed { group, condition, .. } => format!("condition {condition} of g{} failed", group.0),
        Reply::Values { parts: all, receipts } => {
            let all = all.iter().map(values).collect::<Vec<_>>().join(", ");
            format!("{all}; proved by {}", proofs(receipts))
        }
        Reply::State { state: known, .. } => state(known),
    }
}

pub fn kind(effect: &Effect) -> &'static str {
    match effect {
        Effect::Ask { operation, .. } => operation.name(),
        Effect::Reply { .. } => "reply",
        Effect::Observed(_) => "observed",
    }
}

pub fn effect(name: char, effect: &Effect) -> Option<String> {
    Some(match effect {
        Effect::Ask {
            to, operation: asked, ..
        } => format!("{name} asks {} to {}", group(to.group.0), operation(asked)),
        Effect::Reply { request, result } => {
            let told = result.as_ref().map_or_else(refused, reply);
            format!("{name} tells r{}: {told}", request.0)
        }
        Effect::Observed(Observation::LeftBehind { id: one, unresolved }) => {
            format!("{name} leaves {} behind, {unresolved} unresolved", id(*one))
        }
        Effect::Observed(Observation::ReadAgain { times }) => format!("{name} reads again ({times})"),
        Effect::Observed(_) => return None,
    })
}
