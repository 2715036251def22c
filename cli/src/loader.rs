//! Writes many records: batches, several under way at once, each refused record tried again while that is safe.
//!
//! An import's writes set keys unconditionally, so repeating one whose outcome is unknown leaves the same record. The
//! source is read on a thread of its own and waits when the cluster is slower: memory stays bounded.

use crate::records::Record;
use fulcrum_client::{Error, Keyspace, WrittenMany};
use fulcrum_common::clock::{Clock, SystemClock};
use fulcrum_types::{Act, Condition, Mono, Mutation, Refusal, WriteOp, WriteOutcome};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Rounds of repeating what was refused, before it counts as refused for good.
const ROUNDS: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);
/// Most bytes in a batch; below the limit of the servers by far, so that one batch is no long wait.
const BATCH_BYTES: usize = 512 * 1024;

/// A record and the line it came from.
#[derive(Clone, Debug)]
pub struct Numbered {
    /// Counted from 1.
    pub line: u64,
    /// The record.
    pub record: Record,
    /// When it expires, milliseconds since the Unix epoch; 0 means never.
    pub expires_at_ms: u64,
}

impl Numbered {
    /// One that never expires.
    #[must_use]
    pub fn for_ever(line: u64, record: Record) -> Self {
        Self {
            line,
            record,
            expires_at_ms: 0,
        }
    }
}

/// One batch as it was sent and answered: for whoever keeps a history.
pub struct Attempt<'a> {
    /// When it was sent.
    pub began: Mono,
    /// When it was answered.
    pub ended: Mono,
    /// What was sent.
    pub records: &'a [Numbered],
    /// What was answered.
    pub answer: &'a Result<WrittenMany, Error>,
}

/// How to load.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Most records in a batch.
    pub batch: usize,
    /// Batches under way at once.
    pub parallel: usize,
}

/// A record that could not be written.
#[derive(Clone, Debug)]
pub struct Refused {
    /// Its line.
    pub line: u64,
    /// Why not.
    pub error: Error,
}

/// What became of a load.
#[derive(Clone, Debug, Default)]
pub struct Loaded {
    /// Records written.
    pub written: u64,
    /// Records that could not be.
    pub refused: Vec<Refused>,
}

