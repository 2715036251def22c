//! Backups while transactions run and things go wrong: cuts by the shipped core, read page by page from whoever has pinned them.
//!
//! What is judged (`judge_cuts`): a cut has all of a transaction or nothing, all that was told as committed before it was begun, and nothing
//! that was begun after it was made; the bank's books are right in it; and where no write goes without a transaction it is one more read of
//! everything at one moment, which must fit into the serial order of all others. In some runs another backup is begun at the same time, and its
//! steps fall in between in any order, as if it had been lost by whoever made it.

use super::Step;
use super::questions::Owner;
use super::workload::{Item, Workload, balance, decode};
use crate::sim::plan::Plan;
use crate::sim::rng::Rng;
use crate::sim::time::{MS, Time};
use crate::sim::world::World;
use bytes::Bytes;
use fulcrum_checker::bank::BankLog;
use fulcrum_checker::{Element, Step as Did, Transaction, TransactionKey, TransactionLog, TransactionOutcome};
use fulcrum_two_phase::cut::{Asks, Cutting, Verdicts};
use fulcrum_types::{
    Answer, Answered, ClientId, Cut, CutAnswer, CutId, CutOperation, CutPage, CutStep, Observed, Operation,
    Participant, Refusal, Versioned,
};
use std::collections::BTreeMap;
use std::time::Duration;

/// For a group to answer a step of a cut, and a read of it.
const STEP_WITHIN: Time = 1_200 * MS;
/// Reads that are asked again before the cut is given up.
const TRIES: u32 = 5;
/// Few keys are here: pages are to be several all the same.
const PAGE_BYTES: u32 = 12;
/// Of so many runs with backups one has rivals of them.
const RIVALS: u64 = 4;
/// Names of rivals' cuts begin here.
const RIVAL: u64 = 1_000_000;
/// Who waits for no answer: attempts count from 1.
const NOBODY: u64 = 0;
/// Whose the cuts are, among clients.
const BACKUP: ClientId = ClientId(9_000);

/// The backups of a run.
pub struct Backups {
    rng: Rng,
    /// Names the last question: answers to others come too late.
    attempt: u64,
    last_cut: u64,
    has_rivals: bool,
    /// A cut that is still to be let go of.
    rival: Option<CutId>,
    under_way: Option<UnderWay>,
    /// Those that were read to their end.
    pub read: Vec<ReadCut>,
}

struct UnderWay {
    began: Time,
    phase: Phase,
}

enum Phase {
    Cutting(Cutting),
    Reading(Box<Reading>),
}

struct Reading {
    cut: Cut,
    made: Time,
    /// Groups that are not read to their end, and where to go on.
    left: BTreeMap<Participant, Bytes>,
    asked: (Participant, CutOperation),
    tries: u32,
    /// A page whose intents are looked up, and whose it is.
    page: Option<(Participant, CutPage)>,
    look_ups: Asks,
    verdicts: Verdicts,
    found: BTreeMap<TransactionKey, Versioned>,
}

/// A cut that was read to its end.
pub struct ReadCut {
    /// When its first group was asked.
    pub began: Time,
    /// When the last one had said that it was held.
    pub made: Time,
    /// All that it holds.
    pub found: BTreeMap<TransactionKey, Versioned>,
}

impl Backups {
    pub(super) fn new(plan: &Plan) -> Self {
        Self {
            rng: Rng::new(plan.seed ^ 0x00ba_c4b5),
            attempt: 0,
            last_cut: 0,
            has_rivals: plan.seed.is_multiple_of(RIVALS),
            rival: None,
            under_way: None,
            read: Vec::new(),
        }
    }

    /// Whether a backup is being made.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }
}

impl World {
    pub(super) fn plan_backup(&mut self) {
        let pause = self.transactions.backups.rng.range(50 * MS, 500 * MS);
        self.plan_step(self.now + pause, Step::Backup);
    }

    pub(super) fn begin_backup(&mut self) {
        if !self.load || self.transactions.backups.is_busy() {
            return;
        }
        let groups: Vec<Participant> = (self.plan.groups.iter())
            .map(|plan| Participant {
                keyspace: plan.keyspace,
                group: plan.group,
            })
            .collect();
        let backups = &mut self.transactions.backups;
        backups.last_cut += 1;
        let hold = Duration::from_millis(backups.rng.one_of(&[30, 100, 400, 1_500]));
        let id = CutId(backups.last_cut);
        self.rival_of(id, hold, &groups);
        let (cutting, asks) = Cutting::new(id, hold, groups);
        let cutting = self.planted.plant_in_cut(cutting);
        self.record.event(self.now, &[70, id.0], || {
            format!("{id} is begun, to be held for {hold:?}")
        });
        let (began, phase) = (self.now, Phase::Cutting(cutting));
        self.transactions.backups.under_way = Some(UnderWay { began, phase });
        self.transactions.backups.attempt += 1;
        self.ask_for_backup(asks);
    }

