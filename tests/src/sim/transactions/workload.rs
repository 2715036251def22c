//! What clients of transactions ask for: lists that they append to, and a bank.

use crate::sim::plan::Plan;
use bytes::Bytes;
use fulcrum_checker::bank::Account;
use fulcrum_checker::{Element, TransactionKey};
use fulcrum_coordinator::CommitRequest;
use fulcrum_two_phase::PlannedRead;
use fulcrum_types::{AbortCause, Observed, Participant, SessionToken, TransactionId};
use std::collections::BTreeMap;

/// What each account holds before all transfers.
pub const OPENING: i64 = 100;

/// A call to a coordinator.
#[derive(Clone, Debug)]
pub struct Call {
    /// Who calls.
    pub client: usize,
    /// The client's number for it.
    pub attempt: u64,
    /// How long the client waits, in nanoseconds.
    pub patience: u64,
    /// What.
    pub want: Want,
}

/// What is wanted of a coordinator.
#[derive(Clone, Debug)]
pub enum Want {
    /// Values.
    Read {
        /// The transaction.
        id: TransactionId,
        /// By group.
        parts: Vec<PlannedRead>,
        /// Of one moment.
        consistent: bool,
    },
    /// A commit.
    Commit(Box<CommitRequest>),
    /// What became of a transaction.
    LookUp {
        /// Which.
        id: TransactionId,
        /// Where its home may be.
        places: Vec<Participant>,
        /// Abort it unless it is decided.
        settle: Option<AbortCause>,
    },
    /// The connection of this attempt is gone.
    Leave(u64),
}

/// A key that transactions use.
#[derive(Clone, Debug)]
pub struct Item {
    /// The keyspace's name.
    pub keyspace: String,
    /// The key.
    pub key: TransactionKey,
    /// Its group.
    pub at: Participant,
}

/// All keys.
#[derive(Clone, Debug, Default)]
pub struct Workload {
    /// Lists, in all groups.
    pub lists: Vec<Item>,
    /// Accounts, spread over the groups.
    pub accounts: Vec<Item>,
    /// The accounts are known to hold their opening balances, or what became of them.
    pub opened: bool,
}

impl Workload {
    pub(super) fn new(plan: &Plan) -> Self {
        if plan.transactions.is_none() {
            return Self::default();
        }
        let item = |group: &crate::sim::plan::GroupPlan, key: Bytes| Item {
            keyspace: plan
                .map
                .keyspace(group.keyspace)
                .map(|k| k.name.clone())
                .unwrap_or_default(),
            key: TransactionKey {
                keyspace: group.keyspace,
                key,
            },
            at: Participant {
                keyspace: group.keyspace,
                group: group.group,
            },
        };
        let lists = plan
            .groups
            .iter()
            .flat_map(|group| group.keys.iter().map(|key| item(group, key.clone())));
        let accounts = plan.groups.iter().cycle().take(plan.groups.len().max(3));
        let accounts = accounts.enumerate().map(|(number, group)| {
            let mut names = (0..).map(|n| Bytes::from(format!("account {number}.{n}")));
            let own = |name: &Bytes| plan.map.group_of(group.keyspace, name) == Some(group.group);
            item(group, names.find(own).unwrap_or_default())
        });
        Self {
            lists: lists.collect(),
            accounts: accounts.collect(),
            opened: false,
        }
    }

    /// The accounts as the checker wants them.
    #[must_use]
    pub fn ledger(&self) -> Vec<Account> {
        let account = |item: &Item| Account {
            key: item.key.clone(),
            opening: OPENING,
        };
        self.accounts.iter().map(account).collect()
    }
}

/// The reads of these items by group, and the place of each key in them.
#[must_use]
pub fn reads_of(items: &[Item], session: &SessionToken) -> (Vec<PlannedRead>, Vec<Vec<usize>>) {
    let mut groups: BTreeMap<Participant, Vec<usize>> = BTreeMap::new();
    for (number, item) in items.iter().enumerate() {
        groups.entry(item.at).or_default().push(number);
    }
    let read = |(participant, places): (&Participant, &Vec<usize>)| PlannedRead {
        participant: *participant,
        seen: session.groups.get(&participant.group).copied(),
        keys: places.iter().map(|place| items[*place].key.key.clone()).collect(),
    };
    (groups.iter().map(read).collect(), groups.values().cloned().collect())
}

/// A list as a value.
#[must_use]
pub fn encode(list: &[Element]) -> Bytes {
    let words: Vec<String> = list.iter().map(ToString::to_string).collect();
    Bytes::from(words.join(","))
}

/// The list that a value holds.
///
/// # Errors
/// A value that no client has written.
pub fn decode(seen: &Observed) -> Result<Vec<Element>, String> {
    let Some(value) = &seen.value else {
        return Ok(Vec::new());
    };
    let text = std::str::from_utf8(&value.value).map_err(|e| e.to_string())?;
    let element = |word: &str| word.parse().map(Element).map_err(|_| format!("'{text}' is no list"));
    text.split(',').map(element).collect()
}

/// The balance that a value holds.
#[must_use]
pub fn balance(seen: &Observed) -> Option<i64> {
    std::str::from_utf8(&seen.value.as_ref()?.value).ok()?.parse().ok()
}
