//! How a cut through several groups is made, and how what its groups hold is put together: pure, as the core of transactions is.
//!
//! **The promise.** [`Cutting`] ends with a [`Cut`] only if there was a moment at which every group was held. No group promises or commits
//! anything while it is held, so what any of them had promised or committed by its own hold is what it had at that moment: of each
//! transaction the cut has all or nothing, and with a transaction all that were committed before it began.
//!
//! **The protocol.** All groups are asked to hold. When the last one has said that it is held all are released; who says that it was
//! held until then was held when the last one began to be. Whoever was not, or does not answer, ends the attempt: another one takes a
//! new id. What a group holds is its values and, for each intent, what its *home group* had decided by the cut (`settle`): a home
//! group keeps the record of a commit as long as somebody may hold an intent of it, so that its own state answers, for ever the same.
//!
//! **Left out**: how long is waited (the runner's deadlines, and the holds' own end), and where the states are kept.

use bytes::Bytes;
use fulcrum_types::{
    Cut, CutAnswer, CutId, CutIntent, CutOperation, CutPage, CutPoint, CutStep, CutVerdict, Participant, Refusal,
    TransactionId, Versioned,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What is to be asked of whom.
pub type Asks = Vec<(Participant, CutOperation)>;

/// Why an attempt did not make a cut. Nothing is left of it: another one may.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotCut {
    /// A group refused, or did not answer.
    #[error("group {} was not held: {refusal}", at.group)]
    Refused {
        /// Which.
        at: Participant,
        /// Why.
        refusal: Refusal,
    },
    /// A hold was over before all others were held.
    #[error("group {} was not held for as long as it took to hold all others", at.group)]
    Lapsed {
        /// Which.
        at: Participant,
    },
}

/// An attempt at a cut.
#[derive(Clone, Debug)]
pub struct Cutting {
    id: CutId,
    /// Where each group is held, as far as it has said so.
    held: BTreeMap<Participant, Option<CutPoint>>,
    /// Of whom the release is not answered; none before all are held.
    releasing: Option<BTreeSet<Participant>>,
    over: bool,
    #[cfg(feature = "planted-bugs")]
    pub(crate) bug: Option<crate::planted::Bug>,
}

/// What came of an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// To be asked now. If it is over, nobody waits for the answers.
    pub asks: Asks,
    /// It is over.
    pub ended: Option<Result<Cut, NotCut>>,
}

impl Cutting {
    /// An attempt through these groups, and what to ask first.
    #[must_use]
    pub fn new(id: CutId, hold: Duration, groups: impl IntoIterator<Item = Participant>) -> (Self, Asks) {
        let cutting = Self {
            id,
            held: groups.into_iter().map(|group| (group, None)).collect(),
            releasing: None,
            over: false,
            #[cfg(feature = "planted-bugs")]
            bug: None,
        };
        let asks = cutting.all(CutStep::Hold { id, hold });
        (cutting, asks)
    }

    /// The same with something broken.
    #[cfg(feature = "planted-bugs")]
    #[must_use]
    pub fn with_bug(self, bug: crate::planted::Bug) -> Self {
        Self { bug: Some(bug), ..self }
    }

    /// Takes in a group's answer to the last that it was asked.
    pub fn answered(&mut self, at: Participant, answer: Result<CutAnswer, Refusal>) -> Progress {
        if self.over {
            return Progress::default();
        }
        let since = self.held.get(&at).copied().flatten();
        match answer {
            Ok(CutAnswer::Held(point)) if self.releasing.is_none() => self.is_held(at, point),
            Ok(CutAnswer::Held(point)) if since == Some(point) => self.is_released(at),
            Ok(_) if self.releasing.is_some() && planted!(self, TrustLapsedHolds) => self.is_released(at),
            Ok(_) => self.fail(NotCut::Lapsed { at }),
            Err(refusal) => self.fail(NotCut::Refused { at, refusal }),
        }
    }

