//! What groups have recorded of transactions agrees: DESIGN section 7, rules 14 and 15; `docs/transactions.md`.
//!
//! An id that is committed in one group is refused in none, a record never changes its verdict, and clients are told what is recorded. Judged
//! at every turn, by what each replica has applied.

use fulcrum_types::{Fingerprint, GroupId, Index, NodeId, TransactionId, Verdict};
use std::collections::{BTreeMap, BTreeSet};

/// After so long nothing of a transaction is looked at any more, in nanoseconds; once more at the end.
const LOOKED_AT: u64 = 8_000_000_000;

/// What is known of one transaction.
#[derive(Clone, Debug)]
struct Known {
    fingerprint: Fingerprint,
    home: GroupId,
    groups: BTreeSet<GroupId>,
    began: u64,
    verdicts: BTreeMap<GroupId, Verdict>,
    prepared: BTreeSet<GroupId>,
    /// What a client was told.
    told: Option<bool>,
}

/// The transactions of several groups that were asked for.
#[derive(Debug, Default)]
pub struct Records {
    known: BTreeMap<TransactionId, Known>,
    /// Ids that clients used twice: what is said of them is of either.
    reused: BTreeSet<TransactionId>,
    applied: BTreeMap<(GroupId, NodeId), Index>,
    /// What is prepared in each group, as the replica shows that has applied most.
    newest: BTreeMap<GroupId, (Index, BTreeSet<TransactionId>)>,
}

fn commits(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Commit(_))
}

impl Records {
    /// A transaction is asked for.
    pub fn begin(
        &mut self,
        id: TransactionId,
        fingerprint: Fingerprint,
        home: GroupId,
        groups: BTreeSet<GroupId>,
        now: u64,
    ) {
        if self.reused.contains(&id) {
            return;
        }
        self.known.entry(id).or_insert_with(|| Known {
            fingerprint,
            home,
            groups,
            began: now,
            verdicts: BTreeMap::new(),
            prepared: BTreeSet::new(),
            told: None,
        });
    }

    /// An id is given to two transactions.
    pub fn is_reused(&mut self, id: TransactionId) {
        self.known.remove(&id);
        self.reused.insert(id);
    }

    /// A group that has a verdict on record takes it for resolved everywhere: if it is home to a commit, all others have resolved it.
    ///
    /// # Errors
    /// Who has not.
    pub fn resolved_everywhere(&self, group: GroupId, id: TransactionId) -> Result<(), String> {
        let Some(known) = self.known.get(&id).filter(|known| known.home == group) else {
            return Ok(());
        };
        if !known.verdicts.get(&group).is_some_and(commits) {
            return Ok(());
        }
        // Past the horizon a participant keeps no record of what it has resolved; that it was prepared once is known.
        let holds = |other: &GroupId| {
            self.newest
                .get(other)
                .is_some_and(|(_, prepared)| prepared.contains(&id))
        };
        let missing =
            |other: &&GroupId| !known.verdicts.contains_key(other) && (holds(other) || !known.prepared.contains(other));
        match known.groups.iter().find(missing) {
            None => Ok(()),
            Some(other) => Err(format!(
                "{group} has forgotten the commit of {id}, which {other} has not resolved"
            )),
        }
    }

    /// Whether a replica has applied anything since it was asked last.
    pub fn has_moved(&mut self, group: GroupId, node: NodeId, applied: Index) -> bool {
        self.applied.insert((group, node), applied) != Some(applied)
    }

    /// Those to be looked at in a group.
    pub fn to_look_at(&self, group: GroupId, now: u64) -> impl Iterator<Item = TransactionId> {
        let young = move |known: &Known| known.began + LOOKED_AT > now;
        let of = move |known: &Known| known.groups.contains(&group) && young(known);
        self.known.iter().filter(move |(_, known)| of(known)).map(|(id, _)| *id)
    }

    /// What a group has recorded, as far as any replica showed.
    #[must_use]
    pub fn verdict(&self, group: GroupId, id: TransactionId) -> Option<Verdict> {
        self.known.get(&id)?.verdicts.get(&group).copied()
    }

    /// Whether a group has been seen to have it prepared.
    #[must_use]
    pub fn is_prepared(&self, group: GroupId, id: TransactionId) -> bool {
        self.known.get(&id).is_some_and(|known| known.prepared.contains(&group))
    }

