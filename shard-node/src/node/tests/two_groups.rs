//! A bank over two groups of one node: transfers by coordinators that die at any step, audits, and a node that crashes. What is
//! checked is what a client may rely on; who asks whom is left to the node.

mod bank;

use super::fake::at;
use crate::node::in_doubt::verdict_of;
use crate::storage::testing::Random;
use bank::{ACCOUNTS, Bank, OPENING, Result, answer_of, balance, check};
use bytes::Bytes;
use fulcrum_types::*;
use std::collections::BTreeMap;

/// A transfer and the coordinator that runs it.
struct Transfer {
    id: TransactionId,
    from: usize,
    to: usize,
    amount: i64,
    /// It pays nothing, and leaves a memo in the other group.
    memo: bool,
    waits: BTreeMap<u64, Participant>,
    step: Step,
    /// Its coordinator does nothing until then.
    stalled_until: u64,
}

enum Step {
    Reading(BTreeMap<GroupId, Observed>),
    /// The other group is asked; what the home group is asked for next.
    Preparing(PrepareRequest),
    Committing,
    Deciding,
    Resolving(usize),
}

impl Transfer {
    fn fingerprint(&self) -> Fingerprint {
        Fingerprint(u128::from(self.id.sequence.0))
    }

    fn sides(&self, bank: &Bank) -> [(Bytes, Participant); 2] {
        [bank.accounts[self.from].clone(), bank.accounts[self.to].clone()]
    }

    fn read(&mut self, bank: &mut Bank) {
        for (key, owner) in self.sides(bank) {
            let read = TransactionOperation::Read {
                begun_at_ms: self.id.begun_at_ms,
                seen: None,
                keys: vec![key],
            };
            self.waits.insert(bank.begin(owner, read), owner);
        }
        self.step = Step::Reading(BTreeMap::new());
    }

    fn prepare(&mut self, bank: &mut Bank, seen: &BTreeMap<GroupId, Observed>) {
        let sides = self.sides(bank);
        let participants: Vec<Participant> = sides.iter().map(|(_, owner)| *owner).collect();
        let mut requests = Vec::new();
        for ((key, owner), delta) in sides.iter().zip([-self.amount, self.amount]) {
            let seen = &seen[&owner.group];
            let value = Bytes::from((balance(seen) + delta).to_string());
            let mutation = Mutation::Put { value, ttl: None };
            let mut part = Part {
                reads: vec![check(key, seen)],
                conditions: vec![],
                writes: vec![KeyWrite {
                    key: key.clone(),
                    mutation,
                }],
            };
            if self.memo && *owner != participants[0] {
                let value = Bytes::from(self.id.to_string());
                part.reads.clear();
                part.writes = vec![KeyWrite {
                    key: bank.memos[&owner.group].clone(),
                    mutation: Mutation::Put { value, ttl: None },
                }];
            }
            requests.push(PrepareRequest {
                id: self.id,
                priority: Priority(self.id),
                fingerprint: self.fingerprint(),
                home: participants[0],
                participants: participants.clone(),
                seen: None,
                votes: Vec::new(),
                part,
            });
        }
        let (Some(other), Some(home)) = (requests.pop(), requests.pop()) else {
            return;
        };
        self.ask_to_prepare(bank, participants[1], other);
        self.step = Step::Preparing(home);
    }

    fn ask_to_prepare(&mut self, bank: &mut Bank, owner: Participant, request: PrepareRequest) {
        let request = TransactionOperation::Prepare(Box::new(request));
        self.waits.insert(bank.begin(owner, request), owner);
    }

    fn decide(&mut self, bank: &mut Bank, cause: AbortCause) {
        let home = self.sides(bank)[0].1;
        let decide = Decide {
            id: self.id,
            fingerprint: Some(self.fingerprint()),
            cause,
        };
        self.waits = BTreeMap::from([(bank.begin(home, TransactionOperation::Decide(decide)), home)]);
        self.step = Step::Deciding;
    }

    fn resolve(&mut self, bank: &mut Bank, verdict: Verdict) {
        let other = self.sides(bank)[1].1;
        let resolve = TransactionOperation::Resolve(vec![Resolution { id: self.id, verdict }]);
        self.waits = BTreeMap::from([(bank.begin(other, resolve), other)]);
        self.step = Step::Resolving(1);
    }

    /// Takes in what was answered. False: it is over, or its coordinator gave it up.
    fn go_on(&mut self, bank: &mut Bank, told: &mut BTreeMap<TransactionId, bool>) -> bool {
        let answered: Vec<u64> = self
            .waits
            .keys()
            .copied()
            .filter(|id| bank.replies.contains_key(id))
            .collect();
        for id in answered {
            let (Some(owner), Some(result)) = (self.waits.remove(&id), bank.replies.remove(&id)) else {
                continue;
            };
            if !self.take_in(bank, told, owner, result.map(answer_of)) {
                return false;
            }
        }
        true
    }