    fn is_held(&mut self, at: Participant, point: CutPoint) -> Progress {
        if let Some(since) = self.held.get_mut(&at) {
            *since = Some(point);
        }
        if self.held.values().any(Option::is_none) {
            return Progress::default();
        }
        self.releasing = Some(self.held.keys().copied().collect());
        Progress {
            asks: self.all(CutStep::Release { id: self.id }),
            ended: None,
        }
    }

    fn is_released(&mut self, at: Participant) -> Progress {
        let Some(waited_for) = &mut self.releasing else {
            return Progress::default();
        };
        waited_for.remove(&at);
        if !waited_for.is_empty() {
            return Progress::default();
        }
        self.over = true;
        let points = self.held.iter().filter_map(|(at, point)| Some((*at, (*point)?)));
        let cut = Cut {
            id: self.id,
            points: points.collect(),
        };
        Progress {
            asks: Asks::new(),
            ended: Some(Ok(cut)),
        }
    }

    fn fail(&mut self, why: NotCut) -> Progress {
        self.over = true;
        Progress {
            asks: self.all(CutStep::End { id: self.id }),
            ended: Some(Err(why)),
        }
    }

    fn all(&self, step: CutStep) -> Asks {
        let ask = |group: &Participant| (*group, CutOperation::Step(step));
        self.held.keys().map(ask).collect()
    }
}

/// Why a page of a cut cannot be told. The cut is of no use then: another one is to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unsettled {
    /// The home group was not cut: its keyspace is newer than the cut.
    #[error("transaction {id} is decided in group {}, which the cut does not go through", home.group)]
    Outside {
        /// The transaction.
        id: TransactionId,
        /// Its home.
        home: Participant,
    },
    /// The home group has no record, and may have had one.
    #[error("group {} does not know any more how transaction {id} ended", home.group)]
    TooOld {
        /// The transaction.
        id: TransactionId,
        /// Its home.
        home: Participant,
    },
    /// The home group was not asked, or its answer does not fit.
    #[error("group {} has not said how transaction {id} ended", home.group)]
    Unasked {
        /// The transaction.
        id: TransactionId,
        /// Its home.
        home: Participant,
    },
}

/// What home groups had decided by a cut.
#[derive(Clone, Debug, Default)]
pub struct Verdicts {
    known: BTreeMap<TransactionId, CutVerdict>,
}

impl Verdicts {
    /// Whom to ask of what before a page can be settled, a bounded number at once.
    ///
    /// # Errors
    /// A home group is outside of the cut.
    pub fn missing(&self, cut: &Cut, page: &CutPage, most: usize) -> Result<Asks, Unsettled> {
        let mut by_home: BTreeMap<Participant, BTreeSet<TransactionId>> = BTreeMap::new();
        for CutIntent { id, home, .. } in &page.intents {
            if !self.known.contains_key(id) {
                by_home.entry(*home).or_default().insert(*id);
            }
        }
        let mut asks = Asks::new();
        for (home, ids) in by_home {
            let ids: Vec<TransactionId> = ids.into_iter().collect();
            let Some(point) = cut.points.get(&home) else {
                return Err(Unsettled::Outside { id: ids[0], home });
            };
            asks.extend(ids.chunks(most.max(1)).map(|ids| {
                let transactions = ids.to_vec();
                let (id, at) = (cut.id, point.position);
                (home, CutOperation::LookUp { id, at, transactions })
            }));
        }
        Ok(asks)
    }

    /// Takes in what a home group has said.
    pub fn learn(&mut self, ids: &[TransactionId], verdicts: &[CutVerdict]) {
        self.known.extend(ids.iter().copied().zip(verdicts.iter().copied()));
    }

