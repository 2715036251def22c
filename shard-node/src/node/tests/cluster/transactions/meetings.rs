//! Reads that meet intents: rule 12, level by level.

use super::*;

fn linearizable(key: &'static str) -> Operation {
    get(key, Level::Linearizable, vec![])
}

fn values(result: Result<Answered, Refusal>) -> Vec<Option<String>> {
    let text = |value: Bytes| String::from_utf8(value.to_vec()).unwrap();
    match result.unwrap().answer {
        Answer::Values(values) => values.into_iter().map(|v| v.map(|v| text(v.value))).collect(),
        Answer::Rows { rows, .. } => rows
            .into_iter()
            .map(|(key, v)| Some(format!("{}={}", text(key), text(v.value))))
            .collect(),
        other => panic!("{other:?}"),
    }
}

fn one(value: &str) -> Vec<Option<String>> {
    vec![Some(value.to_owned())]
}

/// A key with a value and an intent over it.
fn met() -> (World, NodeId, TransactionId, Index) {
    let (mut world, primary) = World::settled();
    world.ask(primary, write(vec![put("a", "old")])).unwrap();
    let id = world.id(1);
    let answered = world.ask(primary, prepare(id, part(&[], &[("a", "new")]))).unwrap();
    let at = answered.receipt.index;
    assert!(is_prepared(Ok(answered)));
    (world, primary, id, at)
}

/// The one question that was asked: what is known of a transaction.
fn looked_up(world: &mut World, id: TransactionId) -> (NodeId, AskId) {
    let asked = world.questions();
    let [(node, ask, to, operation)] = &asked[..] else {
        panic!("{asked:?}")
    };
    assert_eq!((*to, operation), (elsewhere(), &TransactionOperation::LookUp(id)));
    (*node, *ask)
}

#[test]
fn a_committed_intent_is_read_before_it_is_resolved() {
    let (mut world, primary, id, version) = met();
    let read = world.begin(primary, linearizable("a"));
    assert!(world.is_waiting(read));
    let (node, ask) = looked_up(&mut world, id);
    let state = TransactionState::Decided(committed(id));
    world.other_answers(node, ask, TransactionAnswer::State(state));
    let answered = world.reply(read).unwrap().unwrap();
    let Answer::Values(found) = &answered.answer else {
        panic!()
    };
    assert_eq!(found[0].as_ref().unwrap().version, Version(version.0), "the prepare's");
    assert_eq!(values(Ok(answered)), one("new"));
    world.pass(20);
    assert!(world.has_no_locks(primary), "who learns a decision resolves by it");
    assert_eq!(values(world.ask(primary, linearizable("a"))), one("new"));
    assert!(world.questions().is_empty());
}

/// Both backups are gone: what is told stays on its way through the log.
fn told_and_not_resolved(told: impl FnOnce(TransactionId) -> Operation) -> (World, NodeId, TransactionId) {
    let (mut world, primary, id, _) = met();
    let backups: Vec<NodeId> = world.nodes.keys().copied().filter(|node| *node != primary).collect();
    backups.into_iter().for_each(|backup| world.crash(backup));
    let resolving = world.begin(primary, told(id));
    assert!(world.is_waiting(resolving) && !world.has_no_locks(primary));
    (world, primary, id)
}

#[test]
fn what_was_told_needs_no_question_before_it_is_resolved() {
    let (mut world, primary, _) = told_and_not_resolved(commit);
    assert_eq!(values(world.ask(primary, linearizable("a"))), one("new"));
    assert!(world.questions().is_empty());
    let (mut world, primary, _) = told_and_not_resolved(abort);
    assert_eq!(values(world.ask(primary, linearizable("a"))), one("old"));
    assert!(world.questions().is_empty());
}

