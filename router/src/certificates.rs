//! Loss certificates put together from what all nodes have: who won an epoch opened the certificate, who led the one before knows the
//! extent, and which one that was is known by all of them together ([`Accounts`]).
//!
//! A record by whoever led an epoch is the whole of what was lost of it, and goes with the last certificate that is due on that epoch: the
//! histories that earlier ones began did not last. Records of others hold what their logs held, perhaps less. They, and what no
//! certificate is due on, are shown with that of the first epoch that began later, as long as its extent is not known. A planned hand-over opens no certificate: the
//! word of its old primary that it has lost nothing is none by itself.

use fulcrum_common::wire::internal::{CertificatesResponse, EpochNote, GroupMember, epoch_note::Note};
use fulcrum_common::wire::v1::failover_report_response::Certificate;
use fulcrum_types::{Accounts, DataId, Epoch, Member, NodeId};
use std::collections::BTreeMap;

/// What the nodes that were asked have said so far.
#[derive(Default)]
pub(crate) struct Parts {
    groups: BTreeMap<u64, Group>,
}

/// Of one group.
#[derive(Default)]
struct Group {
    accounts: Accounts,
    /// By the epoch that began.
    opened: BTreeMap<Epoch, Certificate>,
    records: Vec<Certificate>,
}

impl Parts {
    /// Takes one node's answer.
    pub(crate) fn add(&mut self, answer: CertificatesResponse) {
        for note in answer.notes {
            self.groups.entry(note.group).or_default().note(note);
        }
        for part in answer.parts {
            let group = self.groups.entry(part.group).or_default();
            if part.promotion.is_some() {
                group.opened.insert(Epoch(part.new_epoch), part);
                continue;
            }
            if part.extent_known {
                group.accounts.given(Epoch(part.old_epoch), Epoch(part.new_epoch));
            }
            group.records.push(part);
        }
    }

    /// The certificates that it makes, by group and epoch.
    pub(crate) fn whole(self) -> Vec<Certificate> {
        self.groups.into_values().flat_map(Group::whole).collect()
    }
}

fn member(wire: GroupMember) -> Member {
    Member {
        node: NodeId(wire.node),
        data: DataId(wire.data),
    }
}

impl Group {
    /// A note that is not understood says nothing: an extent may stay unknown, and never seems known for it.
    fn note(&mut self, wire: EpochNote) {
        let epoch = Epoch(wire.epoch);
        match wire.note {
            Some(Note::Void(true)) => self.accounts.void(epoch),
            Some(Note::Won(by)) => self.accounts.won(epoch, member(by)),
            Some(Note::Unled(unled)) => {
                if let Some(who) = unled.who {
                    self.accounts.unled(member(who), Epoch(unled.first), epoch);
                }
            }
            Some(Note::Void(false)) | None => {}
        }
    }

    fn whole(mut self) -> Vec<Certificate> {
        for (new, certificate) in &mut self.opened {
            certificate.extent_known = self.accounts.extent_known(*new);
            certificate.common = certificate.promotion.filter(|_| certificate.extent_known);
        }
        // Of two records of one epoch the later one met the history that lasted longer. A repetition after a crash may find less.
        self.records
            .sort_by_key(|record| (record.new_epoch, record.acknowledged_lost));
        let mut alone = Vec::new();
        for record in std::mem::take(&mut self.records) {
            let epoch = Epoch(record.old_epoch);
            if !record.extent_known && self.accounts.tells_more(epoch, Epoch(record.new_epoch)) {
                continue;
            }
            let due = self.last_due_on(epoch).filter(|_| record.extent_known);
            let place = due.or_else(|| self.first_open_after(epoch));
            match place.and_then(|new| self.opened.get_mut(&new)) {
                Some(certificate) => fill(certificate, record),
                None => alone.push(record),
            }
        }
        alone.retain(|record| record.acknowledged_lost + record.never_acknowledged > 0);
        let mut all: Vec<Certificate> = self.opened.into_values().chain(alone).collect();
        all.sort_by_key(|certificate| certificate.new_epoch);
        all
    }

    /// The last certificate for which whoever led this epoch has to account, and has.
    fn last_due_on(&self, epoch: Epoch) -> Option<Epoch> {
        let mut due = self.opened.iter().rev();
        let (new, _) = due.find(|(new, whole)| whole.extent_known && self.accounts.due(**new) == epoch)?;
        Some(*new)
    }

    /// The certificate of the first epoch that began later, if its extent is not known.
    fn first_open_after(&self, epoch: Epoch) -> Option<Epoch> {
        let (new, certificate) = self.opened.range(epoch.next()..).next()?;
        (!certificate.extent_known).then_some(*new)
    }
}

