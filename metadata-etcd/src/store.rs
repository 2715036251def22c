//! The trait's calls as requests to etcd.

use crate::config::EtcdConfig;
use crate::fate::watch_refused;
use crate::members::{Answer, Members};
use crate::watch;
use async_trait::async_trait;
use etcd_client::{Client, Error, GetOptions, ResponseHeader, Txn, TxnOp, WatchOptions};
use fulcrum_common::config::ConfigError;
use fulcrum_common::metadata::{
    Compare, KeyValue, LeaseId, Listing, Metadata, MetadataError, Op, Revision, TxnOutcome, WatchStream, check_txn,
};
use fulcrum_common::secret_files::warn_if_open;
use std::time::Duration;

/// An answer that has the whole cluster map and every configuration.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// An etcd, as a metadata store. Connects when it is first used.
pub struct EtcdMetadata {
    members: Members,
}

impl EtcdMetadata {
    /// A store that is reached as `config` says. Does not connect yet: etcd may come later.
    ///
    /// The connections live on the runtime on which the first call is made.
    ///
    /// # Errors
    /// A setting that cannot be, or a file that it names.
    pub fn new(config: EtcdConfig) -> Result<Self, ConfigError> {
        if let Some(key) = &config.key_file {
            warn_if_open("etcd.key_file", key);
        }
        let members = Members::new(config)?;
        Ok(Self { members })
    }

    /// How it is reached.
    #[must_use]
    pub fn config(&self) -> &EtcdConfig {
        self.members.config()
    }

    fn key(&self, key: &str) -> Vec<u8> {
        [self.config().prefix.as_bytes(), key.as_bytes()].concat()
    }

    fn key_value(&self, found: &etcd_client::KeyValue) -> Option<KeyValue> {
        watch::key_value(&self.config().prefix, found)
    }
}

fn revision(header: Option<&ResponseHeader>) -> Option<Revision> {
    header
        .and_then(|header| u64::try_from(header.revision()).ok())
        .map(Revision)
}

/// As etcd counts. A revision that it cannot have is no key's: the comparison fails.
fn as_etcd(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

/// An id that etcd cannot have given is that of no lease.
fn lease_as_etcd(lease: LeaseId) -> Result<i64, MetadataError> {
    match i64::try_from(lease.0) {
        Ok(id) if id > 0 => Ok(id),
        _ => Err(MetadataError::NoSuchLease { lease }),
    }
}

/// The leases that a transaction names, each once.
fn leases_of(ops: &[Op]) -> Vec<LeaseId> {
    let mut leases: Vec<LeaseId> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Put { lease, .. } => *lease,
            Op::Delete { .. } => None,
        })
        .collect();
    leases.sort_unstable();
    leases.dedup();
    leases
}

#[async_trait]
impl Metadata for EtcdMetadata {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetadataError> {
        let key = self.key(key);
        let get = |client: Client| {
            let key = key.clone();
            async move {
                client
                    .kv_client()
                    .max_decoding_message_size(MAX_ANSWER_BYTES)
                    .get(key, None)
                    .await
            }
        };
        let answer = self.members.ask(get).await.of_read()?;
        Ok(answer.kvs().first().and_then(|found| self.key_value(found)))
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetadataError> {
        let prefix = self.key(prefix);
        let list = |client: Client| {
            let (prefix, options) = (prefix.clone(), GetOptions::new().with_prefix());
            async move {
                let mut kv = client.kv_client().max_decoding_message_size(MAX_ANSWER_BYTES);
                kv.get(prefix, Some(options)).await
            }
        };
        let answer = self.members.ask(list).await.of_read()?;
        let revision = revision(answer.header())
            .ok_or_else(|| MetadataError::Unavailable("etcd answered without a revision".to_owned()))?;
        let entries = answer.kvs().iter().filter_map(|found| self.key_value(found)).collect();
        Ok(Listing { revision, entries })
    }

