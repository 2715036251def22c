//! Wall clocks that jump. Seen by what the node says of its failpoints: the machine's own clock is not touched.

use super::Striker;
use anyhow::Result;
use fulcrum_types::NodeId;

impl Striker<'_> {
    pub(super) async fn jump_clock(&mut self, node: NodeId, seconds: i64) -> Result<()> {
        let line = format!("clock {seconds}");
        self.backend.set_failpoints(node, &line).await?;
        self.until_set(node, &line).await
    }
}
