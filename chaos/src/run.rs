//! One run: keyspaces of its own, load, faults in their time, healing, judgement.

use crate::cluster::{Cluster, Whole};
use crate::faults::{Fault, Striker, Struck, heal};
use crate::judge::{self, Check, Healed};
use crate::load::bank::{self, BankTold};
use crate::load::lists::{self, ListsTold};
use crate::load::setup::{Grounds, prepare};
use crate::load::{DEADLINE, Kind, Shared, Told, client, nanos, now, probe};
use crate::measure::{Measured, measure};
use crate::scenario::{Plan, Scenario, Shape};
use anyhow::{Context, Result};
use fulcrum_checker::bank::BankLog;
use fulcrum_types::{ClientId, GroupId, Mode};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::task::JoinSet;

/// Of each keyspace.
const CLIENTS: u64 = 8;
const TRANSFERS: u64 = 4;
const STATEMENTS: u64 = 2;
const APPENDERS: u64 = 3;
/// A history shorter than that proves little: the load goes on until it is long enough.
pub const OPERATIONS: u64 = 5_000;
/// But not for longer than this.
const LONGER_AT_MOST: Duration = Duration::from_secs(30);
const LED_WITHIN: Duration = Duration::from_secs(30);
const WHOLE_WITHIN: Duration = Duration::from_secs(60);
/// After healing nothing may be in doubt for longer.
const DOUBT_AT_MOST: Duration = Duration::from_secs(5);
/// Beyond all clients of the load.
const LAST_TELLER: ClientId = ClientId(1_000_000);
const LAST_READER: ClientId = ClientId(1_000_001);

/// How a run ended.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Outcome {
    /// What it was made from.
    pub seed: u64,
    /// Why it proves nothing, if so.
    pub invalid: Option<String>,
    /// Promises, and whether they held.
    pub checks: Vec<Check>,
    /// Bars that were missed.
    pub missed: Vec<String>,
    /// What was counted.
    pub measured: Measured,
    /// Acknowledged writes lost in `sync`.
    pub lost_sync: usize,
    /// Acknowledged writes lost in `async`.
    pub lost_async: usize,
    /// Entries that certificates name as possibly acknowledged.
    pub certified: u64,
    /// Changes of epoch, of all groups.
    pub failovers: u64,
    /// Transfers committed.
    pub transfers: u64,
    /// The first failure of each kind, in words.
    #[serde(default)]
    pub failed_like: Vec<String>,
    /// What was done, and when.
    pub events: Vec<String>,
    /// From the end of the load until all replicas were level again, in milliseconds.
    pub whole_after_ms: u64,
    /// The same until nothing was in doubt.
    pub certain_after_ms: u64,
}

impl Outcome {
    /// Whether all held, and all that was to be done was done.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.invalid.is_none() && self.missed.is_empty() && self.checks.iter().all(Check::holds)
    }

    /// Broken promises, and those that could not be judged.
    #[must_use]
    pub fn violations(&self) -> usize {
        self.checks.iter().map(|check| check.violations + check.undecided).sum()
    }

    /// A run that ended before it could be judged.
    #[must_use]
    pub fn invalid(seed: u64, why: String) -> Self {
        Self {
            seed,
            invalid: Some(why),
            checks: Vec::new(),
            missed: Vec::new(),
            measured: Measured::default(),
            lost_sync: 0,
            lost_async: 0,
            certified: 0,
            failovers: 0,
            transfers: 0,
            failed_like: Vec::new(),
            events: Vec::new(),
            whole_after_ms: 0,
            certain_after_ms: 0,
        }
    }
}

/// What a run leaves for people who look for its fault.
pub struct Evidence {
    /// By keyspace, one operation a line.
    pub histories: BTreeMap<String, String>,
}