    /// A replica that has applied so much has these prepared.
    pub fn shows(&mut self, group: GroupId, applied: Index, prepared: &BTreeSet<TransactionId>) {
        for id in prepared {
            if let Some(known) = self.known.get_mut(id) {
                known.prepared.insert(group);
            }
        }
        let newest = self.newest.entry(group).or_default();
        if applied >= newest.0 {
            *newest = (applied, prepared.clone());
        }
    }

    /// A replica has a verdict on record.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn recorded(&mut self, group: GroupId, id: TransactionId, verdict: Verdict) -> Result<(), String> {
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        if let Verdict::Commit(fingerprint) = verdict
            && fingerprint != known.fingerprint
        {
            return Err(format!("{group} has committed {id} as another transaction"));
        }
        let first = known.verdicts.entry(group).or_insert(verdict);
        if commits(first) != commits(&verdict) {
            return Err(format!("{group} has {verdict:?} of {id} on record, after {first:?}"));
        }
        let other = known
            .verdicts
            .iter()
            .find(|(_, other)| commits(other) != commits(&verdict));
        if let Some((other, instead)) = other {
            return Err(format!("{id}: {group} has {verdict:?} on record, {other} {instead:?}"));
        }
        match known.told {
            Some(told) if told != commits(&verdict) => Err(format!(
                "{id}: {group} has {verdict:?} on record, the client was told otherwise"
            )),
            _ => Ok(()),
        }
    }

    /// A client is told for certain that it is committed, or that it never will be.
    ///
    /// # Errors
    /// What it contradicts.
    pub fn told(&mut self, id: TransactionId, committed: bool) -> Result<(), String> {
        let Some(known) = self.known.get_mut(&id) else {
            return Ok(());
        };
        if known.told.is_some_and(|before| before != committed) {
            return Err(format!("{id}: clients were told both of a commit and of an abort"));
        }
        known.told = Some(committed);
        match known.verdicts.iter().find(|(_, verdict)| commits(verdict) != committed) {
            None => Ok(()),
            Some((group, verdict)) => Err(format!(
                "{id}: the client was told that it is {}, {group} has {verdict:?} on record",
                if committed { "committed" } else { "aborted" }
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::AbortCause;

    const ID: TransactionId = TransactionId {
        begun_at_ms: 1,
        client: fulcrum_types::ClientId(1),
        sequence: fulcrum_types::Sequence(1),
    };
    const COMMIT: Verdict = Verdict::Commit(Fingerprint(7));
    const ABORT: Verdict = Verdict::Abort {
        of: None,
        cause: AbortCause::Client,
    };

    fn records() -> Records {
        let mut records = Records::default();
        records.begin(
            ID,
            Fingerprint(7),
            GroupId(1),
            BTreeSet::from([GroupId(1), GroupId(2)]),
            0,
        );
        records
    }

    #[test]
    fn groups_agree_and_do_not_change() {
        let mut seen = records();
        assert!(seen.recorded(GroupId(1), ID, COMMIT).is_ok());
        assert!(seen.recorded(GroupId(2), ID, COMMIT).is_ok());
        assert!(seen.recorded(GroupId(1), ID, ABORT).is_err(), "it changed");
        let mut seen = records();
        assert!(seen.recorded(GroupId(1), ID, COMMIT).is_ok());
        assert!(seen.recorded(GroupId(2), ID, ABORT).is_err(), "they differ");
        let mut seen = records();
        let other = Verdict::Commit(Fingerprint(8));
        assert!(seen.recorded(GroupId(1), ID, other).is_err(), "of another transaction");
    }

    #[test]
    fn a_home_forgets_what_all_have_resolved() {
        let mut seen = records();
        assert!(seen.recorded(GroupId(1), ID, COMMIT).is_ok());
        seen.shows(GroupId(2), Index(7), &BTreeSet::from([ID]));
        assert!(seen.resolved_everywhere(GroupId(1), ID).is_err(), "the other holds it");
        seen.shows(GroupId(2), Index(6), &BTreeSet::new());
        assert!(seen.resolved_everywhere(GroupId(1), ID).is_err(), "a replica lags");
        seen.shows(GroupId(2), Index(8), &BTreeSet::new());
        assert!(seen.resolved_everywhere(GroupId(1), ID).is_ok(), "and has let it go");
    }

    #[test]
    fn clients_are_told_what_is_recorded() {
        let mut seen = records();
        assert!(seen.recorded(GroupId(1), ID, COMMIT).is_ok());
        assert!(seen.told(ID, false).is_err());
        let mut seen = records();
        assert!(seen.told(ID, true).is_ok());
        assert!(seen.recorded(GroupId(2), ID, ABORT).is_err());
    }
}
