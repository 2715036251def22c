//! Traces: which requests are followed through the cluster, and the spans that tell where their time went.
//!
//! **The promise.** A request that is followed leaves one trace, from the client to the backups. One that is not costs a look at an
//! empty option: no span, no allocation, no byte on the wire. Who collects the spans never holds a request up: what does not fit into
//! the exporter's bounded queue is dropped.
//!
//! **The protocol.** A [`TraceContext`] travels in a `traceparent` header of a single call, and beside each operation on streams, only
//! if it is recorded. Whoever takes a request in opens a [`Span`] under it; the span's own context goes on with what it asks of others.
//! Where times are known only afterwards a [`Record`] is made of them. Cores know nothing of this: event loops and effect runners look
//! up beside them what they have ordered.
//!
//! **Sampling.** Parents decide. At a front door a request without a parent begins a trace by chance, as the configured ratio says;
//! between services what comes without one is not recorded.
//!
//! There is one recorder a process, as there is one log; without one, contexts are passed on and nothing is recorded.
//!
//! Left out: `tracestate` and baggage, which nothing here needs and which are as long as their senders like.

mod recorder;
mod span;

pub use recorder::{Recorder, Sink};
pub use span::{Failed, Kind, Record, Span, Value};

use fulcrum_types::TraceContext;
use std::sync::OnceLock;

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Records from now on; once a process.
///
/// # Errors
/// It is recorded already.
pub fn install(recorder: Recorder) -> Result<(), AlreadyInstalled> {
    RECORDER.set(recorder).map_err(|_| AlreadyInstalled)
}

/// There is one recorder a process, and it is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("traces are recorded already")]
pub struct AlreadyInstalled;

/// A span at a front door: under the caller's, or perhaps the first of a trace.
#[must_use]
pub fn begin(kind: Kind, name: &'static str, parent: Option<TraceContext>) -> Span {
    match (parent, RECORDER.get()) {
        (Some(parent), _) => follow(kind, name, Some(parent)),
        (None, Some(recorder)) => recorder.root(kind, name),
        (None, None) => Span::none(),
    }
}

/// A span under another one, if that is recorded.
#[must_use]
pub fn follow(kind: Kind, name: &'static str, parent: Option<TraceContext>) -> Span {
    match (parent.and_then(TraceContext::if_sampled), RECORDER.get()) {
        (None, _) => Span::none(),
        (Some(parent), Some(recorder)) => recorder.child(kind, name, parent),
        (Some(parent), None) => Span::passing(parent),
    }
}

/// The first span of a trace that is wanted whatever the ratio says. Nothing, if nobody records.
#[must_use]
pub fn wanted(kind: Kind, name: &'static str) -> Span {
    RECORDER
        .get()
        .map_or_else(Span::none, |recorder| recorder.wanted(kind, name))
}

/// Whether spans are recorded in this process.
#[must_use]
pub fn is_recording() -> bool {
    RECORDER.get().is_some()
}

/// The context of a span under another one, whose [`Record`] will be made when its times are known. None if nobody here records.
#[must_use]
pub fn reserve(parent: TraceContext) -> Option<TraceContext> {
    RECORDER.get().map(|recorder| recorder.reserve(parent))
}

/// Records a span whose times are known.
pub fn record(record: Record) {
    if let Some(recorder) = RECORDER.get() {
        recorder.record(record);
    }
}

#[cfg(test)]
mod tests;
