//! `fulcrum failover replay`: writes back what a failover lost, where nobody has written since.

use super::failover::number;
use crate::args::ReplayArgs;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::render::count;
use crate::replay::{Fate, LostKey, LostWrite, lost_keys};
use crate::value::Encoding;
use fulcrum_client::{Certificate, Client, Error, Keyspace, Outcome, UnfinishedWrite, WriteOutcome};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::{Condition, GroupId, Level};
use futures::{StreamExt, stream};
use serde_json::json;
use std::time::Duration;

/// The value that the fate of a key rests on must be newer than the failover: by any such bound it is. Whether a still newer one
/// is there is judged by the store, when the key is written.
const FRESH: Level = Level::Bounded(Duration::from_millis(100));
/// Keys looked after at once.
const AT_ONCE: usize = 32;
/// Keys named of each kind.
const NAMED: usize = 20;

/// What became of the keys.
#[derive(Default)]
struct Tally {
    put: u64,
    deleted: u64,
    same: u64,
    written_since: Vec<LostKey>,
    absent: Vec<LostKey>,
    /// Whether these were applied before the failover, too, can no longer be told.
    untold: u64,
    failed: Vec<(LostKey, Error)>,
}

/// What was done, or would be, about one key.
enum Done {
    Put,
    Deleted,
    Same,
    WrittenSince,
    Absent,
}

/// Shows, or does, what there is to be done.
pub async fn run(context: &Context, args: &ReplayArgs) -> Ending {
    let group = GroupId(number(&args.group, 'g', "group")?);
    let client = &context.client().await?;
    let (keyspace, certificates) = of_group(context, group, args.epoch).await?;
    let tombstones = tombstones(client, &keyspace).await?;
    let keyspace = client.keyspace(&keyspace);
    let mut tally = Tally::default();
    // The newest first: what it lost was written upon whatever survived the older ones.
    for certificate in &certificates {
        let lost = lost_keys(certificate, args.never_acknowledged);
        let label = format!("{group} {} -> {}", certificate.old_epoch, certificate.new_epoch);
        let progress = Progress::start(&label, Some(lost.len() as u64));
        let job = Job {
            client,
            keyspace: &keyspace,
            args,
            tombstones,
        };
        let mut ended = stream::iter(lost)
            .map(|lost| async {
                let (done, untold) = job.replay(&lost).await;
                (lost, done, untold)
            })
            .buffer_unordered(AT_ONCE);
        while let Some((lost, done, untold)) = ended.next().await {
            tally.untold += untold;
            tally.add(lost, done);
            progress.add(1);
        }
        progress.finish();
    }
    show(context, args, &tally)?;
    match tally.failed.first() {
        None => Ok(Exit::Ok),
        Some((lost, error)) => Err(Failure::client(
            format!(
                "{} keys could not be looked after, the first of them '{}'",
                count(tally.failed.len() as u64),
                Encoding::Text.encode(&lost.key)
            ),
            error,
        )
        .remedy("the same command again: what is written back already is left alone")),
    }
}

/// The keyspace of a group and its certificates, the newest first.
async fn of_group(
    context: &Context,
    group: GroupId,
    epoch: Option<u64>,
) -> Result<(String, Vec<Certificate>), Failure> {
    let admin = context.client().await?.admin();
    let report = admin.failover_report(Some(group), true).await;
    let report = report.map_err(|error| Failure::client("cannot read the loss certificates", &error))?;
    if !report.unreachable.is_empty() {
        let nodes: Vec<String> = report.unreachable.iter().map(ToString::to_string).collect();
        note(&format!(
            "could not be asked, so that what they hold is not replayed: {}",
            nodes.join(" ")
        ));
    }
    let mut certificates = report.certificates;
    certificates.retain(|certificate| epoch.is_none_or(|epoch| certificate.new_epoch.0 == epoch));
    certificates.sort_by_key(|certificate| std::cmp::Reverse(certificate.new_epoch));
    let unknown: Vec<String> = certificates
        .iter()
        .filter(|certificate| !certificate.extent_known)
        .map(|certificate| certificate.new_epoch.to_string())
        .collect();
    if !unknown.is_empty() {
        note(&format!(
            "what was lost before epoch {} is not known until the old primary's log is seen: start that node",
            unknown.join(", ")
        ));
    }
    match certificates.first() {
        Some(certificate) => Ok((certificate.keyspace.clone(), certificates)),
        None => Err(Failure::new(
            Exit::NotFound,
            "NOT_FOUND",
            format!("nothing to replay in {group}"),
            "no loss certificate is there",
        )
        .remedy("`fulcrum failover report` lists those that are")),
    }
}

async fn tombstones(client: &Client, keyspace: &str) -> Result<Duration, Failure> {
    let keyspaces = client.admin().list_keyspaces().await;
    let keyspaces = keyspaces.map_err(|error| Failure::client("cannot read the keyspaces", &error))?;
    let found = keyspaces.into_iter().find(|found| found.name == keyspace);
    // Without the keyspace every write is refused, and says so.
    Ok(found.map_or(Duration::ZERO, |found| found.options.tombstone_retention))
}