/// What a record tells goes into the certificate, unless that has more already. Whether the extent is known the record does not decide.
fn fill(certificate: &mut Certificate, record: Certificate) {
    let known = certificate.extent_known;
    if !known && record.acknowledged_lost < certificate.acknowledged_lost {
        return;
    }
    *certificate = Certificate {
        old_epoch: certificate.old_epoch,
        new_epoch: certificate.new_epoch,
        promotion: certificate.promotion,
        extent_known: known,
        common: record.common.filter(|_| known),
        ..record
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::wire::internal::epoch_note::Unled;
    use fulcrum_common::wire::v1::LogPosition;

    /// A record by `seen_on` of what is lost of an epoch.
    fn record(old_epoch: u64, new_epoch: u64, extent_known: bool, lost: u64) -> Certificate {
        Certificate {
            group: 1,
            old_epoch,
            new_epoch,
            extent_known,
            acknowledged_lost: lost,
            seen_on: old_epoch,
            ..Certificate::default()
        }
    }

    fn opening(new_epoch: u64) -> Certificate {
        Certificate {
            group: 1,
            old_epoch: new_epoch - 1,
            new_epoch,
            promotion: Some(LogPosition { epoch: 1, index: 5 }),
            ..Certificate::default()
        }
    }

    fn note(epoch: u64, note: Note) -> EpochNote {
        EpochNote {
            group: 1,
            epoch,
            note: Some(note),
        }
    }

    fn whole(parts: &[Certificate], notes: &[EpochNote]) -> Vec<(u64, bool, u64)> {
        let mut all = Parts::default();
        // Each from a node of its own: what is noted may come first or last.
        for part in parts {
            all.add(CertificatesResponse {
                parts: vec![part.clone()],
                notes: Vec::new(),
            });
        }
        all.add(CertificatesResponse {
            parts: Vec::new(),
            notes: notes.to_vec(),
        });
        let line = |c: Certificate| (c.new_epoch, c.extent_known, c.acknowledged_lost);
        all.whole().into_iter().map(line).collect()
    }

    #[test]
    fn parts_make_one_certificate_in_whatever_order_they_come() {
        let parts = [opening(2), record(1, 2, true, 3)];
        assert_eq!(whole(&parts, &[]), [(2, true, 3)]);
        let [a, b] = parts;
        assert_eq!(whole(&[b, a], &[]), [(2, true, 3)]);
    }

    #[test]
    fn a_planned_hand_over_has_no_certificate_and_a_loss_is_told_even_if_nobody_knows_from_where() {
        assert_eq!(whole(&[record(1, 2, true, 0)], &[]), []);
        assert_eq!(whole(&[record(1, 2, true, 1)], &[]), [(2, true, 1)]);
        assert_eq!(whole(&[opening(2)], &[]), [(2, false, 0)]);
    }

    #[test]
    fn the_old_primary_accounts_also_for_an_epoch_that_nobody_led() {
        let parts = [opening(3), record(1, 3, true, 4)];
        assert_eq!(whole(&parts, &[]), [(3, false, 4)], "epoch 2 may have lost more");
        assert_eq!(whole(&parts, &[note(2, Note::Void(true))]), [(3, true, 4)]);
        let who = GroupMember { node: 7, data: 8 };
        let unled = Unled {
            first: 2,
            who: Some(who),
        };
        let notes = [note(2, Note::Won(who)), note(2, Note::Unled(unled))];
        assert_eq!(whole(&parts, &notes), [(3, true, 4)]);
        assert_eq!(whole(&parts, &notes[1..]), [(3, false, 4)], "nobody knows who won it");
    }

    #[test]
    fn what_was_lost_goes_with_the_history_that_lasted_and_counts_once() {
        let parts = [opening(2), opening(3), record(1, 3, true, 4)];
        assert_eq!(
            whole(&parts, &[note(2, Note::Void(true))]),
            [(2, true, 0), (3, true, 4)]
        );
        let both = [opening(2), opening(3), record(1, 3, true, 4), record(2, 3, true, 1)];
        assert_eq!(whole(&both, &[]), [(2, true, 4), (3, true, 1)]);
    }

    #[test]
    fn what_an_old_primary_found_in_a_history_that_did_not_last_is_not_all() {
        let parts = [opening(3), record(1, 2, true, 4)];
        let void = [note(2, Note::Void(true))];
        assert_eq!(whole(&parts, &void), [(3, false, 4)], "epoch 3 may lack more");
        let since = record(1, 3, false, 5);
        assert_eq!(whole(&[&parts[..], &[since]].concat(), &void), [(3, false, 5)]);
    }

    #[test]
    fn a_repetition_that_found_less_takes_nothing_back() {
        let found = [opening(2), record(1, 2, true, 3), record(1, 2, true, 0)];
        assert_eq!(whole(&found, &[]), [(2, true, 3)]);
    }

    #[test]
    fn what_a_backup_held_completes_nothing() {
        let backup = record(1, 2, false, 2);
        assert_eq!(whole(&[opening(2), backup.clone()], &[]), [(2, false, 2)]);
        let both = [opening(2), backup.clone(), record(1, 2, true, 3)];
        assert_eq!(whole(&both, &[]), [(2, true, 3)]);
        assert_eq!(
            whole(&[backup, record(1, 2, true, 0)], &[]),
            [],
            "handed over: nothing acknowledged is lost"
        );
    }
}
