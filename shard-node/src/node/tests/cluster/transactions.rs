//! Transactions at one group: who waits, who dies, who asks whom, and what a failover leaves. The other group is the test.

mod doubt;
mod meetings;
mod waits;

use super::*;
use bytes::Bytes;

fn here() -> Participant {
    Participant {
        keyspace: KEYSPACE,
        group: GROUP,
    }
}

fn elsewhere() -> Participant {
    Participant {
        keyspace: KEYSPACE,
        group: GroupId(77),
    }
}

fn fingerprint(id: TransactionId) -> Fingerprint {
    Fingerprint(u128::from(id.sequence.0) + 1000)
}

fn write_of(key: &'static str, value: &'static str) -> KeyWrite {
    KeyWrite {
        key: key.into(),
        mutation: put(key, value).mutation,
    }
}

fn part(reads: &[&'static str], writes: &[(&'static str, &'static str)]) -> Part {
    Part {
        reads: reads
            .iter()
            .map(|key| ReadCheck {
                key: (*key).into(),
                version: Version(0),
                exists: false,
            })
            .collect(),
        conditions: Vec::new(),
        writes: writes.iter().map(|(key, value)| write_of(key, value)).collect(),
    }
}

fn prepare_at(id: TransactionId, home: Participant, part: Part) -> Operation {
    Operation::Transaction(TransactionOperation::Prepare(Box::new(PrepareRequest {
        id,
        priority: Priority(id),
        fingerprint: fingerprint(id),
        home,
        participants: vec![here(), elsewhere()],
        seen: None,
        votes: match home == here() {
            true => vec![yes(elsewhere(), 9)],
            false => Vec::new(),
        },
        part,
    })))
}

/// A promise to a transaction whose home is elsewhere.
fn prepare(id: TransactionId, part: Part) -> Operation {
    prepare_at(id, elsewhere(), part)
}

/// Asks for the commit of a transaction whose home is here, and which all others have prepared.
fn commit_here(id: TransactionId, part: Part) -> Operation {
    prepare_at(id, here(), part)
}

fn yes(participant: Participant, version: u64) -> CommittedPart {
    CommittedPart {
        participant,
        version: Version(version),
    }
}

fn transact(id: TransactionId, part: Part) -> Operation {
    Operation::Transaction(TransactionOperation::Transact(Box::new(Transact {
        id,
        fingerprint: fingerprint(id),
        seen: None,
        part,
    })))
}

fn resolve(id: TransactionId, verdict: Verdict) -> Operation {
    Operation::Transaction(TransactionOperation::Resolve(vec![Resolution { id, verdict }]))
}

fn commit(id: TransactionId) -> Operation {
    resolve(id, Verdict::Commit(fingerprint(id)))
}

fn abort(id: TransactionId) -> Operation {
    let verdict = Verdict::Abort {
        of: Some(fingerprint(id)),
        cause: AbortCause::Client,
    };
    resolve(id, verdict)
}

fn decide(id: TransactionId, cause: AbortCause) -> Operation {
    Operation::Transaction(TransactionOperation::Decide(Decide {
        id,
        fingerprint: Some(fingerprint(id)),
        cause,
    }))
}

fn committed(id: TransactionId) -> Decision {
    Decision::Committed {
        fingerprint: fingerprint(id),
        parts: vec![yes(here(), 9), yes(elsewhere(), 9)],
    }
}

/// The same prepare, with other votes.
fn with_votes(prepare: Operation, votes: Vec<CommittedPart>) -> Operation {
    match prepare {
        Operation::Transaction(TransactionOperation::Prepare(mut request)) => {
            request.votes = votes;
            Operation::Transaction(TransactionOperation::Prepare(request))
        }
        other => panic!("{other:?}"),
    }
}

fn is_committed(result: Result<Answered, Refusal>) -> bool {
    let answer = answer_of(result);
    matches!(
        answer,
        TransactionAnswer::Vote(Vote::Decided(Decision::Committed { .. }))
    )
}

fn list(limit: u32) -> Operation {
    Operation::Transaction(TransactionOperation::List { limit })
}

fn answer_of(result: Result<Answered, Refusal>) -> TransactionAnswer {
    match result.unwrap().answer {
        Answer::Transaction(answer) => answer,
        other => panic!("{other:?}"),
    }
}

fn is_prepared(result: Result<Answered, Refusal>) -> bool {
    matches!(answer_of(result), TransactionAnswer::Vote(Vote::Prepared { .. }))
}

impl World {
    /// A settled group of three, and its primary.
    fn settled() -> (Self, NodeId) {
        let mut world = World::new(options(Mode::Sync, Fsync::Always));
        let primary = world.primary();
        world.until_in_sync(3);
        (world, primary)
    }

    /// The transaction that begins now; `n` tells those apart that begin at the same time, the smaller the older.
    fn id(&self, n: u64) -> TransactionId {
        TransactionId {
            begun_at_ms: at(self.ms).wall_ms,
            client: ClientId(1),
            sequence: Sequence(n),
        }
    }

    /// Asks without waiting for the answer.
    fn begin(&mut self, node: NodeId, operation: Operation) -> u64 {
        self.requests += 1;
        let id = self.requests;
        let request = GroupRequest {
            keyspace: KEYSPACE,
            group: GROUP,
            map_version: MapVersion(1),
            deadline: Duration::from_secs(5),
            operation,
        };
        let id_of = RequestId(id);
        self.inbox.push_back((node, Event::Request { id: id_of, request }));
        self.settle();
        id
    }

    fn reply(&mut self, id: u64) -> Option<Result<Answered, Refusal>> {
        self.replies.remove(&id)
    }

    fn is_waiting(&self, id: u64) -> bool {
        !self.replies.contains_key(&id)
    }

    fn pending(&mut self, node: NodeId) -> Vec<TransactionInfo> {
        self.pending_at_most(node, 10)
    }

    fn pending_at_most(&mut self, node: NodeId, limit: u32) -> Vec<TransactionInfo> {
        match answer_of(self.ask(node, list(limit))) {
            TransactionAnswer::List(list) => list,
            other => panic!("{other:?}"),
        }
    }

    /// What was asked of other groups; taken out.
    fn questions(&mut self) -> Vec<(NodeId, AskId, Participant, TransactionOperation)> {
        let asked = std::mem::take(&mut self.asked).into_iter();
        let operation = |operation| match operation {
            Operation::Transaction(operation) => operation,
            other => panic!("{other:?}"),
        };
        asked
            .map(|(node, ask, to, asked)| (node, ask, to, operation(asked)))
            .collect()
    }

    /// The other group answers.
    fn other_answers(&mut self, node: NodeId, ask: AskId, answer: TransactionAnswer) {
        let receipt = Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group: GroupId(77),
            replica: NodeId(1),
            role: Role::Primary,
            epoch: Epoch(1),
            index: Index(9),
            acknowledged_by: vec![],
            durable: true,
            staleness: None,
            basis: StalenessBasis::None,
            map_version: MapVersion(1),
            rounds: 1,
            elapsed: Duration::ZERO,
        };
        let answer = Answer::Transaction(answer);
        let result = Ok(Answered { answer, receipt });
        self.inbox.push_back((node, Event::Answered { ask, result }));
        self.settle();
    }

    fn other_is_silent(&mut self, node: NodeId, ask: AskId) {
        let result = Err(Refusal::DeadlineExceeded);
        self.inbox.push_back((node, Event::Answered { ask, result }));
        self.settle();
    }

    fn value(&mut self, node: NodeId, key: &'static str) -> Option<String> {
        let found = self.read(node, key, Level::Eventual).0;
        found.map(|value| String::from_utf8(value).unwrap())
    }

    fn has_no_locks(&self, node: NodeId) -> bool {
        let status = self.nodes[&node].group_statuses(at(self.ms)).next().unwrap();
        status.transactions.locked_keys == 0
    }
}

