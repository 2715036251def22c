//! The ground of a run: keyspaces of its own, and keys in every group of them.
//!
//! Which group a key belongs to is told by the receipt of its first write, which is also the beginning of the history.

use super::bank::{Account, OPENING};
use super::lists::Shelf;
use super::{Ground, Kind, Place, Scribe, Shared, Told, Write};
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use fulcrum_client::{Client, Keyspace, KeyspaceSpec};
use fulcrum_types::{GroupId, KeyspaceId, Mode};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Hot keys of each group.
const HOT: usize = 8;
const ACCOUNTS: usize = 4;
/// Keys tried until every group has its own.
const TRIED: u64 = 4_000;
const WITHIN: Duration = Duration::from_secs(20);
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// What is created.
pub struct Grounds {
    /// The keyspaces of probes and clients.
    pub all: Vec<Arc<Ground>>,
    /// The accounts.
    pub accounts: Arc<Vec<Account>>,
    /// Where lists are.
    pub shelves: Arc<Vec<Shelf>>,
    /// All keyspaces, to be dropped.
    pub names: Vec<String>,
    /// The first writes.
    pub told: Told,
}

/// How many groups.
const GROUPS: [(&str, Mode, u32); 3] = [
    ("sync", Mode::Sync, 4),
    ("async", Mode::Async, 3),
    ("bank", Mode::Sync, 3),
];

/// How a keyspace of a run is made.
#[must_use]
pub fn spec(mode: Mode, groups: u32) -> KeyspaceSpec {
    KeyspaceSpec {
        mode: Some(mode.name().to_owned()),
        replication_factor: Some(3),
        groups: Some(groups),
        ..KeyspaceSpec::default()
    }
}

/// Makes keyspaces, keys and accounts.
///
/// # Errors
/// The cluster does not take them.
pub async fn prepare(client: &Client, shared: &Arc<Shared>, tag: &str) -> Result<Grounds> {
    let admin = client.admin();
    let mut grounds = Grounds {
        all: Vec::new(),
        accounts: Arc::default(),
        shelves: Arc::default(),
        names: Vec::new(),
        told: Told::default(),
    };
    let mut ids: Vec<KeyspaceId> = Vec::new();
    for (kind, mode, groups) in GROUPS {
        let name = format!("{kind}-{tag}");
        let made = admin.create_keyspace(&name, spec(mode, groups)).await;
        let made = made.with_context(|| format!("create the keyspace {name}"))?;
        ids.push(made.id);
        grounds.names.push(name);
    }
    until_ready(client, &grounds.names).await?;
    for (place, (_, mode, groups)) in GROUPS[..2].iter().enumerate() {
        let name = &grounds.names[place];
        let keyspace = client.keyspace(name).within(WITHIN);
        let (ground, told) = plant(shared, keyspace, *mode, *groups, HOT).await?;
        grounds.told.join(told);
        grounds.all.push(Arc::new(ground));
    }
    let keyspace = client.keyspace(&grounds.names[2]).within(WITHIN);
    let (bank, _) = plant(shared, keyspace, Mode::Sync, GROUPS[2].2, ACCOUNTS).await?;
    grounds.accounts = Arc::new(open(client, &bank, ids[2]).await?);
    let shelf = |place: usize| Shelf {
        keyspace: grounds.names[place].clone(),
        id: ids[place],
    };
    grounds.shelves = Arc::new([0, 2].map(shelf).into());
    Ok(grounds)
}

async fn until_ready(client: &Client, names: &[String]) -> Result<()> {
    let ready = async {
        loop {
            let status = client.admin().status(None).await?;
            let mut ours = status.groups.iter().filter(|group| names.contains(&group.keyspace));
            if ours.all(|group| group.ready && group.in_sync.len() == group.replicas.len()) {
                return Ok::<(), fulcrum_client::Error>(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(READY_WITHIN, ready).await {
        Ok(ended) => ended.context("see the new groups"),
        Err(_) => bail!("the new groups are not ready after {} s", READY_WITHIN.as_secs()),
    }
}

/// Writes keys until every group has enough of them.
async fn plant(
    shared: &Arc<Shared>,
    keyspace: Keyspace,
    mode: Mode,
    groups: u32,
    each: usize,
) -> Result<(Ground, Told)> {
    let name = keyspace.name().to_owned();
    let mut scribe = Scribe::new(shared.clone(), keyspace.clone(), "planter".to_owned());
    let mut found: BTreeMap<GroupId, Vec<Place>> = BTreeMap::new();
    for number in 0..TRIED {
        if found.len() == groups as usize && found.values().all(|keys| keys.len() > each) {
            break;
        }
        let key = Bytes::from(format!("key/{number:04}"));
        let unknown = Place {
            key: key.clone(),
            group: GroupId(0),
        };
        if scribe.write(&unknown, Write::Put).await.is_none() {
            bail!("a new keyspace does not take a write: {name}");
        }
        let got = keyspace.get(&key).await.with_context(|| format!("read in {name}"))?;
        let group = got.receipt.group;
        found.entry(group).or_default().push(Place { key, group });
    }
    if found.len() < groups as usize {
        bail!("{name}: keys were found for {} of {groups} groups only", found.len());
    }
    let mut told = scribe.finish();
    // The load has not begun: this is no availability.
    told.samples.retain(|sample| sample.kind == Kind::Read);
    let mut ground = Ground {
        name,
        mode,
        keys: Vec::new(),
        probes: Vec::new(),
    };
    for mut keys in found.into_values() {
        ground.probes.extend(keys.pop());
        ground.keys.extend(keys.into_iter().take(each));
    }
    Ok((ground, told))
}

async fn open(client: &Client, bank: &Ground, id: KeyspaceId) -> Result<Vec<Account>> {
    let account = |place: &Place| Account {
        keyspace: bank.name.clone(),
        id,
        place: place.clone(),
    };
    let accounts: Vec<Account> = bank.keys.iter().map(account).collect();
    let opening = accounts.iter().fold(client.commit(), |opening, account| {
        opening.put(&account.keyspace, &account.place.key, OPENING.to_string())
    });
    let opened = opening.await.context("open the accounts")?;
    match opened.committed() {
        true => Ok(accounts),
        false => bail!("the accounts could not be opened"),
    }
}