    fn take_in(
        &mut self,
        bank: &mut Bank,
        told: &mut BTreeMap<TransactionId, bool>,
        owner: Participant,
        result: Result<TransactionAnswer>,
    ) -> bool {
        use TransactionAnswer as A;
        let not_prepared = AbortCause::NotPrepared { group: owner.group };
        match (&mut self.step, result) {
            (Step::Reading(seen), Ok(A::Observations(found))) => {
                seen.insert(owner.group, found.observed[0].clone());
                if seen.len() == 2 {
                    let seen = seen.clone();
                    self.prepare(bank, &seen);
                }
                true
            }
            (Step::Preparing(home), Ok(A::Vote(Vote::Prepared { version }))) => {
                let mut home = home.clone();
                let participant = owner;
                home.votes = vec![CommittedPart { participant, version }];
                self.ask_to_prepare(bank, home.home, home);
                self.step = Step::Committing;
                true
            }
            (Step::Preparing(_), Ok(A::Vote(Vote::Refused(cause)))) => {
                told.insert(self.id, false);
                self.decide(bank, cause);
                true
            }
            (Step::Committing, Ok(A::Vote(Vote::Refused(cause)))) => {
                self.decided(bank, told, &Decision::Aborted(cause));
                true
            }
            (Step::Committing, Ok(A::Vote(Vote::Decided(decision)))) | (Step::Deciding, Ok(A::Decision(decision))) => {
                self.decided(bank, told, &decision);
                true
            }
            (Step::Preparing(_) | Step::Committing, _) => {
                self.decide(bank, not_prepared);
                true
            }
            (Step::Resolving(1), Ok(_)) if told.get(&self.id) == Some(&true) => {
                let home = self.sides(bank)[0].1;
                let forget = TransactionOperation::Forget(vec![self.id]);
                self.waits = BTreeMap::from([(bank.begin(home, forget), home)]);
                self.step = Step::Resolving(2);
                true
            }
            _ => false,
        }
    }

    fn decided(&mut self, bank: &mut Bank, told: &mut BTreeMap<TransactionId, bool>, decision: &Decision) {
        let committed = matches!(decision, Decision::Committed { .. });
        let before = told.insert(self.id, committed);
        assert!(
            before.is_none_or(|before| before == committed),
            "{}: told both",
            self.id
        );
        self.resolve(bank, verdict_of(decision));
    }
}

/// What a transfer was to do.
#[derive(Clone, Copy)]
struct Booked {
    from: usize,
    to: usize,
    amount: i64,
    memo: bool,
}

struct Story {
    bank: Bank,
    random: Random,
    open: Vec<Transfer>,
    all: BTreeMap<TransactionId, Booked>,
    told: BTreeMap<TransactionId, bool>,
    audits: usize,
}

impl Story {
    fn new(seed: u64, bank: Bank) -> Self {
        let mut story = Story {
            bank,
            random: Random::new(seed),
            open: Vec::new(),
            all: BTreeMap::new(),
            told: BTreeMap::new(),
            audits: 0,
        };
        story.bank.crash();
        story
    }

    fn below(&mut self, n: usize) -> usize {
        self.random.below(n as u64) as usize
    }

    fn step(&mut self, number: u64) {
        match self.below(40) {
            0..=7 if self.open.len() < 6 => self.begin(number),
            8..=9 => self.audit(),
            10..=15 => self.bank.pass(20),
            16 => self.bank.pass(500),
            17 if self.below(6) == 0 => self.crash(),
            20..=23 if !self.bank.sent.is_empty() => {
                let late = self.below(self.bank.sent.len());
                let (to, operation) = self.bank.sent[late].clone();
                self.bank.begin(to, operation);
            }
            24 if !self.open.is_empty() => {
                let stalls = self.below(self.open.len());
                self.open[stalls].stalled_until = self.bank.ms + self.random.below(3_000);
            }
            18..=19 if !self.open.is_empty() => {
                let dies = self.below(self.open.len());
                self.open.swap_remove(dies);
            }
            _ => self.bank.settle(),
        }
        self.go_on();
    }

    fn go_on(&mut self) {
        for mut transfer in std::mem::take(&mut self.open) {
            let stalled = transfer.stalled_until > self.bank.ms;
            if stalled || transfer.go_on(&mut self.bank, &mut self.told) {
                self.open.push(transfer);
            }
        }
    }

    /// The node crashes in the middle of its work. What it had answered was heard; nothing else will be.
    fn crash(&mut self) {
        for _ in 0..self.below(12) {
            if let Some(event) = self.bank.inbox.pop_front() {
                self.bank.turn(event);
            }
            self.go_on();
        }
        self.bank.crash();
        self.open.clear();
    }

