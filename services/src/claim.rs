//! Which data directory is node N: on record beside the cluster's map.
//!
//! The promise: of two processes with one number at most one changes anything. A directory has a random id of its own, and the
//! key `/fulcrum/<cluster>/directories/<N>` names the one that is the node. Another one takes its place only while no node of
//! that number is alive, as when a disk was replaced; the comparison is part of the transaction that takes it, and of every
//! transaction that a node makes afterwards. So whoever was replaced while it was away is fenced by the store itself.
//!
//! Left out: what a fenced process sends to its peers until it ends. Data has ids of its own, which replication checks.

use fulcrum_common::ClusterId;
use fulcrum_common::metadata::{Compare, Metadata, MetadataError, Op, Revision, TxnOutcome};
use fulcrum_types::NodeId;

/// Somebody else may change the record between reading and taking it, but not for ever.
const TRIES: u32 = 5;

/// The record of one node.
pub(crate) struct Claim {
    node: NodeId,
    key: String,
    alive_key: String,
}

/// What became of a claim.
pub(crate) enum Taken {
    /// The directory is the node's as long as this holds.
    Ours(Compare),
    /// Another one is, for this reason.
    Refused(String),
}

impl Claim {
    pub(crate) fn of(cluster: &ClusterId, node: NodeId) -> Self {
        Self {
            node,
            key: format!("/fulcrum/{cluster}/directories/{}", node.0),
            alive_key: format!("/fulcrum/{cluster}/nodes/{}", node.0),
        }
    }

    fn at(&self, mod_revision: Revision) -> Compare {
        Compare {
            key: self.key.clone(),
            mod_revision,
        }
    }

    /// Makes a directory the node's, if no other is.
    pub(crate) async fn take(&self, metadata: &dyn Metadata, directory: &str) -> Result<Taken, MetadataError> {
        for _ in 0..TRIES {
            let found = metadata.get(&self.key).await?;
            let mut unchanged = vec![self.at(found.as_ref().map_or(Revision::ABSENT, |found| found.mod_revision))];
            if let Some(found) = &found {
                if found.value == directory.as_bytes() {
                    return Ok(Taken::Ours(self.at(found.mod_revision)));
                }
                if metadata.get(&self.alive_key).await?.is_some() {
                    return Ok(Taken::Refused(self.taken()));
                }
                unchanged.push(Compare {
                    key: self.alive_key.clone(),
                    mod_revision: Revision::ABSENT,
                });
                tracing::warn!(node = %self.node, "this data directory takes the place of another one");
            }
            let put = Op::put(self.key.clone(), directory.to_owned());
            match metadata.txn(unchanged, vec![put]).await {
                Ok(TxnOutcome::Succeeded { revision }) => return Ok(Taken::Ours(self.at(revision))),
                // Read again: what is there counts.
                Ok(TxnOutcome::Failed { .. }) | Err(MetadataError::Unknown(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let reason = format!(
            "{} changes all the time: do several processes start as {}?",
            self.key, self.node
        );
        Err(MetadataError::Unavailable(reason))
    }

    fn taken(&self) -> String {
        let node = self.node;
        format!(
            "{node} is alive with another data directory: give this node a number of its own. If its disk was replaced after \
             it died, start it again once its lease has run out, in a few seconds"
        )
    }

    /// Why the directory is no longer the node's, if so.
    ///
    /// A record that is gone names nobody else: etcd has lost its data. Nothing can be agreed on until that is restored, and what
    /// needs no agreement may go on.
    pub(crate) async fn is_lost(
        &self,
        metadata: &dyn Metadata,
        claimed: &Compare,
    ) -> Result<Option<String>, MetadataError> {
        let node = self.node;
        match metadata.get(&self.key).await? {
            Some(found) if found.mod_revision == claimed.mod_revision => Ok(None),
            Some(_) => Ok(Some(format!(
                "another data directory has become {node} while this one was taken for dead: this process may change \
                 nothing any more. Stop the other one to go on with this one, or give this one a number of its own"
            ))),
            None => Err(MetadataError::Unavailable(format!(
                "etcd has lost this cluster's metadata ({} is gone): restore etcd's data; until then nothing can fail over",
                self.key
            ))),
        }
    }
}
