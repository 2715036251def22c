//! What can be seen to hold from one coordinator, at any moment. Checked after every step in simulation and in debug builds.

use crate::contract::{AskId, Effect, RequestId};
use crate::core::{Of, Question, TwoPhase};
use crate::timers::{Timer, Wait};
use crate::transaction::{Evidence, Outcome, Stage, Standing, Transaction};
use fulcrum_types::{Refusal, Verdict};
use std::collections::BTreeSet;

pub(crate) fn check(core: &TwoPhase) -> Result<(), String> {
    every_request_belongs_to_one(core)?;
    every_question_is_waited_for(core)?;
    every_timer_is_waited_for(core)?;
    nothing_waits_for_ever(core)?;
    core.transactions.values().try_for_each(decisions_are_proved)?;
    nobody_is_answered_twice(core)
}

fn every_request_belongs_to_one(core: &TwoPhase) -> Result<(), String> {
    for (request, known) in &core.requests {
        let belongs = match known.of {
            Of::Transaction(key) => core.transactions.get(&key).is_some_and(|t| t.callers.contains(request)),
            Of::Read => core.reads.contains_key(request),
            Of::LookUp => core.look_ups.contains_key(request),
        };
        if !belongs {
            return Err(format!("{request:?} belongs to nothing"));
        }
        if !core.timers.has(known.deadline, Timer::Deadline(*request)) {
            return Err(format!("{request:?} has no deadline"));
        }
    }
    let callers: usize = core.transactions.values().map(|t| t.callers.len()).sum();
    let owners = callers + core.reads.len() + core.look_ups.len();
    if owners != core.requests.len() {
        return Err(format!("{owners} wait for {} requests", core.requests.len()));
    }
    Ok(())
}

fn every_question_is_waited_for(core: &TwoPhase) -> Result<(), String> {
    for (ask, question) in &core.questions {
        if !is_waited_for(core, *ask, question) {
            return Err(format!("nobody waits for {ask:?}: {question:?}"));
        }
    }
    Ok(())
}

fn is_waited_for(core: &TwoPhase, ask: AskId, question: &Question) -> bool {
    let wait = Some(Wait::Answer(ask));
    let read_part = |request: &RequestId, part: &usize| core.reads.get(request).and_then(|r| r.parts.get(*part));
    match question {
        Question::Vote(id, part) => {
            core.transactions
                .get(id)
                .and_then(|t| t.votes.get(*part))
                .map(|s| s.wait)
                == wait
        }
        Question::Home(id) => core.transactions.get(id).map(|t| t.home) == wait,
        Question::Tell(group, _) => core.groups.get(group).is_some_and(|g| g.telling.contains(&ask)),
        Question::Forget(group, _) => core.groups.get(group).is_some_and(|g| g.forgetting == Some(ask)),
        Question::Heartbeat(_) => true,
        Question::Read(request, part) => read_part(request, part).map(|p| p.wait) == wait,
        Question::Intent(request, part, _) | Question::Cleared(request, part) => {
            read_part(request, part).is_some_and(|p| p.clearing.contains(&ask))
        }
        Question::LookUp(request, place) => {
            core.look_ups
                .get(request)
                .and_then(|l| l.places.get(*place))
                .map(|p| p.wait)
                == wait
        }
    }
}

fn every_timer_is_waited_for(core: &TwoPhase) -> Result<(), String> {
    for (at, timer) in core.timers.iter() {
        let until = Some(Wait::Until(at));
        let is_set = match timer {
            Timer::Deadline(request) => core.requests.get(&request).is_some_and(|r| r.deadline == at),
            Timer::Votes(id) => core.transactions.get(&id).is_some_and(|t| t.votes_until == at),
            Timer::Vote(id, part) => {
                core.transactions
                    .get(&id)
                    .and_then(|t| t.votes.get(part))
                    .map(|s| s.wait)
                    == until
            }
            Timer::Home(id) => core.transactions.get(&id).map(|t| t.home) == until,
            Timer::Leave(id) => core.transactions.get(&id).is_some_and(|t| t.leave == Some(at)),
            Timer::Tell(group) => core.groups.get(&group).is_some_and(|g| g.tell_after == Some(at)),
            Timer::Read(request, part) => {
                core.reads.get(&request).and_then(|r| r.parts.get(part)).map(|p| p.wait) == until
            }
            Timer::LookUp(request, place) => {
                core.look_ups
                    .get(&request)
                    .and_then(|l| l.places.get(place))
                    .map(|p| p.wait)
                    == until
            }
        };
        if !is_set {
            return Err(format!("nobody waits for {timer:?} at {at}"));
        }
    }
    Ok(())
}