/// What all keys of a certificate are looked after with.
struct Job<'a> {
    client: &'a Client,
    keyspace: &'a Keyspace,
    args: &'a ReplayArgs,
    tombstones: Duration,
}

impl Job<'_> {
    /// Looks after one key. Says, too, of how many writes it cannot be told any more whether they were retries.
    async fn replay(&self, lost: &LostKey) -> (Result<Done, Error>, u64) {
        let mut lost = lost.clone();
        let untold = match self.leave_out_retries(&mut lost).await {
            Ok(untold) => untold,
            Err(error) => return (Err(error), 0),
        };
        (self.settle(&lost).await, untold)
    }

    /// What the surviving history knows of was applied before the histories parted, or since: no write of the lost one alone.
    async fn leave_out_retries(&self, lost: &mut LostKey) -> Result<u64, Error> {
        let mut untold = 0;
        let mut own: Vec<LostWrite> = Vec::with_capacity(lost.writes.len());
        for write in lost.writes.drain(..) {
            if let Some(idempotency) = write.idempotency {
                let asked = UnfinishedWrite::of(self.keyspace.name(), lost.key.clone(), idempotency);
                match self.client.outcome(&asked).await? {
                    Outcome::Known(_) => continue,
                    Outcome::NotSeen => {}
                    Outcome::TooOld => untold += 1,
                }
            }
            own.push(write);
        }
        lost.writes = own;
        Ok(untold)
    }

    async fn settle(&self, lost: &LostKey) -> Result<Done, Error> {
        let present = self.keyspace.get(&lost.key).at(FRESH).await?.value;
        let now_ms = SystemClock.now().wall_ms;
        let fate = match lost.fate(present.as_ref(), now_ms, self.tombstones) {
            Fate::Absent(_) if !self.args.absent => return Ok(Done::Absent),
            Fate::Absent(fate) => *fate,
            fate => fate,
        };
        let (write, done) = match fate {
            Fate::Same | Fate::Absent(_) => return Ok(Done::Same),
            Fate::WrittenSince => return Ok(Done::WrittenSince),
            Fate::Delete => (self.keyspace.delete(&lost.key), Done::Deleted),
            Fate::Put { value, ttl } => {
                let put = self.keyspace.put(&lost.key, value);
                let put = match ttl {
                    Some(ttl) => put.expires_in(ttl),
                    None => put,
                };
                (put, Done::Put)
            }
        };
        if !self.args.yes {
            return Ok(done);
        }
        let written = write.only_if(Condition::UnchangedSince(lost.common)).await?;
        Ok(match written.outcome {
            WriteOutcome::Applied { .. } => done,
            WriteOutcome::ConditionFailed { .. } => Done::WrittenSince,
        })
    }
}

impl Tally {
    fn add(&mut self, lost: LostKey, done: Result<Done, Error>) {
        match done {
            Ok(Done::Put) => self.put += 1,
            Ok(Done::Deleted) => self.deleted += 1,
            Ok(Done::Same) => self.same += 1,
            Ok(Done::WrittenSince) => self.written_since.push(lost),
            Ok(Done::Absent) => self.absent.push(lost),
            Err(error) => self.failed.push((lost, error)),
        }
    }
}

fn show(context: &Context, args: &ReplayArgs, tally: &Tally) -> Result<(), Failure> {
    let names = |lost: &[LostKey]| -> Vec<String> {
        lost.iter()
            .take(NAMED)
            .map(|lost| Encoding::Text.encode(&lost.key))
            .collect()
    };
    if context.json() {
        return context.print_json(&json!({
            "done": args.yes,
            "put": tally.put,
            "deleted": tally.deleted,
            "same": tally.same,
            "written_since": tally.written_since.len(),
            "written_since_keys": names(&tally.written_since),
            "absent": tally.absent.len(),
            "absent_keys": names(&tally.absent),
            "too_old_to_tell": tally.untold,
            "failed": tally.failed.len(),
        }));
    }
    let mut text = match args.yes {
        true => format!(
            "{} keys written back, {} deleted again\n",
            count(tally.put),
            count(tally.deleted)
        ),
        false => format!(
            "{} keys would be written back, {} deleted again; with --yes they are\n",
            count(tally.put),
            count(tally.deleted)
        ),
    };
    text.push_str(&format!("{} keys are as they were\n", count(tally.same)));
    let mut left = |lost: &[LostKey], why: &str| {
        if lost.is_empty() {
            return;
        }
        let more = if lost.len() > NAMED { " ..." } else { "" };
        let names = names(lost).join(" ");
        text.push_str(&format!(
            "{} keys left alone, {why}: {names}{more}\n",
            count(lost.len() as u64)
        ));
    };
    left(&tally.written_since, "written or deleted since");
    left(
        &tally.absent,
        "without a value, and it cannot be told any more whether they were deleted since (--absent writes them)",
    );
    print(&text)?;
    if tally.untold > 0 {
        note(&format!(
            "of {} lost writes it cannot be told any more whether they were retries of writes that survived: their clients are done with them",
            count(tally.untold)
        ));
    }
    Ok(())
}