/// Does one run.
///
/// # Errors
/// It proves nothing: a fault could not be done, seen or ended, or the cluster could not be asked.
pub async fn run(cluster: &mut Cluster, scenario: &Scenario, shape: &Shape, seed: u64) -> Result<(Outcome, Evidence)> {
    let healed = heal::all(&mut *cluster.backend).await;
    healed.context("refused to begin on what another run has left")?;
    let shared = Arc::new(Shared::new(seed));
    let grounds = prepare(&cluster.client, &shared, &format!("{}-{seed}", now() % 1_000_000)).await?;
    let epochs_before = epochs(cluster, &grounds.names).await?;
    let plan = scenario.plan(seed, shape);

    let mut load = Load::start(cluster, &shared, &grounds).await?;
    let began = now();
    let conducted = conduct(cluster, &plan, &grounds.names, &shared, began).await;
    shared.over.store(true, Ordering::SeqCst);
    let ended = now();
    let (mut told, mut bank, mut lists) = load.finish().await?;
    let (struck, events) = conducted?;
    told.join(grounds.told);

    cluster.until_led(&grounds.names, LED_WITHIN).await?;
    let certain = cluster.until_certain(DOUBT_AT_MOST).await?;
    let whole = cluster
        .until_whole(&grounds.names, !scenario.loses_disks, WHOLE_WITHIN)
        .await;
    let mut last = BankLog::new(LAST_TELLER);
    let statement = bank::statement(&cluster.client, &grounds.accounts, &mut last).await;
    statement.context("take the last statement")?;
    bank.logs.push(last);
    let last = lists::read_all(&cluster.client, &grounds.shelves, &lists, LAST_READER).await;
    lists.logs.push(last.context("read all lists at the end")?);

    let mut checks = vec![certainty(&certain), wholeness(&whole)];
    let mut outcome = Outcome {
        events,
        transfers: bank.moved,
        failed_like: told
            .failed_like
            .values()
            .chain(bank.failures.like.values())
            .chain(lists.failures.like.values())
            .cloned()
            .collect(),
        certain_after_ms: certain.map_or(0, millis),
        ..Outcome::invalid(seed, String::new())
    };
    outcome.invalid = None;
    let mut evidence = Evidence {
        histories: BTreeMap::new(),
    };
    if let Ok(whole) = &whole {
        outcome.whole_after_ms = millis(whole.took);
        outcome.certified = whole.certificates.iter().map(|one| one.acknowledged_lost).sum();
        let after: BTreeMap<GroupId, u64> = whole.status.groups.iter().map(|g| (g.id, g.epoch.0)).collect();
        let changes = after
            .iter()
            .map(|(group, epoch)| epoch - epochs_before.get(group).copied().unwrap_or(*epoch));
        outcome.failovers = changes.sum();
        let judged = judge_all(cluster, &grounds_of(&grounds.all), &told, &struck, whole).await?;
        checks.extend(judged.checks);
        (outcome.lost_sync, outcome.lost_async) = (judged.lost_sync, judged.lost_async);
        evidence.histories = judged.histories;
    }
    let (ledger, told) = (bank.ledger(&grounds.accounts), told);
    let money = tokio::task::spawn_blocking(move || judge::money(&ledger)).await;
    checks.push(money.context("the checker of the bank ended early")?);
    let failures = std::mem::take(&mut lists.failures);
    let history = lists.history();
    let judging = tokio::task::spawn_blocking(move || (judge::lists(&history), history)).await;
    let (listed, history) = judging.context("the checker of lists ended early")?;
    if !listed.holds() {
        let lines: Vec<String> = history.transactions().iter().map(ToString::to_string).collect();
        evidence.histories.insert("lists".to_owned(), lines.join("\n"));
    }
    checks.push(listed);

    // What the setup did is no load.
    let samples: Vec<_> = told
        .samples
        .iter()
        .filter(|one| one.began >= began || one.kind == Kind::Write)
        .copied()
        .collect();
    outcome.measured = measure(&samples, &struck, began, ended);
    outcome.measured.operations = told.logs.values().flatten().map(|log| log.len() as u64).sum();
    bank.failures.join(failures);
    let failures = bank.failures.by_code.iter();
    outcome.measured.transaction_failures = failures.map(|(code, number)| ((*code).to_owned(), *number)).collect();
    outcome.missed = missed(scenario, &outcome);
    outcome.checks = checks;
    for name in &grounds.names {
        let dropped = cluster.client.admin().drop_keyspace(name).await;
        dropped.with_context(|| format!("drop {name}"))?;
    }
    Ok((outcome, evidence))
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn grounds_of(all: &[Arc<crate::load::Ground>]) -> Vec<(String, Mode)> {
    all.iter().map(|ground| (ground.name.clone(), ground.mode)).collect()
}

async fn epochs(cluster: &Cluster, keyspaces: &[String]) -> Result<BTreeMap<GroupId, u64>> {
    let status = cluster.client.admin().status(None).await.context("see the groups")?;
    let ours = status.groups.iter().filter(|group| keyspaces.contains(&group.keyspace));
    Ok(ours.map(|group| (group.id, group.epoch.0)).collect())
}

/// All clients.
struct Load {
    clients: JoinSet<Told>,
    tellers: JoinSet<BankTold>,
    appenders: JoinSet<ListsTold>,
}

impl Load {
    async fn start(cluster: &Cluster, shared: &Arc<Shared>, grounds: &Grounds) -> Result<Self> {
        let mut load = Load {
            clients: JoinSet::new(),
            tellers: JoinSet::new(),
            appenders: JoinSet::new(),
        };
        // Two connections, one to each router first.
        let connections = [cluster.connect(1, DEADLINE).await?, cluster.connect(0, DEADLINE).await?];
        let mut number = 0;
        for ground in &grounds.all {
            let keyspace = |at: u64| {
                let connection = &connections[usize::try_from(at).unwrap_or(0) % connections.len()];
                connection.keyspace(&ground.name)
            };
            for place in &ground.probes {
                load.clients.spawn(probe(shared.clone(), keyspace(0), place.clone()));
            }
            for _ in 0..CLIENTS {
                load.clients
                    .spawn(client(shared.clone(), keyspace(number / 4), ground.clone(), number));
                number += 1;
            }
        }
        for teller in 0..TRANSFERS + STATEMENTS {
            let client = cluster.connect(0, DEADLINE).await?;
            let (shared, accounts) = (shared.clone(), grounds.accounts.clone());
            match teller < TRANSFERS {
                true => load
                    .tellers
                    .spawn(bank::transfers(shared, client, accounts, number + teller)),
                false => load
                    .tellers
                    .spawn(bank::statements(shared, client, accounts, number + teller)),
            };
        }
        number += TRANSFERS + STATEMENTS;
        let began = now();
        for appender in 0..APPENDERS {
            let client = cluster
                .connect(usize::try_from(appender % 2).unwrap_or(0), DEADLINE)
                .await?;
            let (shared, shelves) = (shared.clone(), grounds.shelves.clone());
            load.appenders
                .spawn(lists::appends(shared, client, shelves, number + appender, began));
        }
        Ok(load)
    }

    async fn finish(&mut self) -> Result<(Told, BankTold, ListsTold)> {
        let (mut told, mut bank, mut lists) = (Told::default(), BankTold::default(), ListsTold::default());
        while let Some(ended) = self.clients.join_next().await {
            told.join(ended.context("a client of the load ended early")?);
        }
        while let Some(ended) = self.tellers.join_next().await {
            bank.join(ended.context("a teller ended early")?);
        }
        while let Some(ended) = self.appenders.join_next().await {
            lists.join(ended.context("an appender ended early")?);
        }
        Ok((told, bank, lists))
    }
}

/// What is to be done next.
enum Next {
    Strike(usize),
    Heal(Struck),
}

/// Does what the plan says in its time, and waits until the load was long enough.
async fn conduct(
    cluster: &mut Cluster,
    plan: &Plan,
    keyspaces: &[String],
    shared: &Shared,
    began: u64,
) -> Result<(Vec<Struck>, Vec<String>)> {
    let mut striker = Striker {
        admin: cluster.client.admin(),
        backend: &mut *cluster.backend,
        keyspaces,
        last: None,
        hurt: BTreeSet::new(),
    };
    let mut agenda: BTreeMap<(u64, usize), Next> = BTreeMap::new();
    for (place, event) in plan.events.iter().enumerate() {
        agenda.insert((began + nanos(event.at), place), Next::Strike(place));
    }
    let (mut all, mut told) = (Vec::new(), Vec::new());
    let end = began + nanos(plan.load);
    let before = shared.ended.load(Ordering::SeqCst);
    let mut number = plan.events.len();
    while let Some(((at, _), next)) = agenda.pop_first() {
        sleep_until(at).await;
        let second = |at: u64| Duration::from_nanos(at.saturating_sub(began)).as_secs_f64();
        match next {
            Next::Strike(place) => {
                let event = &plan.events[place];
                let struck = striker.strike(event.fault, event.whom).await?;
                told.push(format!(
                    "{:.2} s  {}: {}",
                    second(struck.at),
                    struck.member,
                    struck.fault
                ));
                let until = event.lasts.map_or(end, |lasts| struck.at + nanos(lasts));
                agenda.insert((until, number), Next::Heal(struck.clone()));
                number += 1;
                all.push(struck);
            }
            Next::Heal(struck) => {
                striker.heal(&struck).await?;
                told.push(format!(
                    "{:.2} s  {}: end of {}",
                    second(now()),
                    struck.member,
                    struck.fault
                ));
            }
        }
    }
    sleep_until(end).await;
    let latest = end + nanos(LONGER_AT_MOST);
    while shared.ended.load(Ordering::SeqCst) < before + OPERATIONS && now() < latest {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok((all, told))
}

async fn sleep_until(at: u64) {
    tokio::time::sleep(Duration::from_nanos(at.saturating_sub(now()))).await;
}

struct All {
    checks: Vec<Check>,
    lost_sync: usize,
    lost_async: usize,
    histories: BTreeMap<String, String>,
}

async fn judge_all(
    cluster: &Cluster,
    grounds: &[(String, Mode)],
    told: &Told,
    struck: &[Struck],
    whole: &Whole,
) -> Result<All> {
    let mut all = All {
        checks: Vec::new(),
        lost_sync: 0,
        lost_async: 0,
        histories: BTreeMap::new(),
    };
    for (name, mode) in grounds {
        let finals = judge::final_reads(&cluster.client, name, *mode).await?;
        let (history, whole, judged_name, mode) = (told.history(name), whole.clone(), name.clone(), *mode);
        let gone = gone(struck, &whole, name);
        let judging = tokio::task::spawn_blocking(move || {
            let healed = Healed {
                status: &whole.status,
                certificates: &whole.certificates,
                finals,
            };
            let mut judged = judge::keyspace(&judged_name, mode, &history, &healed);
            if mode == Mode::Async {
                let check = judge::certified(&judged_name, &history, &whole.certificates, &gone);
                judged.checks.push(check);
            }
            (judged, history)
        });
        let (judged, history) = judging.await.context("a checker ended early")?;
        let holds = judged.checks.iter().all(Check::holds);
        all.checks.extend(judged.checks);
        match mode {
            Mode::Sync => all.lost_sync += judged.lost,
            Mode::Async => all.lost_async += judged.lost,
        }
        if !holds {
            let lines: Vec<String> = history
                .operations()
                .iter()
                .map(|one| format!("{} {one}", one.key.escape_ascii()))
                .collect();
            all.histories.insert(name.clone(), lines.join("\n"));
        }
    }
    Ok(all)
}

/// Groups of a keyspace whose primary's disk was lost.
fn gone(struck: &[Struck], whole: &Whole, name: &str) -> BTreeSet<GroupId> {
    let ours = whole.status.groups.iter().filter(|group| group.keyspace == name);
    let ours: BTreeSet<GroupId> = ours.map(|group| group.id).collect();
    let lost = struck.iter().filter(|struck| struck.fault == Fault::LoseDisk);
    lost.flat_map(|struck| struck.led.intersection(&ours).copied())
        .collect()
}

fn certainty(certain: &Result<Duration, usize>) -> Check {
    Check {
        name: "nothing in doubt 5 s after healing".to_owned(),
        judged: 1,
        violations: certain.err().unwrap_or(0),
        shown: Vec::new(),
        undecided: 0,
    }
}

fn wholeness(whole: &Result<Whole>) -> Check {
    let shown = whole.as_ref().err().map(|error| format!("{error:#}"));
    Check {
        name: "all replicas level again".to_owned(),
        judged: 1,
        violations: usize::from(shown.is_some()),
        shown: shown.into_iter().collect(),
        undecided: 0,
    }
}

fn missed(scenario: &Scenario, outcome: &Outcome) -> Vec<String> {
    let bars = scenario.bars;
    let measured = &outcome.measured;
    let mut missed = Vec::new();
    if measured.operations < OPERATIONS {
        missed.push(format!(
            "only {} operations, {OPERATIONS} are needed",
            measured.operations
        ));
    }
    if let Some(bar) = bars.first_ack {
        let worst = measured.first_acks_ms.last().copied();
        if !measured.never_again.is_empty() {
            missed.push(format!(
                "no acknowledged write any more in groups {:?}",
                measured.never_again
            ));
        }
        match worst {
            Some(worst) if worst > millis(bar) => {
                missed.push(format!(
                    "first acknowledged write after {worst} ms, at most {} ms",
                    millis(bar)
                ));
            }
            None => missed.push("no group was hit".to_owned()),
            Some(_) => {}
        }
    }
    if let Some(bar) = bars.pause.filter(|bar| measured.longest_pause_ms > millis(*bar)) {
        missed.push(format!(
            "no acknowledged write in g{} for {} ms, {} ms after the load began; at most {} ms",
            measured.paused_group,
            measured.longest_pause_ms,
            measured.paused_at_ms,
            millis(bar)
        ));
    }
    if bars.no_failure && !(measured.failures.is_empty() && measured.transaction_failures.is_empty()) {
        missed.push(format!(
            "requests failed: {:?}, transactions {:?}",
            measured.failures, measured.transaction_failures
        ));
    }
    if bars.no_failover && outcome.failovers > 0 {
        missed.push(format!("{} groups got another primary", outcome.failovers));
    }
    missed
}
