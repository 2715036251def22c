//! Accounts, and money that moves between them.

use crate::scenario::annotate;
use anyhow::{Context, Result, bail, ensure};
use fulcrum_client::{Client, GroupId, Keyspace, Transacted};
use std::collections::BTreeMap;

/// What is on every account at first: nobody runs dry.
const EACH: i64 = 1_000_000;

/// Accounts of one keyspace, in pairs of two groups.
#[derive(Clone)]
pub(super) struct Accounts {
    client: Client,
    keyspace: String,
}

/// Two accounts of different groups.
#[derive(Clone)]
pub(super) struct Pair(pub(super) String, pub(super) String);

impl Accounts {
    pub(super) fn new(client: &Client, keyspace: &Keyspace) -> Self {
        Self {
            client: client.clone(),
            keyspace: keyspace.name().to_owned(),
        }
    }

    /// Opens so many pairs; the accounts of each are in different groups.
    pub(super) async fn open_pairs(&self, prefix: &str, count: usize) -> Result<Vec<Pair>> {
        let mut alone: BTreeMap<GroupId, Vec<String>> = BTreeMap::new();
        let mut pairs = Vec::new();
        for number in 0.. {
            if pairs.len() == count {
                break;
            }
            let name = format!("{prefix}{number:06}");
            let group = self.open(&name).await?;
            let other = alone
                .iter_mut()
                .find(|(there, names)| **there != group && !names.is_empty());
            match other.and_then(|(_, names)| names.pop()) {
                Some(other) => pairs.push(Pair(other, name)),
                None => alone.entry(group).or_default().push(name),
            }
        }
        Ok(pairs)
    }

    /// Opens accounts, wherever they are.
    pub(super) async fn open_all(&self, names: &[String]) -> Result<()> {
        for name in names {
            self.open(name).await?;
        }
        Ok(())
    }

    async fn open(&self, name: &str) -> Result<GroupId> {
        let keyspace = self.client.keyspace(&self.keyspace);
        let written = keyspace
            .put(name.to_owned(), EACH.to_string())
            .await
            .map_err(annotate)?;
        Ok(written.receipt.group)
    }

    /// Moves 1: two reads in one round, two writes.
    pub(super) async fn transfer(&self, from: &str, to: &str) -> Result<Transacted<()>> {
        let keyspace = self.keyspace.as_str();
        self.client
            .transaction(async |t| -> Result<()> {
                let found = t
                    .get_many([(keyspace, from.to_owned()), (keyspace, to.to_owned())])
                    .await?;
                let [had, has] = found.as_slice() else {
                    bail!("two reads have no two answers")
                };
                let (had, has) = (balance(had.as_deref())?, balance(has.as_deref())?);
                t.put(keyspace, from.to_owned(), (had - 1).to_string());
                t.put(keyspace, to.to_owned(), (has + 1).to_string());
                Ok(())
            })
            .await
    }

    /// That nothing was made or lost, all accounts seen at one moment.
    pub(super) async fn check(&self, names: &[String]) -> Result<()> {
        let keys = names.iter().map(|name| (self.keyspace.as_str(), name.clone()));
        let seen = self.client.transactions().snapshot(keys).await.map_err(annotate)?;
        let mut sum = 0;
        for value in &seen.values {
            sum += balance(value.as_ref().map(|value| value.value.as_ref()))?;
        }
        let all = EACH * names.len() as i64;
        ensure!(sum == all, "there were {all} on the accounts, and now {sum}");
        Ok(())
    }
}

fn balance(value: Option<&[u8]>) -> Result<i64> {
    let value = value.context("an account is missing")?;
    Ok(std::str::from_utf8(value)?.parse()?)
}
