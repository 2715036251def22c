//! What becomes of transfers among few accounts when ever more callers want them at once. Reported, without a bar.

use super::accounts::Accounts;
use crate::Plan;
use crate::load::{Draw, Load, closed_loop};
use crate::report::{Row, median};
use anyhow::Result;
use fulcrum_client::Error;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

const ACCOUNTS: u64 = 100;
const CALLERS: [usize; 5] = [1, 4, 16, 64, 256];
/// Of the rounds of the bars: each is as long for every number of callers.
const SHARE_OF_ROUNDS: u32 = 2;

/// What transfers came to, beside their latency.
#[derive(Default)]
struct Tally {
    committed: u64,
    attempts: u64,
    /// At every attempt aborted.
    given_up: u64,
    /// Why attempts were aborted.
    causes: BTreeMap<&'static str, u64>,
}

struct Round {
    load: Load,
    tally: Tally,
}

impl Round {
    fn commits_per_second(&self) -> f64 {
        self.load.per_second * self.tally.committed as f64 / self.load.answered.max(1) as f64
    }

    fn retries(&self) -> f64 {
        (self.tally.attempts - self.tally.committed) as f64 / self.tally.committed.max(1) as f64
    }

    fn abort_rate(&self) -> f64 {
        (self.tally.attempts - self.tally.committed) as f64 / self.tally.attempts.max(1) as f64
    }
}

pub(super) async fn run(accounts: &Accounts, plan: Plan) -> Result<Vec<Row>> {
    let names: Vec<String> = (0..ACCOUNTS).map(name).collect();
    accounts.open_all(&names).await?;
    let mut rounds: Vec<Vec<Round>> = CALLERS.iter().map(|_| Vec::new()).collect();
    for _ in 0..plan.rounds.div_ceil(SHARE_OF_ROUNDS) {
        for (callers, rounds) in CALLERS.iter().zip(&mut rounds) {
            rounds.push(measure(accounts, *callers, plan.round).await?);
        }
    }
    accounts.check(&names).await?;
    Ok(CALLERS
        .iter()
        .zip(&rounds)
        .map(|(callers, rounds)| row(*callers, rounds))
        .collect())
}

fn name(number: u64) -> String {
    format!("hot{number:03}")
}

async fn measure(accounts: &Accounts, callers: usize, time: Duration) -> Result<Round> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let load = closed_loop(callers, time, |caller| {
        let (accounts, tally, mut draw) = (accounts.clone(), tally.clone(), Draw::new(caller));
        move || {
            let (accounts, tally) = (accounts.clone(), tally.clone());
            let from = draw.below(ACCOUNTS);
            let to = (from + 1 + draw.below(ACCOUNTS - 1)) % ACCOUNTS;
            async move {
                let done = accounts.transfer(&name(from), &name(to)).await;
                let mut tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
                match done {
                    Ok(done) => {
                        tally.committed += 1;
                        tally.attempts += u64::from(done.attempts);
                        for (cause, count) in done.retries {
                            *tally.causes.entry(cause).or_default() += u64::from(count);
                        }
                    }
                    Err(error) => {
                        let Some(Error::GaveUp { attempts, .. }) = error.downcast_ref() else {
                            return Err(error);
                        };
                        tally.given_up += 1;
                        tally.attempts += u64::from(*attempts);
                    }
                }
                Ok(())
            }
        }
    })
    .await?;
    let tally = std::mem::take(&mut *tally.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(Round { load, tally })
}

fn row(callers: usize, rounds: &[Round]) -> Row {
    let each = |figure: fn(&Round) -> f64| median(rounds.iter().map(figure).collect());
    let mut causes: BTreeMap<&str, u64> = BTreeMap::new();
    for (cause, count) in rounds.iter().flat_map(|round| &round.tally.causes) {
        *causes.entry(cause).or_default() += count;
    }
    let given_up: u64 = rounds.iter().map(|round| round.tally.given_up).sum();
    let causes = causes.iter().map(|(cause, count)| format!(", {cause} {count}"));
    Row::new(
        &format!("transfers among {ACCOUNTS} accounts, callers: {callers}"),
        each(Round::commits_per_second),
        "/s",
        format!(
            "{:.1} % of attempts aborted, {:.3} retries a commit, p50 {:.1} ms, p99 {:.1} ms, {given_up} given up{}",
            each(Round::abort_rate) * 100.0,
            each(Round::retries),
            each(|round| round.load.p50_us) / 1e3,
            each(|round| round.load.p99_us) / 1e3,
            causes.collect::<String>(),
        ),
    )
}
