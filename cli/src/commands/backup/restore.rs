//! `fulcrum backup restore`: the keys of a backup into keyspaces of a running cluster, and everything read back.
//!
//! The backup is checked as a whole before anything is written. Keys are set unconditionally, so that a restore may be repeated: one that was
//! broken off is run again with `--over-existing`. Nothing of the number of groups remains: keys find theirs.

use super::compare::{Differences, compare};
use super::verify::whole;
use crate::args::BackupRestoreArgs;
use crate::backup::Manifest;
use crate::backup::manifest::KeyspaceEntry;
use crate::backup::reader::DataFile;
use crate::commands::dev::Stopping;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::loader::{Attempt, LoadOptions, Loaded, Numbered, load};
use crate::progress::Progress;
use crate::records;
use crate::render::{count, rate, span};
use fulcrum_client::{Admin, Keyspace, Range, Session};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_common::keyspace::KeyspaceOptions;
use fulcrum_common::limits::MAX_VALUE_BYTES;
use fulcrum_types::{Level, Mode, Refusal};
use futures::TryStreamExt;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

/// Few: each may be as large as a value can be.
const READ_AHEAD: usize = 64;
const _: () = assert!(
    READ_AHEAD * MAX_VALUE_BYTES <= 64 * 1024 * 1024,
    "what is read ahead fits into memory"
);
/// Records in a batch.
const BATCH: usize = 256;

/// One keyspace, restored.
struct Restored {
    name: String,
    written: u64,
    /// Keys whose time was over.
    over: u64,
    took: Duration,
    differences: Option<Differences>,
}

/// How far it has come: what is told if it is stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    NothingWritten,
    Writing(String),
    ReadingBack(String),
}

impl Stage {
    fn interrupted(&self) -> Failure {
        let again = "the same command with --over-existing goes on; it may be repeated";
        let (what, why, remedy) = match self {
            Stage::NothingWritten => (
                "cannot restore the backup".to_owned(),
                "it was interrupted, and nothing was written; a keyspace that was made for it is there and empty",
                "the same command again",
            ),
            Stage::Writing(name) => (
                format!("keyspace '{name}' is restored in part, and those after it are not"),
                "it was interrupted",
                again,
            ),
            Stage::ReadingBack(name) => (
                format!(
                    "keyspace '{name}' is restored, but was not read back to its end, and those after it are not restored"
                ),
                "it was interrupted",
                again,
            ),
        };
        Failure::interrupted(what, why).remedy(remedy)
    }
}

/// Restores a backup.
pub async fn run(context: &Context, args: &BackupRestoreArgs) -> Ending {
    let mut stopping = Stopping::listen()?;
    let stage = RefCell::new(Stage::NothingWritten);
    tokio::select! {
        ended = restore_all(context, args, &stage) => ended,
        () = stopping.asked() => Err(stage.borrow().interrupted()),
    }
}

async fn restore_all(context: &Context, args: &BackupRestoreArgs, stage: &RefCell<Stage>) -> Ending {
    let (manifest, _) = whole(&args.directory).await?;
    let chosen = choose(&manifest, args)?;
    let client = context.client().await?;
    let admin = client.admin();
    for (entry, name) in &chosen {
        let mode = make_ready(&admin, args, entry, name).await?;
        if !args.over_existing {
            must_be_empty(&newest(client.keyspace(name.as_str()), mode), name).await?;
        }
    }
    let mut restored = Vec::new();
    for (entry, name) in &chosen {
        // What was written is what is read back, whichever replica is asked and whatever the keyspace's own level.
        let session = Session::new();
        let keyspace = client.keyspace(name.as_str()).in_session(&session).at(Level::Session);
        restored.push(restore(args, entry, name, &keyspace, stage).await?);
    }
    tell(context, args, &restored)
}

/// The keyspaces that are wanted, with their new names.
fn choose<'a>(manifest: &'a Manifest, args: &BackupRestoreArgs) -> Result<Vec<(&'a KeyspaceEntry, String)>, Failure> {
    let has = |name: &String| manifest.keyspaces.iter().any(|entry| entry.name == *name);
    let named = args.keyspace.iter().chain(args.renamed.iter().map(|(old, _)| old));
    if let Some(name) = named.into_iter().find(|name| !has(name)) {
        let all: Vec<&str> = manifest.keyspaces.iter().map(|entry| entry.name.as_str()).collect();
        let why = format!("the backup has {}", all.join(", "));
        return Err(Failure::usage(format!("keyspace '{name}' is not in the backup"), why));
    }
    let renamed_before = |number: usize, old: &String| args.renamed[..number].iter().any(|(before, _)| before == old);
    if let Some((_, (name, _))) =
        (args.renamed.iter().enumerate()).find(|(number, (old, _))| renamed_before(*number, old))
    {
        let why = "it is restored once: choose one of the names";
        return Err(Failure::usage(format!("keyspace '{name}' is renamed twice"), why));
    }
    let wanted = manifest
        .keyspaces
        .iter()
        .filter(|entry| args.keyspace.is_empty() || args.keyspace.contains(&entry.name));
    let renamed = |entry: &&KeyspaceEntry| args.renamed.iter().find(|(old, _)| *old == entry.name);
    let named = wanted.map(|entry| {
        (
            entry,
            renamed(&entry).map_or(entry.name.clone(), |(_, new)| new.clone()),
        )
    });
    let chosen: Vec<(&KeyspaceEntry, String)> = named.collect();
    for (number, (_, name)) in chosen.iter().enumerate() {
        if chosen[..number].iter().any(|(_, before)| before == name) {
            let why = "each needs a name of its own: choose another one with --as";
            return Err(Failure::usage(
                format!("two keyspaces would be restored as '{name}'"),
                why,
            ));
        }
    }
    Ok(chosen)
}

