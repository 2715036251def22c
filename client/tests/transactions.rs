//! What a transaction's closure sees, what is sent for it, and what is made of every answer, lost ones too.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use fulcrum_client::{
    AbortCause, Act, Client, Config, Error, GroupId, InDoubt, ListInDoubt, PendingTransaction, Refusal, Session,
    TransactionId, TransactionInfo, TransactionOutcome, Version,
};
use fulcrum_types::{CommitRequest, Mutation, Participant, Priority};
use std::time::Duration;
use support::{Fake, Reaction};

const SHORT: Duration = Duration::from_millis(400);

async fn connected() -> (Fake, Client) {
    let fake = Fake::new(1);
    let address = fake.start().await;
    let client = Client::connect(Config::new(address.to_string())).await.unwrap();
    fake.with(|state| {
        state.transactions.set("accounts", "anne", "10");
        state.transactions.set("savings", "bert", "1");
    });
    (fake, client)
}

fn commits(fake: &Fake) -> Vec<CommitRequest> {
    fake.with(|state| state.transactions.commits.clone())
}

fn value(fake: &Fake, keyspace: &str, key: &str) -> Option<String> {
    fake.with(|state| state.transactions.get(keyspace, key))
}

fn conflict() -> Refusal {
    let id = TransactionId::default();
    let cause = AbortCause::Conflict { with: id };
    Refusal::Aborted { id, cause }
}

#[tokio::test]
async fn reads_are_cached_own_writes_read_back_and_all_is_sent_at_once() {
    let (fake, client) = connected().await;
    let done = client
        .transaction(async |t| -> Result<_, Error> {
            let found = t
                .get_many([("accounts", "anne"), ("savings", "nobody"), ("accounts", "anne")])
                .await?;
            assert_eq!(found, [Some("10".into()), None, Some("10".into())]);
            assert_eq!(t.get("accounts", "anne").await?.unwrap(), "10");
            t.put("savings", "bert", "2").expires_in(Duration::from_secs(9));
            t.put("accounts", "anne", "8");
            t.put("accounts", "anne", "9");
            t.delete("accounts", "carl");
            assert_eq!(t.get("accounts", "anne").await?.unwrap(), "9");
            assert_eq!(t.get("accounts", "carl").await?, None);
            t.if_version_is("savings", "bert", Version(2));
            Ok("moved")
        })
        .await
        .unwrap();
    assert_eq!((done.outcome, done.attempts, done.rounds), (Ok("moved"), 1, 1));
    assert_eq!((done.versions, done.receipts.len()), (vec![Version(3); 3], 1));
    assert!(done.retries.is_empty());

    fake.with(|state| {
        let transactions = &state.transactions;
        assert_eq!(transactions.reads.len(), 1);
        assert_eq!(transactions.reads[0].keys.len(), 2, "each key once");
        let commit = &transactions.commits[0];
        assert_eq!((commit.id, commit.priority), (done.id, Priority(done.id)));
        assert_eq!(transactions.reads[0].id, done.id);
        let reads: Vec<_> = commit
            .reads
            .iter()
            .map(|read| (read.what.version.0, read.what.exists))
            .collect();
        assert_eq!(reads, [(1, true), (0, false)]);
        assert_eq!((commit.conditions.len(), commit.writes.len()), (1, 3));
        let ttl = Some(Duration::from_secs(9));
        let value = "2".into();
        assert_eq!(
            commit.writes[0].what.mutation,
            Mutation::Put { value, ttl },
            "the first written is first"
        );
    });
    assert_eq!(value(&fake, "accounts", "anne").as_deref(), Some("9"));
}

#[tokio::test]
async fn an_abort_runs_it_again_under_a_new_id_of_the_same_age() {
    let (fake, client) = connected().await;
    let mut runs = 0;
    let done = client
        .transaction(|t| {
            runs += 1;
            // Somebody else writes what was read, the first two times.
            let (fake, disturb) = (fake.clone(), runs < 3);
            async move {
                let balance: u64 = text(t.get("accounts", "anne").await?).parse().unwrap();
                if disturb {
                    fake.with(|state| state.transactions.set("accounts", "anne", &(balance + 1).to_string()));
                }
                t.put("accounts", "anne", (balance * 2).to_string());
                Ok::<_, Error>(balance)
            }
        })
        .await
        .unwrap();
    assert_eq!((done.outcome, done.attempts), (Ok(12), 3));
    assert_eq!(done.retries, [("read_invalidated", 2)].into());
    assert!(done.took.pausing > Duration::ZERO);
    assert_eq!(value(&fake, "accounts", "anne").as_deref(), Some("24"));
    let sent = commits(&fake);
    assert_eq!(sent.len(), 3);
    assert!(sent.windows(2).all(|two| two[0].id < two[1].id));
    assert!(sent.iter().all(|commit| commit.priority == Priority(sent[0].id)));
}

