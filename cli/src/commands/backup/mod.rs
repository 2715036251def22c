//! `fulcrum backup`: create, verify, restore.
//!
//! `create` cuts all groups at one moment and reads the cut; `crate::backup` is what lies in the directory. `docs/backup.md` says what a
//! backup promises.

mod compare;
mod create;
mod restore;
mod verify;

use crate::args::BackupCommand;
use crate::backup::{Manifest, Problem};
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use serde_json::{Value, json};
use std::path::Path;
use std::time::Duration;

/// Problems that are named one by one; the others are counted.
const NAMED: usize = 20;

/// Runs one of them.
pub async fn run(context: &Context, command: &BackupCommand) -> Ending {
    match command {
        BackupCommand::Create(args) => create::run(context, args).await,
        BackupCommand::Verify(args) => verify::run(context, args).await,
        BackupCommand::Restore(args) => restore::run(context, args).await,
    }
}

/// A backup that is not whole.
fn damaged(folder: &Path, problems: &[Problem]) -> Failure {
    let line = |problem: &Problem| format!("\n  {}: {}\n    try: {}", problem.file, problem.reason, problem.remedy);
    let mut why: String = problems.iter().take(NAMED).map(line).collect();
    if problems.len() > NAMED {
        why.push_str(&format!("\n  and {} more", problems.len() - NAMED));
    }
    Failure::new(
        Exit::Failed,
        "DAMAGED",
        format!("{} is no whole backup", folder.display()),
        why,
    )
}

/// Tells what a backup holds, and how long that took: for scripts, or in these words.
fn tell(context: &Context, manifest: &Manifest, took: Duration, words: impl FnOnce() -> String) -> Ending {
    if context.json() {
        let mut told = as_json(manifest);
        told["seconds"] = took.as_secs_f64().into();
        context.print_json(&told)?;
    } else {
        print(&words())?;
    }
    Ok(Exit::Ok)
}

/// What a backup holds, for scripts.
fn as_json(manifest: &Manifest) -> Value {
    let keyspaces = manifest.keyspaces.iter().map(|keyspace| {
        json!({
            "name": keyspace.name, "keys": keyspace.keys, "bytes": keyspace.bytes,
            "groups": keyspace.groups.len(), "receipt": keyspace.receipt,
        })
    });
    let size: u64 = manifest.files().map(|(_, _, file)| file.size).sum();
    json!({
        "cluster": manifest.cluster_id, "cut": manifest.cut, "begun_at_ms": manifest.begun_at_ms,
        "keys": manifest.keys(), "bytes": manifest.bytes(), "size": size,
        "keyspaces": keyspaces.collect::<Vec<Value>>(),
    })
}
