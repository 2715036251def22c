//! Keyspaces, and the import of the data set into both; also written down, as the beginning of the history.

use super::load::now;
use super::plan::{MODES, keyspace_of, spec_of};
use crate::exit::Failure;
use crate::loader::{Attempt, LoadOptions, Numbered, load};
use crate::progress::Progress;
use crate::records::Record;
use fulcrum_checker::{Call, ClientLog, Facts, Outcome, ValueId};
use fulcrum_client::{Client, Error, KeyspaceSpec, WriteOutcome};
use fulcrum_common::ClusterMap;
use fulcrum_types::{ClientId, GroupId, Index, KeyspaceId, Mode, Receipt};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;

/// The client of the history that imports; those of the load count from 1.
pub(super) const IMPORTER: ClientId = ClientId(0);
const READY_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Makes both keyspaces.
pub(super) async fn create_keyspaces(client: &Client) -> Result<(), Failure> {
    create_and_wait(client, MODES.map(|mode| (keyspace_of(mode), spec_of(mode)))).await
}

/// Makes keyspaces; answers once every group has a primary that serves.
pub(super) async fn create_and_wait<const N: usize>(
    client: &Client,
    keyspaces: [(&str, KeyspaceSpec); N],
) -> Result<(), Failure> {
    let admin = client.admin();
    for (name, spec) in keyspaces {
        let created = admin.create_keyspace(name, spec).await;
        created.map_err(|error| Failure::client("cannot create the keyspaces", &error))?;
    }
    let ready = async {
        loop {
            let status = admin.status(None).await?;
            if status.groups.iter().all(|group| group.ready) {
                return Ok::<(), Error>(());
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    match tokio::time::timeout(READY_WITHIN, ready).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Failure::client("cannot see the keyspaces' groups", &error)),
        Err(_) => Err(Failure::new(
            crate::exit::Exit::Unreachable,
            "NOT_READY",
            "the keyspaces' groups",
            format!("not all serve after {} s", READY_WITHIN.as_secs()),
        )),
    }
}

/// Where a key belongs, to tell which receipt of a batch is about it.
struct Places {
    map: Arc<ClusterMap>,
    keyspace: KeyspaceId,
}

impl Places {
    fn group_of(&self, key: &[u8]) -> Option<GroupId> {
        self.map.group_of(self.keyspace, key)
    }
}

/// Imports all records into the keyspace of a mode.
pub(super) async fn import(
    client: &Client,
    map: Arc<ClusterMap>,
    mode: Mode,
    records: &[Record],
    progress: &Arc<Progress>,
) -> Result<ClientLog, Failure> {
    let name = keyspace_of(mode);
    let what = format!("cannot import into '{name}'");
    let keyspace = map.keyspace_by_name(name).map(|keyspace| keyspace.id);
    let keyspace = keyspace.ok_or_else(|| Failure::file(&what, "the cluster map does not have it"))?;
    let places = Places { map, keyspace };
    let log = Arc::new(Mutex::new(ClientLog::new(IMPORTER)));
    let (sender, source) = mpsc::channel(4096);
    let all = records.to_vec();
    let feeding = tokio::spawn(async move {
        for (line, record) in (1..).zip(all) {
            if sender.send(Numbered::for_ever(line, record)).await.is_err() {
                return;
            }
        }
    });
    let (writing, shown) = (Arc::clone(&log), Arc::clone(progress));
    let observe = move |attempt: &Attempt<'_>| {
        write_down(
            &mut writing.lock().unwrap_or_else(PoisonError::into_inner),
            attempt,
            &places,
        );
        shown.add(attempt.answer.as_ref().map_or(0, |_| attempt.records.len() as u64));
    };
    let options = LoadOptions {
        batch: 256,
        parallel: 8,
    };
    let loaded = load(&client.keyspace(name), source, options, observe, |_| true).await;
    feeding.abort();
    if let Some(refused) = loaded.refused.first() {
        return Err(Failure::client(what, &refused.error));
    }
    let log = log.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(log.clone())
}

/// Each record of a batch is an operation of its own; those of one group share a receipt.
fn write_down(log: &mut ClientLog, attempt: &Attempt<'_>, places: &Places) {
    let receipts: BTreeMap<GroupId, &Receipt> = match attempt.answer {
        Ok(written) => written
            .receipts
            .iter()
            .map(|receipt| (receipt.group, receipt))
            .collect(),
        Err(_) => BTreeMap::new(),
    };
    for (place, numbered) in attempt.records.iter().enumerate() {
        let Record { key, value } = &numbered.record;
        let ticket = log.begin(attempt.began.0, key.clone(), Call::Put(ValueId::of(value)));
        let outcome = match attempt.answer {
            Ok(written) => match written.items.get(place) {
                Some(Ok(WriteOutcome::Applied { version, .. })) => Outcome::Written {
                    version: Some(Index(version.0)),
                },
                Some(Ok(WriteOutcome::ConditionFailed { .. })) => Outcome::Failed,
                Some(Err(refusal)) if Error::Refused(refusal.clone()).nothing_applied() => Outcome::Failed,
                _ => Outcome::Unknown,
            },
            Err(error) if error.nothing_applied() => Outcome::Failed,
            Err(_) => Outcome::Unknown,
        };
        let facts = places
            .group_of(key)
            .and_then(|group| receipts.get(&group))
            .map(|receipt| {
                let mut facts = Facts::from(*receipt);
                if let Outcome::Written { version: Some(version) } = outcome {
                    facts.position.index = version;
                }
                facts
            });
        let facts = facts.filter(|_| matches!(outcome, Outcome::Written { .. }));
        log.end(ticket, attempt.ended.0.max(attempt.began.0), outcome, facts);
    }
}

/// A seed that differs from run to run.
pub(super) fn fresh_seed() -> u64 {
    now() % 1_000_000
}