    /// Lets go of the last rival, and begins another one by chance. What the network does decides whose step is first, and where.
    fn rival_of(&mut self, id: CutId, hold: Duration, groups: &[Participant]) {
        let backups = &mut self.transactions.backups;
        let mut steps: Vec<CutStep> = backups.rival.take().map(|id| CutStep::End { id }).into_iter().collect();
        if backups.has_rivals && backups.rng.below(2) == 0 {
            let id = CutId(RIVAL + id.0);
            steps.extend([CutStep::Hold { id, hold }, CutStep::Release { id }]);
            backups.rival = Some(id);
            self.record.reached("cut with a rival");
        }
        for step in steps {
            let ask = |at: &Participant| (*at, CutOperation::Step(step));
            self.ask_as(NOBODY, groups.iter().map(ask).collect());
        }
    }

    fn ask_for_backup(&mut self, asks: Asks) {
        self.ask_as(self.transactions.backups.attempt, asks);
    }

    fn ask_as(&mut self, attempt: u64, asks: Asks) {
        for (at, cut) in asks {
            self.ask_group(Owner::Backup(attempt), at, Operation::Cut(cut), STEP_WITHIN);
        }
    }

    fn let_go(&mut self, cut: Cut) {
        let end = CutOperation::Step(CutStep::End { id: cut.id });
        self.ask_for_backup(cut.points.into_keys().map(|at| (at, end.clone())).collect());
        self.end_backup();
    }

    pub(super) fn backup_hears(&mut self, attempt: u64, at: Participant, result: Result<Answered, Refusal>) {
        let backups = &mut self.transactions.backups;
        if attempt != backups.attempt {
            return;
        }
        let Some(UnderWay { began, phase }) = backups.under_way.take() else {
            return;
        };
        let answer = result.and_then(|answered| match answered.answer {
            Answer::Cut(answer) => Ok(answer),
            other => Err(Refusal::Invalid {
                reason: format!("a cut is answered with {other:?}"),
            }),
        });
        match phase {
            Phase::Cutting(cutting) => self.go_on_cutting(began, cutting, at, answer),
            Phase::Reading(reading) => self.go_on_reading(began, reading, answer),
        }
    }

    fn go_on_cutting(
        &mut self,
        began: Time,
        mut cutting: Cutting,
        at: Participant,
        answer: Result<CutAnswer, Refusal>,
    ) {
        let progress = cutting.answered(at, answer);
        match progress.ended {
            None => {
                let phase = Phase::Cutting(cutting);
                self.transactions.backups.under_way = Some(UnderWay { began, phase });
                self.ask_for_backup(progress.asks);
            }
            Some(Err(why)) => {
                self.record.event(self.now, &[71], || format!("no cut: {why}"));
                self.record.reached("cut that was not made");
                self.ask_for_backup(progress.asks);
                self.end_backup();
            }
            Some(Ok(cut)) => {
                let id = cut.id;
                self.record.event(self.now, &[72, id.0], || format!("{id} is made"));
                let left = cut.points.keys().map(|at| (*at, Bytes::new())).collect();
                let reading = Box::new(Reading {
                    made: self.now,
                    left,
                    asked: (at, CutOperation::Step(CutStep::Keep { id })),
                    tries: 0,
                    page: None,
                    look_ups: Asks::new(),
                    verdicts: Verdicts::default(),
                    found: BTreeMap::new(),
                    cut,
                });
                self.read_on(began, reading);
            }
        }
    }

    fn go_on_reading(&mut self, began: Time, mut reading: Box<Reading>, answer: Result<CutAnswer, Refusal>) {
        let at = reading.asked.0;
        match (answer, &reading.asked.1) {
            (Ok(CutAnswer::Page(page)), _) => {
                match reading.verdicts.missing(&reading.cut, &page, 2) {
                    Ok(asks) => reading.look_ups = asks,
                    Err(why) => return self.fail("backup", why.to_string()),
                }
                reading.page = Some((at, page));
            }
            (Ok(CutAnswer::Verdicts(verdicts)), CutOperation::LookUp { transactions, .. }) => {
                reading.verdicts.learn(transactions, &verdicts);
                self.record.reached("intent in a cut");
            }
            (Ok(CutAnswer::Done), _) => {}
            (Ok(other), asked) => return self.fail("backup", format!("{asked:?} is answered with {other:?}")),
            (Err(refusal), _) if reading.tries >= TRIES => {
                self.record
                    .event(self.now, &[73], || format!("the cut is given up: {refusal}"));
                self.record.reached("cut that was given up");
                return self.let_go(reading.cut);
            }
            (Err(_), _) => {
                reading.tries += 1;
                let again = reading.asked.clone();
                return self.ask_of_cut(began, reading, again);
            }
        }
        reading.tries = 0;
        self.read_on(began, reading);
    }

