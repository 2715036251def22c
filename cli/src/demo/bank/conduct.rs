//! What happens to the bank: a primary is dropped, then the coordinator; and what is in doubt meanwhile.

use super::accounts::is_of_the_bank;
use super::clients::Shared;
use super::metrics::Phases;
use crate::demo::incident::{choose_victim, nanos};
use crate::demo::load::now;
use crate::demo::story::Story;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use fulcrum_client::{Client, InDoubt, ListInDoubt, TransactionId};
use fulcrum_local_cluster::LocalCluster;
use fulcrum_types::NodeId;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::Duration;

const PRIMARY_AT: Duration = Duration::from_millis(1_500);
const COORDINATOR_AT: Duration = Duration::from_millis(4_000);
const NODE_BACK_AT: Duration = Duration::from_millis(5_000);
const TICK: Duration = Duration::from_millis(50);
/// Nothing may be pending any more so long after the last transfer. A group in doubt asks within 4 s.
const QUIET_WITHIN: Duration = Duration::from_secs(15);

/// What happened.
pub(super) struct Incidents {
    pub(super) node: NodeId,
    /// Groups of the bank that it led.
    pub(super) led: usize,
    pub(super) in_doubt: Doubt,
    pub(super) phases: Phases,
}

/// What was seen to be in doubt.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Doubt {
    /// Transactions at once, at most.
    pub(super) most: usize,
    /// The oldest, in a group's own time.
    pub(super) oldest: Duration,
}

impl Doubt {
    fn take(&mut self, listed: &InDoubt) {
        self.most = self.most.max(transactions(listed));
        let oldest = listed.transactions.iter().map(|(_, info)| info.age).max();
        self.oldest = self.oldest.max(oldest.unwrap_or_default());
    }
}

fn transactions(listed: &InDoubt) -> usize {
    let ids: BTreeSet<TransactionId> = listed.transactions.iter().map(|(_, info)| info.id).collect();
    ids.len()
}

pub(super) struct Conductor<'a> {
    pub(super) cluster: &'a mut LocalCluster,
    pub(super) admin: &'a Client,
    pub(super) shared: &'a Shared,
    pub(super) story: Story,
    pub(super) progress: &'a Progress,
    pub(super) began: u64,
    /// Whose coordinator dies.
    pub(super) router: SocketAddr,
}

impl Conductor<'_> {
    pub(super) async fn run(mut self) -> Result<Incidents, Failure> {
        let watching = tokio::spawn(watch(self.admin.clone(), self.shared.until));
        self.wait_until(PRIMARY_AT).await;
        let (node, led) = self.drop_primary().await?;
        self.wait_until(COORDINATOR_AT).await;
        let mut phases = Phases::default();
        phases
            .scrape(self.cluster.added_router_metrics_address(self.router))
            .await;
        self.cluster.crash_router(self.router).await;
        let text = format!(
            "{} the router of the bank is dropped without warning, and its coordinator in the middle of its commits",
            self.story.paint.red("crash")
        );
        self.tell(&text)?;
        self.wait_until(NODE_BACK_AT).await;
        self.tell(&format!("{node} is started again, on the data that it had synced"))?;
        self.cluster
            .restart_node(node)
            .await
            .map_err(|error| Failure::start(&format!("cannot start {node} again"), &error))?;
        while now() < self.shared.until {
            self.tick().await;
        }
        let in_doubt = watching
            .await
            .map_err(|error| Failure::file("the look at what is in doubt ended early", error))?;
        phases.scrape(self.cluster.router_metrics_address()).await;
        Ok(Incidents {
            node,
            led,
            in_doubt,
            phases,
        })
    }

    async fn drop_primary(&mut self) -> Result<(NodeId, usize), Failure> {
        let status = self.admin.admin().status(None).await;
        let mut status = status.map_err(|error| Failure::client("cannot see who leads", &error))?;
        status.groups.retain(|group| is_of_the_bank(&group.keyspace));
        let chosen = choose_victim(&status);
        let (node, led) =
            chosen.ok_or_else(|| Failure::new(Exit::Failed, "NO_PRIMARY", "the crash", "nobody leads the bank"))?;
        self.cluster.crash_node(node).await;
        let text = format!(
            "{} {node} is dropped without warning; it led {} groups of the bank",
            self.story.paint.red("crash"),
            led.len()
        );
        self.tell(&text)?;
        Ok((node, led.len()))
    }

    fn tell(&self, text: &str) -> Result<(), Failure> {
        let since = Duration::from_nanos(now().saturating_sub(self.began));
        self.story.beside(self.progress, Some(since.as_secs_f64()), text)
    }

    async fn wait_until(&self, after: Duration) {
        let time = self.began + nanos(after);
        while now() < time {
            self.tick().await;
        }
    }

    async fn tick(&self) {
        tokio::time::sleep(TICK).await;
        self.progress.add(self.shared.committed.swap(0, Ordering::Relaxed));
    }
}

/// Looks at what is in doubt until the load ends. A look that fails shows nothing.
async fn watch(client: Client, until: u64) -> Doubt {
    const LOOK_EVERY: Duration = Duration::from_millis(200);
    let mut doubt = Doubt::default();
    let admin = client.admin();
    while now() < until {
        if let Ok(Ok(listed)) = tokio::time::timeout(LOOK_EVERY * 5, admin.in_doubt(ListInDoubt::default())).await {
            doubt.take(&listed);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    doubt
}

/// How it was after the load.
pub(super) struct Quiet {
    /// Transactions in doubt or not resolved everywhere, and groups that do not say.
    pub(super) pending: usize,
    pub(super) took: Duration,
}

/// Waits until no transaction is in doubt, and all are resolved.
pub(super) async fn until_nothing_is_pending(client: &Client) -> Result<Quiet, Failure> {
    let began = now();
    let admin = client.admin();
    loop {
        let all = ListInDoubt {
            unresolved: true,
            ..ListInDoubt::default()
        };
        let listed = admin.in_doubt(all).await;
        let listed = listed.map_err(|error| Failure::client("cannot see what is in doubt", &error))?;
        let pending = transactions(&listed) + listed.silent.len();
        let took = Duration::from_nanos(now().saturating_sub(began));
        if pending == 0 || took >= QUIET_WITHIN {
            return Ok(Quiet { pending, took });
        }
        tokio::time::sleep(TICK).await;
    }
}
