//! `fulcrum txn`: run a transaction, list what is in doubt, show and resolve one.

mod list;
mod resolve;
mod run;
mod show;

use crate::args::TxnCommand;
use crate::context::{Context, Ending};
use crate::exit::Exit;
use fulcrum_client::{CommittedPart, TransactionOutcome};
use serde_json::{Value, json};

/// Runs one of them.
pub async fn run(context: &Context, command: &TxnCommand) -> Ending {
    match command {
        TxnCommand::Run(args) => run::run(context, args).await,
        TxnCommand::List(args) => list::run(context, args).await,
        TxnCommand::Show(args) => show::run(context, args).await,
        TxnCommand::Resolve(args) => resolve::run(context, args).await,
    }
}

/// The short stable name of an outcome, and what it means.
fn outcome_in_words(outcome: &TransactionOutcome) -> (&'static str, String) {
    match outcome {
        TransactionOutcome::Committed(parts) => {
            let parts: Vec<String> = parts.iter().map(part_in_words).collect();
            ("committed", format!("it is committed: {}", parts.join(", ")))
        }
        TransactionOutcome::Aborted(cause) => ("aborted", format!("it is aborted, for good: {cause}")),
        TransactionOutcome::Undecided => (
            "undecided",
            "it is prepared and not decided yet; `fulcrum txn resolve` has it aborted".to_owned(),
        ),
        TransactionOutcome::NotSeen => (
            "not_seen",
            "its home group has not heard of it; it may be under way".to_owned(),
        ),
        TransactionOutcome::TooOld => (
            "too_old",
            "its outcome is no longer kept: read the keys that it wrote".to_owned(),
        ),
    }
}

fn part_in_words(part: &CommittedPart) -> String {
    format!("version {} in {}", part.version.0, part.participant.group)
}

fn outcome_json(outcome: &TransactionOutcome) -> Value {
    let (state, _) = outcome_in_words(outcome);
    let (parts, cause) = match outcome {
        TransactionOutcome::Committed(parts) => (parts.as_slice(), None),
        TransactionOutcome::Aborted(cause) => ([].as_slice(), Some(cause.name())),
        _ => ([].as_slice(), None),
    };
    let part = |part: &CommittedPart| {
        json!({
            "keyspace_id": part.participant.keyspace.0,
            "group": part.participant.group.0,
            "version": part.version.0,
        })
    };
    json!({"state": state, "cause": cause, "parts": parts.iter().map(part).collect::<Vec<_>>()})
}

fn exit_of(outcome: &TransactionOutcome) -> Exit {
    match outcome {
        TransactionOutcome::Committed(_) | TransactionOutcome::Aborted(_) | TransactionOutcome::Undecided => Exit::Ok,
        TransactionOutcome::NotSeen => Exit::NotFound,
        TransactionOutcome::TooOld => Exit::Unknown,
    }
}
