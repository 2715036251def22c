//! `--trace`: the command is the first span of a trace, and everything that it asks of the cluster belongs to that.

use crate::context::{Ending, note};
use fulcrum_common::trace::{self, Failed, Kind, Span};
use fulcrum_types::TraceContext;
use std::sync::OnceLock;

static COMMAND: OnceLock<TraceContext> = OnceLock::new();

/// The span of the command, for the client: one process is one command.
pub(crate) fn current() -> Option<TraceContext> {
    COMMAND.get().copied()
}

/// A command that is followed.
pub(crate) struct Followed(Span);

/// The command begins.
pub(crate) fn begin() -> Followed {
    let span = trace::wanted(Kind::Internal, "fulcrum");
    if let Some(context) = span.context() {
        COMMAND.get_or_init(|| context);
    }
    Followed(span)
}

impl Followed {
    /// The command has ended: whoever asked for the trace is told which it is, on standard error.
    pub(crate) fn end(self, ending: &Ending) {
        if let Some(context) = self.0.context() {
            note(&format!("trace {}", context.trace_id()));
        }
        match ending {
            Ok(_) => self.0.end(None),
            Err(failure) => self.0.end_badly(Failed {
                code: "COMMAND_FAILED",
                reason: failure.to_string(),
            }),
        }
    }
}