    /// Asks for what comes next: decisions of a page, the next page, the next group.
    fn read_on(&mut self, began: Time, mut reading: Box<Reading>) {
        if let Some(look_up) = reading.look_ups.pop() {
            return self.ask_of_cut(began, reading, look_up);
        }
        if let Some((at, mut page)) = reading.page.take() {
            let next = page.next.take();
            let rows = match reading.verdicts.settle(page) {
                Ok(rows) => rows,
                Err(why) => {
                    self.record
                        .event(self.now, &[74], || format!("the cut is of no use: {why}"));
                    self.record.reached("cut that could not tell");
                    return self.let_go(reading.cut);
                }
            };
            let named = rows.into_iter().map(|(key, value)| {
                let keyspace = at.keyspace;
                (TransactionKey { keyspace, key }, value)
            });
            reading.found.extend(named);
            match next {
                Some(next) => reading.left.insert(at, next),
                None => reading.left.remove(&at),
            };
        }
        let left = reading.left.iter().next().map(|(at, start)| (*at, start.clone()));
        if let Some((at, start)) = left {
            let read = CutOperation::Read {
                id: reading.cut.id,
                at: reading.cut.points[&at].position,
                start,
                max_bytes: PAGE_BYTES,
            };
            return self.ask_of_cut(began, reading, (at, read));
        }
        self.record.event(self.now, &[75, reading.found.len() as u64], || {
            format!("{} is read: {:?}", reading.cut.id, reading.found)
        });
        self.record.reached("cut that was read");
        let Reading { cut, made, found, .. } = *reading;
        self.transactions.backups.read.push(ReadCut { began, made, found });
        self.let_go(cut);
    }

    fn ask_of_cut(&mut self, began: Time, mut reading: Box<Reading>, ask: (Participant, CutOperation)) {
        reading.asked = ask.clone();
        let phase = Phase::Reading(reading);
        self.transactions.backups.under_way = Some(UnderWay { began, phase });
        self.transactions.backups.attempt += 1;
        self.ask_for_backup(vec![ask]);
    }

    fn end_backup(&mut self) {
        self.transactions.backups.attempt += 1;
        self.transactions.backups.under_way = None;
        self.plan_backup();
    }
}

impl ReadCut {
    fn observed(&self, item: &Item) -> Observed {
        let value = self.found.get(&item.key).cloned();
        let version = value.as_ref().map(|value| value.version).unwrap_or_default();
        Observed { version, value }
    }

    fn lists(&self, workload: &Workload) -> Result<BTreeMap<TransactionKey, Vec<Element>>, String> {
        let list = |item: &Item| Ok((item.key.clone(), decode(&self.observed(item))?));
        workload.lists.iter().map(list).collect()
    }
}

/// The cuts as reads of everything at one moment: of the lists where all writes are in transactions, and of the bank.
pub(super) fn as_reads(world: &World) -> Result<(TransactionLog, BankLog), String> {
    let workload = &world.transactions.workload;
    let plain = world.plan.transactions.as_ref().is_some_and(|plan| plan.plain > 0);
    let (mut log, mut bank) = (TransactionLog::new(BACKUP), BankLog::new(BACKUP));
    for cut in &world.transactions.backups.read {
        let balances: Vec<_> = workload
            .accounts
            .iter()
            .map(|item| balance(&cut.observed(item)))
            .collect();
        // The bank is opened by a transaction, too.
        if balances.iter().any(Option::is_some) {
            bank.statement(cut.began, cut.made, balances);
        }
        if plain {
            continue;
        }
        let ticket = log.begin(cut.began);
        for (key, seen) in cut.lists(workload)? {
            log.step(&ticket, Did::Read { key, seen });
        }
        log.end(ticket, cut.made, TransactionOutcome::Committed);
    }
    Ok((log, bank))
}

/// Holds each cut against each transaction.
pub(super) fn judge_cuts(world: &World, transactions: &[Transaction]) -> Result<(), String> {
    for cut in &world.transactions.backups.read {
        let lists = cut.lists(&world.transactions.workload)?;
        for one in transactions {
            judge_one(cut, &lists, one).map_err(|why| {
                let (began, made) = (cut.began, cut.made);
                format!("a cut [{began}..{made}] {why}: {one}")
            })?;
        }
    }
    Ok(())
}

fn judge_one(
    cut: &ReadCut,
    lists: &BTreeMap<TransactionKey, Vec<Element>>,
    one: &Transaction,
) -> Result<(), &'static str> {
    let has = |step: &Did| match step {
        Did::Append { key, element } => Some(lists.get(key).is_some_and(|list| list.contains(element))),
        Did::Read { .. } => None,
    };
    let appended: Vec<bool> = one.steps.iter().filter_map(has).collect();
    let there = appended.iter().filter(|there| **there).count();
    if there != 0 && there != appended.len() {
        return Err("has a part of a transaction");
    }
    let told_before = one.returned.is_some_and(|returned| returned < cut.began);
    match one.outcome {
        TransactionOutcome::Failed if there > 0 => Err("has a transaction that failed"),
        TransactionOutcome::Committed if told_before && there < appended.len() => {
            Err("lacks what was told as committed before it began")
        }
        _ if one.invoked > cut.made && there > 0 => Err("has a transaction that began after it was made"),
        _ => Ok(()),
    }
}
