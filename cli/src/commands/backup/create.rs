//! `fulcrum backup create`: a cut, read group by group into a directory.
//!
//! The cut is kept while it is read, and let go of at the end, also on Ctrl-C and while it is made. If its state is gone before that (nodes were started again,
//! or nobody could say that it is still wanted), the backup is begun anew with another cut, a few times. Reading, compressing and writing
//! go on beside each other, a few pages apart.

use super::tell;
use crate::args::BackupCreateArgs;
use crate::backup::manifest::{FORMAT, FileEntry, GroupEntry, KeyspaceEntry, Settings};
use crate::backup::writer::{GroupWriter, Target};
use crate::backup::{Manifest, Record};
use crate::commands::dev::Stopping;
use crate::context::{Context, Ending, note};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::render::{count, span};
use fulcrum_client::{Client, Cut, CutGroup, Error, KeyspaceInfo, Mode, Refusal, Row};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_common::entropy::random_u64;
use fulcrum_types::{Act, CutId};
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

/// Cuts that are made before it is given up.
const TRIES: u32 = 3;
const PAUSE_MIN: Duration = Duration::from_millis(300);
/// Many times as long as a cut takes.
const PAUSE_SPREAD_MS: u64 = 2_000;
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
    let mut stopping = Stopping::listen()?;
    let _limits = limits_are_errors()?;
    let target = Target::create(&args.directory).map_err(|error| of_file(&what, &error))?;
    let began = SystemClock.now();
    let ends = Ends::default();
    let made = tokio::select! {
        made = make(context, args, &target, began.wall_ms, &ends) => made,
        () = stopping.asked() => Err(Failure::interrupted(&what, "it was interrupted")),
    };
    ends.come().await;
    let manifest = match made {
        Ok(manifest) => manifest,
        Err(mut failure) => {
            failure.why = format!("{}; {}", failure.why, target.abandon());
            return Err(failure);
        }
    };
    target.finish(&manifest).map_err(|error| of_file(&what, &error))?;
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

/// A limit on the size of files (`ulimit -f`) is an error of the write that meets it, as a full disk is, and not the end of the program.
fn limits_are_errors() -> Result<Signal, Failure> {
    let limit = SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw());
    signal(limit).map_err(|error| Failure::file("cannot wait for signals", error))
}

/// Trouble with the directory, and what to do.
fn of_file(what: &str, error: &io::Error) -> Failure {
    let remedy = match error.kind() {
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
            "more room there (the disk, a quota, `ulimit -f`), or a directory elsewhere"
        }
        ErrorKind::PermissionDenied | ErrorKind::ReadOnlyFilesystem => "a directory that you may write to",
        ErrorKind::NotFound | ErrorKind::NotADirectory => {
            "see that the directory that it is to lie in is there and stays, and again"
        }
        _ => return Failure::file(what, error),
    };
    Failure::file(what, error).remedy(remedy)
}

async fn make(
    context: &Context,
    args: &BackupCreateArgs,
    target: &Target,
    begun_at_ms: u64,
    ends: &Ends,
) -> Result<Manifest, Failure> {
    let client = context.client().await?;
    let mut tried = 1;
    loop {
        match attempt(&client, args, target.folder(), begun_at_ms, ends).await {
            Err(Trouble::Passing(failure)) if tried < TRIES => {
                note(&format!("{failure}\nthe backup is begun anew"));
                tried += 1;
                let cleared = target.clear();
                cleared.map_err(|error| of_file("cannot remove what was written so far", &error))?;
                tokio::time::sleep(pause(random_u64())).await;
            }
            Err(Trouble::Passing(failure) | Trouble::Lasting(failure)) => return Err(failure),
            Ok(manifest) => return Ok(manifest),
        }
    }
}

