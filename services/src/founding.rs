//! A node's data belongs to one founding of its cluster, not only to a name.
//!
//! The promise: no call of a node reaches the cluster's metadata before it is known that its data belongs there. An etcd that
//! was emptied, or another one in which somebody has used the same name, gives out the ids of groups anew: data of the old
//! groups would pass for that of the new ones. So a cluster has a random founding id, put beside its map by whoever comes
//! first (`/fulcrum/<cluster>/founding`), and a data directory keeps the one that it has joined, in the file `founding`.
//! A directory without one joins; one with another id is refused, and the process ends and says so.
//!
//! And a number is one node: which directory is that node's is on record, too, and whatever a process changes, it changes only
//! while that is still its own (`claim`).
//!
//! Left out: routers, which keep nothing.

use crate::claim::{Claim, Taken};
use async_trait::async_trait;
use fulcrum_common::ClusterId;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::metadata::{
    Compare, KeyValue, LeaseId, Listing, Metadata, MetadataError, Op, Revision, TxnOutcome, WatchStream,
};
use fulcrum_types::NodeId;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, watch};

const FILE: &str = "founding";
const DIRECTORY: &str = "directory";

/// The metadata of a cluster, for a node with data of its own: closed until both are known to belong together.
pub struct OwnCluster {
    metadata: Arc<dyn Metadata>,
    cluster: ClusterId,
    claim: Claim,
    data_dir: PathBuf,
    checked: OnceCell<Compare>,
    refused: watch::Sender<Option<String>>,
}

impl OwnCluster {
    /// Metadata that a node with this directory may join, if it is the right one.
    #[must_use]
    pub fn new(metadata: Arc<dyn Metadata>, cluster: ClusterId, node: NodeId, data_dir: &Path) -> Self {
        Self {
            metadata,
            claim: Claim::of(&cluster, node),
            cluster,
            data_dir: data_dir.to_owned(),
            checked: OnceCell::new(),
            refused: watch::Sender::new(None),
        }
    }

