//! What is written down of verbs that are done, fail, are refused, are left by their client, or cannot be written down.

use super::*;
use crate::SystemClock;
use serde_json::json;
use std::path::Path;

fn audit(file: Option<&Path>, required: bool) -> Audit {
    let config = AuditConfig {
        file: file.map(Into::into),
        required,
    };
    Audit::open(&config, Arc::new(SystemClock)).unwrap()
}

fn asked(verb: Verb) -> Asked {
    let mut request = Request::new(());
    request.extensions_mut().insert(Caller::anyone());
    Asked::by(&request, verb, json!({"name": "orders"})).unwrap()
}

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn unreachable_work(why: &str) -> Result<(), Status> {
    panic!("{why}")
}

#[tokio::test]
async fn a_verb_is_written_down_before_and_after() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let audit = audit(Some(&path), true);
    let work = async {
        assert_eq!(lines(&path).len(), 1, "on disk before it is begun");
        Ok(7)
    };
    assert_eq!(audit.perform(asked(Verb::DropKeyspace), Ok(()), work).await.unwrap(), 7);
    let failing = async { Err::<(), _>(refusal_to_status(&Refusal::Overloaded)) };
    audit
        .perform(asked(Verb::DropKeyspace), Ok(()), failing)
        .await
        .unwrap_err();

    let written = lines(&path);
    let told: Vec<_> = written
        .iter()
        .map(|line| (line["phase"].as_str(), line["outcome"].as_str()))
        .collect();
    let (begin, end) = (Some("begin"), Some("end"));
    assert_eq!(
        told,
        [
            (begin, None),
            (end, Some("done")),
            (begin, None),
            (end, Some("OVERLOADED"))
        ]
    );
    assert_eq!(written[0]["call"], written[1]["call"]);
    assert_ne!(written[0]["call"], written[2]["call"]);
    assert_eq!(
        (&written[0]["verb"], &written[0]["arguments"]["name"]),
        (&json!("keyspace.drop"), &json!("orders"))
    );
    assert!(written[1]["duration_us"].is_u64() && written[1]["time_ms"].is_u64());
}

#[tokio::test]
async fn what_is_refused_is_one_line_and_not_begun() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let audit = audit(Some(&path), true);
    let denied = Refusal::Denied {
        scope: "orders".into(),
        right: fulcrum_types::Right::Admin,
    };
    let never = async { unreachable_work("it is refused") };
    let told = audit
        .perform(asked(Verb::DropKeyspace), Err(denied), never)
        .await
        .unwrap_err();
    assert_eq!(told.code(), tonic::Code::PermissionDenied);
    let written = lines(&path);
    assert_eq!(written.len(), 1);
    assert_eq!(
        (&written[0]["phase"], &written[0]["outcome"]),
        (&json!("refused"), &json!("PERMISSION_DENIED"))
    );
}

#[tokio::test]
async fn a_client_that_goes_away_leaves_a_trace() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let audit = audit(Some(&path), true);
    let mut never_done = Box::pin(audit.perform(
        asked(Verb::Promote),
        Ok(()),
        std::future::pending::<Result<(), Status>>(),
    ));
    while !path.exists() || lines(&path).is_empty() {
        let _ = tokio::time::timeout(std::time::Duration::from_millis(5), &mut never_done).await;
    }
    // So that it is begun, not only written down.
    let _ = tokio::time::timeout(std::time::Duration::from_millis(50), &mut never_done).await;
    drop(never_done);
    // The thread writes in order.
    audit.write(json!({}), Phase::End).await.unwrap();
    assert_eq!(lines(&path)[1]["outcome"], "abandoned");
}

#[tokio::test]
async fn a_client_that_goes_away_at_once_leaves_an_end_too() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let audit = audit(Some(&path), true);
    let mut leaving = Box::pin(audit.perform(
        asked(Verb::Promote),
        Ok(()),
        std::future::pending::<Result<(), Status>>(),
    ));
    assert!(
        futures::poll!(&mut leaving).is_pending(),
        "its first line is on its way"
    );
    drop(leaving);
    // The thread writes in order.
    audit.write(json!({}), Phase::End).await.unwrap();
    let written = lines(&path);
    assert_eq!(
        (&written[0]["phase"], &written[1]["outcome"]),
        (&json!("begin"), &json!("abandoned"))
    );
}

#[tokio::test]
async fn what_cannot_be_written_down_is_not_done_unless_that_is_allowed() {
    let full = Path::new("/dev/full");
    if !full.exists() {
        return;
    }
    let refused = audit(Some(full), true);
    let never = async { unreachable_work("it cannot be written down") };
    let told = refused
        .perform(asked(Verb::DrainNode), Ok(()), never)
        .await
        .unwrap_err();
    assert!(told.message().contains("audit log"), "{told}");
    let lenient = audit(Some(full), false);
    let done = lenient.perform(asked(Verb::DrainNode), Ok(()), async { Ok(1) }).await;
    assert_eq!(done.unwrap(), 1);
}

#[tokio::test]
async fn refusals_fill_no_disk_and_those_left_out_are_counted() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("audit");
    let audit = audit(Some(&path), true);
    for _ in 0..150 {
        let denied = Refusal::Denied {
            scope: "orders".into(),
            right: fulcrum_types::Right::Admin,
        };
        let never = async { unreachable_work("it is refused") };
        let refused = audit.perform(asked(Verb::DropKeyspace), Err(denied), never).await;
        refused.unwrap_err();
    }
    assert_eq!(lines(&path).len(), 100, "the first ones are written down");
    audit
        .perform(asked(Verb::DropKeyspace), Ok(()), async { Ok(()) })
        .await
        .unwrap();
    assert_eq!(lines(&path).len(), 102, "what is permitted is, whatever was refused");

    tokio::time::pause();
    tokio::time::sleep(std::time::Duration::from_secs(601)).await;
    tokio::time::resume();
    // The thread writes in order.
    audit.write(json!({}), Phase::End).await.unwrap();
    let told = &lines(&path)[102];
    assert_eq!((&told["phase"], &told["refused"]), (&json!("left_out"), &json!(50)));
}
