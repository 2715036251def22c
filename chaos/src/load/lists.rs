//! Transactions on lists: each reads whole lists and appends to some, in two keyspaces and many groups. From what they were told a
//! checker finds whether all of it can have happened one after the other ([`fulcrum_checker::serializability`]).
//!
//! An attempt that the client runs again was aborted for certain; it is a transaction of its own in the history, as the checker wants it.
//! Lists are given up for new ones from time to time: every read carries a whole list.

use super::bank::{DEADLINE, became};
use super::{Failures, Shared, now};
use bytes::Bytes;
use fulcrum_checker::transactions::{
    Element, Step, TransactionHistory, TransactionKey, TransactionLog, TransactionOutcome as Outcome,
};
use fulcrum_cli::workload::Rng;
use fulcrum_client::{Client, Error};
use fulcrum_types::{ClientId, KeyspaceId};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Lists that are in use at a time.
const LISTS: u64 = 10;
/// For how long.
const IN_USE: Duration = Duration::from_secs(10);
const LONGEST: u64 = 4;
const EVERY: Duration = Duration::from_millis(60);
/// Lists that are read at once at the end.
const READ_AT_ONCE: usize = 20;

/// A keyspace that has lists.
#[derive(Clone, Debug)]
pub struct Shelf {
    /// Its name.
    pub keyspace: String,
    /// The same, as ids go.
    pub id: KeyspaceId,
}

/// What is told of lists.
#[derive(Default)]
pub struct ListsTold {
    /// What was asked and told.
    pub logs: Vec<TransactionLog>,
    /// What was not answered as asked.
    pub failures: Failures,
}

impl ListsTold {
    /// Together.
    pub fn join(&mut self, other: ListsTold) {
        self.logs.extend(other.logs);
        self.failures.join(other.failures);
    }

    /// All of it, as the checker takes it.
    #[must_use]
    pub fn history(&self) -> TransactionHistory {
        TransactionHistory::merge(self.logs.clone())
    }
}

/// A list: its shelf, and its key there.
#[derive(Clone, Copy)]
struct List<'a> {
    shelf: &'a Shelf,
    number: u64,
}

impl List<'_> {
    fn any<'a>(shelves: &'a [Shelf], rng: &mut Rng, began: u64) -> List<'a> {
        let shelf = usize::try_from(rng.below(shelves.len() as u64)).unwrap_or(0);
        let turn = now().saturating_sub(began) / super::nanos(IN_USE);
        List {
            shelf: &shelves[shelf],
            number: turn * LISTS + rng.below(LISTS),
        }
    }

    fn key(self) -> Bytes {
        format!("list/{}", self.number).into()
    }

    fn told(self) -> TransactionKey {
        TransactionKey {
            keyspace: self.shelf.id,
            key: self.key(),
        }
    }
}

/// One attempt, as the closure of a transaction saw it.
struct Attempt {
    began: u64,
    steps: Vec<Step>,
}

