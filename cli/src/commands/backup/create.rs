//! `fulcrum backup create`: a cut, read group by group into a directory.
//!
//! The cut is kept while it is read, and let go of at the end, also on Ctrl-C. If its state is gone before that (nodes were started again,
//! or nobody could say that it is still wanted), the backup is begun anew with another cut, a few times. Reading, compressing and writing
//! go on beside each other, a few pages apart.

use super::tell;
use crate::args::BackupCreateArgs;
use crate::backup::manifest::{FORMAT, FileEntry, GroupEntry, KeyspaceEntry, Settings};
use crate::backup::writer::{GroupWriter, Target};
use crate::backup::{Manifest, Record};
use crate::context::{Context, Ending, note};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::render::{count, span};
use fulcrum_client::{Client, Cut, CutGroup, Error, KeyspaceInfo, Mode, Refusal, Row};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::Act;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Cuts that are made before it is given up.
const TRIES: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);
/// The nodes keep a cut for a minute from the last word on.
const KEEP_EVERY: Duration = Duration::from_secs(15);
/// For the nodes to hear that it is over.
const FAREWELL: Duration = Duration::from_secs(2);
const PAGES_AHEAD: usize = 4;

const OF_SYNC: &str = "one moment of all sync keyspaces: each transaction is in it as a whole or not at all, and each write that was acknowledged before the backup was begun";
const OF_ASYNC: &str = "each group as its primary had it near that moment; of what failovers lost before it has nothing, and what a later one loses stays in it";

/// Makes a backup.
pub async fn run(context: &Context, args: &BackupCreateArgs) -> Ending {
    let what = format!("cannot make a backup in {}", args.directory.display());
    let target = Target::create(&args.directory).map_err(|error| Failure::file(&what, error))?;
    let began = SystemClock.now();
    let farewells = Farewells::default();
    let made = tokio::select! {
        made = make(context, args, &target, began.wall_ms, &farewells) => made,
        _ = tokio::signal::ctrl_c() => Err(Failure::new(Exit::Failed, "INTERRUPTED", &what, "it was interrupted")),
    };
    farewells.heard().await;
    let manifest = match made {
        Ok(manifest) => manifest,
        Err(failure) => {
            target.abandon();
            return Err(failure);
        }
    };
    target.finish(&manifest).map_err(|error| Failure::file(&what, error))?;
    let took = SystemClock.now().mono.since(began.mono);
    tell(context, &manifest, took, || {
        format!(
            "{} has {} keys of {} keyspaces as of one moment, made in {}\n",
            args.directory.display(),
            count(manifest.keys()),
            manifest.keyspaces.len(),
            span(took)
        )
    })
}

async fn make(
    context: &Context,
    args: &BackupCreateArgs,
    target: &Target,
    begun_at_ms: u64,
    farewells: &Farewells,
) -> Result<Manifest, Failure> {
    let client = context.client().await?;
    let mut tried = 1;
    loop {
        match attempt(&client, args, target.folder(), begun_at_ms, farewells).await {
            Err(Trouble::Passing(failure)) if tried < TRIES => {
                note(&format!("{failure}\nthe backup is begun anew"));
                tried += 1;
                let cleared = target.clear();
                cleared.map_err(|error| Failure::file("cannot remove what was written so far", error))?;
                tokio::time::sleep(PAUSE).await;
            }
            Err(Trouble::Passing(failure) | Trouble::Lasting(failure)) => return Err(failure),
            Ok(manifest) => return Ok(manifest),
        }
    }
}

/// Why a try was no backup.
enum Trouble {
    /// Another cut may do.
    Passing(Failure),
    Lasting(Failure),
}

impl Trouble {
    fn of(what: &str, error: &Error) -> Self {
        let failure = Failure::client(what, error);
        let gone = matches!(error.refusal(), Some(Refusal::CutGone { .. }));
        let reached = !matches!(error, Error::Unreachable { .. });
        match error.act() {
            Act::Retry if reached => Trouble::Passing(failure),
            _ if gone => Trouble::Passing(failure),
            _ => Trouble::Lasting(failure),
        }
    }
}

impl From<Failure> for Trouble {
    fn from(failure: Failure) -> Self {
        Trouble::Lasting(failure)
    }
}

/// Words to the nodes that nobody reads any more, on their way.
#[derive(Clone, Default)]
struct Farewells {
    under_way: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Farewells {
    fn lock(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until they are heard, but not for long: the nodes let go by themselves a minute later.
    async fn heard(&self) {
        let under_way = std::mem::take(&mut *self.lock());
        let all = futures::future::join_all(under_way);
        if tokio::time::timeout(FAREWELL, all).await.is_err() {
            note("the nodes could not be told that the backup has ended: they will let go of it in a minute");
        }
    }
}

/// Lets go of a cut, whatever ends the work on it.
struct Held {
    cut: Cut,
    keeper: JoinHandle<()>,
    farewells: Farewells,
}

impl Held {
    fn new(cut: Cut, farewells: &Farewells) -> Self {
        let kept = cut.clone();
        let keeper = tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP_EVERY).await;
                if let Err(error) = kept.keep().await {
                    // Once is not for ever: the next word may come in time, and reading says if none did.
                    note(&format!("{} could not be kept everywhere: {error}", kept.name()));
                }
            }
        });
        Held {
            cut,
            keeper,
            farewells: farewells.clone(),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.keeper.abort();
        let cut = self.cut.clone();
        let farewell = tokio::spawn(async move {
            if let Err(error) = cut.end().await {
                note(&format!("the nodes will let go of {} in a minute: {error}", cut.name()));
            }
        });
        self.farewells.lock().push(farewell);
    }
}

