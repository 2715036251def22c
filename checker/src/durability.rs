//! Acknowledged writes survive, or a loss certificate names them.
//!
//! Source: DESIGN section 5: `sync` loses nothing; an `async` failover may lose the tail that was not replicated, and
//! nothing silently. A write is *lost* if it was acknowledged and its entry is not in the surviving log of its group:
//! its epoch no longer owns its index ([`SurvivingLog`]). Superseding it by a later write does not lose it, and a later
//! write that reuses its index does not save it.
//!
//! [`check_final`] asks the same of the data instead of the log: it reads every key after all has healed.

use crate::history::{History, Seen};
use crate::removals::Removals;
use crate::survival::SurvivingLog;
use crate::violation::Violation;
use bytes::Bytes;
use fulcrum_types::{Epoch, GroupId, Index, LogPosition, Mode};
use std::collections::{BTreeMap, BTreeSet};

/// What the certificates of all groups say together.
#[derive(Clone, Debug, Default)]
pub struct Certificates {
    /// Entries that they list as lost.
    pub lost: BTreeSet<(GroupId, Epoch, Index)>,
    /// Groups of which some certificate says "extent unknown": entries may be missing from its list.
    pub open: BTreeSet<GroupId>,
}

/// What was found, with the number of chances there were to find it.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Acknowledged writes with a position.
    pub acknowledged: usize,
    /// Those that are not in the surviving log, as places in the history.
    pub lost: Vec<usize>,
    /// What is wrong: a loss in `sync`, one that no certificate names, or a certificate that names a survivor.
    pub violations: Vec<Violation>,
}

/// Compares what was acknowledged with what survived and with what the certificates say.
///
/// A group without a surviving log is itself a violation if it acknowledged anything: nobody could say what it lost.
#[must_use]
pub fn check(
    history: &History,
    mode: Mode,
    logs: &BTreeMap<GroupId, SurvivingLog>,
    certificates: &Certificates,
) -> Report {
    let mut report = Report::default();
    let mut without_log = BTreeSet::new();
    for (place, operation) in history.operations().iter().enumerate() {
        let Some((group, at)) = operation.position().filter(|_| operation.is_written()) else {
            continue;
        };
        report.acknowledged += 1;
        let Some(log) = logs.get(&group) else {
            if without_log.insert(group) {
                let why = format!("the surviving log of {group} is not known, though it acknowledged writes");
                report.violations.push(Violation::new("durability", vec![place], why));
            }
            continue;
        };
        if log.contains(at) {
            continue;
        }
        report.lost.push(place);
        let named = certificates.lost.contains(&(group, at.epoch, at.index));
        let why = match mode {
            Mode::Sync => {
                format!("{at} of {group} was acknowledged in a sync keyspace and is lost")
            }
            Mode::Async if named || certificates.open.contains(&group) => continue,
            Mode::Async => {
                format!("{at} of {group} was acknowledged and is lost, and no certificate names it")
            }
        };
        report
            .violations
            .push(Violation::new("durability", vec![place], why).on_key(&operation.key));
    }
    report.violations.extend(certified_survivors(logs, certificates));
    report
}

fn certified_survivors<'a>(
    logs: &'a BTreeMap<GroupId, SurvivingLog>,
    certificates: &'a Certificates,
) -> impl Iterator<Item = Violation> + 'a {
    certificates.lost.iter().filter_map(|&(group, epoch, index)| {
        let at = LogPosition { epoch, index };
        let survived = logs.get(&group)?.contains(at);
        let why = || format!("a certificate names {at} of {group}, which survived");
        survived.then(|| Violation::new("durability", Vec::new(), why()))
    })
}

/// What a final read of all keys showed.
#[derive(Clone, Debug, Default)]
pub struct FinalReport {
    /// Keys with acknowledged writes.
    pub keys: usize,
    /// Acknowledged writes that are newer than what their key holds now, as places in the history.
    pub lost: Vec<usize>,
    /// Keys whose value now is not the one that was acknowledged at its version.
    pub altered: Vec<Violation>,
}

