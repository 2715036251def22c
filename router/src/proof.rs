//! Whether the receipt of an answer holds what was asked. No answer leaves a router that says itself that it does not.
//!
//! Compared is what a receipt says with the request and the keyspace's choices: the group, the level, what proves it, the
//! session's position, and who acknowledged a write. An answer that fails goes to nobody: a read may be asked again, of a write
//! it is then unknown what became of it. Sources: DESIGN sections 5 and 6, rules 6 and 8; the same claims as
//! `fulcrum-checker` judges in recorded histories.
//!
//! Left out is what no router can know: whether a receipt that says enough is true. Nor are answers seen here that take
//! other ways: transactions, cuts of backups, and what smart clients ask of nodes themselves.

use crate::dispatch::Order;
use bytes::Bytes;
use fulcrum_common::wire::Malformed;
use fulcrum_common::wire::claims::{Claims, receipt_of};
use fulcrum_common::wire::shard::Reply;
use fulcrum_types::{GroupId, Index, Level, LogPosition, Mode, NodeId, Operation, ReadRequest, Role, StalenessBasis};
use std::fmt;

/// What of a receipt does not hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// There is none, or it makes no sense.
    Missing,
    /// It is another group's.
    Group,
    /// The level achieved is weaker than the one asked, and than all that were acceptable.
    Level,
    /// What it says proves no such level.
    Proof,
    /// It is behind what the session has seen.
    Session,
    /// Too few acknowledged the write, or not who answers.
    Acknowledgements,
}

impl Reason {
    pub(crate) const ALL: [Self; 6] = [
        Self::Missing,
        Self::Group,
        Self::Level,
        Self::Proof,
        Self::Session,
        Self::Acknowledgements,
    ];

    /// The name in metrics.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Reason::Missing => "missing",
            Reason::Group => "group",
            Reason::Level => "level",
            Reason::Proof => "proof",
            Reason::Session => "session",
            Reason::Acknowledgements => "acknowledgements",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reason::Missing => "the receipt is missing, or makes no sense",
            Reason::Group => "the receipt is another group's",
            Reason::Level => "the level achieved is weaker than the one asked, and than all that were acceptable",
            Reason::Proof => "the receipt does not prove the level that it names",
            Reason::Session => "the receipt is behind what the session has seen",
            Reason::Acknowledgements => {
                "fewer replicas acknowledged the write than min_in_sync, or not the one that answers"
            }
        })
    }
}

/// A receipt that does not hold what was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    pub(crate) reason: Reason,
    pub(crate) group: GroupId,
    /// Who answered, and where in the log, as far as the receipt says.
    pub(crate) by: Option<(NodeId, LogPosition)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.by {
            Some((node, at)) => write!(f, "{}: {node} answered for {} at {at}", self.reason, self.group),
            None => write!(f, "{}: an answer for {}", self.reason, self.group),
        }
    }
}

/// Holds an answer's receipt, or the receipts of a joint's answers, against what was asked.
pub(crate) fn check(order: &Order, reply: &Reply) -> Result<(), Violation> {
    match reply {
        Reply::Answered(answered) => holds(order, 0, &Claims::from(&answered.receipt)),
        Reply::PassedOn { message, .. } => {
            let claims = receipt_of(message).and_then(Claims::read);
            holds(order, 0, &claims.map_err(|malformed| missing(order, &malformed))?)
        }
        Reply::PassedOnMany { messages, refused, .. } => {
            let mut refused = refused.iter().map(|(place, _)| *place).peekable();
            let answered = messages
                .iter()
                .enumerate()
                .filter(|(place, _)| refused.next_if_eq(place).is_none());
            all_hold(order, answered)
        }
    }
}

/// All answers of a joint have the same receipt, as a rule: it is read once, and compared with the others byte by byte.
fn all_hold<'a>(order: &Order, answered: impl Iterator<Item = (usize, &'a Bytes)>) -> Result<(), Violation> {
    let mut last: Option<(&[u8], Claims)> = None;
    for (place, message) in answered {
        let receipt = receipt_of(message).map_err(|malformed| missing(order, &malformed))?;
        let claims = match last {
            Some((same, claims)) if same == receipt => claims,
            _ => Claims::read(receipt).map_err(|malformed| missing(order, &malformed))?,
        };
        last = Some((receipt, claims));
        holds(order, place, &claims)?;
    }
    Ok(())
}