#[test]
fn a_transaction_of_one_group_takes_one_round() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    let transaction = transact(id, part(&["a"], &[("a", "1"), ("b", "2")]));
    let answered = world.ask(primary, transaction.clone()).unwrap();
    assert!(answered.receipt.durable && answered.receipt.role == Role::Primary);
    let version = Version(answered.receipt.index.0);
    let decision = Decision::Committed {
        fingerprint: fingerprint(id),
        parts: vec![CommittedPart {
            participant: here(),
            version,
        }],
    };
    let vote = TransactionAnswer::Vote(Vote::Decided(decision.clone()));
    assert_eq!(answered.answer, Answer::Transaction(vote.clone()));
    assert_eq!(answer_of(world.ask(primary, transaction)), vote, "sent again");
    assert_eq!(world.value(primary, "b").as_deref(), Some("2"));
    world.pass(100);
    for node in (1..=3).map(NodeId) {
        let look_up = Operation::Transaction(TransactionOperation::LookUp(id));
        let state = TransactionAnswer::State(TransactionState::Decided(decision.clone()));
        assert_eq!(
            answer_of(world.ask(node, look_up)),
            state,
            "any replica says what is decided"
        );
    }
}

#[test]
fn what_makes_no_sense_is_refused_and_leaves_nothing() {
    let (mut world, primary) = World::settled();
    let id = world.id(1);
    let codes = |world: &mut World, operation| world.ask(primary, operation).unwrap_err().code();
    let invalid = [
        transact(id, Part::default()),
        transact(id, part(&[], &[("a", "1"), ("a", "2")])),
        with_votes(commit_here(id, part(&[], &[("a", "1")])), vec![]),
        with_votes(commit_here(id, part(&[], &[("a", "1")])), vec![yes(here(), 1)]),
        with_votes(prepare(id, part(&[], &[("a", "1")])), vec![yes(here(), 1)]),
        Operation::Transaction(TransactionOperation::Resolve(vec![])),
        Operation::Transaction(TransactionOperation::Forget(vec![id, id])),
        Operation::Transaction(TransactionOperation::Read {
            begun_at_ms: id.begun_at_ms,
            seen: None,
            keys: vec![],
        }),
    ];
    for operation in invalid {
        assert_eq!(codes(&mut world, operation), "INVALID");
    }
    let old = TransactionId { begun_at_ms: 1, ..id };
    let read = |begun_at_ms| {
        Operation::Transaction(TransactionOperation::Read {
            begun_at_ms,
            seen: None,
            keys: vec!["a".into()],
        })
    };
    assert_eq!(
        codes(&mut world, transact(old, part(&[], &[("a", "1")]))),
        "TOO_OLD_TO_TELL"
    );
    assert_eq!(codes(&mut world, read(1)), "TOO_OLD_TO_TELL");
    assert_eq!(codes(&mut world, read(u64::MAX)), "INVALID");
    assert!(world.has_no_locks(primary));

    let mut fast = World::new(options(Mode::Async, Fsync::Always));
    let primary = fast.primary();
    let refused = fast.ask(primary, transact(id, part(&[], &[("a", "1")]))).unwrap_err();
    assert_eq!(refused.code(), "NO_TRANSACTIONS");
}

