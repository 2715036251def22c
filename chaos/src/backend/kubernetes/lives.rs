//! The lives of pods: they are killed, told to end, and kept from coming back until they may.
//!
//! A StatefulSet makes a pod anew as soon as it is gone, on the machine where its volume is. A taint on that machine keeps the new one waiting, and concerns no
//! pod that runs. Routers are killed in place, for a new one would go to another machine: there the kubelet starts the container again.

use super::super::Member;
use super::command::{Release, inside, output};
use super::pods::{self, Pod, pods_of};
use anyhow::{Context, Result};
use futures::future::try_join_all;
use std::collections::{BTreeMap, BTreeSet};

/// Of machines on which a killed pod is not to come back yet.
const TAINT: &str = "fulcrum-chaos";

/// Whom of a release this command has killed.
pub(super) struct Lives {
    release: Release,
    /// And the machines that are kept from starting them.
    killed: BTreeMap<Member, BTreeSet<String>>,
}

impl Lives {
    pub(super) fn of(release: Release) -> Self {
        Self {
            release,
            killed: BTreeMap::new(),
        }
    }

    /// Forgets who was killed: all may start.
    pub(super) fn forget(&mut self) {
        self.killed.clear();
    }

    /// SIGTERM: the pod is to go, as if somebody had evicted it.
    pub(super) async fn terminate(&mut self, member: Member) -> Result<()> {
        let pods = self.hold(member).await?;
        try_join_all(pods.iter().map(|pod| self.delete(pod, &[])))
            .await
            .map(drop)
    }

    /// Lets a member start that was killed.
    pub(super) async fn let_start(&mut self, member: Member) -> Result<()> {
        let machines = self.killed.remove(&member).unwrap_or_default();
        let still: BTreeSet<String> = self.killed.values().flatten().cloned().collect();
        for machine in machines.difference(&still) {
            Self::untaint(machine).await?;
        }
        Ok(())
    }

    /// Keeps pods from starting on their machines, and answers with them.
    async fn hold(&mut self, member: Member) -> Result<Vec<Pod>> {
        let pods = pods_of(&self.release, member).await?;
        let mut machines = BTreeSet::new();
        for pod in &pods {
            machines.insert(pod.machine()?.to_owned());
        }
        let taint = format!("{TAINT}=killed:NoSchedule");
        let held = machines.iter().map(|machine| {
            let taint = taint.clone();
            async move { output("kubectl", &["taint", "node", "--overwrite", machine, &taint]).await }
        });
        // Noted first: what was done in part is undone, too.
        self.killed.insert(member, machines.clone());
        try_join_all(held).await?;
        Ok(pods)
    }

    /// Lets pods start on a machine again.
    pub(super) async fn untaint(machine: &str) -> Result<()> {
        let keys = output(
            "kubectl",
            &["get", "node", machine, "--output", "jsonpath={.spec.taints[*].key}"],
        )
        .await?;
        if keys.split_whitespace().any(|key| key == TAINT) {
            output("kubectl", &["taint", "node", machine, &format!("{TAINT}-")]).await?;
        }
        Ok(())
    }

    /// SIGKILL.
    pub(super) async fn kill(&mut self, member: Member) -> Result<()> {
        if let Member::Router(_) = member {
            return self.to_process(member, "KILL").await;
        }
        let pods = self.hold(member).await?;
        try_join_all(pods.iter().map(pods::kill_all)).await?;
        let deleted = pods
            .iter()
            .map(|pod| self.delete(pod, &["--grace-period=0", "--force"]));
        try_join_all(deleted).await?;
        // The kubelet may have seen that the process was gone before it saw that the pod was.
        try_join_all(pods.iter().map(pods::kill_all)).await.map(drop)
    }

    async fn delete(&self, pod: &Pod, how: &[&str]) -> Result<()> {
        let mut arguments = vec!["delete", "pod", &pod.name, "--wait=false"];
        arguments.extend_from_slice(how);
        self.release.kubectl(&arguments).await.map(drop)
    }

    /// Any other signal, to the process itself.
    pub(super) async fn to_process(&self, member: Member, signal: &str) -> Result<()> {
        for pod in pods_of(&self.release, member).await? {
            let process = pods::process(&pod).await?;
            let process = process.with_context(|| format!("{} does not run", pod.name))?;
            let line = format!("kill -{signal} \"$1\"");
            inside(pod.machine()?, &line, &[&process.pid.to_string()]).await?;
        }
        Ok(())
    }

    /// Whether all pods of a member have their process; those that back off are made anew.
    pub(super) async fn have_started(&self, member: Member, wanted: usize) -> Result<bool> {
        let pods = pods_of(&self.release, member).await?;
        let mut running = 0;
        for pod in pods.iter().filter(|pod| !pod.leaves) {
            match pods::process(pod).await? {
                Some(_) => running += 1,
                None if pod.backs_off => self.delete(pod, &[]).await?,
                None => {}
            }
        }
        Ok(running == wanted)
    }
}
