//! All that can happen to a coordinator.

use fulcrum_common::budget::Share;
use fulcrum_two_phase::{AskId, Input, Plan, PlannedRead, Reply, RequestId};
use fulcrum_types::{AbortCause, Answered, Mono, Participant, Refusal, TraceContext, TransactionId};
use tokio::sync::oneshot;

/// The closed list of all that can happen to a coordinator.
#[derive(Debug)]
pub(crate) enum Event {
    /// Time has passed.
    Tick,
    /// A client asks.
    Asked(Asked),
    /// The client that asked has gone.
    Gone(RequestId),
    /// A group was asked, and has answered or not.
    Answered {
        /// Which question.
        ask: AskId,
        /// The answer, or why there is none.
        result: Result<Answered, Refusal>,
    },
}

/// A client's request, with the way back to it.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) request: RequestId,
    pub(crate) wanted: Wanted,
    pub(crate) deadline: Mono,
    pub(crate) reply: oneshot::Sender<Result<Reply, Refusal>>,
    /// What it takes of the coordinator's memory until it is answered.
    pub(crate) share: Share,
    /// The span that asks, if its trace is recorded.
    pub(crate) trace: Option<TraceContext>,
}

/// What a client wants, planned.
#[derive(Debug)]
pub(crate) enum Wanted {
    Commit(Plan),
    Read {
        id: TransactionId,
        parts: Vec<PlannedRead>,
        consistent: bool,
    },
    LookUp {
        id: TransactionId,
        places: Vec<Participant>,
        settle: Option<AbortCause>,
    },
}

impl Wanted {
    /// Whether it is of use to nobody but the client that asked. What locks and writes is not: a client whose connection broke sends
    /// it again, and an attempt that is aborted because of that is aborted for good.
    pub(crate) fn ends_with_its_client(&self) -> bool {
        match self {
            Wanted::Commit(plan) => plan.is_read_only(),
            Wanted::Read { .. } | Wanted::LookUp { .. } => true,
        }
    }

    pub(crate) fn into_input(self, request: RequestId, deadline: Mono) -> Input {
        match self {
            Wanted::Commit(plan) => Input::Commit {
                request,
                plan,
                deadline,
            },
            Wanted::Read { id, parts, consistent } => Input::Read {
                request,
                id,
                parts,
                consistent,
                deadline,
            },
            Wanted::LookUp { id, places, settle } => Input::LookUp {
                request,
                id,
                places,
                settle,
                deadline,
            },
        }
    }
}
