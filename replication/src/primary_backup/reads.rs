//! Reads: who may answer, from which index on, and what it proves (DESIGN section 6).
//!
//! A linearizable or bounded read at the primary goes by the lease, checked again after the evaluation; without one by a confirming
//! round: every counted member answers, in this epoch, a beat that was sent after the read arrived. None of them had
//! taken over by then, so nothing newer was acknowledged elsewhere. One round is under way at a time; what arrives meanwhile
//! shares the next.

use super::core::PrimaryBackup;
use crate::contract::{Answered, Effect, ReadId, ReadPermit, ReadRefusal, ReadWanted};
use fulcrum_types::{Index, LogPosition, Mono, Now, StalenessBasis};
use std::time::Duration;

/// Linearizable or bounded, at the primary, without a lease.
#[derive(Clone, Debug)]
pub(super) struct WaitingRead {
    id: ReadId,
    arrived: Mono,
    /// Committed when its round began: at least what was when it arrived.
    at: Index,
    /// The round that confirms it; none while the primary has not taken over.
    round: Option<u64>,
}

impl WaitingRead {
    pub(super) fn refused(&self, refusal: ReadRefusal) -> Effect {
        Effect::AnswerRead {
            id: self.id,
            answer: Answered::Refused(refusal),
        }
    }
}

impl PrimaryBackup {
    pub(super) fn on_read(&mut self, now: Now, id: ReadId, wanted: ReadWanted, effects: &mut Vec<Effect>) {
        let answer = match wanted {
            ReadWanted::Linearizable => self.read_at_primary(now, id, effects),
            ReadWanted::Bounded(_) if self.primary.is_some() => self.read_at_primary(now, id, effects),
            ReadWanted::Bounded(bound) => Some(self.read_bounded(now.mono, bound)),
            ReadWanted::Session(None) | ReadWanted::Eventual => Some(self.read_as_is(now.mono, self.applied)),
            ReadWanted::Session(Some(seen)) => Some(match self.check_session(seen) {
                Ok(()) => self.read_as_is(now.mono, seen.index.max(self.applied)),
                Err(refusal) => Answered::Refused(refusal),
            }),
        };
        if let Some(answer) = answer {
            effects.push(Effect::AnswerRead { id, answer });
        }
    }

    fn read_at_primary(&mut self, now: Now, id: ReadId, effects: &mut Vec<Effect>) -> Option<Answered> {
        if self.primary.is_none() {
            return Some(Answered::Refused(ReadRefusal::NotPrimary));
        }
        if let Some(permit) = self.permit_by_lease(now.mono) {
            return Some(Answered::Permit(permit));
        }
        let (at, max) = (self.commit, self.options.waiting_max);
        let primary = self.primary.as_mut()?;
        if primary.reads.len() >= max {
            return Some(Answered::Refused(ReadRefusal::Overloaded));
        }
        primary.reads.push_back(WaitingRead {
            id,
            arrived: now.mono,
            at,
            round: None,
        });
        self.tend_reads(now, effects);
        None
    }

    fn permit_by_lease(&self, now: Mono) -> Option<ReadPermit> {
        let until = self.serving_lease(now)?;
        Some(ReadPermit {
            at: self.commit,
            recheck_before: if planted!(self, SkipLeaseRecheck) {
                None
            } else {
                Some(until)
            },
            fresh_as_of: Some(now),
            drift_ppm: 0,
            basis: StalenessBasis::Lease,
            rounds: 0,
        })
    }

    /// Answers the reads that wait, as the lease or a round allows; begins the next round; gives up on the overdue.
    pub(super) fn tend_reads(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.primary.as_ref().is_none_or(|p| p.reads.is_empty()) {
            return;
        }
        let lease = self.permit_by_lease(now.mono);
        let confirmed = self.confirmed_round();
        let give_up = self.options.acknowledge_within;
        let Some(primary) = &mut self.primary else { return };
        let ready = primary.ready;
        primary.reads.retain(|read| {
            let by_round = read
                .round
                .filter(|round| confirmed >= *round && ready)
                .map(|_| read.confirmed());
            let permit = by_round.or_else(|| lease.clone());
            match permit {
                Some(permit) => effects.push(Effect::AnswerRead {
                    id: read.id,
                    answer: Answered::Permit(permit),
                }),
                None if now.mono.since(read.arrived) > give_up => {
                    let refusal = if ready {
                        ReadRefusal::Fenced
                    } else {
                        ReadRefusal::NotReady
                    };
                    effects.push(read.refused(refusal));
                }
                None => return true,
            }
            false
        });
        if confirmed >= primary.round {
            primary.round_open = false;
        }
        self.begin_round(now, effects);
    }

