//! The crash: which node, when, how the groups that it led come back, and how the node itself does.

use super::load::{Shared, now};
use super::story::Story;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::render::span;
use fulcrum_client::{Admin, ClusterStatus, Error, FailoverReport};
use fulcrum_local_cluster::LocalCluster;
use fulcrum_types::{GroupId, NodeId};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Between the loss of its network and its end a node still answers clients: what `async` groups acknowledge then, they lose.
const LAST_WORDS: Duration = Duration::from_millis(60);
const TICK: Duration = Duration::from_millis(50);
/// For the cluster to be whole again after the load.
pub(super) const HEAL_WITHIN: Duration = Duration::from_secs(30);

/// What happened.
pub(super) struct Incident {
    pub(super) victim: NodeId,
    pub(super) crashed_at: u64,
    /// Groups that the victim led, and their keyspaces.
    pub(super) led: BTreeMap<GroupId, String>,
    pub(super) restarted_at: Option<u64>,
}

/// A node that leads groups of both keyspaces, as many as a node leads on average, about.
pub(super) fn choose_victim(status: &ClusterStatus) -> Option<(NodeId, BTreeMap<GroupId, String>)> {
    let mut led: BTreeMap<NodeId, BTreeMap<GroupId, String>> = BTreeMap::new();
    for group in &status.groups {
        if let Some(primary) = group.primary {
            led.entry(primary).or_default().insert(group.id, group.keyspace.clone());
        }
    }
    let average = status.groups.len() / status.nodes.len().max(1);
    let keyspaces = |groups: &BTreeMap<GroupId, String>| groups.values().collect::<BTreeSet<_>>().len();
    led.into_iter().min_by_key(|(node, groups)| {
        (
            std::cmp::Reverse(keyspaces(groups)),
            groups.len().abs_diff(average),
            *node,
        )
    })
}

/// Conducts the load from its beginning to its end: crash half-way, restart later, and word of what happens.
pub(super) struct Conductor<'a> {
    pub(super) cluster: &'a mut LocalCluster,
    pub(super) admin: Admin,
    pub(super) shared: Arc<Shared>,
    pub(super) story: Story,
    pub(super) progress: &'a Progress,
    pub(super) began: u64,
    pub(super) duration: Duration,
}

impl Conductor<'_> {
    pub(super) async fn run(mut self) -> Result<Incident, Failure> {
        let half = self.began + nanos(self.duration / 2);
        let downtime = (self.duration * 3 / 10).clamp(Duration::from_secs(3), Duration::from_secs(10));
        self.wait_until(half).await;
        let mut incident = self.crash().await?;
        let back = incident.crashed_at + nanos(downtime);
        let mut told: BTreeSet<GroupId> = BTreeSet::new();
        while now() < self.shared.until {
            self.tick().await;
            self.tell_recoveries(&incident, &mut told)?;
            if incident.restarted_at.is_none() && now() >= back {
                incident.restarted_at = Some(now());
                self.restart(incident.victim).await?;
            }
        }
        // A short load is over before.
        if incident.restarted_at.is_none() {
            incident.restarted_at = Some(now());
            self.restart(incident.victim).await?;
        }
        Ok(incident)
    }

    async fn wait_until(&self, time: u64) {
        while now() < time {
            self.tick().await;
        }
    }

    async fn tick(&self) {
        tokio::time::sleep(TICK).await;
        self.progress.add(self.shared.answered.swap(0, Ordering::Relaxed));
    }

    fn seconds(&self, time: u64) -> Option<f64> {
        Some(Duration::from_nanos(time.saturating_sub(self.began)).as_secs_f64())
    }

    async fn crash(&mut self) -> Result<Incident, Failure> {
        let status = self.admin.status(None).await;
        let status = status.map_err(|error| Failure::client("cannot see who leads", &error))?;
        let chosen = choose_victim(&status);
        let (victim, led) =
            chosen.ok_or_else(|| Failure::new(Exit::Failed, "NO_PRIMARY", "the crash", "nobody leads"))?;
        let crashed_at = now();
        self.shared.recovery.crashing(victim, crashed_at, led.keys().copied());
        self.cluster.silence_node(victim);
        tokio::time::sleep(LAST_WORDS).await;
        self.cluster.crash_node(victim).await;
        self.cluster.heal_network();
        let groups: Vec<String> = led.keys().map(ToString::to_string).collect();
        let text = format!(
            "{} {victim} goes unheard by the others, and {} later it is dropped without warning; it led {} ({})",
            self.story.paint.red("crash"),
            span(LAST_WORDS),
            groups.len(),
            groups.join(" ")
        );
        self.story.beside(self.progress, self.seconds(crashed_at), &text)?;
        Ok(Incident {
            victim,
            crashed_at,
            led,
            restarted_at: None,
        })
    }

    fn tell_recoveries(&self, incident: &Incident, told: &mut BTreeSet<GroupId>) -> Result<(), Failure> {
        for (group, took) in self.shared.recovery.times() {
            let Some(took) = took.filter(|_| told.insert(group)) else {
                continue;
            };
            let keyspace = incident.led.get(&group).map_or("", String::as_str);
            let text = format!(
                "{group} of {keyspace} acknowledges writes again, {} after the crash",
                self.story.paint.green(&span(took))
            );
            self.story
                .beside(self.progress, self.seconds(incident.crashed_at + nanos(took)), &text)?;
        }
        Ok(())
    }

    async fn restart(&mut self, victim: NodeId) -> Result<(), Failure> {
        let text = format!("{victim} is started again, on the data that it had synced");
        self.story.beside(self.progress, self.seconds(now()), &text)?;
        self.cluster
            .restart_node(victim)
            .await
            .map_err(|error| Failure::start(&format!("cannot start {victim} again"), &error))
    }
}

