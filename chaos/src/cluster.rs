//! A cluster under test: started, whole, and whole again after faults.

use crate::backend::process::folder::Folder;
use crate::backend::{Backend, Condition, Member, Setup};
use crate::load::{nanos, now};
use anyhow::{Context, Result, bail};
use fulcrum_client::{Certificate, Client, ClusterStatus, Config, ListInDoubt, PlacementChange};
use std::path::Path;
use std::time::Duration;

/// Generous: a loaded machine is no bug.
const STARTS_WITHIN: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// For what is no load.
const PATIENCE: Duration = Duration::from_secs(20);

/// A cluster, and who asks about it.
pub struct Cluster {
    /// Where it runs.
    pub backend: Box<dyn Backend>,
    /// Not one of the load's.
    pub client: Client,
}

/// How a cluster is when it is whole.
#[derive(Clone, Debug)]
pub struct Whole {
    /// Its groups.
    pub status: ClusterStatus,
    /// What failovers have lost.
    pub certificates: Vec<Certificate>,
    /// How long it took.
    pub took: Duration,
}

impl Cluster {
    /// Starts one in a folder of its own below `parent`.
    ///
    /// # Errors
    /// What does not start.
    pub async fn start(setup: Setup, parent: &Path) -> Result<Self> {
        let folder = Folder::make(parent)?;
        let mut backend = setup.make(folder).await?;
        let started = start_all(&mut *backend).await;
        let client = match started {
            Ok(()) => connect(&backend.routers(), PATIENCE).await,
            Err(error) => Err(error),
        };
        match client {
            Ok(client) => Ok(Self { backend, client }),
            Err(error) => {
                backend.end().await?;
                Err(error)
            }
        }
    }

    /// Primaries are not to be evened out: a planned hand-over looks like a failover to whoever counts epochs.
    ///
    /// # Errors
    /// The cluster does not take the setting.
    pub async fn keep_primaries(&self) -> Result<()> {
        let change = PlacementChange {
            balance_pause: Some(Duration::ZERO),
            ..PlacementChange::default()
        };
        let changed = self.client.admin().placement(change).await;
        changed.context("tell placement to keep primaries where they are")?;
        Ok(())
    }

    /// A client that prefers one router, and turns to the others if that one is gone.
    ///
    /// # Errors
    /// None of them answers.
    pub async fn connect(&self, preferred: usize, deadline: Duration) -> Result<Client> {
        let mut routers = self.backend.routers();
        let all = routers.len().max(1);
        routers.rotate_left(preferred % all);
        connect(&routers, deadline).await
    }

    /// Waits until all replicas of these keyspaces are in sync and level, and every certificate knows its extent, if it shall.
    ///
    /// # Errors
    /// What is still missing after `within`.
    pub async fn until_whole(&self, keyspaces: &[String], extents: bool, within: Duration) -> Result<Whole> {
        let began = now();
        loop {
            let seen = self.look(keyspaces, extents).await;
            let took = Duration::from_nanos(now().saturating_sub(began));
            match seen {
                Ok((status, certificates)) => {
                    return Ok(Whole {
                        status,
                        certificates,
                        took,
                    });
                }
                Err(missing) if took > within => {
                    return Err(missing).with_context(|| format!("not whole after {} s", within.as_secs()));
                }
                Err(_) => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    async fn look(&self, keyspaces: &[String], extents: bool) -> Result<(ClusterStatus, Vec<Certificate>)> {
        let admin = self.client.admin();
        let mut status = admin.status(None).await?;
        status.groups.retain(|group| keyspaces.contains(&group.keyspace));
        if let Some(node) = status.nodes.iter().find(|node| node.unreachable.is_some()) {
            bail!("node {} cannot be reached", node.id);
        }
        for group in &status.groups {
            let who = format!("{} of {}", group.id, group.keyspace);
            if !group.ready {
                bail!("{who} has no primary that serves");
            }
            if group.in_sync.len() < group.replicas.len() {
                bail!("{who} has replicas that are not in sync");
            }
            let end = group.replicas.iter().map(|replica| replica.last_index).max();
            if group.replicas.iter().any(|replica| Some(replica.applied_index) != end) {
                bail!("{who} has replicas that are behind");
            }
        }
        let report = admin.failover_report(None, true).await?;
        let mut certificates = report.certificates;
        certificates.retain(|certificate| keyspaces.contains(&certificate.keyspace));
        if let Some(open) = certificates.iter().find(|one| extents && !one.extent_known) {
            bail!("the extent of what {} lost is unknown", open.group);
        }
        Ok((status, certificates))
    }

    /// Waits until every group has a primary that serves.
    ///
    /// # Errors
    /// One has none after `within`.
    pub async fn until_led(&self, keyspaces: &[String], within: Duration) -> Result<()> {
        let until = now() + nanos(within);
        loop {
            let status = self.client.admin().status(None).await;
            let led = status.map(|status| {
                let mut ours = status.groups.iter().filter(|group| keyspaces.contains(&group.keyspace));
                ours.all(|group| group.ready)
            });
            match led {
                Ok(true) => return Ok(()),
                _ if now() > until => bail!("not every group has a primary after {} s", within.as_secs()),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// Waits until nothing is in doubt; answers with how long that took, or with how much still is.
    ///
    /// # Errors
    /// Nobody could be asked.
    pub async fn until_certain(&self, within: Duration) -> Result<Result<Duration, usize>> {
        let began = now();
        loop {
            let listed = self.client.admin().in_doubt(ListInDoubt::default()).await;
            let listed = listed.context("see what is in doubt")?;
            let pending = listed.transactions.len() + listed.silent.len();
            let took = Duration::from_nanos(now().saturating_sub(began));
            match pending {
                0 => return Ok(Ok(took)),
                pending if took > within => return Ok(Err(pending)),
                _ => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }
}

async fn connect(routers: &[String], deadline: Duration) -> Result<Client> {
    let (first, others) = routers.split_first().context("a cluster without routers")?;
    let config = others.iter().fold(Config::new(first), |config, other| config.or(other));
    Client::connect(config.deadline(deadline))
        .await
        .context("connect to a router")
}

async fn start_all(backend: &mut dyn Backend) -> Result<()> {
    for member in backend.members() {
        backend.start(member).await?;
        // Others found the cluster in it.
        if member == Member::Etcd {
            until_ready(backend, member).await?;
        }
    }
    for member in backend.members() {
        until_ready(backend, member).await?;
    }
    Ok(())
}

async fn until_ready(backend: &mut dyn Backend, member: Member) -> Result<()> {
    let until = now() + nanos(STARTS_WITHIN);
    loop {
        let Err(why) = backend.ready(member).await else {
            return Ok(());
        };
        if backend.condition(member).await? == Condition::Gone {
            bail!("{member} has ended: see its log");
        }
        if now() > until {
            bail!("{member} is not ready after {} s: {why}", STARTS_WITHIN.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