/// Writes all records that come from `source`. Ends early, with what was under way, once `stop` says so of a refused one.
pub async fn load(
    keyspace: &Keyspace,
    source: mpsc::Receiver<Numbered>,
    options: LoadOptions,
    observe: impl Fn(&Attempt<'_>) + Send + Sync + 'static,
    stop: impl Fn(&Refused) -> bool,
) -> Loaded {
    let source = Arc::new(tokio::sync::Mutex::new(Source {
        records: source,
        held: None,
    }));
    let observe: Observe = Arc::new(observe);
    let refused: Arc<Mutex<VecDeque<Refused>>> = Arc::default();
    let mut workers = JoinSet::new();
    for _ in 0..options.parallel {
        let (keyspace, source, observe) = (keyspace.clone(), Arc::clone(&source), Arc::clone(&observe));
        let refused = Arc::clone(&refused);
        workers.spawn(async move {
            let batch = Source::next_batch(&source, options.batch).await;
            let written = write(&keyspace, batch, &observe, &refused).await;
            (written, source)
        });
    }
    drop(source);
    let mut loaded = Loaded::default();
    let mut stopped = false;
    while let Some(ended) = workers.join_next().await {
        // A worker neither panics nor is aborted.
        let Ok((written, source)) = ended else { continue };
        loaded.written += written.count;
        let drained: Vec<Refused> = refused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .drain(..)
            .collect();
        stopped |= drained.iter().any(&stop);
        loaded.refused.extend(drained);
        if stopped || written.at_end {
            continue;
        }
        let (keyspace, observe, refused) = (keyspace.clone(), Arc::clone(&observe), Arc::clone(&refused));
        workers.spawn(async move {
            let batch = Source::next_batch(&source, options.batch).await;
            let written = write(&keyspace, batch, &observe, &refused).await;
            (written, source)
        });
    }
    loaded.refused.sort_by_key(|refused| refused.line);
    loaded
}

type Observe = Arc<dyn Fn(&Attempt<'_>) + Send + Sync>;

struct Source {
    records: mpsc::Receiver<Numbered>,
    /// Read already, for the next batch.
    held: Option<Numbered>,
}

impl Source {
    /// The next batch; empty at the end.
    async fn next_batch(source: &tokio::sync::Mutex<Source>, most: usize) -> Vec<Numbered> {
        let mut source = source.lock().await;
        let mut batch = Vec::with_capacity(most);
        let mut bytes = 0;
        while batch.len() < most {
            let next = match source.held.take() {
                Some(held) => Some(held),
                None => source.records.recv().await,
            };
            let Some(next) = next else { break };
            bytes += next.record.key.len() + next.record.value.len();
            if bytes > BATCH_BYTES && !batch.is_empty() {
                source.held = Some(next);
                break;
            }
            batch.push(next);
        }
        batch
    }
}

struct Progressed {
    count: u64,
    at_end: bool,
}

async fn write(
    keyspace: &Keyspace,
    mut batch: Vec<Numbered>,
    observe: &Observe,
    refused: &Mutex<VecDeque<Refused>>,
) -> Progressed {
    let at_end = batch.is_empty();
    let mut count = 0;
    for round in 1.. {
        if batch.is_empty() {
            break;
        }
        let began = SystemClock.now().mono;
        let answer = keyspace.batch_write(batch.iter().map(put)).await;
        let ended = SystemClock.now().mono;
        observe(&Attempt {
            began,
            ended,
            records: &batch,
            answer: &answer,
        });
        let sent = batch.len() as u64;
        let (again, lost) = sort_out(batch, answer, round < ROUNDS);
        count += sent - (again.len() + lost.len()) as u64;
        refused.lock().unwrap_or_else(PoisonError::into_inner).extend(lost);
        batch = again;
        if !batch.is_empty() {
            tokio::time::sleep(PAUSE * round).await;
        }
    }
    Progressed { count, at_end }
}

fn put(numbered: &Numbered) -> WriteOp {
    WriteOp {
        key: numbered.record.key.clone(),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: numbered.record.value.clone(),
            ttl: left_of(numbered.expires_at_ms),
        },
    }
}

/// What is left until then. What is over by now lasts for as little as can be said.
fn left_of(expires_at_ms: u64) -> Option<Duration> {
    let left = || expires_at_ms.saturating_sub(SystemClock.now().wall_ms).max(1);
    (expires_at_ms != 0).then(|| Duration::from_millis(left()))
}

/// Which records to send again, and which are refused for good.
fn sort_out(
    batch: Vec<Numbered>,
    answer: Result<WrittenMany, Error>,
    may_repeat: bool,
) -> (Vec<Numbered>, Vec<Refused>) {
    let answers: Vec<Result<WriteOutcome, Error>> = match answer {
        Ok(written) => written
            .items
            .into_iter()
            .map(|item| item.map_err(Error::Refused))
            .collect(),
        Err(error) => batch.iter().map(|_| Err(error.clone())).collect(),
    };
    let (mut again, mut lost) = (Vec::new(), Vec::new());
    for (numbered, answer) in batch.into_iter().zip(answers) {
        match answer {
            Ok(_) => {}
            Err(error) if may_repeat && worth_repeating(&error) => again.push(numbered),
            Err(error) => lost.push(Refused {
                line: numbered.line,
                error,
            }),
        }
    }
    (again, lost)
}

fn worth_repeating(error: &Error) -> bool {
    // The client has gone on until its deadline already; a router that is not there is not there.
    !matches!(error, Error::Unreachable { .. })
        && !matches!(error.refusal(), Some(Refusal::NotEnoughReplicas { .. }))
        && matches!(error.act(), Act::Retry | Act::Redirect | Act::LookUp)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(line: u64, size: usize) -> Numbered {
        Numbered {
            line,
            expires_at_ms: 0,
            record: Record {
                key: format!("k{line}").into(),
                value: vec![0; size].into(),
            },
        }
    }

    #[tokio::test]
    async fn batches_are_bounded_in_records_and_bytes() {
        let (sender, records) = mpsc::channel(100);
        for line in 0..10 {
            sender.send(numbered(line, 1)).await.unwrap();
        }
        for line in 10..13 {
            sender.send(numbered(line, BATCH_BYTES / 2)).await.unwrap();
        }
        drop(sender);
        let source = tokio::sync::Mutex::new(Source { records, held: None });
        let mut sizes = Vec::new();
        loop {
            let batch = Source::next_batch(&source, 8).await;
            if batch.is_empty() {
                break;
            }
            sizes.push(batch.len());
        }
        assert_eq!(sizes, [8, 3, 1, 1]);
    }

    #[test]
    fn what_may_be_repeated_is_and_the_rest_is_named() {
        let batch = || (1..=4).map(|line| numbered(line, 1)).collect::<Vec<_>>();
        let answer = || {
            Ok(WrittenMany {
                items: vec![
                    Ok(WriteOutcome::Applied {
                        version: fulcrum_types::Version(1),
                        existed: false,
                    }),
                    Err(Refusal::Overloaded),
                    Err(Refusal::Unknown { reason: "r".into() }),
                    Err(Refusal::Invalid {
                        reason: "too long".into(),
                    }),
                ],
                receipts: Vec::new(),
                unfinished: Vec::new(),
            })
        };
        let lines = |list: &[Refused]| list.iter().map(|refused| refused.line).collect::<Vec<_>>();
        let (again, lost) = sort_out(batch(), answer(), true);
        assert_eq!(again.iter().map(|n| n.line).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(lines(&lost), [4]);
        let (again, lost) = sort_out(batch(), answer(), false);
        assert!(again.is_empty());
        assert_eq!(lines(&lost), [2, 3, 4]);
        let gone = Err(Error::Unreachable {
            reason: "refused".into(),
        });
        assert_eq!(sort_out(batch(), gone, true).1.len(), 4);
    }
}
