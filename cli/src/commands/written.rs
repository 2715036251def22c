//! How the answer to a write is shown, whichever command made it.

use crate::context::{Context, Ending, SessionFile, note, print};
use crate::exit::{Exit, Failure};
use crate::render::receipt_json;
use fulcrum_client::{Error, Written};
use fulcrum_types::WriteOutcome;
use serde_json::json;

/// Shows what became of a write of `named`; `verb` as in "put".
pub(super) fn show(
    context: &Context,
    session: &SessionFile,
    verb: &str,
    named: &str,
    answer: Result<Written, Error>,
) -> Ending {
    let written = answer.map_err(|error| Failure::client(format!("cannot {verb} {named}"), &error))?;
    session.save()?;
    let exit = if written.applied() {
        Exit::Ok
    } else {
        Exit::ConditionFailed
    };
    if context.json() {
        let existed = match written.outcome {
            WriteOutcome::Applied { existed, .. } => Some(existed),
            WriteOutcome::ConditionFailed { .. } => None,
        };
        context.print_json(&json!({
            "applied": written.applied(),
            "existed": existed,
            "version": written.version().map(|version| version.0),
            "idempotency": {
                "client": written.idempotency.client.0,
                "sequence": written.idempotency.sequence.0,
                "issued_at_ms": written.idempotency.issued_at_ms,
            },
            "receipt": receipt_json(&written.receipt),
        }))?;
        return Ok(exit);
    }
    match written.outcome {
        WriteOutcome::Applied { version, .. } => print(&format!("ok, version {}\n", version.0))?,
        WriteOutcome::ConditionFailed { current: Some(version) } => {
            note(&format!(
                "the condition does not hold: {named} has version {}; nothing was changed",
                version.0
            ));
        }
        WriteOutcome::ConditionFailed { current: None } => {
            note(&format!(
                "the condition does not hold: {named} has no value; nothing was changed"
            ));
        }
    }
    context.show_receipt(&written.receipt);
    Ok(exit)
}
