//! The four session guarantees, for each client.
//!
//! Source: Terry et al., *Session guarantees for weakly consistent replicated data* (1994); DESIGN section 6 and rule 8.
//! Of two operations of a client of which one ended before the other began:
//!
//! - *read your writes*, *monotonic reads*: a read at `session` or `linearizable` is not older, key by key, than what
//!   the client wrote or read before, at whatever level;
//! - *monotonic writes*, *writes follow reads*: within a group, a write stands behind all that the client wrote and
//!   read before;
//! - *lost history*: no read at these levels and no write is answered from a log that lacks what the session has seen.
//!   A session that was told so by the typed error begins anew, under another client id.

use crate::history::{History, Operation, Seen};
use crate::removals::Removals;
use crate::survival::SurvivingLog;
use crate::violation::Violation;
use bytes::Bytes;
use fulcrum_types::{ClientId, GroupId, Index, Level, LogPosition};
use std::collections::{BTreeMap, HashMap};

/// What was found, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Clients judged.
    pub sessions: usize,
    /// Reads that had to respect a session.
    pub reads: usize,
    /// Writes that had to.
    pub writes: usize,
    /// What is wrong.
    pub violations: Vec<Violation>,
}

/// The newest thing of its kind that a session knows, and the operation that told it.
#[derive(Clone, Copy, Debug)]
struct Known<T> {
    what: T,
    place: usize,
}

#[derive(Debug, Default)]
struct Session<'a> {
    wrote: HashMap<&'a Bytes, Known<Index>>,
    read: HashMap<&'a Bytes, Known<Index>>,
    wrote_in: BTreeMap<GroupId, Known<LogPosition>>,
    read_in: BTreeMap<GroupId, Known<LogPosition>>,
}

/// Judges all sessions. `logs` name the surviving log of each group; without one, epochs must only not go back.
#[must_use]
pub fn check(history: &History, logs: &BTreeMap<GroupId, SurvivingLog>) -> Report {
    let mut clients: BTreeMap<ClientId, Vec<usize>> = BTreeMap::new();
    for (place, operation) in history.operations().iter().enumerate() {
        clients.entry(operation.client).or_default().push(place);
    }
    let checker = Checker {
        operations: history.operations(),
        removals: Removals::of(history),
        logs,
    };
    let mut report = Report::default();
    for places in clients.values() {
        report.sessions += 1;
        checker.check_session(places, &mut report);
    }
    report
}

struct Checker<'a> {
    operations: &'a [Operation],
    removals: Removals<'a>,
    logs: &'a BTreeMap<GroupId, SurvivingLog>,
}

impl<'a> Checker<'a> {
    /// Walks along one client's operations; what has ended by the begin of each is what it has to respect.
    fn check_session(&self, places: &[usize], report: &mut Report) {
        let mut by_end: Vec<(u64, usize)> = places
            .iter()
            .filter_map(|&p| self.operations[p].returned.map(|end| (end, p)))
            .collect();
        by_end.sort_unstable();
        let mut ended = by_end.into_iter().peekable();
        let mut session = Session::default();
        for &place in places {
            let begin = self.operations[place].invoked;
            while let Some((_, earlier)) = ended.next_if(|(end, _)| *end < begin) {
                session.learn(earlier, &self.operations[earlier]);
            }
            self.check_operation(&session, place, report);
        }
    }

    fn check_operation(&self, session: &Session<'a>, place: usize, report: &mut Report) {
        let operation = &self.operations[place];
        if let Some(Level::Session | Level::Linearizable) = operation.read_level() {
            report.reads += 1;
            let guarantees = [
                ("read your writes", session.wrote.get(&operation.key)),
                ("monotonic reads", session.read.get(&operation.key)),
            ];
            for (name, known) in guarantees {
                report
                    .violations
                    .extend(known.and_then(|k| self.older(name, place, *k)));
            }
        } else if operation.is_written() {
            report.writes += 1;
        } else {
            return;
        }
        let Some((group, position)) = operation.position() else {
            return;
        };
        let (after_write, after_read) = match operation.is_written() {
            true => ("monotonic writes", "writes follow reads"),
            false => ("read your writes", "monotonic reads"),
        };
        let guarantees = [
            (after_write, session.wrote_in.get(&group)),
            (after_read, session.read_in.get(&group)),
        ];
        for (name, known) in guarantees {
            let broken = known.and_then(|k| self.behind(name, place, group, position, *k));
            report.violations.extend(broken);
        }
    }

    /// Judges a read of a key by the version that the session knows.
    fn older(&self, guarantee: &'static str, place: usize, known: Known<Index>) -> Option<Violation> {
        let operation = &self.operations[place];
        let why = match operation.seen()? {
            Seen::Present { version, .. } => {
                let version = version.filter(|v| *v < known.what)?;
                format!("saw version {version} though its session knew {}", known.what)
            }
            Seen::Absent => {
                if self.removals.may_explain(operation, known.what) {
                    return None;
                }
                let known = known.what;
                format!("saw nothing though its session knew version {known} and no removal came after it")
            }
        };
        let operations = vec![place, known.place];
        Some(Violation::new(guarantee, operations, why).on_key(&operation.key))
    }