/// Between two cuts, by chance: backups that were in each other's way are not so again.
fn pause(drawn: u64) -> Duration {
    PAUSE_MIN + Duration::from_millis(drawn % PAUSE_SPREAD_MS)
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

/// What goes on when the work on a backup has ended, however it did: words to the nodes that nobody reads any more, and writers.
#[derive(Clone, Default)]
struct Ends {
    farewells: TaskTracker,
    writers: TaskTracker,
}

impl Ends {
    /// Waits for them, but not for long: the nodes let go by themselves a minute later, and a disk may hang.
    async fn come(&self) {
        self.farewells.close();
        self.writers.close();
        if tokio::time::timeout(FAREWELL, self.farewells.wait()).await.is_err() {
            note("the nodes could not be told that the backup has ended: they will let go of it in a minute");
        }
        if tokio::time::timeout(FAREWELL, self.writers.wait()).await.is_err() {
            note("the disk does not answer: something is still being written");
        }
    }
}

/// A cut that is asked for, or made: its name is known before, and it is let go of, whatever ends the work on it.
struct Held {
    client: Client,
    name: CutId,
    ends: Ends,
    cut: Option<Cut>,
    keeper: Option<JoinHandle<()>>,
    /// Whether there may be something to let go of.
    is_asked: bool,
}

impl Held {
    fn new(client: &Client, ends: &Ends) -> Self {
        Held {
            client: client.clone(),
            name: CutId(random_u64()),
            ends: ends.clone(),
            cut: None,
            keeper: None,
            is_asked: false,
        }
    }

    /// Asks for it.
    async fn begin(&mut self, keyspaces: &[String]) -> Result<&Cut, Trouble> {
        self.is_asked = true;
        match self.client.cut_as(self.name, keyspaces).await {
            Ok(cut) => {
                self.keeper = Some(tokio::spawn(keep(cut.clone())));
                Ok(self.cut.insert(cut))
            }
            Err(error) => {
                self.is_asked = !error.nothing_applied();
                Err(not_cut(&error))
            }
        }
    }
}

async fn keep(cut: Cut) {
    loop {
        tokio::time::sleep(KEEP_EVERY).await;
        if let Err(error) = cut.keep().await {
            // Once is not for ever: the next word may come in time, and reading says if none did.
            note(&format!("{} could not be kept everywhere: {error}", cut.name()));
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.abort();
        }
        if !self.is_asked {
            return;
        }
        let (client, name, cut) = (self.client.clone(), self.name, self.cut.take());
        self.ends.farewells.spawn(async move {
            let told = match cut {
                Some(cut) => cut.end().await,
                None => client.end_cut(name).await,
            };
            if let Err(error) = told {
                note(&format!("the nodes will let go of {name} in a minute: {error}"));
            }
        });
    }
}

fn not_cut(error: &Error) -> Trouble {
    let what = "cannot cut the cluster at one moment";
    match error.refusal() {
        Some(Refusal::Unknown { reason }) => {
            let why = format!("the router's answer got lost ({reason})");
            let failure = Failure::new(Exit::Unreachable, "UNREACHABLE", what, why);
            Trouble::Passing(failure.remedy("`fulcrum status`, and again"))
        }
        _ => Trouble::of(what, error),
    }
}

async fn attempt(
    client: &Client,
    args: &BackupCreateArgs,
    folder: &Path,
    begun_at_ms: u64,
    ends: &Ends,
) -> Result<Manifest, Trouble> {
    let mut held = Held::new(client, ends);
    let cut = held.begin(&args.keyspace).await?;
    let mut work = Work {
        cut,
        folder,
        writers: &ends.writers,
        pace: Pace::new(args.rate),
        progress: Progress::of_parts("back up (groups)", cut.groups.len() as u64),
        done: 0,
    };
    let mut keyspaces = Vec::new();
    for keyspace in &cut.keyspaces {
        let mut groups = Vec::new();
        for group in cut.groups.iter().filter(|group| group.keyspace == keyspace.id) {
            groups.push(work.save(*group).await?);
        }
        keyspaces.push(entry(keyspace, groups));
    }
    work.progress.finish();
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

/// A cut that is being read.
struct Work<'a> {
    cut: &'a Cut,
    folder: &'a Path,
    writers: &'a TaskTracker,
    pace: Pace,
    progress: Progress,
    /// Groups that are saved.
    done: u64,
}

/// A page on its way to the writer; none behind the last one.
type Passed = Option<Vec<Row>>;

impl Work<'_> {
    async fn save(&mut self, group: CutGroup) -> Result<GroupEntry, Trouble> {
        let (pages, source) = mpsc::channel(PAGES_AHEAD);
        let writer = GroupWriter::new(self.folder, group.group.0);
        let writing = self.writers.spawn_blocking(move || write(writer, source));
        let read = self.read(group, pages).await;
        let written = writing.await;
        read?;
        let what = format!("cannot write to {}", self.folder.display());
        let written = written.map_err(|error| Failure::file(&what, error))?;
        let Written { keys, bytes, files } = written.map_err(|error| of_file(&what, &error))?;
        self.done += 1;
        self.progress.read_so_far(self.done);
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
    async fn read(&mut self, group: CutGroup, pages: mpsc::Sender<Passed>) -> Result<(), Trouble> {
        let mut source = self.cut.pages(group.group, bytes::Bytes::new());
        loop {
            let what = || format!("cannot read group {} of {}", group.group, self.cut.name());
            let page = source.next().await.map_err(|error| Trouble::of(&what(), &error))?;
            let is_last = page.is_none();
            let rows = page.as_ref().map_or(0, Vec::len);
            let sizes = page.iter().flatten().map(|row| row.key.len() + row.value.value.len());
            let bytes: usize = sizes.sum();
            if pages.send(page).await.is_err() || is_last {
                return Ok(());
            }
            self.progress.add(rows as u64);
            self.pace.wait(bytes as u64).await;
        }
    }
}

fn write(mut writer: GroupWriter, mut pages: mpsc::Receiver<Passed>) -> io::Result<Written> {
    loop {
        let Some(page) = pages.blocking_recv() else {
            return Err(io::Error::other("it was not read to its end"));
        };
        let Some(rows) = page else { break };
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_differ_and_are_bounded() {
        let most = PAUSE_MIN + Duration::from_millis(PAUSE_SPREAD_MS);
        let pauses: std::collections::BTreeSet<Duration> = (0..100).map(|_| pause(random_u64())).collect();
        assert!(pauses.len() > 50, "{pauses:?}");
        assert!(
            pauses.iter().all(|pause| (PAUSE_MIN..most).contains(pause)),
            "{pauses:?}"
        );
    }
}