    /// Waits until it is known that the node must not join, and says why.
    pub async fn refused(&self) -> String {
        let mut refused = self.refused.subscribe();
        match refused.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// The metadata, once it is known to be the right one.
    async fn own(&self) -> Result<&dyn Metadata, MetadataError> {
        self.claimed().await?;
        Ok(&*self.metadata)
    }

    /// What holds as long as this directory is the node's.
    async fn claimed(&self) -> Result<&Compare, MetadataError> {
        self.checked.get_or_try_init(|| self.check()).await
    }

    fn refuse(&self, reason: String) -> MetadataError {
        self.refused.send_replace(Some(reason.clone()));
        MetadataError::Unavailable(reason)
    }

    async fn check(&self) -> Result<Compare, MetadataError> {
        let founding = self.founding().await?;
        let joined = self.kept_or(FILE, || founding.clone())?;
        if joined != founding {
            return Err(self.refuse(format!(
                "{} belongs to another cluster named '{}': it was founded as {joined}, the one in etcd as {founding}. \
                 Name the right etcd or restore its data, or start this node with an empty directory",
                self.data_dir.display(),
                self.cluster
            )));
        }
        let directory = self.kept_or(DIRECTORY, random_id)?;
        match self.claim.take(&*self.metadata, &directory).await? {
            Taken::Ours(compare) => Ok(compare),
            Taken::Refused(reason) => Err(self.refuse(reason)),
        }
    }

    /// What a file of the directory says; written now if there is none.
    fn kept_or(&self, file: &str, new: impl FnOnce() -> String) -> Result<String, MetadataError> {
        let path = self.data_dir.join(file);
        match kept(&path) {
            Ok(Some(there)) => Ok(there),
            Ok(None) => {
                let new = new();
                match keep(&self.data_dir, file, &new) {
                    Ok(()) => Ok(new),
                    Err(error) => Err(self.refuse(format!("cannot write {}: {error}", path.display()))),
                }
            }
            Err(error) => Err(self.refuse(format!("cannot read {}: {error}", path.display()))),
        }
    }

    /// Whether the directory is still the node's; if not, the process ends.
    async fn still_ours(&self, claimed: &Compare) -> Result<(), MetadataError> {
        match self.claim.is_lost(&*self.metadata, claimed).await? {
            None => Ok(()),
            Some(reason) => Err(self.refuse(reason)),
        }
    }

    /// The founding id of the cluster, made if it has none yet.
    async fn founding(&self) -> Result<String, MetadataError> {
        let key = format!("/fulcrum/{}/founding", self.cluster);
        let absent = Compare {
            key: key.clone(),
            mod_revision: Revision::ABSENT,
        };
        let id = random_id();
        // Whatever becomes of it, what is read afterwards counts.
        match self.metadata.txn(vec![absent], vec![Op::put(key.clone(), id)]).await {
            Ok(_) | Err(MetadataError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        let found = self.metadata.get(&key).await?;
        let found = found.ok_or_else(|| MetadataError::Unavailable(format!("{key} is not there yet")))?;
        Ok(String::from_utf8_lossy(&found.value).into_owned())
    }
}

fn random_id() -> String {
    format!("{:016x}{:016x}", random_u64(), random_u64())
}

fn kept(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, and durable before anything is joined.
fn keep(data_dir: &Path, name: &str, id: &str) -> io::Result<()> {
    let draft = data_dir.join(format!("{name}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(format!("{id}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, data_dir.join(name))?;
    File::open(data_dir)?.sync_all()
}

#[async_trait]
impl Metadata for OwnCluster {
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, MetadataError> {
        self.own().await?.get(key).await
    }

    async fn list(&self, prefix: &str) -> Result<Listing, MetadataError> {
        self.own().await?.list(prefix).await
    }

    async fn txn(&self, mut compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        let claimed = self.claimed().await.map_err(not_applied)?;
        compare.push(claimed.clone());
        let outcome = self.metadata.txn(compare, ops).await?;
        if let TxnOutcome::Failed { .. } = outcome {
            self.still_ours(claimed).await.map_err(not_applied)?;
        }
        Ok(outcome)
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError> {
        self.own().await?.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.own().await.map_err(not_applied)?.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        let claimed = self.claimed().await.map_err(not_applied)?;
        let kept = self.metadata.keep_alive(lease).await;
        match (self.still_ours(claimed).await, kept) {
            // A node that changes nothing must notice, too. If it cannot be asked now, it is at the next sign of life.
            (Err(_), Ok(())) if self.refused.borrow().is_none() => Ok(()),
            // A lease that is gone with all else is no reason to register anew.
            (Err(reason), Ok(()) | Err(MetadataError::NoSuchLease { .. })) => Err(not_applied(reason)),
            (_, kept) => kept,
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.own().await.map_err(not_applied)?.revoke_lease(lease).await
    }
}

/// Whatever went wrong with the check, the caller's own write was not sent.
fn not_applied(error: MetadataError) -> MetadataError {
    match error {
        MetadataError::Unknown(reason) => MetadataError::Unavailable(reason),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::{EmbeddedMetadata, ManualClock};

    fn etcd() -> Arc<dyn Metadata> {
        let cluster = ClusterId::new("test").unwrap();
        Arc::new(EmbeddedMetadata::in_memory(cluster, Arc::new(ManualClock::default())))
    }

    fn node(metadata: &Arc<dyn Metadata>, data_dir: &Path) -> OwnCluster {
        numbered(metadata, 1, data_dir)
    }

    fn numbered(metadata: &Arc<dyn Metadata>, node: u64, data_dir: &Path) -> OwnCluster {
        OwnCluster::new(
            metadata.clone(),
            ClusterId::new("test").unwrap(),
            NodeId(node),
            data_dir,
        )
    }

    #[tokio::test]
    async fn data_joins_one_founding_and_no_other() {
        let (metadata, first, second) = (etcd(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for (number, folder) in [(1, &first), (2, &second), (1, &first)] {
            numbered(&metadata, number, folder.path()).list("/").await.unwrap();
        }
        let joined = |folder: &Path| kept(&folder.join(FILE)).unwrap().unwrap();
        assert_eq!(
            joined(first.path()),
            joined(second.path()),
            "all nodes join the same founding"
        );

        // Emptied, or another one with a cluster of the same name.
        let other = etcd();
        let stranger = node(&other, first.path());
        let put = stranger.txn(vec![], vec![Op::put("/a", "1")]).await;
        assert!(matches!(put, Err(MetadataError::Unavailable(_))), "{put:?}");
        assert!(stranger.grant_lease(Duration::from_secs(1)).await.is_err());
        assert_eq!(other.get("/a").await, Ok(None));
        let why = stranger.refused().await;
        assert!(why.contains("another cluster named 'test'"), "{why}");
        node(&metadata, first.path()).get("/").await.unwrap();
    }

    /// As a node says that it is alive.
    async fn register(node: &OwnCluster) -> Result<LeaseId, MetadataError> {
        let lease = node.grant_lease(Duration::from_secs(10)).await?;
        let alive = Op::Put {
            key: "/fulcrum/test/nodes/1".to_owned(),
            value: "{}".into(),
            lease: Some(lease),
        };
        node.txn(Vec::new(), vec![alive]).await.map(|_| lease)
    }

    #[tokio::test]
    async fn of_two_directories_with_one_number_only_one_is_the_node() {
        let (metadata, first, second) = (etcd(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let one = node(&metadata, first.path());
        let lease = register(&one).await.unwrap();
        // Alive: another directory is not let in, the same one is, after a kill.
        let other = node(&metadata, second.path());
        assert!(register(&other).await.is_err());
        let why = other.refused().await;
        assert!(why.contains("n1") && why.contains("number"), "{why}");
        let later = register(&node(&metadata, first.path())).await.unwrap();
        one.keep_alive(lease).await.unwrap();

        // Dead, as far as can be seen: its disk was replaced. If it was only away, it may change nothing any more.
        metadata.revoke_lease(later).await.unwrap();
        let other = node(&metadata, second.path());
        register(&other).await.unwrap();
        let put = one.txn(Vec::new(), vec![Op::put("/a", "1")]).await;
        assert!(matches!(put, Err(MetadataError::Unavailable(_))), "{put:?}");
        assert_eq!(metadata.get("/a").await, Ok(None));
        assert!(one.refused().await.contains("n1"));
        other.txn(Vec::new(), vec![Op::put("/a", "2")]).await.unwrap();
    }

    #[tokio::test]
    async fn a_node_that_only_stays_alive_notices_that_it_was_replaced() {
        let (metadata, folder) = (etcd(), tempfile::tempdir().unwrap());
        let one = node(&metadata, folder.path());
        let lease = one.grant_lease(Duration::from_secs(10)).await.unwrap();
        one.keep_alive(lease).await.unwrap();
        let replaced = Op::put("/fulcrum/test/directories/1", "another");
        metadata.txn(Vec::new(), vec![replaced]).await.unwrap();
        let lost = one.keep_alive(lease).await;
        assert!(matches!(lost, Err(MetadataError::Unavailable(_))), "{lost:?}");
        assert!(one.refused().await.contains("n1"));
    }

    #[tokio::test]
    async fn an_etcd_that_has_lost_its_data_is_named_and_fences_nobody() {
        let (metadata, folder) = (etcd(), tempfile::tempdir().unwrap());
        let one = node(&metadata, folder.path());
        one.get("/").await.unwrap();
        let key = "/fulcrum/test/directories/1".to_owned();
        metadata.txn(Vec::new(), vec![Op::Delete { key }]).await.unwrap();
        let put = one.txn(Vec::new(), vec![Op::put("/a", "1")]).await;
        assert!(
            matches!(&put, Err(MetadataError::Unavailable(why)) if why.contains("has lost")),
            "{put:?}"
        );
        assert_eq!(metadata.get("/a").await, Ok(None));
        assert!(one.refused.borrow().is_none());
    }

    #[tokio::test]
    async fn a_comparison_that_fails_for_another_reason_refuses_nobody() {
        let (metadata, folder) = (etcd(), tempfile::tempdir().unwrap());
        let one = node(&metadata, folder.path());
        let absent = |key: &str| Compare {
            key: key.to_owned(),
            mod_revision: Revision::ABSENT,
        };
        one.txn(vec![absent("/a")], vec![Op::put("/a", "1")]).await.unwrap();
        let again = one.txn(vec![absent("/a")], vec![Op::put("/a", "2")]).await;
        assert!(matches!(again, Ok(TxnOutcome::Failed { .. })), "{again:?}");
        assert!(one.refused.borrow().is_none());
    }

    #[tokio::test]
    async fn a_directory_that_cannot_be_read_or_written_joins_nothing() {
        let (metadata, folder) = (etcd(), tempfile::tempdir().unwrap());
        let gone = node(&metadata, &folder.path().join("gone"));
        assert!(gone.get("/").await.is_err());
        assert!(gone.refused().await.contains("cannot write"));
        fs::create_dir(folder.path().join(FILE)).unwrap();
        let unreadable = node(&metadata, folder.path());
        assert!(unreadable.get("/").await.is_err());
        assert!(unreadable.refused().await.contains("cannot read"));
    }
}
