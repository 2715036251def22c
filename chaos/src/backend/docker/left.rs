//! What commands that were killed have left with the engine: seen by their label, removed whole.
//!
//! Rules that cut links, pauses and full disks are in containers and volumes of the cluster, so they are gone with these. What belongs to a command that lives, whose folder is
//! locked, is not touched.

use super::super::process::folder;
use super::composition::LABEL;
use super::engine::Engine;
use anyhow::{Context, Result, bail};
use std::collections::BTreeSet;
use std::path::Path;

/// Removes what is nobody's any more.
///
/// # Errors
/// The engine refuses, or something is still there: no cluster is started beside one that is not healed.
pub async fn sweep(engine: &Engine) -> Result<()> {
    for owner in owners(engine).await? {
        if folder::is_alive(Path::new(&owner)) {
            continue;
        }
        remove(engine, &owner)
            .await
            .with_context(|| format!("remove what a dead command has left ({LABEL}={owner})"))?;
    }
    Ok(())
}

async fn owners(engine: &Engine) -> Result<BTreeSet<String>> {
    let by_label = format!("label={LABEL}");
    let shown = format!("{{{{.Label \"{LABEL}\"}}}}");
    let mut owners = BTreeSet::new();
    for kind in [&["ps", "--all"][..], &["volume", "ls"], &["network", "ls"]] {
        let words = [kind, &["--filter", &by_label, "--format", &shown]].concat();
        owners.extend(engine.lines(&words).await?);
    }
    Ok(owners)
}

async fn remove(engine: &Engine, owner: &str) -> Result<()> {
    let by_label = format!("label={LABEL}={owner}");
    for (list, remove) in [
        (&["ps", "--all"][..], &["rm", "--force"][..]),
        (&["volume", "ls"], &["volume", "rm"]),
        (&["network", "ls"], &["network", "rm"]),
    ] {
        let all = [list, &["--quiet", "--filter", &by_label]].concat();
        let found = engine.lines(&all).await?;
        if found.is_empty() {
            continue;
        }
        let ids: Vec<&str> = found.iter().map(String::as_str).collect();
        engine.docker(&[remove, &ids].concat()).await?;
        let left = engine.lines(&all).await?;
        if !left.is_empty() {
            bail!("still there: {}", left.join(" "));
        }
    }
    Ok(())
}