async fn attempt(
    client: &Client,
    args: &BackupCreateArgs,
    folder: &Path,
    begun_at_ms: u64,
    farewells: &Farewells,
) -> Result<Manifest, Trouble> {
    let cut = client.cut(&args.keyspace).await;
    let cut = cut.map_err(|error| Trouble::of("cannot cut the cluster at one moment", &error))?;
    let held = Held::new(cut, farewells);
    let cut = &held.cut;
    let progress = Progress::start("back up (groups)", Some(cut.groups.len() as u64));
    let mut pace = Pace::new(args.rate);
    let mut keyspaces = Vec::new();
    for keyspace in &cut.keyspaces {
        let mut groups = Vec::new();
        for group in cut.groups.iter().filter(|group| group.keyspace == keyspace.id) {
            groups.push(save(cut, *group, folder, &mut pace).await?);
            progress.add(1);
        }
        keyspaces.push(entry(keyspace, groups));
    }
    progress.finish();
    Ok(Manifest {
        format: FORMAT,
        fulcrum: env!("CARGO_PKG_VERSION").to_owned(),
        cluster_id: cut.cluster_id.clone(),
        map_version: cut.map_version.0,
        cut: cut.name(),
        begun_at_ms,
        ended_at_ms: SystemClock.now().wall_ms,
        keyspaces,
    })
}

fn entry(keyspace: &KeyspaceInfo, groups: Vec<GroupEntry>) -> KeyspaceEntry {
    let receipt = match keyspace.options.mode {
        Mode::Sync => OF_SYNC,
        Mode::Async => OF_ASYNC,
    };
    KeyspaceEntry {
        name: keyspace.name.clone(),
        id: keyspace.id.0,
        receipt: receipt.to_owned(),
        settings: Settings::from(&keyspace.options),
        keys: groups.iter().map(|group| group.keys).sum(),
        bytes: groups.iter().map(|group| group.bytes).sum(),
        groups,
    }
}

/// What a writer has made of a group.
struct Written {
    keys: u64,
    bytes: u64,
    files: Vec<FileEntry>,
}

async fn save(cut: &Cut, group: CutGroup, folder: &Path, pace: &mut Pace) -> Result<GroupEntry, Trouble> {
    let (pages, source) = mpsc::channel(PAGES_AHEAD);
    let writer = GroupWriter::new(folder, group.group.0);
    let writing = tokio::task::spawn_blocking(move || write(writer, source));
    let read = read(cut, group, pages, pace).await;
    let written = writing.await;
    let failed = |error: &dyn std::fmt::Display| {
        let what = format!("cannot write to {}", folder.display());
        Trouble::Lasting(Failure::file(what, error.to_string()))
    };
    let Written { keys, bytes, files } = written
        .map_err(|error| failed(&error))?
        .map_err(|error| failed(&error))?;
    read?;
    Ok(GroupEntry {
        id: group.group.0,
        epoch: group.position.epoch.0,
        index: group.position.index.0,
        time_ms: group.time_ms,
        keys,
        bytes,
        files,
    })
}

/// Reads a group to its end. What the writer cannot take it says itself.
async fn read(cut: &Cut, group: CutGroup, pages: mpsc::Sender<Vec<Row>>, pace: &mut Pace) -> Result<(), Trouble> {
    let mut source = cut.pages(group.group, bytes::Bytes::new());
    loop {
        let what = || format!("cannot read group {} of {}", group.group, cut.name());
        let page = source.next().await.map_err(|error| Trouble::of(&what(), &error))?;
        let Some(rows) = page else { return Ok(()) };
        let bytes: usize = rows.iter().map(|row| row.key.len() + row.value.value.len()).sum();
        pace.wait(bytes as u64).await;
        if pages.send(rows).await.is_err() {
            return Ok(());
        }
    }
}

fn write(mut writer: GroupWriter, mut pages: mpsc::Receiver<Vec<Row>>) -> std::io::Result<Written> {
    while let Some(rows) = pages.blocking_recv() {
        for row in rows {
            writer.add(&Record {
                key: row.key,
                value: row.value.value,
                expires_at_ms: row.value.expires_at_ms,
            })?;
        }
    }
    let (keys, bytes) = (writer.keys, writer.bytes);
    let files = writer.finish()?;
    Ok(Written { keys, bytes, files })
}

/// Keeps to a rate.
struct Pace {
    rate: Option<u64>,
    began: fulcrum_types::Mono,
    bytes: u64,
}

impl Pace {
    fn new(rate: Option<u64>) -> Self {
        Pace {
            rate,
            began: SystemClock.now().mono,
            bytes: 0,
        }
    }

    async fn wait(&mut self, bytes: u64) {
        let Some(rate) = self.rate else { return };
        self.bytes += bytes;
        let due = Duration::from_secs_f64(self.bytes as f64 / rate as f64);
        let spent = SystemClock.now().mono.since(self.began);
        tokio::time::sleep(due.saturating_sub(spent)).await;
    }
}