    /// What the keys of a page held at the cut, in order: values, and over them what was committed and not yet resolved.
    ///
    /// # Errors
    /// Of some transaction it is not known.
    pub fn settle(&self, page: CutPage) -> Result<Vec<(Bytes, Versioned)>, Unsettled> {
        if page.intents.is_empty() {
            return Ok(page.rows);
        }
        let mut rows: BTreeMap<Bytes, Versioned> = page.rows.into_iter().collect();
        for intent in page.intents {
            let (id, home) = (intent.id, intent.home);
            match self.known.get(&id) {
                Some(CutVerdict::Committed(fingerprint)) if *fingerprint == intent.fingerprint => {
                    match intent.becomes {
                        Some(value) => rows.insert(intent.key, value),
                        None => rows.remove(&intent.key),
                    };
                }
                Some(CutVerdict::Committed(_) | CutVerdict::NotCommitted) => {}
                Some(CutVerdict::TooOld) => return Err(Unsettled::TooOld { id, home }),
                None => return Err(Unsettled::Unasked { id, home }),
            }
        }
        Ok(rows.into_iter().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{
        Epoch, Fingerprint, GroupId, Index, KeyspaceId, LogPosition, ReplicatedTime, Sequence, Version,
    };

    const ID: CutId = CutId(7);
    const HOLD: Duration = Duration::from_secs(2);

    fn at(group: u64) -> Participant {
        Participant {
            keyspace: KeyspaceId(1),
            group: GroupId(group),
        }
    }

    fn point(index: u64) -> CutPoint {
        CutPoint {
            position: LogPosition {
                epoch: Epoch(1),
                index: Index(index),
            },
            time: ReplicatedTime(index),
        }
    }

    fn held(index: u64) -> Result<CutAnswer, Refusal> {
        Ok(CutAnswer::Held(point(index)))
    }

    fn steps(asks: &Asks) -> Vec<(u64, CutStep)> {
        let step = |(at, operation): &(Participant, CutOperation)| match operation {
            CutOperation::Step(step) => (at.group.0, *step),
            other => panic!("{other:?} is no step"),
        };
        asks.iter().map(step).collect()
    }

    fn both(step: CutStep) -> Vec<(u64, CutStep)> {
        vec![(1, step), (2, step)]
    }

    #[test]
    fn all_are_held_before_any_is_released() {
        let (mut cutting, asks) = Cutting::new(ID, HOLD, [at(1), at(2)]);
        assert_eq!(steps(&asks), both(CutStep::Hold { id: ID, hold: HOLD }));
        assert_eq!(cutting.answered(at(1), held(5)), Progress::default());
        let all = cutting.answered(at(2), held(9));
        assert_eq!(steps(&all.asks), both(CutStep::Release { id: ID }));
        assert_eq!(all.ended, None);
        assert_eq!(cutting.answered(at(2), held(9)), Progress::default());
        let over = cutting.answered(at(1), held(5));
        let points = [(at(1), point(5)), (at(2), point(9))].into();
        assert_eq!(over.ended, Some(Ok(Cut { id: ID, points })));
        assert_eq!(cutting.answered(at(1), held(5)), Progress::default());
    }

    #[test]
    fn whoever_is_not_held_ends_the_attempt_and_all_let_go() {
        let refusal = Refusal::NotReady;
        let (mut cutting, _) = Cutting::new(ID, HOLD, [at(1), at(2)]);
        let over = cutting.answered(at(2), Err(refusal.clone()));
        assert_eq!(steps(&over.asks), both(CutStep::End { id: ID }));
        assert_eq!(over.ended, Some(Err(NotCut::Refused { at: at(2), refusal })));
    }

    #[test]
    fn a_hold_that_was_over_or_began_anew_is_no_cut() {
        for late in [Ok(CutAnswer::Lapsed), held(6), Ok(CutAnswer::Done)] {
            let (mut cutting, _) = Cutting::new(ID, HOLD, [at(1), at(2)]);
            cutting.answered(at(1), held(5));
            cutting.answered(at(2), held(9));
            let over = cutting.answered(at(1), late);
            assert_eq!(steps(&over.asks), both(CutStep::End { id: ID }));
            assert_eq!(over.ended, Some(Err(NotCut::Lapsed { at: at(1) })));
        }
    }

    /// What the story above is there for.
    #[cfg(feature = "planted-bugs")]
    #[test]
    fn the_planted_bug_changes_that() {
        let (cutting, _) = Cutting::new(ID, HOLD, [at(1)]);
        let mut cutting = cutting.with_bug(crate::planted::Bug::TrustLapsedHolds);
        cutting.answered(at(1), held(5));
        let over = cutting.answered(at(1), Ok(CutAnswer::Lapsed));
        assert!(matches!(over.ended, Some(Ok(_))), "{:?}", over.ended);
    }

    fn transaction(number: u64) -> TransactionId {
        TransactionId {
            sequence: Sequence(number),
            ..TransactionId::default()
        }
    }

    fn value(text: &'static str) -> Versioned {
        Versioned {
            value: text.into(),
            version: Version(1),
            expires_at_ms: 0,
        }
    }

    fn intent(key: &'static str, number: u64, home: u64, becomes: Option<&'static str>) -> CutIntent {
        CutIntent {
            key: key.into(),
            id: transaction(number),
            fingerprint: Fingerprint(number.into()),
            home: at(home),
            becomes: becomes.map(value),
        }
    }

    #[test]
    fn what_the_home_groups_had_committed_is_in_the_cut_and_nothing_else() {
        let page = CutPage {
            rows: vec![
                ("a".into(), value("old")),
                ("b".into(), value("old")),
                ("d".into(), value("old")),
            ],
            intents: vec![
                intent("a", 1, 1, Some("new")),
                intent("b", 2, 2, None),
                intent("c", 1, 1, Some("new")),
                intent("d", 3, 2, Some("new")),
                intent("e", 4, 2, Some("new")),
            ],
            next: None,
        };
        let cut = Cut {
            id: ID,
            points: [(at(1), point(5)), (at(2), point(9))].into(),
        };
        let mut verdicts = Verdicts::default();
        let unasked = Unsettled::Unasked {
            id: transaction(1),
            home: at(1),
        };
        assert_eq!(verdicts.settle(page.clone()), Err(unasked));
        let asks = verdicts.missing(&cut, &page, 2).unwrap();
        let asked: Vec<_> = asks
            .iter()
            .map(|(home, operation)| match operation {
                CutOperation::LookUp { at, transactions, .. } => (home.group.0, at.index.0, transactions.len()),
                other => panic!("{other:?} is no look-up"),
            })
            .collect();
        assert_eq!(asked, [(1, 5, 1), (2, 9, 2), (2, 9, 1)]);
        let committed = |number: u64| CutVerdict::Committed(Fingerprint(number.into()));
        verdicts.learn(&[transaction(1)], &[committed(1)]);
        // The last one is another transaction under the same id.
        verdicts.learn(
            &[transaction(2), transaction(3), transaction(4)],
            &[committed(2), CutVerdict::NotCommitted, committed(99)],
        );
        assert_eq!(verdicts.missing(&cut, &page, 2), Ok(Asks::new()));
        let settled = verdicts.settle(page.clone()).unwrap();
        let row = |key: &'static str, text| (Bytes::from(key), value(text));
        assert_eq!(settled, [row("a", "new"), row("c", "new"), row("d", "old")]);
        verdicts.learn(&[transaction(3)], &[CutVerdict::TooOld]);
        let too_old = Unsettled::TooOld {
            id: transaction(3),
            home: at(2),
        };
        assert_eq!(verdicts.settle(page.clone()), Err(too_old));
        let smaller = Cut {
            points: [(at(1), point(5))].into(),
            ..cut
        };
        assert!(matches!(
            Verdicts::default().missing(&smaller, &page, 9),
            Err(Unsettled::Outside { .. })
        ));
    }
}