pub(super) fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// How the cluster is once it is whole again.
pub(super) struct Healed {
    pub(super) status: ClusterStatus,
    pub(super) report: FailoverReport,
    /// What is still missing, if it did not become whole in time.
    pub(super) missing: Option<String>,
    pub(super) took: Duration,
}

/// Waits until all replicas are in sync and level, and every loss certificate knows its extent.
pub(super) async fn heal(admin: &Admin) -> Result<Healed, Failure> {
    let began = now();
    loop {
        let seen = async { Ok::<_, Error>((admin.status(None).await?, admin.failover_report(None, true).await?)) };
        let (status, report) = seen
            .await
            .map_err(|error| Failure::client("cannot see the cluster", &error))?;
        let missing = missing(&status, &report);
        let took = Duration::from_nanos(now() - began);
        if missing.is_none() || took >= HEAL_WITHIN {
            return Ok(Healed {
                status,
                report,
                missing,
                took,
            });
        }
        tokio::time::sleep(TICK).await;
    }
}

fn missing(status: &ClusterStatus, report: &FailoverReport) -> Option<String> {
    for group in &status.groups {
        if !group.ready {
            return Some(format!("{} of {} has no primary that serves", group.id, group.keyspace));
        }
        if group.in_sync.len() < group.replicas.len() {
            return Some(format!(
                "{} of {} has replicas that are not in sync",
                group.id, group.keyspace
            ));
        }
        let end = group.replicas.iter().map(|replica| replica.last_index).max();
        if group.replicas.iter().any(|replica| Some(replica.applied_index) != end) {
            return Some(format!(
                "{} of {} has replicas that are behind",
                group.id, group.keyspace
            ));
        }
    }
    let open = report.certificates.iter().find(|certificate| !certificate.extent_known);
    open.map(|certificate| format!("the extent of what {} lost is unknown", certificate.group))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_client::{GroupStatus, NodeStatus};
    use fulcrum_types::{ConfigVersion, Epoch, MapVersion, Mode};

    fn status(primaries: &[(u64, &str)]) -> ClusterStatus {
        let node = |id| NodeStatus {
            id: NodeId(id),
            address: String::new(),
            zone: String::new(),
            unreachable: None,
            primaries: 0,
            replicas: 0,
            leased: true,
            draining: false,
            failover_pauses: None,
        };
        let group = |(at, (primary, keyspace)): (usize, &(u64, &str))| GroupStatus {
            id: GroupId(at as u64 + 1),
            keyspace: (*keyspace).to_owned(),
            mode: Mode::Sync,
            slots: 1,
            epoch: Epoch(1),
            config_version: ConfigVersion(1),
            primary: (*primary > 0).then_some(NodeId(*primary)),
            in_sync: Vec::new(),
            replicas: Vec::new(),
            ready: true,
            stranded: false,
        };
        ClusterStatus {
            cluster_id: "c".into(),
            map_version: MapVersion(1),
            nodes: (1..=3).map(node).collect(),
            groups: primaries.iter().enumerate().map(group).collect(),
            placement: None,
        }
    }

    #[test]
    fn the_victim_leads_in_both_keyspaces_and_no_more_than_its_share() {
        let all = [
            (1, "a"),
            (1, "a"),
            (1, "a"),
            (1, "b"),
            (2, "a"),
            (2, "b"),
            (3, "a"),
            (3, "a"),
        ];
        let (victim, led) = choose_victim(&status(&all)).unwrap();
        assert_eq!(victim, NodeId(2));
        assert_eq!(led.keys().map(|group| group.0).collect::<Vec<_>>(), [5, 6]);
        assert!(choose_victim(&status(&[(0, "a")])).is_none());
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut status = status(&[(1, "a")]);
        let none = FailoverReport {
            certificates: Vec::new(),
            unreachable: Vec::new(),
        };
        assert_eq!(missing(&status, &none), None);
        status.groups[0].ready = false;
        assert!(missing(&status, &none).unwrap().contains("no primary"));
    }
}