    fn begin_round(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let old_round_counts = planted!(self, OldRoundCounts);
        let commit = self.commit;
        let Some(primary) = &mut self.primary else { return };
        let handing_over = primary.hand_over.as_ref().is_some_and(|h| h.given_up_at.is_some());
        let waiting = primary.reads.iter().any(|r| r.round.is_none());
        if !primary.ready || primary.round_open || handing_over || !waiting {
            return;
        }
        if !old_round_counts || primary.round == 0 {
            primary.round += 1;
        }
        primary.round_open = true;
        let round = primary.round;
        for read in primary.reads.iter_mut().filter(|r| r.round.is_none()) {
            read.round = Some(round);
            read.at = commit;
        }
        self.beat_all(now, effects);
        if self.confirmed_round() >= round {
            self.tend_reads(now, effects);
        }
    }

    fn read_bounded(&self, now: Mono, bound: Duration) -> Answered {
        let staleness = &self.backup.staleness;
        let proved = staleness.now().map(|t0| self.options.stretched(now.since(t0)));
        if proved.is_some_and(|p| p <= bound) {
            return self.read_as_is(now, self.applied);
        }
        let drift = u128::from(self.options.drift_ppm);
        let reach = bound.as_nanos() * 1_000_000 / (1_000_000 + drift);
        let oldest = now - Duration::from_nanos(u64::try_from(reach).unwrap_or(u64::MAX));
        match staleness.at_least(oldest) {
            Some((t0, at)) => Answered::Permit(self.permit_by_echo(Some(t0), at)),
            None => Answered::Refused(ReadRefusal::TooStale(proved)),
        }
    }

    /// What the state holds at `at` or later, with whatever can be proved of it.
    fn read_as_is(&self, now: Mono, at: Index) -> Answered {
        if let Some(until) = self.serving_lease(now) {
            return Answered::Permit(ReadPermit {
                at: at.max(self.commit),
                recheck_before: Some(until),
                fresh_as_of: Some(now),
                drift_ppm: 0,
                basis: StalenessBasis::Lease,
                rounds: 0,
            });
        }
        let empty = self.applied == Index::ZERO && !self.is_member();
        if empty {
            return Answered::Refused(ReadRefusal::NotReady);
        }
        Answered::Permit(self.permit_by_echo(self.backup.staleness.now(), at))
    }

    fn permit_by_echo(&self, fresh_as_of: Option<Mono>, at: Index) -> ReadPermit {
        ReadPermit {
            at,
            recheck_before: None,
            fresh_as_of,
            drift_ppm: self.options.drift_ppm,
            basis: if fresh_as_of.is_some() {
                StalenessBasis::Echo
            } else {
                StalenessBasis::None
            },
            rounds: 0,
        }
    }

    /// Whether the committed history here holds what a session has seen (rule 8).
    fn check_session(&self, seen: LogPosition) -> Result<(), ReadRefusal> {
        if planted!(self, SessionIndexOnly) {
            return if seen.index <= self.commit {
                Ok(())
            } else {
                Err(ReadRefusal::Behind)
            };
        }
        if seen.index <= self.commit && self.log.holds(seen) {
            return Ok(());
        }
        // A later epoch began, in what is committed here, at or before that index: that entry is in no surviving history.
        let replaced = self
            .log
            .end_of(seen.epoch)
            .is_some_and(|end| end <= seen.index && end <= self.commit);
        Err(if replaced {
            ReadRefusal::HistoryLost
        } else {
            ReadRefusal::Behind
        })
    }
}

impl WaitingRead {
    fn confirmed(&self) -> ReadPermit {
        ReadPermit {
            at: self.at,
            recheck_before: None,
            fresh_as_of: Some(self.arrived),
            drift_ppm: 0,
            basis: StalenessBasis::ConfirmingRound,
            rounds: 1,
        }
    }
}