/// A client that stood still while the groups' time went on: its next attempt is to begin now.
#[tokio::test]
async fn what_is_too_old_at_once_begins_under_a_new_identity() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Refuse(Refusal::TooOldToTell)]);
    let done = client
        .transaction(async |t| -> Result<_, Error> { t.get("accounts", "anne").await })
        .await
        .unwrap();
    assert_eq!(done.retries, [("too_old", 1)].into());
    let read_by = |at: usize| fake.with(|state| state.transactions.reads[at].id.client);
    assert_ne!(read_by(0), read_by(1));

    fake.react([Reaction::Refuse(Refusal::TooOldToTell)]);
    let done = client.commit().put("accounts", "anne", "1").await.unwrap();
    assert_eq!(done.attempts, 2);
    let sent = commits(&fake);
    assert_eq!(sent[0].id.client, read_by(1));
    assert_ne!(sent[0].id.client, sent[1].id.client);
}

#[tokio::test]
async fn reads_that_grew_too_old_to_be_of_one_moment_are_read_again() {
    let (fake, client) = connected().await;
    fake.react([
        Reaction::Answer,
        Reaction::Answer,
        Reaction::Refuse(Refusal::TooOldToTell),
    ]);
    let done = client
        .transaction(async |t| -> Result<_, Error> {
            t.get("accounts", "anne").await?;
            t.get("savings", "bert").await
        })
        .await
        .unwrap();
    assert_eq!((done.outcome, done.attempts), (Ok(Some("1".into())), 2));
    assert_eq!(done.retries, [("too_old", 1)].into());
}

fn text(value: Option<bytes::Bytes>) -> String {
    String::from_utf8(value.unwrap().to_vec()).unwrap()
}

#[tokio::test]
async fn a_condition_that_does_not_hold_is_an_outcome() {
    let (fake, client) = connected().await;
    let done = client
        .transaction(async |t| -> Result<_, Error> {
            t.if_absent("savings", "bert");
            t.put("accounts", "anne", "0");
            Ok(())
        })
        .await
        .unwrap();
    assert!(!done.committed());
    let failed = done.outcome.unwrap_err();
    assert_eq!(
        (failed.keyspace.as_str(), failed.current),
        ("savings", Some(Version(2)))
    );
    assert_eq!((done.attempts, commits(&fake).len()), (1, 1));
    assert_eq!(value(&fake, "accounts", "anne").as_deref(), Some("10"));
}

#[derive(Debug)]
enum Refused {
    TooPoor(u64),
    Client(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Refused::Client(error)
    }
}

#[tokio::test]
async fn an_error_of_the_closure_ends_it_with_nothing_sent() {
    let (fake, client) = connected().await;
    let ended = client
        .transaction(async |t| {
            let balance = text(t.get("accounts", "anne").await?).parse().unwrap();
            t.put("accounts", "anne", "0");
            if balance < 100 {
                return Err(Refused::TooPoor(balance));
            }
            Ok(())
        })
        .await;
    assert!(matches!(ended, Err(Refused::TooPoor(10))), "{ended:?}");
    fake.react([Reaction::Refuse(Refusal::Invalid { reason: "no".into() })]);
    let ended = client
        .transaction(async |t| -> Result<_, Refused> { Ok(t.get("accounts", "anne").await?) })
        .await;
    assert!(
        matches!(&ended, Err(Refused::Client(error)) if error.code() == "INVALID"),
        "{ended:?}"
    );
    assert!(commits(&fake).is_empty());
}

#[tokio::test]
async fn what_failed_to_be_read_is_not_committed() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Refuse(Refusal::UnknownKeyspace {
        keyspace: "nowhere".into(),
    })]);
    let ended = client
        .transaction(async |t| -> Result<_, Error> {
            let seen = t.get("nowhere", "x").await.ok();
            t.put("accounts", "anne", "0");
            Ok(seen)
        })
        .await;
    assert_eq!(ended.unwrap_err().code(), "UNKNOWN_KEYSPACE");
    assert!(commits(&fake).is_empty());
}