#[test]
fn what_was_told_of_another_transaction_under_the_id_tells_nothing() {
    let other = Fingerprint(5);
    let cause = AbortCause::Client;
    for verdict in [Verdict::Commit(other), Verdict::Abort { of: Some(other), cause }] {
        let (mut world, primary, id) = told_and_not_resolved(|id| resolve(id, verdict));
        let read = world.begin(primary, linearizable("a"));
        let (node, ask) = looked_up(&mut world, id);
        let state = TransactionState::Decided(committed(id));
        world.other_answers(node, ask, TransactionAnswer::State(state));
        assert_eq!(values(world.reply(read).unwrap()), one("new"), "{verdict:?}");
    }
}

#[test]
fn what_is_aborted_or_unheard_of_leaves_the_old_value() {
    let aborted = TransactionState::Decided(Decision::Aborted(AbortCause::Client));
    for (state, resolves) in [
        (TransactionState::NotSeen, false),
        (TransactionState::TooOld, true),
        (aborted, true),
    ] {
        let (mut world, primary, id, _) = met();
        let read = world.begin(primary, linearizable("a"));
        let (node, ask) = looked_up(&mut world, id);
        world.other_answers(node, ask, TransactionAnswer::State(state.clone()));
        assert_eq!(values(world.reply(read).unwrap()), one("old"), "{state:?}");
        world.pass(20);
        assert_eq!(world.has_no_locks(primary), resolves, "{state:?}");
    }
}

#[test]
fn a_commit_of_another_transaction_under_the_id_is_not_this_one() {
    let (mut world, primary, id, _) = met();
    let read = world.begin(primary, linearizable("a"));
    let (node, ask) = looked_up(&mut world, id);
    let other = Decision::Committed {
        fingerprint: Fingerprint(5),
        parts: vec![],
    };
    world.other_answers(node, ask, TransactionAnswer::State(TransactionState::Decided(other)));
    assert_eq!(values(world.reply(read).unwrap()), one("old"));
    world.pass(20);
    assert!(world.has_no_locks(primary));
    assert_eq!(world.value(primary, "a").as_deref(), Some("old"));
}

#[test]
fn a_read_never_guesses() {
    let (mut world, primary, id, _) = met();
    let read = world.begin(primary, linearizable("a"));
    for _ in 0..60 {
        for (node, ask, _, operation) in world.questions() {
            // The transaction itself is asked after, too.
            let is_look_up = matches!(operation, TransactionOperation::LookUp(_));
            assert!(is_look_up || matches!(operation, TransactionOperation::Decide(_)));
            world.other_is_silent(node, ask);
        }
        world.pass(100);
    }
    assert_eq!(world.reply(read), Some(Err(Refusal::Locked { by: id })));
}

#[test]
fn a_joint_is_refused_at_once_so_that_what_met_nothing_does_not_wait() {
    let (mut world, primary, id, _) = met();
    world.ask(primary, write(vec![put("b", "new")])).unwrap();
    let joint = |keys: [&'static str; 2], level| {
        Operation::Read(ReadRequest {
            level,
            acceptable: vec![],
            seen: None,
            query: Query::Joint(keys.map(Bytes::from).to_vec()),
        })
    };
    let met_one = world.ask(primary, joint(["b", "a"], Level::Linearizable));
    assert_eq!(met_one, Err(Refusal::Locked { by: id }));
    assert!(world.questions().is_empty(), "nobody waits for the answer");
    let none = world.ask(primary, joint(["b", "c"], Level::Linearizable));
    assert_eq!(values(none), [Some("new".to_owned()), None]);
    let no_matter = world.ask(primary, joint(["b", "a"], Level::Eventual));
    assert_eq!(values(no_matter), [Some("new".to_owned()), Some("old".to_owned())]);
}

#[test]
fn each_level_asks_for_what_it_promises() {
    let (mut world, primary, id, prepared) = met();
    assert_eq!(
        values(world.ask(primary, get("a", Level::Eventual, vec![]))),
        one("old")
    );
    let session = |index| {
        let query = Query::Get(vec!["a".into()]);
        let epoch = Epoch(1);
        Operation::Read(ReadRequest {
            level: Level::Session,
            acceptable: vec![],
            seen: Some(LogPosition { epoch, index }),
            query,
        })
    };
    let epoch = world.configuration.epoch;
    assert_eq!(epoch, Epoch(1));
    assert_eq!(values(world.ask(primary, session(prepared.prev()))), one("old"));
    assert!(world.questions().is_empty());
    let bounded = get("a", Level::Bounded(Duration::from_secs(5)), vec![]);
    for operation in [session(prepared), bounded, linearizable("a")] {
        let read = world.begin(primary, operation);
        let (node, ask) = looked_up(&mut world, id);
        world.other_answers(node, ask, TransactionAnswer::State(TransactionState::NotSeen));
        assert_eq!(values(world.reply(read).unwrap()), one("old"));
    }
}

