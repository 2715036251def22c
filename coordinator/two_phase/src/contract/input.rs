//! All that can happen to a coordinator's core.

use super::effect::AskId;
use super::plan::{Plan, PlannedRead};
use fulcrum_types::{AbortCause, Answered, Mono, Participant, Refusal, TransactionId};

/// The runner's name for a client's request, echoed in the reply. Never used twice in one life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// The closed list of inputs.
#[derive(Clone, Debug)]
pub enum Input {
    /// Time has passed. At least every quarter of [`Options::heartbeat`](super::Options).
    Tick,
    /// A client commits. If the same attempt is under way here already, this request joins it. With another fingerprint it is
    /// another transaction under the same id: the groups refuse one of them, or both.
    Commit {
        /// The runner's name for it.
        request: RequestId,
        /// What to do.
        plan: Plan,
        /// When the client gives up.
        deadline: Mono,
    },
    /// A client reads.
    Read {
        /// The runner's name for it.
        request: RequestId,
        /// The transaction that reads.
        id: TransactionId,
        /// What, by group; not empty.
        parts: Vec<PlannedRead>,
        /// All values are to be of one moment: two rounds, again and again until they agree or time is up (rule 13). Without
        /// it one round is all.
        consistent: bool,
        /// When the client gives up.
        deadline: Mono,
    },
    /// Somebody asks what became of a transaction.
    LookUp {
        /// The runner's name for it.
        request: RequestId,
        /// Which.
        id: TransactionId,
        /// Where its home group may be, the home among them: all are asked, and the first record decides. Exactly one place if
        /// `settle` is set.
        places: Vec<Participant>,
        /// Abort it with this cause unless it is decided, so that the answer is definite.
        settle: Option<AbortCause>,
        /// When the asker gives up.
        deadline: Mono,
    },
    /// The end of a question: exactly one for each [`Effect::Ask`](super::Effect), whatever happens, also when its deadline
    /// passes or the group cannot be reached.
    Answered {
        /// Which question.
        ask: AskId,
        /// The group's answer, of the kind that fits the question; else why there is none. Redirects have been followed.
        result: Result<Answered, Refusal>,
    },
    /// The client went away: no reply is wanted any more. A transaction for which no commit has been asked is aborted.
    Cancelled {
        /// Which request.
        request: RequestId,
    },
}