    fn begin(&mut self, number: u64) {
        let (from, to) = (self.below(ACCOUNTS / 2), ACCOUNTS / 2 + self.below(ACCOUNTS / 2));
        let (from, to) = if self.below(2) == 0 { (from, to) } else { (to, from) };
        let memo = self.below(3) == 0;
        let amount = if memo { 0 } else { 1 + self.below(10) as i64 };
        let id = TransactionId {
            begun_at_ms: at(self.bank.ms).wall_ms,
            client: ClientId(self.random.below(5)),
            sequence: Sequence(number),
        };
        let mut transfer = Transfer {
            id,
            from,
            to,
            amount,
            memo,
            waits: BTreeMap::new(),
            step: Step::Deciding,
            stalled_until: 0,
        };
        let booked = Booked { from, to, amount, memo };
        self.all.insert(id, booked);
        transfer.read(&mut self.bank);
        self.open.push(transfer);
    }

    fn audit(&mut self) {
        if let Some(balances) = self.bank.audit(at(self.bank.ms).wall_ms) {
            let total: i64 = balances.iter().sum();
            assert_eq!(total, OPENING * ACCOUNTS as i64, "an audit saw {balances:?}");
            self.audits += 1;
        }
    }

    /// Without coordinators all comes to rest within the bound; then the books are held against the decisions.
    fn end(mut self) -> (usize, usize) {
        self.open.clear();
        self.bank.pass(5_000);
        let status = |bank: &Bank| {
            let node = bank.node.as_ref().unwrap();
            let groups: Vec<_> = node
                .group_statuses(at(bank.ms))
                .map(|group| group.transactions)
                .collect();
            groups
        };
        assert!(
            status(&self.bank)
                .iter()
                .all(|group| group.in_doubt == 0 && group.locked_keys == 0 && group.waiting == 0),
            "{:?}",
            status(&self.bank)
        );
        let mut expected = vec![OPENING; ACCOUNTS];
        let mut committed = 0;
        let mut memos: BTreeMap<GroupId, (Version, String)> = BTreeMap::new();
        for (id, booked) in self.all.clone() {
            let Booked { from, to, amount, memo } = booked;
            let home = self.bank.accounts[from].1;
            let state = self.bank.ask(home, TransactionOperation::LookUp(id)).unwrap();
            let TransactionAnswer::State(state) = state else {
                panic!("{state:?}")
            };
            let parts = match &state {
                TransactionState::Decided(Decision::Committed { parts, .. }) => Some(parts.clone()),
                _ => None,
            };
            let is_committed = parts.is_some();
            if memo && let Some(parts) = parts {
                let paid = self.bank.accounts[to].1;
                let version = parts.iter().find(|part| part.participant == paid).unwrap().version;
                let last = memos.entry(paid.group).or_default();
                *last = last.clone().max((version, id.to_string()));
            }
            if let Some(told) = self.told.get(&id) {
                assert_eq!(*told, is_committed, "{id} was told otherwise: {state:?}");
            }
            if is_committed {
                expected[from] -= amount;
                expected[to] += amount;
                committed += 1;
            }
        }
        let found = self.bank.audit(at(self.bank.ms).wall_ms);
        assert_eq!(found, Some(expected));
        for group in self.bank.groups() {
            let read = TransactionOperation::Read {
                begun_at_ms: at(self.bank.ms).wall_ms,
                seen: None,
                keys: vec![self.bank.memos[&group.group].clone()],
            };
            let Ok(TransactionAnswer::Observations(seen)) = self.bank.ask(group, read) else {
                panic!()
            };
            let value = seen.observed[0]
                .value
                .as_ref()
                .map(|found| found.value.clone())
                .unwrap_or_default();
            let text = String::from_utf8(value.to_vec()).unwrap();
            let last = memos.remove(&group.group).unwrap_or_default();
            assert_eq!((seen.observed[0].version, text), last, "the last memo");
        }
        (committed, self.audits)
    }
}

fn run(seed: u64, bank: Bank) -> (usize, usize) {
    let mut story = Story::new(seed, bank);
    for number in 1..=400 {
        story.step(number);
    }
    story.end()
}

#[test]
fn the_books_balance_whoever_dies() {
    let (mut committed, mut audits) = (0, 0);
    for seed in 0..150 {
        let (more, audited) = run(seed, Bank::new());
        committed += more;
        audits += audited;
    }
    assert!(
        committed > 1_500 && audits > 500,
        "{committed} commits, {audits} audits"
    );
}

/// Each planted bug shows in some story.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_upset_the_books() {
    use crate::node::Bug;
    let bugs = [
        Bug::ForgetLocksOnFailover,
        Bug::AnswerBeforeDecided,
        Bug::ApplyIntentsTwice,
        Bug::VersionOfTheResolve,
        Bug::CommitAfterTheAbort,
        Bug::CommitPastLocks,
        Bug::DropUnresolvedCommits,
        Bug::PrepareAfterTheMark,
        Bug::ReadPastIntents,
    ];
    std::panic::set_hook(Box::new(|_| {}));
    let found = bugs.map(|bug| {
        (0..300).find(|seed| {
            let told = std::panic::catch_unwind(|| {
                let mut bank = Bank::new();
                bank.bug = Some(bug);
                run(*seed, bank)
            });
            told.is_err()
        })
    });
    let _ = std::panic::take_hook();
    let missed: Vec<_> = bugs.iter().zip(found).filter(|(_, found)| found.is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
