//! Disks without room, fsyncs that hang or fail. Seen by what the disk takes, and by what the node says of its failpoints.

use super::Striker;
use crate::backend::Member;
use anyhow::{Result, bail};
use fulcrum_types::NodeId;
use std::time::Duration;

/// A node looks at its failpoints all the time, and syncs whenever it writes.
const SEEN_WITHIN: Duration = Duration::from_secs(3);
const STALL: &str = "sync stall";
const FAIL: &str = "sync error";

impl Striker<'_> {
    pub(super) async fn fill(&mut self, node: NodeId) -> Result<()> {
        self.backend.fill(node).await?;
        if self.backend.takes_data(node).await? {
            bail!("its disk was filled, and still takes data");
        }
        Ok(())
    }

    pub(super) async fn unfill(&mut self, node: NodeId) -> Result<()> {
        self.backend.unfill(node).await?;
        if !self.backend.takes_data(node).await? {
            bail!("its disk was given room, and takes no data");
        }
        self.start_if_gone(Member::Node(node)).await
    }

    pub(super) async fn stall_sync(&mut self, node: NodeId) -> Result<()> {
        self.backend.set_failpoints(node, STALL).await?;
        self.until_struck(node, STALL).await
    }

    pub(super) async fn fail_sync(&mut self, node: NodeId) -> Result<()> {
        self.backend.set_failpoints(node, FAIL).await?;
        self.until_struck(node, FAIL).await
    }

    /// The node says that an fsync has met it.
    async fn until_struck(&mut self, node: NodeId, what: &str) -> Result<()> {
        let line = format!("met {what}");
        self.until(&line, SEEN_WITHIN, async |backend| {
            Ok(backend.failpoints(node).await?.lines().any(|said| said == line))
        })
        .await
    }

    /// Without failpoints; a node that has ended is started again.
    pub(super) async fn clear_failpoints(&mut self, node: NodeId) -> Result<()> {
        self.backend.set_failpoints(node, "").await?;
        self.start_if_gone(Member::Node(node)).await?;
        self.until("the node has no failpoint", SEEN_WITHIN, async |backend| {
            Ok(backend.failpoints(node).await?.is_empty())
        })
        .await
    }

    /// The node says that it goes by it.
    pub(super) async fn until_set(&mut self, node: NodeId, what: &str) -> Result<()> {
        let line = format!("set {what}");
        self.until(&line, SEEN_WITHIN, async |backend| {
            Ok(backend.failpoints(node).await?.lines().any(|said| said == line))
        })
        .await
    }
}