/// Makes the keyspace, unless it is there and fits. Its mode.
async fn make_ready(
    admin: &Admin,
    args: &BackupRestoreArgs,
    entry: &KeyspaceEntry,
    name: &str,
) -> Result<Mode, Failure> {
    match admin.show_keyspace(name).await {
        Ok(found) => match unfit(args, entry, &found.options) {
            None => Ok(found.options.mode),
            Some((why, remedy)) => {
                let failure = Failure::usage(format!("keyspace '{name}' is there already"), why);
                Err(failure.remedy(remedy))
            }
        },
        Err(error) if matches!(error.refusal(), Some(Refusal::UnknownKeyspace { .. })) => {
            let spec = entry.settings.spec(args.groups, args.replication_factor);
            spec.resolve()
                .map_err(|error| Failure::usage(format!("keyspace '{name}'"), error))?;
            let created = admin.create_keyspace(name, spec).await;
            created
                .map(|created| created.options.mode)
                .map_err(|error| Failure::client(format!("cannot create keyspace '{name}'"), &error))
        }
        Err(error) => Err(Failure::client(format!("cannot look at keyspace '{name}'"), &error)),
    }
}

/// Why a keyspace that is there already will not do, and what to do about it: what a backup promises rests on its mode.
fn unfit(args: &BackupRestoreArgs, entry: &KeyspaceEntry, found: &KeyspaceOptions) -> Option<(String, &'static str)> {
    let (mode, groups, replicas) = (found.mode, found.groups, found.replication_factor);
    if mode.to_string() != entry.settings.mode {
        let why = format!("it is {mode}, and the backup's is {}", entry.settings.mode);
        return Some((why, "restore under another name with --as"));
    }
    if args.groups.is_some_and(|wanted| wanted != groups) {
        let remedy = "leave --groups out, or restore under another name with --as";
        return Some((format!("it has {groups} groups"), remedy));
    }
    if args.replication_factor.is_some_and(|wanted| wanted != replicas) {
        let remedy = "leave --replication-factor out, or restore under another name with --as";
        return Some((format!("it has {replicas} replicas"), remedy));
    }
    None
}

/// A keyspace as its newest state is read, as far as its mode can tell.
fn newest(keyspace: Keyspace, mode: Mode) -> Keyspace {
    match mode {
        Mode::Sync => keyspace.at(Level::Linearizable),
        Mode::Async => keyspace,
    }
}

async fn must_be_empty(keyspace: &Keyspace, name: &str) -> Result<(), Failure> {
    let mut rows = std::pin::pin!(keyspace.scan(Range::all()).limit(1).rows());
    let first = rows.try_next().await;
    let first = first.map_err(|error| Failure::client(format!("cannot look into keyspace '{name}'"), &error))?;
    if first.is_none() {
        return Ok(());
    }
    let what = format!("keyspace '{name}' has data");
    let failure = Failure::new(Exit::Failed, "NOT_EMPTY", what, "a restore would write over it");
    Err(failure.remedy(format!(
        "another name with --as {name}=NEW, or --over-existing: keys of the backup are set, others stay"
    )))
}

async fn restore(
    args: &BackupRestoreArgs,
    entry: &KeyspaceEntry,
    name: &str,
    keyspace: &Keyspace,
    stage: &RefCell<Stage>,
) -> Result<Restored, Failure> {
    let began = SystemClock.now();
    stage.replace(Stage::Writing(name.to_owned()));
    let (loaded, over) = write(args, entry, name, keyspace).await?;
    if let Some(first) = loaded.refused.first() {
        let what = format!(
            "keyspace '{name}' is restored in part: {} keys were refused",
            loaded.refused.len()
        );
        let failure = Failure::client(what, &first.error);
        return Err(failure.remedy("the same command with --over-existing goes on; it may be repeated"));
    }
    let took = SystemClock.now().mono.since(began.mono);
    stage.replace(Stage::ReadingBack(name.to_owned()));
    let differences = match args.no_verify {
        true => None,
        false => Some(compare(&args.directory, entry, name, keyspace, began.wall_ms).await?),
    };
    Ok(Restored {
        name: name.to_owned(),
        written: loaded.written,
        over,
        took,
        differences,
    })
}