#[test]
fn a_backup_asks_as_well() {
    let (mut world, primary, id, _) = met();
    world.pass(200);
    let backup = (1..=3).map(NodeId).find(|node| *node != primary).unwrap();
    let read = world.begin(backup, get("a", Level::Bounded(Duration::from_secs(5)), vec![]));
    let (node, ask) = looked_up(&mut world, id);
    assert_eq!(node, backup);
    world.other_answers(
        node,
        ask,
        TransactionAnswer::State(TransactionState::Decided(committed(id))),
    );
    assert_eq!(values(world.reply(read).unwrap()), one("new"));
}

#[test]
fn the_word_of_one_that_has_only_promised_is_not_taken() {
    let (mut world, primary, id, _) = met();
    let read = world.begin(primary, linearizable("a"));
    let (node, ask) = looked_up(&mut world, id);
    let home = here();
    world.other_answers(node, ask, TransactionAnswer::State(TransactionState::Promised { home }));
    assert!(world.is_waiting(read), "it may be committed");
    world.pass(20);
    let (node, ask) = looked_up(&mut world, id);
    let state = TransactionState::Decided(committed(id));
    world.other_answers(node, ask, TransactionAnswer::State(state));
    assert_eq!(values(world.reply(read).unwrap()), one("new"));
}

#[test]
fn reads_that_come_together_share_a_question_and_later_ones_do_not() {
    let (mut world, primary, id, _) = met();
    let mut requests = Vec::new();
    for request in [501, 502] {
        let request_of = GroupRequest {
            keyspace: KEYSPACE,
            group: GROUP,
            map_version: MapVersion(1),
            deadline: Duration::from_secs(5),
            operation: linearizable("a"),
        };
        let event = Event::Request {
            id: RequestId(request),
            request: request_of,
        };
        let now = at(world.ms);
        world.nodes.get_mut(&primary).unwrap().handle(now, event);
        requests.push(request);
    }
    world.inbox.push_back((primary, Event::Tick { disk_healthy: true }));
    world.settle();
    let (node, ask) = looked_up(&mut world, id);
    let later = world.begin(primary, linearizable("a"));
    let (_, later_ask) = looked_up(&mut world, id);
    assert_ne!(ask, later_ask);
    world.other_answers(node, ask, TransactionAnswer::State(TransactionState::NotSeen));
    assert!(requests.iter().all(|request| !world.is_waiting(*request)));
    assert!(world.is_waiting(later), "it began after that was asked");
}

#[test]
fn scans_see_what_is_committed_in_their_range() {
    let (mut world, primary) = World::settled();
    let ops = ["a", "b", "c", "d"].map(|key| put(key, "old")).to_vec();
    world.ask(primary, write(ops)).unwrap();
    let [id, undecided] = [world.id(1), world.id(2)];
    let mut wanted = part(&[], &[("a1", "new"), ("c", "new")]);
    wanted.writes.push(KeyWrite {
        key: "b".into(),
        mutation: Mutation::Delete,
    });
    assert!(is_prepared(world.ask(primary, prepare(id, wanted))));
    assert!(is_prepared(
        world.ask(primary, prepare(undecided, part(&[], &[("d", "new")])))
    ));
    let scan = |limit| {
        Operation::Read(ReadRequest {
            level: Level::Linearizable,
            acceptable: vec![],
            seen: None,
            query: Query::Scan {
                start: Bytes::new(),
                end: Bytes::new(),
                limit,
                max_bytes: 0,
            },
        })
    };
    let mut look = |limit| {
        let read = world.begin(primary, scan(limit));
        let asked = world.questions();
        // In the order of the transactions; the other one lies behind the end of a short scan.
        let states = [TransactionState::Decided(committed(id)), TransactionState::NotSeen];
        for ((node, ask, _, _), state) in asked.into_iter().zip(states) {
            let result = answer_as_state(state);
            world.inbox.push_back((node, Event::Answered { ask, result }));
        }
        world.settle();
        world.reply(read).unwrap()
    };
    let row = |row: &str| Some(row.to_owned());
    let answered = look(2);
    let Ok(Answered {
        answer: Answer::Rows { complete, .. },
        ..
    }) = &answered
    else {
        panic!()
    };
    assert!(!complete);
    assert_eq!(values(answered), [row("a=old"), row("a1=new")]);
}

