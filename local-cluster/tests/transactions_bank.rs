//! A bank over a real cluster: whoever looks, the money is all there, also while a primary dies.

mod support;

use bytes::Bytes;
use fulcrum_common::entropy::random_u64;
use fulcrum_types::*;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::*;
use tokio::task::JoinSet;
use tokio::time::Instant;

const ACCOUNTS: u64 = 12;
const EACH: u64 = 100;
const CALLERS: usize = 6;
const LENGTH: Duration = Duration::from_secs(6);

fn account(number: u64) -> NamedKey {
    let keyspace = if number.is_multiple_of(2) { "accounts" } else { "stock" };
    key(keyspace, &format!("account/{number}"))
}

fn balance(seen: &Observed) -> u64 {
    text(seen).map_or(0, |text| text.parse().unwrap())
}

fn set(at: &NamedKey, balance: u64) -> InKeyspace<KeyWrite> {
    let value = Bytes::from(balance.to_string());
    InKeyspace {
        keyspace: at.keyspace.clone(),
        what: KeyWrite {
            key: at.what.clone(),
            mutation: Mutation::Put { value, ttl: None },
        },
    }
}

#[derive(Default)]
struct Counts {
    moved: AtomicU64,
    aborted: AtomicU64,
    unknown: AtomicU64,
}

struct Bank {
    transactions: Transactions,
    counts: Counts,
    over: AtomicBool,
}

impl Bank {
    /// Moves money from one account to another, and tries until it is done.
    async fn transfer(&self) {
        let from = account(random_u64() % ACCOUNTS);
        let to = account(random_u64() % ACCOUNTS);
        if from == to {
            return;
        }
        let first = attempt();
        let mut id = first;
        loop {
            let keys = [from.clone(), to.clone()];
            let read = TransactionRead {
                id,
                keys: keys.to_vec(),
                ..TransactionRead::default()
            };
            let result = match self.transactions.read(read).await {
                Ok(values) => {
                    let request = Self::plan(id, first, &keys, &values.observed);
                    self.commit(request).await
                }
                Err(refusal) => Err(refusal),
            };
            match result {
                Ok(_) => break,
                Err(Refusal::Aborted { .. }) => {
                    self.counts.aborted.fetch_add(1, Ordering::Relaxed);
                }
                Err(refusal) => assert!(
                    matches!(refusal.act(), Act::Retry | Act::LookUp),
                    "a transfer was refused: {refusal:?}"
                ),
            }
            if self.over.load(Ordering::Relaxed) {
                return;
            }
            let pause = random_u64() % 20;
            tokio::time::sleep(Duration::from_millis(pause)).await;
            id = attempt();
        }
        self.counts.moved.fetch_add(1, Ordering::Relaxed);
    }

    fn plan(id: TransactionId, first: TransactionId, keys: &[NamedKey; 2], seen: &[Observed]) -> CommitRequest {
        let (from, to) = (balance(&seen[0]), balance(&seen[1]));
        let amount = from.min(1 + random_u64() % 10);
        CommitRequest {
            id,
            priority: Priority(first),
            reads: keys.iter().zip(seen).map(|(key, seen)| check(key, seen)).collect(),
            writes: vec![set(&keys[0], from - amount), set(&keys[1], to + amount)],
            ..CommitRequest::default()
        }
    }

    /// What is unknown is asked again under the same id until it is known.
    async fn commit(&self, request: CommitRequest) -> Result<Committed, Refusal> {
        loop {
            let result = self.transactions.commit(request.clone()).await;
            if !matches!(result, Err(Refusal::Unknown { .. })) {
                return result;
            }
            self.counts.unknown.fetch_add(1, Ordering::Relaxed);
        }
    }

    async fn total(&self) -> Result<u64, Refusal> {
        let read = TransactionRead {
            id: attempt(),
            keys: (0..ACCOUNTS).map(account).collect(),
            consistent: true,
            ..TransactionRead::default()
        };
        let values = self.transactions.read(read).await?;
        Ok(values.observed.iter().map(balance).sum())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_money_is_all_there() {
    let mut world = World::new().await;
    let bank = Arc::new(Bank {
        transactions: world.transactions.clone(),
        counts: Counts::default(),
        over: AtomicBool::new(false),
    });
    let opening = writes((0..ACCOUNTS).map(|number| set(&account(number), EACH)).collect());
    bank.commit(opening).await.unwrap();

    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let bank = bank.clone();
        callers.spawn(async move {
            while !bank.over.load(Ordering::Relaxed) {
                bank.transfer().await;
                // A moment in which somebody can look.
                tokio::time::sleep(Duration::from_millis(random_u64() % 20)).await;
            }
        });
    }
    let auditor = bank.clone();
    let audits = tokio::spawn(async move {
        let mut audits = 0;
        while !auditor.over.load(Ordering::Relaxed) {
            match auditor.total().await {
                Ok(total) => {
                    assert_eq!(total, ACCOUNTS * EACH, "money was lost or made");
                    audits += 1;
                }
                Err(refusal) => assert_eq!(refusal.act(), Act::Retry, "{refusal:?}"),
            }
        }
        audits
    });
    let began = Instant::now();
    tokio::time::sleep(LENGTH / 3).await;
    let before = bank.counts.moved.load(Ordering::Relaxed);
    let victim = NodeId(1 + random_u64() % 3);
    assert!(world.cluster.crash_node(victim).await);
    tokio::time::sleep_until(began + LENGTH).await;
    world.cluster.restart_node(victim).await.unwrap();
    bank.over.store(true, Ordering::Relaxed);
    while let Some(ended) = callers.join_next().await {
        ended.unwrap();
    }
    let audits: u64 = audits.await.unwrap();
    let moved = bank.counts.moved.load(Ordering::Relaxed);
    println!(
        "{moved} transfers ({before} before the crash), {} aborted, {} unknown, {audits} audits",
        bank.counts.aborted.load(Ordering::Relaxed),
        bank.counts.unknown.load(Ordering::Relaxed),
    );
    assert!(before > 0 && moved > before && audits > 0, "nothing happened");
    world.settled().await;
    assert_eq!(bank.total().await, Ok(ACCOUNTS * EACH));
}