/// Compares the acknowledged writes with what the keys hold once all has healed and no write is under way.
///
/// A key that is not in `finals` holds nothing. `still_stands` says of an acknowledged write, by its place, whether it
/// counts: in `async` those already known to be lost do not, as their versions may have been used again.
#[must_use]
pub fn check_final(
    history: &History,
    finals: &BTreeMap<Bytes, Seen>,
    still_stands: impl Fn(usize) -> bool,
) -> FinalReport {
    let removals = Removals::of(history);
    let mut report = FinalReport::default();
    for (key, places) in history.by_key() {
        let held = finals.get(key).copied().unwrap_or(Seen::Absent);
        let mut written = false;
        for place in places {
            let operation = &history.operations()[place];
            let Some(version) = operation.written_version().filter(|_| still_stands(place)) else {
                continue;
            };
            written = true;
            match held {
                Seen::Absent if !removals.could_hide(key, version) => report.lost.push(place),
                Seen::Present { version: now, .. } if now.is_some_and(|now| now < version) => {
                    report.lost.push(place);
                }
                Seen::Present { version: now, value }
                    if now == Some(version) && operation.call.writes() != Some(Some(value)) =>
                {
                    let why = format!("holds {held}, which is not what was acknowledged at {version}");
                    let altered = Violation::new("durability", vec![place], why);
                    report.altered.push(altered.on_key(key));
                }
                _ => {}
            }
        }
        report.keys += usize::from(written);
    }
    report
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Call, Outcome};
    use crate::testing::*;

    /// Epoch 2 began at index 6.
    fn logs() -> BTreeMap<GroupId, SurvivingLog> {
        let log = SurvivingLog {
            starts: [(Epoch(1), Index(1)), (Epoch(2), Index(6))].into(),
            last: Index(9),
        };
        [(GroupId(1), log)].into()
    }

    fn naming(entries: &[(u64, u64)]) -> Certificates {
        let name = |&(epoch, index): &(u64, u64)| (GroupId(1), Epoch(epoch), Index(index));
        Certificates {
            lost: entries.iter().map(name).collect(),
            open: BTreeSet::new(),
        }
    }

    fn failover() -> History {
        history([
            put((0, 10), 1, 5).receipt(1, 5),
            put((20, 30), 2, 6).receipt(1, 6),
            put((40, 50), 3, 6).receipt(2, 6),
            put_unknown(20, 4),
        ])
    }

    #[test]
    fn a_lost_write_is_counted_and_its_index_used_again_does_not_hide_it() {
        let report = check(&failover(), Mode::Async, &logs(), &naming(&[(1, 6)]));
        assert_eq!((report.acknowledged, report.lost), (3, vec![1]));
        assert_eq!(report.violations, [], "the certificate names it");
    }

    #[test]
    fn a_silent_loss_is_found() {
        let report = check(&failover(), Mode::Async, &logs(), &naming(&[]));
        assert_eq!(report.violations[0].operations, [1]);
        let open = Certificates {
            open: [GroupId(1)].into(),
            ..naming(&[])
        };
        assert_eq!(check(&failover(), Mode::Async, &logs(), &open).violations, []);
    }

    #[test]
    fn sync_loses_nothing_whatever_a_certificate_says() {
        let report = check(&failover(), Mode::Sync, &logs(), &naming(&[(1, 6)]));
        assert_eq!(report.violations.len(), 1);
    }

    #[test]
    fn a_certificate_that_names_a_survivor_is_found() {
        let report = check(&failover(), Mode::Async, &logs(), &naming(&[(1, 6), (1, 5)]));
        assert_eq!(report.violations.len(), 1);
        let of_nobody = naming(&[(1, 6), (1, 7)]);
        assert_eq!(check(&failover(), Mode::Async, &logs(), &of_nobody).violations, []);
    }

    #[test]
    fn a_group_whose_log_is_not_known_is_no_pass() {
        let report = check(&failover(), Mode::Sync, &BTreeMap::new(), &naming(&[]));
        assert_eq!(report.violations.len(), 1);
    }

    fn finals(seen: Seen) -> BTreeMap<Bytes, Seen> {
        [(Bytes::from_static(b"k"), seen)].into()
    }

    #[test]
    fn a_final_read_shows_what_is_gone() {
        let wrote = history([put((0, 10), 1, 5), put((20, 30), 2, 6), put_unknown(20, 3)]);
        let lost = |seen| check_final(&wrote, &finals(seen), |_| true).lost;
        assert!(lost(present(2, 6)).is_empty());
        assert!(lost(present(3, 9)).is_empty(), "the unknown write surfaced");
        let newest = |place: &usize| history_version(&wrote, *place) == Some(Index(6));
        assert!(matches!(lost(present(1, 5)).as_slice(), [place] if newest(place)));
        assert_eq!(lost(Seen::Absent).len(), 2);
        let already_known = |place| history_version(&wrote, place) != Some(Index(6));
        assert!(
            check_final(&wrote, &finals(present(1, 5)), already_known)
                .lost
                .is_empty()
        );
    }

    fn history_version(history: &History, place: usize) -> Option<Index> {
        history.operations()[place].written_version()
    }

    #[test]
    fn a_final_read_shows_what_was_altered_and_what_was_not_removed() {
        let wrote = [put((0, 10), 1, 5), delete((20, 30), 6)];
        let judge = |seen| check_final(&history(wrote.clone()), &finals(seen), |_| true);
        assert!(judge(Seen::Absent).lost.is_empty());
        assert_eq!(judge(present(1, 5)).lost, [1], "the removal is lost");
        assert_eq!(judge(present(9, 6)).altered.len(), 1);
        let unknown = op((20, 0), Call::Delete, Outcome::Unknown);
        let maybe = history([wrote[0].clone(), unknown]);
        assert!(check_final(&maybe, &finals(Seen::Absent), |_| true).lost.is_empty());
    }
}