fn answer_as_state(state: TransactionState) -> Result<Answered, Refusal> {
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
    let answer = Answer::Transaction(TransactionAnswer::State(state));
    Ok(Answered { answer, receipt })
}

#[test]
fn a_group_in_which_nothing_was_written_for_long_can_be_read() {
    let (mut world, primary) = World::settled();
    world.pass(90_000);
    let read = |begun_at_ms| {
        let (seen, keys) = (None, vec!["a".into()]);
        Operation::Transaction(TransactionOperation::Read {
            begun_at_ms,
            seen,
            keys,
        })
    };
    let now = world.id(1).begun_at_ms;
    assert!(world.ask(primary, read(now)).is_ok(), "its replicated time stood still");
    assert_eq!(world.ask(primary, read(now + 40_000)).unwrap_err().code(), "INVALID");
}

#[test]
fn a_transactions_reads_and_their_validation() {
    let (mut world, primary, id, _) = met();
    let begun_at_ms = id.begun_at_ms;
    let observe = Operation::Transaction(TransactionOperation::Read {
        begun_at_ms,
        seen: None,
        keys: vec!["a".into(), "none".into()],
    });
    let read = world.begin(primary, observe.clone());
    let (node, ask) = looked_up(&mut world, id);
    world.other_answers(node, ask, TransactionAnswer::State(TransactionState::NotSeen));
    let TransactionAnswer::Observations(seen) = answer_of(world.reply(read).unwrap()) else {
        panic!()
    };
    assert!(seen.met_intents);
    assert_eq!(seen.observed[0].value.as_ref().unwrap().value, "old");
    assert_eq!(seen.observed[1], Observed::default());
    let check = |key: &'static str, observed: &Observed| ReadCheck {
        key: key.into(),
        version: observed.version,
        exists: observed.value.is_some(),
    };
    let reads = vec![check("a", &seen.observed[0]), check("none", &seen.observed[1])];
    let validated = |world: &mut World, reads: &[ReadCheck]| {
        let reads = reads.to_vec();
        let validate = TransactionOperation::Validate { begun_at_ms, reads };
        match answer_of(world.ask(primary, Operation::Transaction(validate))) {
            TransactionAnswer::Validation(validation) => validation,
            other => panic!("{other:?}"),
        }
    };
    let home = elsewhere();
    assert_eq!(
        validated(&mut world, &reads),
        Validation::Intents(vec![IntentSeen { id, home }])
    );
    let outdated = ReadCheck {
        version: Version(1),
        exists: true,
        ..reads[1].clone()
    };
    assert_eq!(
        validated(&mut world, &[outdated, reads[0].clone()]),
        Validation::Intents(vec![IntentSeen { id, home }]),
        "intents first: what was read by one agrees with nothing yet"
    );
    world.ask(primary, abort(id)).unwrap();
    assert_eq!(validated(&mut world, &reads), Validation::Valid);
    world.ask(primary, write(vec![put("none", "1")])).unwrap();
    assert_eq!(validated(&mut world, &reads), Validation::Invalidated { read: 1 });
    let TransactionAnswer::Observations(seen) = answer_of(world.ask(primary, observe)) else {
        panic!()
    };
    assert!(!seen.met_intents);
}