    /// Judges a position by the one that the session knows in the same group.
    fn behind(
        &self,
        guarantee: &'static str,
        place: usize,
        group: GroupId,
        position: LogPosition,
        known: Known<LogPosition>,
    ) -> Option<Violation> {
        let seen = known.what;
        let order = |p: LogPosition| (p.epoch, p.index);
        let stands_on_it = position == seen && self.operations[place].is_written();
        let goes_back = order(position) < order(seen) || position.index < seen.index || stands_on_it;
        let operations = vec![place, known.place];
        if goes_back {
            let why = format!("answered at {position} of {group} though its session knew {seen}");
            return Some(Violation::new(guarantee, operations, why));
        }
        let log = self.logs.get(&group)?;
        if log.contains(position) && !log.contains(seen) {
            let why = format!("answered at {position} of {group}, whose log lacks {seen} that its session knew");
            return Some(Violation::new("lost history", operations, why));
        }
        None
    }
}

impl<'a> Session<'a> {
    fn learn(&mut self, place: usize, operation: &'a Operation) {
        let written = operation.written_version();
        let seen = operation.seen().and_then(|s| s.version());
        raise(&mut self.wrote, &operation.key, written, place);
        raise(&mut self.read, &operation.key, seen, place);
        let Some((group, position)) = operation.position() else {
            return;
        };
        let positions = match (operation.is_written(), operation.seen()) {
            (true, _) => &mut self.wrote_in,
            (false, Some(_)) => &mut self.read_in,
            _ => return,
        };
        let order = |p: LogPosition| (p.epoch, p.index);
        let newest = positions.entry(group).or_insert(Known { what: position, place });
        if order(newest.what) < order(position) {
            *newest = Known { what: position, place };
        }
    }
}

fn raise<'a>(known: &mut HashMap<&'a Bytes, Known<Index>>, key: &'a Bytes, version: Option<Index>, place: usize) {
    let Some(what) = version else {
        return;
    };
    let newest = known.entry(key).or_insert(Known { what, place });
    if newest.what < what {
        *newest = Known { what, place };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Outcome};
    use crate::testing::*;
    use fulcrum_types::Epoch;

    fn broken(operations: impl IntoIterator<Item = Operation>) -> Vec<&'static str> {
        let report = check(&history(operations), &BTreeMap::new());
        report.violations.iter().map(|v| v.property).collect()
    }

    fn session_get(times: (u64, u64), seen: Seen) -> Operation {
        get_at(Level::Session, times, seen)
    }

    #[test]
    fn an_own_write_that_is_not_read_is_found() {
        let wrote = [put((0, 10), 1, 5).by(2), put((20, 30), 2, 6)];
        let old = session_get((40, 50), present(1, 5));
        let with = |read: Operation| broken(wrote.iter().cloned().chain([read]));
        assert_eq!(with(old.clone()), ["read your writes"]);
        assert!(with(old.clone().by(3)).is_empty(), "not its own");
        assert!(with(Operation { invoked: 25, ..old }).is_empty(), "overlapping");
    }

    #[test]
    fn a_session_that_goes_back_is_found() {
        let first = get_at(Level::Eventual, (0, 10), present(2, 6));
        let second = session_get((20, 30), present(1, 5));
        assert_eq!(broken([first.clone(), second.clone()]), ["monotonic reads"]);
        let call = Call::Get(Level::Eventual);
        let eventual = Operation { call, ..second };
        assert!(broken([first, eventual]).is_empty(), "eventual reads promise nothing");
    }

    #[test]
    fn absence_needs_a_removal() {
        let vanished = [session_get((0, 10), present(1, 5)), session_get((20, 30), Seen::Absent)];
        let with = |removal: Operation| broken(vanished.iter().cloned().chain([removal.by(2)]));
        assert_eq!(broken(vanished.clone()), ["monotonic reads"]);
        assert_eq!(with(delete((0, 1), 4)), ["monotonic reads"], "an older one");
        assert_eq!(with(delete((31, 40), 6)), ["monotonic reads"], "a later one");
        assert!(with(delete((15, 40), 6)).is_empty());
        assert!(with(op((15, 0), Call::Delete, Outcome::Unknown)).is_empty());
    }

    #[test]
    fn writes_stand_behind_what_the_session_wrote_and_read() {
        let first = put((0, 10), 1, 8).receipt(1, 8);
        let second = put((20, 30), 2, 7).on("other").receipt(1, 7);
        assert_eq!(broken([first.clone(), second.clone()]), ["monotonic writes"]);
        let read = session_get((0, 10), present(1, 8)).receipt(1, 9);
        assert_eq!(broken([read, second.clone()]), ["writes follow reads"]);
        let same_place = put((20, 30), 2, 8).on("other").receipt(1, 8);
        assert_eq!(broken([first.clone(), same_place]), ["monotonic writes"]);
        let other_group = second.with(|r| r.group = GroupId(2));
        assert!(broken([first, other_group]).is_empty());
    }

    #[test]
    fn a_read_of_another_key_from_a_replica_behind_the_session_is_found() {
        let wrote = put((0, 10), 1, 8).receipt(1, 8);
        let read = session_get((20, 30), Seen::Absent).on("other").receipt(1, 7);
        assert_eq!(broken([wrote, read]), ["read your writes"]);
    }

    #[test]
    fn an_answer_from_a_log_that_lacks_the_sessions_history_is_found() {
        let wrote = put((0, 10), 1, 8).receipt(1, 8);
        let read = session_get((20, 30), present(2, 9)).receipt(2, 12);
        let log = |start: u64| SurvivingLog {
            starts: [(Epoch(1), Index(1)), (Epoch(2), Index(start))].into(),
            last: Index(20),
        };
        let history = history([wrote, read]);
        let check = |start| check(&history, &[(GroupId(1), log(start))].into()).violations;
        assert_eq!(check(8)[0].property, "lost history");
        assert_eq!(check(9), []);
    }
}
