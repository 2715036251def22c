//! `fulcrum outcome`: what became of a write whose answer was lost. A write that failed with exit code 5 names the flags.

use crate::args::OutcomeArgs;
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use fulcrum_client::{IdempotencyKey, Outcome, UnfinishedWrite, WriteOutcome};
use fulcrum_types::{ClientId, Sequence};
use serde_json::{Value, json};

/// Asks.
pub async fn run(context: &Context, args: &OutcomeArgs) -> Ending {
    let key = args.key.bytes()?;
    let sequence = Sequence(args.sequence);
    let idempotency = IdempotencyKey {
        client: ClientId(args.client),
        sequence,
        issued_at_ms: args.issued_at,
        low_water: sequence,
    };
    let write = UnfinishedWrite::of(&args.key.keyspace, key, idempotency);
    let outcome = context.client().await?.outcome(&write).await;
    let outcome = outcome
        .map_err(|error| Failure::client(format!("cannot look up the write of {}", args.key.named()), &error))?;
    let (state, says) = match &outcome {
        Outcome::Known(outcomes) if outcomes.iter().any(|one| matches!(one, WriteOutcome::Applied { .. })) => {
            ("applied", "it was applied")
        }
        Outcome::Known(_) => ("condition_failed", "its condition did not hold; nothing was changed"),
        Outcome::NotSeen => (
            "not_seen",
            "it was not applied; unless it is still under way, it never will be",
        ),
        Outcome::TooOld => ("too_old", "its outcome is no longer kept: read the key"),
    };
    match context.json() {
        true => context.print_json(&json!({"state": state, "outcomes": outcomes_json(&outcome)}))?,
        false => print(&format!("{says}\n"))?,
    }
    Ok(match outcome {
        Outcome::Known(_) => Exit::Ok,
        Outcome::NotSeen => Exit::NotFound,
        Outcome::TooOld => Exit::Unknown,
    })
}

fn outcomes_json(outcome: &Outcome) -> Vec<Value> {
    let Outcome::Known(outcomes) = outcome else {
        return Vec::new();
    };
    let one = |outcome: &WriteOutcome| match outcome {
        WriteOutcome::Applied { version, existed } => {
            json!({"applied": true, "version": version.0, "existed": existed})
        }
        WriteOutcome::ConditionFailed { current } => {
            json!({"applied": false, "version": current.map(|version| version.0)})
        }
    };
    outcomes.iter().map(one).collect()
}