/// Appends and reads until the load is over.
pub async fn appends(
    shared: Arc<Shared>,
    client: Client,
    shelves: Arc<Vec<Shelf>>,
    number: u64,
    began: u64,
) -> ListsTold {
    let mut rng = Rng::stream(shared.seed, number);
    let mut log = TransactionLog::new(ClientId(number));
    let mut told = ListsTold::default();
    let next_element = AtomicU64::new(number << 32);
    while !shared.is_over() {
        let lists: Vec<(List<'_>, bool)> = (0..=rng.below(LONGEST))
            .map(|_| (List::any(&shelves, &mut rng, began), rng.below(2) == 0))
            .collect();
        let attempts = Mutex::new(Vec::new());
        let ended = transact(&client, &lists, &attempts, &next_element).await;
        let outcome = match ended {
            Ok(()) => Outcome::Committed,
            Err(error) => {
                told.failures.note("of the lists", &error);
                became(&client, &error).await
            }
        };
        write_down(
            &mut log,
            attempts.into_inner().unwrap_or_else(PoisonError::into_inner),
            outcome,
        );
        tokio::time::sleep(EVERY.mul_f64(0.5 + rng.unit())).await;
    }
    told.logs.push(log);
    told
}

/// Reads each list; appends to those that say so.
async fn transact(
    client: &Client,
    lists: &[(List<'_>, bool)],
    attempts: &Mutex<Vec<Attempt>>,
    next_element: &AtomicU64,
) -> Result<(), Error> {
    let step = |step: Step| {
        let mut attempts = attempts.lock().unwrap_or_else(PoisonError::into_inner);
        attempts
            .last_mut()
            .into_iter()
            .for_each(|attempt| attempt.steps.push(step.clone()));
    };
    let done = client.transactions().within(DEADLINE);
    let done = done
        .run(async |t| -> Result<(), Error> {
            attempts.lock().unwrap_or_else(PoisonError::into_inner).push(Attempt {
                began: now(),
                steps: Vec::new(),
            });
            for (list, append) in lists {
                let (keyspace, key) = (&*list.shelf.keyspace, list.key());
                let found = t.get(keyspace, &key).await?.unwrap_or_default();
                if !append {
                    step(Step::Read {
                        key: list.told(),
                        seen: elements(&found),
                    });
                    continue;
                }
                let element = Element(next_element.fetch_add(1, Ordering::Relaxed));
                step(Step::Append {
                    key: list.told(),
                    element,
                });
                let mut longer = found.to_vec();
                longer.extend_from_slice(&element.0.to_be_bytes());
                t.put(keyspace, key, longer);
            }
            Ok(())
        })
        .await?;
    done.outcome.map_err(|_| Error::Config {
        reason: "a condition failed that nobody has set".to_owned(),
    })
}

fn elements(list: &Bytes) -> Vec<Element> {
    let eight = list.chunks(8).map(|chunk| {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        Element(u64::from_be_bytes(bytes))
    });
    eight.collect()
}

/// All attempts but the last one were aborted: they were run again.
fn write_down(log: &mut TransactionLog, attempts: Vec<Attempt>, outcome: Outcome) {
    let mut attempts = attempts.into_iter().peekable();
    while let Some(attempt) = attempts.next() {
        let ticket = log.begin(attempt.began);
        attempt.steps.into_iter().for_each(|step| log.step(&ticket, step));
        match attempts.peek() {
            Some(next) => log.end(ticket, next.began, Outcome::Failed),
            None => log.end(ticket, now(), outcome),
        }
    }
}

/// Reads all lists that anybody has touched, some at a time.
///
/// # Errors
/// They were not told in time.
pub async fn read_all(
    client: &Client,
    shelves: &[Shelf],
    told: &ListsTold,
    number: ClientId,
) -> Result<TransactionLog, Error> {
    let history = told.history();
    let steps = history.transactions().iter().flat_map(|transaction| &transaction.steps);
    let mut keys: Vec<&TransactionKey> = steps.map(Step::key).collect();
    keys.sort_unstable();
    keys.dedup();
    let name = |id: KeyspaceId| {
        shelves
            .iter()
            .find(|shelf| shelf.id == id)
            .map_or("", |shelf| &*shelf.keyspace)
    };
    let mut log = TransactionLog::new(number);
    for keys in keys.chunks(READ_AT_ONCE) {
        let ticket = log.begin(now());
        let asked = keys.iter().map(|key| (name(key.keyspace), key.key.clone()));
        let seen = client.transactions().within(DEADLINE).snapshot(asked).await?;
        for (key, value) in keys.iter().zip(&seen.values) {
            let list = value.as_ref().map(|found| found.value.clone()).unwrap_or_default();
            log.step(
                &ticket,
                Step::Read {
                    key: (*key).clone(),
                    seen: elements(&list),
                },
            );
        }
        log.end(ticket, now(), Outcome::Committed);
    }
    Ok(log)
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_checker::serializability::{self, Verdict};

    fn key() -> TransactionKey {
        TransactionKey {
            keyspace: KeyspaceId(1),
            key: "list/0".into(),
        }
    }

    fn append(element: u64) -> Step {
        Step::Append {
            key: key(),
            element: Element(element),
        }
    }

    fn read(seen: &[u64]) -> Step {
        Step::Read {
            key: key(),
            seen: seen.iter().copied().map(Element).collect(),
        }
    }

    fn attempt(began: u64, step: Step) -> Attempt {
        Attempt {
            began,
            steps: vec![step],
        }
    }

    fn judged(log: TransactionLog) -> Verdict {
        serializability::check(&TransactionHistory::merge([log])).verdict()
    }

    #[test]
    fn a_list_is_what_was_appended_to_it() {
        let stored = [7_u64, 1 << 32].map(u64::to_be_bytes).concat();
        assert_eq!(elements(&stored.into()), [Element(7), Element(1 << 32)]);
        assert!(elements(&Bytes::new()).is_empty());
    }

    #[test]
    fn an_attempt_that_was_run_again_must_leave_no_trace() {
        for (seen, serializable) in [(&[2][..], true), (&[1, 2], false), (&[], false)] {
            let mut log = TransactionLog::new(ClientId(1));
            write_down(
                &mut log,
                vec![attempt(10, append(1)), attempt(20, append(2))],
                Outcome::Committed,
            );
            write_down(&mut log, vec![attempt(now(), read(seen))], Outcome::Committed);
            assert_eq!(log.len(), 3);
            assert_eq!(judged(log) == Verdict::Serializable, serializable, "{seen:?}");
        }
    }

    #[test]
    fn what_is_unknown_may_be_seen_or_not() {
        for seen in [&[][..], &[1]] {
            let mut log = TransactionLog::new(ClientId(1));
            write_down(&mut log, vec![attempt(10, append(1))], Outcome::Unknown);
            write_down(&mut log, vec![attempt(now(), read(seen))], Outcome::Committed);
            assert_eq!(judged(log), Verdict::Serializable);
        }
    }
}