#[tokio::test]
async fn reads_that_are_too_old_run_it_again() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Refuse(Refusal::TooOldToTell)]);
    let done = client
        .transaction(async |t| t.get("accounts", "anne").await)
        .await
        .unwrap();
    assert_eq!((done.attempts, done.retries), (2, [("too_old", 1)].into()));
    assert_eq!(done.outcome.unwrap().unwrap(), "10");
}

#[tokio::test]
async fn without_writes_reads_are_validated_unless_there_is_one_alone() {
    let (fake, client) = connected().await;
    let one = client
        .transaction(async |t| t.get("accounts", "anne").await)
        .await
        .unwrap();
    assert!(one.committed() && one.receipts.len() == 1 && commits(&fake).is_empty());
    let two = client
        .transaction(async |t| -> Result<_, Error> {
            Ok((t.get("accounts", "anne").await?, t.get("savings", "bert").await?))
        })
        .await
        .unwrap();
    assert!(two.committed() && two.versions.is_empty());
    assert_eq!((commits(&fake)[0].reads.len(), two.rounds), (2, 0));

    let snapshot = client
        .transactions()
        .snapshot([("accounts", "anne"), ("savings", "x")])
        .await
        .unwrap();
    assert_eq!(snapshot.values[0].as_ref().unwrap().value, "10");
    assert!(snapshot.values[1].is_none() && snapshot.receipts.len() == 1);
    assert!(fake.with(|state| state.transactions.reads.last().unwrap().consistent));
}

#[tokio::test]
async fn attempts_are_bounded_and_so_is_the_time() {
    let (fake, client) = connected().await;
    fake.react(std::iter::repeat_n(Reaction::Refuse(conflict()), 3));
    let ended = client.transactions().attempts(3).run(write_anne).await.unwrap_err();
    assert_eq!(
        (ended.act(), ended.code(), ended.nothing_applied()),
        (Act::Abort, "ABORTED", true)
    );
    assert!(matches!(ended, Error::GaveUp { attempts: 3, .. }), "{ended}");
    assert_eq!(commits(&fake).len(), 3);

    fake.react(std::iter::repeat_n(Reaction::Refuse(conflict()), 1_000));
    let begun = tokio::time::Instant::now();
    let ended = client.transactions().within(SHORT).run(write_anne).await.unwrap_err();
    assert!(matches!(ended, Error::GaveUp { attempts: 2.., .. }), "{ended}");
    assert!(begun.elapsed() < SHORT * 5, "{:?}", begun.elapsed());
}

async fn write_anne(t: fulcrum_client::Transaction) -> Result<(), Error> {
    t.put("accounts", "anne", "0");
    Ok(())
}