/// Whatever is under way has a question or a timer that moves it on.
fn nothing_waits_for_ever(core: &TwoPhase) -> Result<(), String> {
    for (key, t) in &core.transactions {
        let id = t.plan.id;
        let moves = match t.stage {
            Stage::Preparing | Stage::Deciding => core.timers.has(t.votes_until, Timer::Votes(*key)),
            Stage::Finding(_) | Stage::Aborting { .. } => t.home != Wait::Nothing,
            Stage::Resolving => !t.untold.is_empty(),
        };
        let told = t.untold.iter().all(|other| {
            core.groups
                .get(other)
                .is_some_and(|g| !g.telling.is_empty() || g.tell_after.is_some())
        });
        let moves_on = |(part, s): (usize, &Standing)| {
            let asked_later = t.stage == Stage::Preparing && t.home_part() == Some(part);
            s.yes.is_some() || s.wait != Wait::Nothing || asked_later
        };
        let preparing = matches!(t.stage, Stage::Preparing | Stage::Deciding);
        let asked = !preparing || t.votes.iter().enumerate().all(moves_on);
        if !moves || !told || !asked {
            return Err(format!("{id} waits for ever in {:?}", t.stage));
        }
        if t.callers.is_empty() && t.leave.is_none() {
            return Err(format!("{id} is followed for ever though nobody waits for it"));
        }
    }
    for (request, reading) in &core.reads {
        let idle = |p: &&crate::reads::ReadPart| !p.done && p.wait == Wait::Nothing && p.clearing.is_empty();
        if reading.parts.iter().any(|p| idle(&p)) {
            return Err(format!("{request:?} waits for ever for a part"));
        }
    }
    for (request, looking) in &core.look_ups {
        if looking
            .places
            .iter()
            .any(|p| p.found.is_none() && p.wait == Wait::Nothing)
        {
            return Err(format!("{request:?} waits for ever for a place"));
        }
    }
    Ok(())
}

/// A commit is asked for with all votes; an abort is told with evidence; what is told agrees with what is known.
fn decisions_are_proved(t: &Transaction) -> Result<(), String> {
    let id = t.plan.id;
    if t.stage == Stage::Deciding && t.votes_of_others().is_none() {
        return Err(format!("{id} asks for the decision without all other votes"));
    }
    let abort_is_told = matches!(t.verdict, Some(Verdict::Abort { .. }));
    if abort_is_told && t.evidence.is_none() {
        return Err(format!(
            "{id}: participants are told of an abort that is neither marked nor recorded"
        ));
    }
    let known = match &t.outcome {
        None => t.verdict.is_none() && t.evidence.is_none() && t.stage != Stage::Resolving,
        Some(Outcome::Committed(_)) => t.evidence.is_none() && t.stage == Stage::Resolving,
        Some(Outcome::Aborted { .. } | Outcome::Refused(Refusal::Aborted { .. })) => {
            matches!(t.evidence, Some(Evidence::Marked | Evidence::Recorded))
        }
        Some(Outcome::Refused(_)) => t.evidence.is_some(),
    };
    if known {
        Ok(())
    } else {
        Err(format!(
            "{id}: its outcome is {:?} in {:?} by {:?}",
            t.outcome, t.stage, t.evidence
        ))
    }
}

fn nobody_is_answered_twice(core: &TwoPhase) -> Result<(), String> {
    let mut answered = BTreeSet::new();
    for effect in &core.effects {
        if let Effect::Reply { request, .. } = effect
            && (!answered.insert(*request) || core.requests.contains_key(request))
        {
            return Err(format!("{request:?} is answered twice"));
        }
    }
    Ok(())
}
