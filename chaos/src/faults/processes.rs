//! Processes that die, stand still, or end in good order. Seen by the state that the system gives them.

use super::links::between;
use super::{Others, Striker, Struck, Way};
use crate::backend::{Condition, Member, Signal};
use crate::load::{nanos, now};
use anyhow::{Context, Result, bail};
use fulcrum_types::NodeId;
use std::time::Duration;

const DIES_WITHIN: Duration = Duration::from_secs(2);
/// A node hands over for at most 3 s, and syncs.
const DRAINS_WITHIN: Duration = Duration::from_secs(15);
/// A node's lease at the metadata store lasts for 10 s; then it is rebuilt from its peers.
const TAKEN_WITHIN: Duration = Duration::from_secs(30);
const START_EVERY: Duration = Duration::from_millis(250);
/// What a primary may still acknowledge in `async`, unheard by its backups, before it dies.
const LAST_WORDS: Duration = Duration::from_millis(80);

impl Striker<'_> {
    pub(super) async fn kill(&mut self, member: Member) -> Result<()> {
        self.backend.signal(member, Signal::Kill).await?;
        self.until_condition(member, Condition::Gone, DIES_WITHIN).await
    }

    /// The links stay cut until it is started again: the kernel goes on sending what a dead process has left in its connections.
    pub(super) async fn kill_unheard(&mut self, member: Member, struck: &mut Struck) -> Result<()> {
        struck.links = between(self.backend.members(), member, Others::Nodes, Way::Both);
        self.cut_unseen(&struck.links).await?;
        struck.at = now();
        tokio::time::sleep(LAST_WORDS).await;
        self.kill(member).await?;
        self.see_cut(&struck.links).await
    }

    pub(super) async fn revive(&mut self, struck: &Struck) -> Result<()> {
        self.mend_unseen(&struck.links).await?;
        self.start(struck.member).await?;
        self.see_mended(&struck.links).await
    }

    pub(super) async fn lose_disk(&mut self, node: NodeId) -> Result<()> {
        self.kill(Member::Node(node)).await?;
        self.backend.wipe(node).await
    }

    pub(super) async fn pause(&mut self, member: Member) -> Result<()> {
        self.backend.signal(member, Signal::Stop).await?;
        self.until_condition(member, Condition::Stopped, DIES_WITHIN).await
    }

    pub(super) async fn unpause(&mut self, member: Member) -> Result<()> {
        self.backend.signal(member, Signal::Continue).await?;
        self.until_condition(member, Condition::Running, DIES_WITHIN).await
    }

    pub(super) async fn drain(&mut self, member: Member) -> Result<()> {
        self.backend.signal(member, Signal::Terminate).await?;
        self.until_condition(member, Condition::Gone, DRAINS_WITHIN).await
    }

    pub(super) async fn start(&mut self, member: Member) -> Result<()> {
        self.backend.start(member).await?;
        self.until_condition(member, Condition::Running, DIES_WITHIN).await
    }

    /// Starts a node on another data directory again and again, as whoever looks after processes does: while the lease of its last
    /// life lasts it is refused.
    pub(super) async fn start_until_taken(&mut self, member: Member) -> Result<()> {
        let until = now() + nanos(TAKEN_WITHIN);
        loop {
            // Whether it ran is not asked: one that is refused may have ended before anybody looks.
            if self.backend.condition(member).await? == Condition::Gone {
                self.backend.start(member).await?;
            }
            tokio::time::sleep(START_EVERY).await;
            match self.backend.ready(member).await {
                Ok(()) => return Ok(()),
                Err(why) if now() > until => bail!("it does not serve on an empty disk: {why}"),
                Err(_) => {}
            }
        }
    }

    /// Starts it if it has ended meanwhile.
    pub(super) async fn start_if_gone(&mut self, member: Member) -> Result<()> {
        match self.backend.condition(member).await? {
            Condition::Gone => self.start(member).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn until_condition(&mut self, member: Member, wanted: Condition, within: Duration) -> Result<()> {
        let what = format!("{member} is {wanted:?}");
        self.until(&what, within, async |backend| {
            let seen = backend.condition(member).await.context("look after it")?;
            Ok(seen == wanted)
        })
        .await
    }
}
