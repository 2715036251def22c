//! The accounts: some in every group of both keyspaces, all opened in one commit.

use crate::demo::plan::spec_of;
use crate::demo::setup::create_and_wait;
use crate::exit::Failure;
use bytes::Bytes;
use fulcrum_checker::bank::Account as Opened;
use fulcrum_checker::transactions::TransactionKey;
use fulcrum_client::Client;
use fulcrum_local_cluster::LocalCluster;
use fulcrum_types::{GroupId, Mode};
use std::collections::BTreeMap;

const KEYSPACES: [&str; 2] = ["demo-current", "demo-savings"];
const EACH: u64 = 1_000;
/// Of every group.
const OF_A_GROUP: usize = 2;
/// Names tried until every group has its accounts.
const NAMES: u64 = 10_000;

/// An account.
pub(super) struct Account {
    pub(super) keyspace: &'static str,
    pub(super) key: Bytes,
    place: TransactionKey,
}

/// All accounts.
pub(super) struct Accounts {
    all: Vec<Account>,
    groups: BTreeMap<GroupId, usize>,
}

impl Accounts {
    /// Makes keyspaces and accounts.
    pub(super) async fn open(cluster: &LocalCluster, admin: &Client) -> Result<Self, Failure> {
        let specs = KEYSPACES.map(|keyspace| (keyspace, spec_of(Mode::Sync)));
        create_and_wait(admin, specs).await?;
        let accounts = Self::choose(cluster).await?;
        let opening = accounts.all.iter().fold(admin.commit(), |opening, account| {
            opening
                .if_absent(account.keyspace, &account.key)
                .put(account.keyspace, &account.key, EACH.to_string())
        });
        let opened = opening
            .await
            .map_err(|error| Failure::client("cannot open the accounts", &error))?;
        match opened.committed() {
            true => Ok(accounts),
            false => Err(Failure::file("cannot open the accounts", "there are some already")),
        }
    }

    async fn choose(cluster: &LocalCluster) -> Result<Self, Failure> {
        let what = "cannot choose the accounts";
        let map = cluster
            .store()
            .load_map()
            .await
            .map_err(|error| Failure::file(what, error))?;
        let mut accounts = Accounts {
            all: Vec::new(),
            groups: BTreeMap::new(),
        };
        for keyspace in KEYSPACES {
            let id = map.keyspace_by_name(keyspace).map(|keyspace| keyspace.id);
            let id = id.ok_or_else(|| Failure::file(what, format!("the cluster map lacks '{keyspace}'")))?;
            for number in 0..NAMES {
                let key = Bytes::from(format!("account/{number:04}"));
                let Some(group) = map.group_of(id, &key) else { continue };
                let there = accounts.groups.entry(group).or_default();
                if *there < OF_A_GROUP {
                    *there += 1;
                    let place = TransactionKey {
                        keyspace: id,
                        key: key.clone(),
                    };
                    accounts.all.push(Account { keyspace, key, place });
                }
            }
        }
        Ok(accounts)
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn groups(&self) -> usize {
        self.groups.len()
    }

    pub(super) fn total(&self) -> u64 {
        EACH * self.all.len() as u64
    }

    pub(super) fn get(&self, at: usize) -> &Account {
        &self.all[at % self.all.len()]
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Account> {
        self.all.iter()
    }

    /// As the checker needs them.
    pub(super) fn opening(&self) -> Vec<Opened> {
        let opened = |account: &Account| Opened {
            key: account.place.clone(),
            opening: EACH as i64,
        };
        self.all.iter().map(opened).collect()
    }
}

pub(super) fn is_of_the_bank(keyspace: &str) -> bool {
    KEYSPACES.contains(&keyspace)
}
