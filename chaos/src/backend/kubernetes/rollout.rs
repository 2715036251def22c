//! All pods of a component are replaced in turn, as `helm upgrade` does it: the cluster decides when the next one may go.
//!
//! What was begun is not believed: each pod must be another one than before, all of them ready, and none of the old ones left, not even one that still ends.

use super::super::Member;
use super::command::Release;
use super::pods::{self, Pods};
use super::{LOOK_EVERY, nanos, now};
use anyhow::{Result, bail};
use std::collections::BTreeSet;
use std::time::Duration;

/// A node is ready only once it has caught up in every group; each may take as long as that.
const DONE_WITHIN: Duration = Duration::from_secs(300);

/// Replaces all pods of the component that a member belongs to, and waits until it is done.
pub(super) async fn run(release: &Release, like: Member) -> Result<()> {
    let (kind, component) = match like {
        Member::Node(_) => ("statefulset", "shard-node"),
        Member::Router(_) => ("deployment", "router"),
        Member::Etcd => bail!("etcd is not replaced: an upgrade leaves it alone"),
    };
    let selector = format!(
        "app.kubernetes.io/instance={},app.kubernetes.io/component={component}",
        release.name
    );
    let before = uids(release, &selector).await?;
    if before.is_empty() {
        bail!("the release {} has no {component}", release.name);
    }
    release
        .kubectl(&["rollout", "restart", kind, "--selector", &selector])
        .await?;
    let until = now() + nanos(DONE_WITHIN);
    loop {
        let pods = pods::list(release).await?;
        let there = uids(release, &selector).await?;
        if there.len() == before.len() && there.is_disjoint(&before) && all_ready(&pods, &there) {
            return Ok(());
        }
        if now() > until {
            let left = there.intersection(&before).count();
            bail!(
                "the pods of {component} are not replaced after {} s: {left} of {} are left, or others not ready",
                DONE_WITHIN.as_secs(),
                before.len()
            );
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Also of those that are about to go.
async fn uids(release: &Release, selector: &str) -> Result<BTreeSet<String>> {
    let line = "jsonpath={range .items[*]}{.metadata.uid}{\"\\n\"}{end}";
    let said = release
        .kubectl(&["get", "pods", "--selector", selector, "--output", line])
        .await?;
    Ok(said.lines().map(str::to_owned).collect())
}

fn all_ready(pods: &Pods, uids: &BTreeSet<String>) -> bool {
    let ready = pods.values().flatten().filter(|pod| pod.ready && !pod.leaves);
    let ready: BTreeSet<&str> = ready.map(|pod| pod.uid.as_str()).collect();
    uids.iter().all(|uid| ready.contains(uid.as_str()))
}
