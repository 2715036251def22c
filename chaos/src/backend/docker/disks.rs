//! Disks of nodes: filled and looked at from their machine, which has them mounted; lost with their volume.

use super::composition::{DATA, container, machine, volume};
use super::engine::DockerError;
use super::{Docker, Member};
use anyhow::{Context, Result, bail};
use fulcrum_types::NodeId;

/// First by large pieces, then by pages, then to the last byte. That the last piece does not go in is what is wanted.
const FILL: &str = "for piece in 1M 4k 1; do dd if=/dev/zero of=filler bs=$piece oflag=append conv=notrunc status=none 2>/dev/null; done; true";
/// What could not be written whole may be there in part.
const ATTEMPT: &str = "head -c 1048576 /dev/zero > filler.attempt; written=$?; rm -f filler.attempt; exit $written";
const NO_ROOM: &str = "No space left on device";
const IS_FILLED: &str = "test ! -e filler || echo filled";

impl Docker {
    async fn on_disk(&self, node: NodeId, script: &str) -> Result<String, DockerError> {
        let machine = container(&self.project, &machine(Member::Node(node)));
        let words = ["exec", "--workdir", DATA, &machine, "bash", "-c", script];
        self.engine.docker(&words).await
    }

    pub(super) async fn fill_disk(&self, node: NodeId) -> Result<()> {
        if !self.setup.small_disks {
            bail!(
                "node-{} has no disk of its own: that of this machine is not filled",
                node.0
            );
        }
        self.on_disk(node, FILL).await?;
        Ok(())
    }

    pub(super) async fn disk_takes_data(&self, node: NodeId) -> Result<bool> {
        match self.on_disk(node, ATTEMPT).await {
            Ok(_) => Ok(true),
            Err(DockerError::Refused { reason, .. }) if reason.contains(NO_ROOM) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn empty_filler(&self, node: NodeId) -> Result<()> {
        self.on_disk(node, "rm -f filler").await?;
        Ok(())
    }

    pub(super) async fn is_filled(&self, node: NodeId) -> Result<bool> {
        Ok(self.setup.small_disks && !self.on_disk(node, IS_FILLED).await?.is_empty())
    }

    /// The container and its volume go, and come anew; the new one is seen to be empty.
    pub(super) async fn lose_volume(&mut self, node: NodeId) -> Result<()> {
        let member = Member::Node(node);
        if self.setup.small_disks {
            bail!("{member}: a small disk is held by its machine, and is not taken away");
        }
        self.save_log(member).await?;
        let (name, volume) = (
            container(&self.project, &member.to_string()),
            volume(&self.project, member),
        );
        self.engine.docker(&["rm", &name]).await?;
        self.engine.docker(&["volume", "rm", &volume]).await?;
        self.create(&[&member.to_string()]).await?;
        let mount = format!("{volume}:{DATA}");
        let look = [
            "run",
            "--rm",
            "--network",
            "none",
            "--volume",
            &mount,
            &self.setup.image,
            "bash",
            "-c",
            "ls -A /var/lib/fulcrum",
        ];
        let there = self.engine.docker(&look).await.context("look at the new volume")?;
        match there.trim() {
            "" => Ok(()),
            there => bail!("{member} was to lose its disk, and there still is: {there}"),
        }
    }
}
