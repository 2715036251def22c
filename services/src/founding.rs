//! A node's data belongs to one founding of its cluster, not only to a name.
//!
//! The promise: no call of a node reaches the cluster's metadata before it is known that its data belongs there. An etcd that
//! was emptied, or another one in which somebody has used the same name, gives out the ids of groups anew: data of the old
//! groups would pass for that of the new ones. So a cluster has a random founding id, put beside its map by whoever comes
//! first (`/fulcrum/<cluster>/founding`), and a data directory keeps the one that it has joined, in the file `founding`.
//! A directory without one joins; one with another id is refused, and the process ends and says so.
//!
//! Left out: routers, which keep nothing.

use async_trait::async_trait;
use fulcrum_common::ClusterId;
use fulcrum_common::entropy::random_u64;
use fulcrum_common::metadata::{
    Compare, KeyValue, LeaseId, Listing, Metadata, MetadataError, Op, Revision, TxnOutcome, WatchStream,
};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OnceCell, watch};

const FILE: &str = "founding";

/// The metadata of a cluster, for a node with data of its own: closed until both are known to belong together.
pub struct OwnCluster {
    metadata: Arc<dyn Metadata>,
    cluster: ClusterId,
    data_dir: PathBuf,
    checked: OnceCell<()>,
    refused: watch::Sender<Option<String>>,
}

impl OwnCluster {
    /// Metadata that a node with this directory may join, if it is the right one.
    #[must_use]
    pub fn new(metadata: Arc<dyn Metadata>, cluster: ClusterId, data_dir: &Path) -> Self {
        Self {
            metadata,
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
        self.checked.get_or_try_init(|| self.check()).await?;
        Ok(&*self.metadata)
    }

    async fn check(&self) -> Result<(), MetadataError> {
        let refuse = |reason: String| {
            self.refused.send_replace(Some(reason.clone()));
            Err(MetadataError::Unavailable(reason))
        };
        let founding = self.founding().await?;
        let file = self.data_dir.join(FILE);
        match kept(&file) {
            Ok(Some(joined)) if joined == founding => Ok(()),
            Ok(Some(joined)) => refuse(format!(
                "{} belongs to another cluster named '{}': it was founded as {joined}, the one in etcd as {founding}. \
                 Name the right etcd or restore its data, or start this node with an empty directory",
                self.data_dir.display(),
                self.cluster
            )),
            Ok(None) => match keep(&self.data_dir, &founding) {
                Ok(()) => Ok(()),
                Err(error) => refuse(format!("cannot write {}: {error}", file.display())),
            },
            Err(error) => refuse(format!("cannot read {}: {error}", file.display())),
        }
    }

    /// The founding id of the cluster, made if it has none yet.
    async fn founding(&self) -> Result<String, MetadataError> {
        let key = format!("/fulcrum/{}/founding", self.cluster);
        let absent = Compare {
            key: key.clone(),
            mod_revision: Revision::ABSENT,
        };
        let id = format!("{:016x}{:016x}", random_u64(), random_u64());
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

fn kept(file: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text.trim_end().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whole or not at all, and durable before anything is joined.
fn keep(data_dir: &Path, founding: &str) -> io::Result<()> {
    let draft = data_dir.join(format!("{FILE}.new"));
    let mut file = File::create(&draft)?;
    file.write_all(format!("{founding}\n").as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, data_dir.join(FILE))?;
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

    async fn txn(&self, compare: Vec<Compare>, ops: Vec<Op>) -> Result<TxnOutcome, MetadataError> {
        self.own().await.map_err(not_applied)?.txn(compare, ops).await
    }

    async fn watch(&self, prefix: &str, from: Revision) -> Result<WatchStream, MetadataError> {
        self.own().await?.watch(prefix, from).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, MetadataError> {
        self.own().await.map_err(not_applied)?.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), MetadataError> {
        self.own().await.map_err(not_applied)?.keep_alive(lease).await
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
        OwnCluster::new(metadata.clone(), ClusterId::new("test").unwrap(), data_dir)
    }

    #[tokio::test]
    async fn data_joins_one_founding_and_no_other() {
        let (metadata, first, second) = (etcd(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&first, &second, &first] {
            node(&metadata, folder.path()).list("/").await.unwrap();
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