    async fn txn(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        check_txn(&compare, &ops)?;
        let leases = leases_of(&ops);
        let compare: Vec<_> = compare
            .into_iter()
            .map(|one| {
                let equal = etcd_client::CompareOp::Equal;
                etcd_client::Compare::mod_revision(self.key(&one.key), equal, as_etcd(one.mod_revision))
            })
            .collect();
        let ops: Result<Vec<TxnOp>, MetadataError> = ops.into_iter().map(|op| self.op(op)).collect();
        let txn = Txn::new().when(compare).and_then(ops?);
        let commit = |client: Client| {
            let txn = txn.clone();
            async move { client.kv_client().txn(txn).await }
        };
        let answer = self.members.ask(commit).await.of_write(&leases)?;
        let revision = revision(answer.header())
            .ok_or_else(|| MetadataError::Unknown("etcd answered without a revision".to_owned()))?;
        Ok(match answer.succeeded() {
            true => TxnOutcome::Succeeded { revision },
            false => TxnOutcome::Failed { revision },
        })
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError> {
        let key = self.key(prefix);
        // To etcd, 0 means "from now on".
        let from = from.max(Revision(1));
        let create = |client: Client| {
            let options = WatchOptions::new().with_prefix().with_start_revision(as_etcd(from));
            let key = key.clone();
            async move {
                let mut watching = client.watch_client().max_decoding_message_size(MAX_ANSWER_BYTES);
                let mut changes = watching.watch(key, Some(options)).await?;
                match changes.message().await? {
                    Some(first) if first.canceled() && first.compact_revision() == 0 => {
                        Err(watch_refused(first.cancel_reason()))
                    }
                    first => Ok((changes, first)),
                }
            }
        };
        let (changes, first) = self.members.ask(create).await.of_read()?;
        if first.is_none() {
            return Err(MetadataError::Unavailable("etcd closed the watch at once".to_owned()));
        }
        let forgotten = self.is_compaction(&key, from).await?;
        Ok(watch::stream(
            self.config().prefix.clone(),
            changes,
            first,
            forgotten.then_some(from),
        ))
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        if ttl.is_zero() {
            return Err(MetadataError::Invalid("a lease of no time".to_owned()));
        }
        // etcd counts in seconds; a lease may be longer than asked for, never shorter.
        let seconds = ttl.as_millis().div_ceil(1000);
        let seconds = i64::try_from(seconds).map_err(|_| MetadataError::Invalid(format!("a lease of {seconds} s")))?;
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        let granted = self.members.ask(grant).await.of_write(&[])?;
        u64::try_from(granted.id())
            .map(LeaseId)
            .map_err(|_| MetadataError::Unknown(format!("etcd granted a lease with the id {}", granted.id())))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        let id = lease_as_etcd(lease)?;
        let keep = |client: Client| async move { client.lease_client().keep_alive(id).await };
        self.members.ask(keep).await.of_write(&[lease]).map(drop)
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetadataError> {
        let id = lease_as_etcd(lease)?;
        let revoke = |client: Client| async move { client.lease_client().revoke(id).await };
        self.members.ask(revoke).await.of_write(&[lease]).map(drop)
    }
}

impl EtcdMetadata {
    fn op(&self, op: Op) -> Result<TxnOp, MetadataError> {
        Ok(match op {
            Op::Put { key, value, lease } => {
                let lease = lease.map(lease_as_etcd).transpose()?;
                let options = lease.map(|id| etcd_client::PutOptions::new().with_lease(id));
                TxnOp::put(self.key(&key), value, options)
            }
            Op::Delete { key } => TxnOp::delete(self.key(&key), None),
        })
    }

    /// Whether `from` is the revision of etcd's last compaction. Of a watch from before it etcd itself says that it is too
    /// late. Of that revision itself etcd keeps the puts, but up to 3.5.17 no deletes, and says nothing; so a watch from
    /// there counts as too late.
    async fn is_compaction(&self, key: &[u8], from: Revision) -> Result<bool, MetadataError> {
        let at = as_etcd(from);
        Ok(at > 1 && self.is_compacted(key, at - 1).await? && !self.is_compacted(key, at).await?)
    }

    /// Whether a read as of a revision is refused: the revision is before that of the last compaction.
    async fn is_compacted(&self, key: &[u8], revision: i64) -> Result<bool, MetadataError> {
        let look = |client: Client| {
            let options = GetOptions::new()
                .with_prefix()
                .with_revision(revision)
                .with_count_only();
            let key = key.to_vec();
            async move { client.kv_client().get(key, Some(options)).await }
        };
        match self.members.ask(look).await {
            Answer::Failed(Error::GRpcStatus(status)) if status.message() == watch::COMPACTED => Ok(true),
            Answer::Failed(Error::GRpcStatus(status)) if status.message() == watch::FUTURE => Ok(false),
            answer => answer.of_read().map(|_| false),
        }
    }
}
