//! Who has to give account of what a failover lost, and what is known of that.
//!
//! A loss certificate is opened by who wins an epoch, and is due on the epoch before: whoever led that one knows all that it acknowledged.
//! But an epoch may have been won and never led, or led without ever a lease. Such an epoch is **void**: nothing was acknowledged in
//! it, and the account is due on the epoch before it. An epoch is void if who knows it says so; or if the one that won it, by the word of
//! its successor, says that it never led it.
//!
//! An account compares what its giver had with the history of one epoch. A void epoch may have had a history, which nobody's promise covered
//! and which is gone: what was found there says nothing of the epochs after it.

use crate::configuration::Member;
use crate::ids::Epoch;
use std::collections::{BTreeMap, BTreeSet};

/// What all replicas of a group together know of its epochs.
#[derive(Clone, Debug, Default)]
pub struct Accounts {
    void: BTreeSet<Epoch>,
    won: BTreeMap<Epoch, Member>,
    unled: Vec<(Member, Epoch, Epoch)>,
    /// With the last epoch whose history the account was held against.
    given: BTreeMap<Epoch, Epoch>,
}

impl Accounts {
    /// In this epoch nothing was acknowledged.
    pub fn void(&mut self, epoch: Epoch) {
        self.void.insert(epoch);
    }

    /// The epoch had this primary, by the configuration that its successor took over from.
    pub fn won(&mut self, epoch: Epoch, by: Member) {
        self.won.insert(epoch, by);
    }

    /// This replica led no epoch from `first` through `last`.
    pub fn unled(&mut self, who: Member, first: Epoch, last: Epoch) {
        self.unled.push((who, first, last));
    }

    /// Who led the epoch has said what of it is not in the history that `against` is of.
    pub fn given(&mut self, epoch: Epoch, against: Epoch) {
        let known = self.given.entry(epoch).or_insert(against);
        *known = against.max(*known);
    }

    /// Whether those who led have told what others may have found missing of this epoch in the history of `new`.
    #[must_use]
    pub fn tells_more(&self, epoch: Epoch, new: Epoch) -> bool {
        let told = self.given.get(&epoch).is_some_and(|against| *against >= new);
        told || epoch < new && self.given.range(epoch..new).any(|(_, against)| *against >= new)
    }

    /// The epoch on which the certificate of `new` is due. Epoch 0: nothing was ever acknowledged before.
    #[must_use]
    pub fn due(&self, new: Epoch) -> Epoch {
        let mut epoch = new.prev();
        while epoch > Epoch::ZERO && !self.given.contains_key(&epoch) && self.is_void(epoch) {
            epoch = epoch.prev();
        }
        epoch
    }

    /// Whether it is known all that was lost when `new` began.
    #[must_use]
    pub fn extent_known(&self, new: Epoch) -> bool {
        let due = self.due(new);
        let against = self.given.get(&due).copied();
        due == Epoch::ZERO || against.is_some_and(|against| due == new.prev() || against >= new)
    }

    fn is_void(&self, epoch: Epoch) -> bool {
        let never_led = |winner: &Member| {
            let mut words = self.unled.iter();
            words.any(|(who, first, last)| who == winner && (*first..=*last).contains(&epoch))
        };
        self.void.contains(&epoch) || self.won.get(&epoch).is_some_and(never_led)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{DataId, NodeId};

    fn member(node: u64, data: u64) -> Member {
        Member {
            node: NodeId(node),
            data: DataId(data),
        }
    }

    #[test]
    fn an_account_is_due_on_the_epoch_before() {
        let mut accounts = Accounts::default();
        accounts.given(Epoch(1), Epoch(2));
        assert_eq!(accounts.due(Epoch(3)), Epoch(2));
        assert!(!accounts.extent_known(Epoch(3)));
        assert!(accounts.extent_known(Epoch(2)));
    }

    #[test]
    fn void_epochs_are_passed_over() {
        let mut accounts = Accounts::default();
        accounts.void(Epoch(2));
        accounts.void(Epoch(3));
        assert_eq!(accounts.due(Epoch(4)), Epoch(1));
        assert!(!accounts.extent_known(Epoch(4)));
        accounts.given(Epoch(1), Epoch(4));
        assert!(accounts.extent_known(Epoch(4)));
        accounts.void(Epoch(1));
        accounts.given(Epoch(3), Epoch(4));
        assert_eq!(accounts.due(Epoch(4)), Epoch(3), "who gives account is believed first");
        assert_eq!(accounts.due(Epoch(2)), Epoch(1));
    }

    #[test]
    fn what_was_found_in_a_void_epoch_says_nothing_of_the_next() {
        let mut accounts = Accounts::default();
        accounts.given(Epoch(1), Epoch(2));
        accounts.void(Epoch(2));
        assert!(accounts.extent_known(Epoch(2)));
        assert!(!accounts.extent_known(Epoch(3)), "it may lack what epoch 2 had");
        accounts.given(Epoch(1), Epoch(3));
        accounts.given(Epoch(1), Epoch(2));
        assert!(accounts.extent_known(Epoch(3)));
    }

    #[test]
    fn others_add_nothing_to_what_those_who_led_have_told() {
        let mut accounts = Accounts::default();
        accounts.given(Epoch(1), Epoch(2));
        assert!(accounts.tells_more(Epoch(1), Epoch(2)));
        assert!(!accounts.tells_more(Epoch(1), Epoch(3)));
        accounts.given(Epoch(2), Epoch(3));
        assert!(accounts.tells_more(Epoch(1), Epoch(3)));
    }

    #[test]
    fn where_nothing_was_ever_acknowledged_nothing_is_lost() {
        let mut accounts = Accounts::default();
        accounts.void(Epoch(1));
        assert_eq!(accounts.due(Epoch(2)), Epoch::ZERO);
        assert!(accounts.extent_known(Epoch(2)));
    }

    #[test]
    fn only_who_won_an_epoch_can_say_that_it_never_led_it() {
        let mut accounts = Accounts::default();
        accounts.given(Epoch(1), Epoch(4));
        accounts.unled(member(3, 3), Epoch(2), Epoch(4));
        accounts.unled(member(2, 9), Epoch(2), Epoch(4));
        assert!(!accounts.extent_known(Epoch(3)), "nobody knows who won epoch 2");
        accounts.won(Epoch(2), member(2, 2));
        assert!(!accounts.extent_known(Epoch(3)), "that is other data of the same node");
        accounts.unled(member(2, 2), Epoch(2), Epoch(2));
        assert!(accounts.extent_known(Epoch(3)));
    }
}