#[tokio::test]
async fn a_closure_that_never_returns_ends_with_its_deadline() {
    let (_fake, client) = connected().await;
    let ended = client
        .transactions()
        .within(SHORT)
        .run(async |_t| -> Result<(), Error> { std::future::pending().await })
        .await;
    assert_eq!(ended.unwrap_err().refusal(), Some(&Refusal::DeadlineExceeded));
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_sent_again_as_it_was() {
    let (fake, client) = connected().await;
    fake.react([Reaction::Lose, Reaction::Vanish, Reaction::Refuse(Refusal::Overloaded)]);
    let done = client.transaction(write_anne).await.unwrap();
    assert_eq!((done.attempts, done.versions), (1, vec![Version(3)]));
    let sent = commits(&fake);
    assert_eq!(sent.len(), 4);
    assert!(sent.iter().all(|commit| *commit == sent[0]));
    assert_eq!(fake.with(|state| state.transactions.version), 3, "applied once");
}

#[tokio::test]
async fn all_callers_share_a_stream_and_each_is_given_its_own_answer() {
    let (fake, client) = connected().await;
    let callers = (0..200).map(|caller| {
        let client = client.clone();
        async move {
            let key = format!("account-{caller}");
            client.commit().put("accounts", key.clone(), key.clone()).await.unwrap();
            let read = client.transaction(async |t| t.get("accounts", key.clone()).await);
            assert_eq!(read.await.unwrap().outcome.unwrap().unwrap(), key);
        }
    });
    futures::future::join_all(callers).await;
    assert_eq!(fake.with(|state| state.transactions.streams), 1);
    assert_eq!(fake.with(|state| state.transactions.version), 202, "each applied once");
}

#[tokio::test]
async fn a_stream_that_breaks_costs_nobody_an_answer() {
    let (fake, client) = connected().await;
    let broken = [Reaction::Answer, Reaction::Hang, Reaction::Lose];
    fake.react(broken.into_iter().cycle().take(90));
    let callers = (0..60).map(|caller| {
        let commit = client.commit().put("accounts", format!("account-{caller}"), "1");
        async move { commit.await.unwrap() }
    });
    futures::future::join_all(callers).await;
    let (streams, version) = fake.with(|state| (state.transactions.streams, state.transactions.version));
    assert!(streams > 1);
    assert_eq!(version, 62, "each applied once");
}

#[test]
fn the_stream_of_a_runtime_that_has_ended_is_begun_anew() {
    let serving = tokio::runtime::Runtime::new().unwrap();
    let (fake, client) = serving.block_on(connected());
    for round in 1..=3 {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime
            .block_on(async { client.transaction(write_anne).await })
            .unwrap();
        assert_eq!(fake.with(|state| state.transactions.version), 2 + round);
    }
}

#[tokio::test]
async fn an_abort_is_known_for_certain_whatever_was_lost_before() {
    let (fake, client) = connected().await;
    let aborted = |cause| Refusal::Aborted {
        id: TransactionId::default(),
        cause,
    };
    let lost_then = |refusal| [Reaction::Vanish, Reaction::Refuse(refusal)];
    fake.react(lost_then(aborted(AbortCause::Abandoned)));
    fake.react(lost_then(aborted(AbortCause::Client)));
    let done = client.transaction(write_anne).await.unwrap();
    assert_eq!(done.retries, [("abandoned", 1), ("client", 1)].into());
    fake.react(lost_then(aborted(AbortCause::Operator)));
    let ended = client.transaction(write_anne).await.unwrap_err();
    assert_eq!(
        ended.act(),
        Act::Reject,
        "an operator's word is not talked back to: {ended}"
    );
    assert!(ended.nothing_applied());
}

#[tokio::test]
async fn what_nobody_answers_is_settled_by_a_question() {
    let (fake, client) = connected().await;
    let in_time = client.transactions().within(SHORT);
    fake.react([Reaction::Hang]);
    let done = in_time.run(write_anne).await.unwrap();
    assert_eq!(
        done.versions,
        [Version(3)],
        "the answer itself is fetched once it is known that there is one"
    );
    let look_ups = fake.with(|state| state.transactions.look_ups.clone());
    assert!(look_ups[0].settle);
    assert_eq!(look_ups[0].first_written.as_ref().unwrap().keyspace, "accounts");

    // What it failed on is its answer, too.
    fake.react([Reaction::Hang]);
    let done = client
        .commit()
        .if_absent("savings", "bert")
        .put("a", "b", "c")
        .within(SHORT)
        .await;
    assert_eq!(done.unwrap().outcome.unwrap_err().current, Some(Version(2)));

    // Never applied: the question aborts it, and the time is up.
    fake.react(std::iter::repeat_n(Reaction::Vanish, 1_000));
    let ended = in_time.run(write_anne).await.unwrap_err();
    assert!(ended.nothing_applied(), "{ended}");
    assert!(
        matches!(
            ended.refusal(),
            Some(Refusal::Aborted {
                cause: AbortCause::Client,
                ..
            })
        ),
        "{ended}"
    );
}

/// A look-up proves what the home group has, not where the others are: a session must not believe that it has seen all.
#[tokio::test]
async fn a_session_is_not_told_of_a_commit_that_it_could_not_take_in() {
    let (fake, client) = connected().await;
    let session = Session::new();
    let in_session = || client.transactions().within(SHORT).in_session(&session);
    let hang = || fake.react(std::iter::repeat_n(Reaction::Hang, 2));
    hang();
    let done = in_session().run(write_anne).await.unwrap();
    assert_eq!(
        (done.versions.len(), done.receipts.len()),
        (0, 1),
        "of one group that is all"
    );

    fake.with(|state| state.transactions.spanning = true);
    hang();
    let error = in_session().run(write_anne).await.unwrap_err();
    assert_eq!((error.act(), error.code()), (Act::LookUp, "UNKNOWN"));
    assert!(error.to_string().contains("is committed"), "{error}");
    hang();
    let done = client.transactions().within(SHORT).run(write_anne).await.unwrap();
    assert!(
        done.committed() && done.versions.is_empty(),
        "without a session nothing is missed"
    );
}

#[tokio::test]
async fn what_stays_unknown_says_so_and_can_be_looked_up() {
    let (fake, client) = connected().await;
    fake.with(|state| state.transactions.forgetful = true);
    fake.react([Reaction::Hang]);
    let error = client.transactions().within(SHORT).run(write_anne).await.unwrap_err();
    assert_eq!(
        (error.act(), error.code(), error.nothing_applied()),
        (Act::LookUp, "UNKNOWN", false)
    );
    let Error::UnknownTransaction { transaction, .. } = error else {
        panic!("{error}");
    };
    fake.with(|state| state.transactions.forgetful = false);
    let outcome = client.transaction_outcome(&transaction).await.unwrap();
    assert!(matches!(outcome, TransactionOutcome::Committed(parts) if parts.len() == 1));

    let never = TransactionId {
        begun_at_ms: 5,
        ..transaction.id()
    };
    assert_eq!(
        client.transaction_outcome(never).await.unwrap(),
        TransactionOutcome::NotSeen
    );
    let settled = client
        .transaction_outcome(never)
        .first_written("accounts", "anne")
        .settle()
        .await
        .unwrap();
    assert_eq!(settled, TransactionOutcome::Aborted(AbortCause::Client));
}

#[tokio::test]
async fn sessions_are_sent_and_take_in_what_was_proved() {
    let (fake, client) = connected().await;
    let session = Session::new();
    let transactions = client.transactions().in_session(&session);
    transactions
        .run(async |t| -> Result<_, Error> {
            t.get("accounts", "anne").await?;
            t.put("accounts", "anne", "3");
            Ok(())
        })
        .await
        .unwrap();
    assert_eq!(session.export(), "1;1;1=1.3");
    fake.with(|state| {
        let seen = &state.transactions.commits[0].session.groups[&GroupId(1)];
        assert_eq!(seen.index.0, 2, "what the read has seen");
    });
    client
        .commit()
        .put("accounts", "anne", "4")
        .in_session(&session)
        .await
        .unwrap();
    assert_eq!(session.export(), "1;1;1=1.4");
}

#[tokio::test]
async fn one_commit_writes_many_keys_on_conditions() {
    let (fake, client) = connected().await;
    let order = || {
        client
            .commit()
            .if_absent("savings", "order")
            .if_value_is("accounts", "anne", "10")
            .put("savings", "order", "1")
            .delete("accounts", "anne")
    };
    fake.react([Reaction::Refuse(conflict())]);
    let done = order().await.unwrap();
    assert_eq!((done.outcome, done.attempts), (Ok(()), 2));
    assert_eq!(value(&fake, "accounts", "anne"), None);
    let again = order().await.unwrap();
    assert_eq!(again.outcome.unwrap_err().keyspace, "savings");
}

#[tokio::test]
async fn a_transaction_that_outlives_its_closure_is_not_committed() {
    let (fake, client) = connected().await;
    let ended = client
        .transaction(async |t| -> Result<_, Error> {
            t.put("accounts", "anne", "0");
            Ok(t)
        })
        .await;
    let error = ended.map(|_| ()).unwrap_err();
    assert!(matches!(error, Error::Config { .. }), "{error}");
    assert!(commits(&fake).is_empty());
}

#[tokio::test]
async fn transactions_can_be_spawned_and_their_reads_joined() {
    let (fake, client) = connected().await;
    let (from, to) = (String::from("anne"), String::from("bert"));
    let task = tokio::spawn(async move {
        let moving = client.transaction(async |t| -> Result<_, Error> {
            let (a, b) = futures::try_join!(t.get("accounts", &from), t.get("savings", &to))?;
            t.put("accounts", &from, b.unwrap_or_default());
            t.put("savings", &to, a.unwrap_or_default());
            Ok(())
        });
        moving.await
    });
    assert!(task.await.unwrap().unwrap().committed());
    assert_eq!(value(&fake, "savings", "bert").as_deref(), Some("10"));
}

#[tokio::test]
async fn operators_list_and_abort() {
    let (fake, client) = connected().await;
    let id: TransactionId = "5-6-7".parse().unwrap();
    let info = TransactionInfo {
        id,
        pending: PendingTransaction::InDoubt,
        home: Participant::default(),
        participants: vec![Participant::default()],
        age: Duration::from_secs(3),
        silent: None,
        keys: 2,
    };
    let list = InDoubt {
        transactions: vec![(GroupId(1), info)],
        silent: vec![GroupId(4)],
    };
    fake.with(|state| state.transactions.in_doubt = list.clone());
    let admin = client.admin();
    assert_eq!(admin.in_doubt(ListInDoubt::default()).await.unwrap(), list);
    let outcome = admin.abort_transaction(id, GroupId(1)).await.unwrap();
    assert_eq!(outcome, TransactionOutcome::Aborted(AbortCause::Operator));
}