async fn write(
    args: &BackupRestoreArgs,
    entry: &KeyspaceEntry,
    name: &str,
    keyspace: &Keyspace,
) -> Result<(Loaded, u64), Failure> {
    let (sender, source) = mpsc::channel(READ_AHEAD);
    let files = files(&args.directory, entry);
    let reading = tokio::task::spawn_blocking(move || read(files, &sender));
    let progress = Arc::new(Progress::start(&format!("restore '{name}'"), Some(entry.keys)));
    let shown = Arc::clone(&progress);
    let observe = move |attempt: &Attempt<'_>| {
        if let Ok(written) = attempt.answer {
            shown.add(written.items.iter().filter(|item| item.is_ok()).count() as u64);
        }
    };
    let options = LoadOptions {
        batch: BATCH,
        parallel: usize::try_from(args.parallel).unwrap_or(1),
    };
    let loaded = load(keyspace, source, options, observe, |_| true).await;
    if let Some(progress) = Arc::into_inner(progress) {
        progress.finish();
    }
    let read = reading
        .await
        .map_err(|error| Failure::file("cannot read the backup", error))?;
    match read {
        Ok(over) => Ok((loaded, over)),
        Err(why) => {
            let failure = Failure::file(format!("keyspace '{name}' is restored in part"), why);
            Err(failure
                .remedy("`fulcrum backup verify`; when it is whole, the same command with --over-existing goes on"))
        }
    }
}

/// The files of a keyspace: where each is, whose, and its number there.
pub(super) fn files(folder: &Path, entry: &KeyspaceEntry) -> Vec<Vec<(PathBuf, u64, u32)>> {
    let of_group = |group: &crate::backup::manifest::GroupEntry| {
        let files = (1..).zip(&group.files);
        files
            .map(|(number, file)| (folder.join(&file.name), group.id, number))
            .collect()
    };
    entry.groups.iter().map(of_group).collect()
}

/// Reads records until the end, or until nobody takes them any more. How many were over.
fn read(files: Vec<Vec<(PathBuf, u64, u32)>>, sender: &mpsc::Sender<Numbered>) -> Result<u64, String> {
    let (mut line, mut over) = (0, 0);
    for (path, group, number) in files.into_iter().flatten() {
        let damaged = |damage| format!("{}: {damage}", path.display());
        let mut file = DataFile::open(&path, group, number).map_err(damaged)?;
        while let Some(block) = file.next_block().map_err(damaged)? {
            let now_ms = SystemClock.now().wall_ms;
            for record in block {
                line += 1;
                if record.is_over(now_ms) {
                    over += 1;
                    continue;
                }
                let numbered = Numbered {
                    line,
                    expires_at_ms: record.expires_at_ms,
                    record: records::Record {
                        key: record.key,
                        value: record.value,
                    },
                };
                if sender.blocking_send(numbered).is_err() {
                    return Ok(over);
                }
            }
        }
    }
    Ok(over)
}

fn tell(context: &Context, args: &BackupRestoreArgs, restored: &[Restored]) -> Ending {
    if context.json() {
        let one = |one: &Restored| {
            json!({
                "name": one.name, "written": one.written, "over": one.over, "seconds": one.took.as_secs_f64(),
                "verified": one.differences.as_ref().map(Differences::as_json),
            })
        };
        let keyspaces: Vec<Value> = restored.iter().map(one).collect();
        context.print_json(&json!({"keyspaces": keyspaces}))?;
    } else {
        in_words(restored)?;
    }
    let wrong = |one: &&Restored| {
        let differences = one.differences.as_ref();
        differences.is_some_and(|found| !found.agree(args.over_existing))
    };
    let Some(first) = restored.iter().find(wrong) else {
        return Ok(Exit::Ok);
    };
    if let Some(found) = &first.differences {
        found.named.iter().for_each(|line| note(line));
    }
    let what = format!("keyspace '{}' does not hold what the backup does", first.name);
    let failure = Failure::new(
        Exit::Failed,
        "DIFFERENT",
        what,
        "see above; somebody else may write to it",
    );
    Err(failure.remedy("see that nobody else writes, and repeat with --over-existing"))
}

fn in_words(restored: &[Restored]) -> Result<(), Failure> {
    for one in restored {
        let over = match one.over {
            0 => String::new(),
            over => format!(", {} were over", count(over)),
        };
        let speed = rate(one.written, one.took);
        print(&format!(
            "restored '{}': {} keys in {} ({speed}/s){over}\n",
            one.name,
            count(one.written),
            span(one.took)
        ))?;
        if let Some(differences) = &one.differences {
            print(&format!("  {}\n", differences.in_words()))?;
        }
    }
    Ok(())
}