#[test]
fn more_than_an_entry_may_hold_is_resolved_in_several() {
    let (mut world, primary) = World::settled();
    let ids = [world.id(1), world.id(2)];
    let keys = [["a", "b", "c", "d", "e"], ["f", "g", "h", "i", "j"]];
    let value: &'static str = Box::leak("x".repeat(1024 * 1024).into_boxed_str());
    for (id, keys) in ids.iter().zip(keys) {
        let writes = keys.map(|key| (key, value));
        assert!(is_prepared(world.ask(primary, prepare(*id, part(&[], &writes)))));
    }
    let both = ids.map(|id| Resolution {
        id,
        verdict: Verdict::Commit(fingerprint(id)),
    });
    let both = Operation::Transaction(TransactionOperation::Resolve(both.to_vec()));
    assert_eq!(world.ask(primary, both.clone()).unwrap_err(), Refusal::Overloaded);
    let again = answer_of(world.ask(primary, both));
    assert_eq!(again, TransactionAnswer::Resolved(vec![Resolved::Before; 2]));
    assert!(world.has_no_locks(primary));
}

#[test]
fn promises_survive_a_failover_and_a_replica_made_anew() {
    let (mut world, old) = World::settled();
    let id = world.id(1);
    assert!(is_prepared(world.ask(old, prepare(id, part(&["r"], &[("a", "1")])))));
    world.crash(old);
    let new = world.primary();
    let blocked = world.begin(new, write(vec![put("a", "x")]));
    let reader = world.begin(new, write(vec![put("r", "x")]));
    world.pass(100);
    assert!(
        world.is_waiting(blocked) && world.is_waiting(reader),
        "both keys are locked"
    );
    world.disks.insert(old, MemoryDisk::new());
    world.start(old);
    world.until_in_sync(3);
    let info = world.pending(new);
    assert_eq!((info[0].id, info[0].pending, info[0].keys), (id, Pending::InDoubt, 2));
    assert_eq!(
        answer_of(world.ask(new, commit(id))),
        TransactionAnswer::Resolved(vec![Resolved::Now])
    );
    world.pass(500);
    let sums = world.checksums();
    assert!(sums.len() == 3 && sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
    assert!(world.has_no_locks(new));
}

#[test]
fn a_lone_survivor_ends_what_is_in_doubt_and_promises_nothing() {
    let (mut world, primary) = World::settled();
    let [id, other] = [world.id(1), world.id(2)];
    assert!(is_prepared(world.ask(primary, prepare(id, part(&[], &[("a", "1")])))));
    for node in (1..=3).map(NodeId).filter(|node| *node != primary) {
        world.crash(node);
    }
    world.pass(4000);
    let refused = world.ask(primary, prepare(other, part(&[], &[("b", "1")])));
    assert_eq!(refused.unwrap_err().code(), "NOT_ENOUGH_REPLICAS");
    let refused = world.ask(primary, commit_here(other, part(&[], &[("b", "1")])));
    assert_eq!(refused.unwrap_err().code(), "NOT_ENOUGH_REPLICAS", "nor does it commit");
    let aborted = Decision::Aborted(AbortCause::Operator);
    assert_eq!(
        answer_of(world.ask(primary, decide(other, AbortCause::Operator))),
        TransactionAnswer::Decision(aborted)
    );
    assert_eq!(
        answer_of(world.ask(primary, commit(id))),
        TransactionAnswer::Resolved(vec![Resolved::Now])
    );
    assert_eq!(world.value(primary, "a").as_deref(), Some("1"));
}