fn missing(order: &Order, malformed: &Malformed) -> Violation {
    tracing::debug!(group = %order.group, %malformed, "a receipt cannot be read");
    Violation {
        reason: Reason::Missing,
        group: order.group,
        by: None,
    }
}

/// The claims about what stands in this place of a joint; anything else stands in the first.
fn holds(order: &Order, place: usize, claims: &Claims) -> Result<(), Violation> {
    let violated = |reason| Violation {
        reason,
        group: order.group,
        by: Some((claims.replica, claims.position)),
    };
    if claims.group != order.group {
        return Err(violated(Reason::Group));
    }
    let found = match &order.operation {
        Operation::Read(read) => read_claims(read, claims),
        Operation::Write { seen, .. } => write_claims(order, *seen, claims),
        Operation::Joint(writes) => write_claims(order, writes.get(place).and_then(|write| write.seen), claims),
        Operation::Outcome(_) if !reaches(claims.achieved, level_of_writes(order)) => Some(Reason::Level),
        Operation::Outcome(_) | Operation::Transaction(_) | Operation::Cut(_) => None,
    };
    found.map_or(Ok(()), |reason| Err(violated(reason)))
}

fn read_claims(read: &ReadRequest, claims: &Claims) -> Option<Reason> {
    let acceptable = || read.acceptable.iter().any(|level| reaches(claims.achieved, *level));
    if !reaches(claims.achieved, read.level) && !acceptable() {
        return Some(Reason::Level);
    }
    if !is_proved(claims) {
        return Some(Reason::Proof);
    }
    let keeps_session = matches!(claims.achieved, Level::Linearizable | Level::Session);
    (keeps_session && is_behind(claims.position, read.seen)).then_some(Reason::Session)
}

fn write_claims(order: &Order, seen: Option<LogPosition>, claims: &Claims) -> Option<Reason> {
    let options = &order.keyspace.options;
    if !reaches(claims.achieved, level_of_writes(order)) {
        return Some(Reason::Level);
    }
    if is_behind(claims.position, seen) {
        return Some(Reason::Session);
    }
    let needed = match options.mode {
        Mode::Sync => options.min_in_sync as usize,
        Mode::Async => 1,
    };
    let by = &claims.acknowledged_by;
    (by.count() < needed || !by.contains(claims.replica)).then_some(Reason::Acknowledgements)
}

/// What a write, or word of its outcome, counts as.
fn level_of_writes(order: &Order) -> Level {
    match order.keyspace.options.mode {
        Mode::Sync => Level::Linearizable,
        Mode::Async => Level::Eventual,
    }
}

/// Whether one level promises all that another does.
fn reaches(achieved: Level, wanted: Level) -> bool {
    match (achieved, wanted) {
        (Level::Linearizable, _) | (_, Level::Eventual) | (Level::Session, Level::Session) => true,
        (Level::Bounded(bound), Level::Bounded(most)) => bound <= most,
        _ => false,
    }
}

/// Whether a read's receipt has what its level needs.
fn is_proved(claims: &Claims) -> bool {
    match claims.achieved {
        Level::Linearizable => {
            claims.role == Role::Primary
                && matches!(claims.basis, StalenessBasis::Lease | StalenessBasis::ConfirmingRound)
        }
        Level::Bounded(bound) => {
            claims.basis != StalenessBasis::None && claims.staleness.is_some_and(|behind| behind <= bound)
        }
        Level::Session | Level::Eventual => true,
    }
}

/// An index is never reached in an older epoch, and an epoch never with an older index: both have to have come as far.
fn is_behind(at: LogPosition, seen: Option<LogPosition>) -> bool {
    let seen = seen.filter(|seen| seen.index > Index::ZERO);
    seen.is_some_and(|seen| at.index < seen.index || at.epoch < seen.epoch)
}

#[cfg(test)]
mod tests;
