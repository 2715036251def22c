//! One piece of work of a trace: open, with what is known of it so far, or ended, with its times.

use super::{Recorder, follow};
use crate::clock::Anchor;
use fulcrum_types::{Refusal, TraceContext};
use std::borrow::Cow;
use std::time::SystemTime;

/// Whose side of a conversation a span is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Asks somebody.
    Client,
    /// Serves somebody.
    Server,
    /// Neither.
    Internal,
}

/// What is known of a span, under a name of OpenTelemetry's or one that begins with `fulcrum.`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Text.
    Text(Cow<'static, str>),
    /// A number.
    Number(u64),
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Value::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Value::Text(text.into())
    }
}

impl From<u64> for Value {
    fn from(number: u64) -> Self {
        Value::Number(number)
    }
}

/// That what a span stands for did not succeed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failed {
    /// The error's code.
    pub code: &'static str,
    /// What it says.
    pub reason: String,
}

impl From<&Refusal> for Failed {
    fn from(refusal: &Refusal) -> Self {
        Self {
            code: refusal.code(),
            reason: refusal.to_string(),
        }
    }
}

/// A span that has ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Itself.
    pub context: TraceContext,
    /// The span that it is a child of, if it is not the first of its trace.
    pub parent: Option<u64>,
    /// What was done, in few words and without anything that varies.
    pub name: &'static str,
    /// Whose side it is.
    pub kind: Kind,
    /// When it began.
    pub start: SystemTime,
    /// When it ended.
    pub end: SystemTime,
    /// What is known of it.
    pub attributes: Vec<(&'static str, Value)>,
    /// What happened meanwhile.
    pub events: Vec<(SystemTime, Cow<'static, str>)>,
    /// Why it did not succeed.
    pub failed: Option<Failed>,
}

/// An open span, or none: most requests have none, and nothing that is said of it then costs anything. It ends when it is told to;
/// one that is dropped before was cancelled.
#[derive(Debug, Default)]
pub struct Span(Option<Box<State>>);

#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "boxed as it is, and a process that records nothing has few of the other"
)]
enum State {
    Open(Open),
    /// Nobody here records; others may.
    Passing(TraceContext),
}

#[derive(Debug)]
struct Open {
    recorder: Recorder,
    anchor: Anchor,
    record: Record,
    ended: bool,
}

impl Span {
    /// No span.
    #[must_use]
    pub const fn none() -> Self {
        Self(None)
    }

    pub(super) fn passing(parent: TraceContext) -> Self {
        Self(Some(Box::new(State::Passing(parent))))
    }

    pub(super) fn open(
        recorder: Recorder,
        context: TraceContext,
        parent: Option<u64>,
        kind: Kind,
        name: &'static str,
    ) -> Self {
        let anchor = Anchor::now();
        let start = anchor.wall();
        let record = Record {
            context,
            parent,
            name,
            kind,
            start,
            end: start,
            attributes: Vec::new(),
            events: Vec::new(),
            failed: None,
        };
        Self(Some(Box::new(State::Open(Open {
            recorder,
            anchor,
            record,
            ended: false,
        }))))
    }

    /// What to tell whoever is asked on this span's behalf.
    #[must_use]
    pub fn context(&self) -> Option<TraceContext> {
        self.0.as_deref().map(|state| match state {
            State::Open(open) => open.record.context,
            State::Passing(parent) => *parent,
        })
    }

    /// A span under this one.
    #[must_use]
    pub fn child(&self, kind: Kind, name: &'static str) -> Self {
        match self.0 {
            Some(_) => follow(kind, name, self.context()),
            None => Self::none(),
        }
    }

    /// Whether anything that is said of it will be seen.
    #[must_use]
    pub fn is_recorded(&self) -> bool {
        matches!(self.0.as_deref(), Some(State::Open(_)))
    }

    fn recorded(&mut self) -> Option<&mut Open> {
        match self.0.as_deref_mut() {
            Some(State::Open(open)) => Some(open),
            _ => None,
        }
    }

    /// It is of a call of this method.
    pub fn set_rpc(&mut self, service: &'static str, method: &'static str) {
        self.set("rpc.system", "grpc");
        self.set("rpc.service", service);
        self.set("rpc.method", method);
    }

    /// Says something of it. What has to be put together first is worth a look at [`Span::is_recorded`].
    pub fn set(&mut self, name: &'static str, value: impl Into<Value>) {
        if let Some(open) = self.recorded() {
            open.record.attributes.push((name, value.into()));
        }
    }

    /// Something happened.
    pub fn event(&mut self, what: impl FnOnce() -> Cow<'static, str>) {
        if let Some(open) = self.recorded() {
            let at = open.anchor.later();
            open.record.events.push((at, what()));
        }
    }

    /// It ends, well or with a refusal.
    pub fn end(mut self, refused: Option<&Refusal>) {
        if let Some(open) = self.recorded() {
            open.ended = true;
            open.record.failed = refused.map(Into::into);
            let outcome = refused.map_or("ok", Refusal::code);
            open.record.attributes.push(("fulcrum.outcome", outcome.into()));
        }
    }

    /// It ends with an error that is no refusal.
    pub fn end_badly(mut self, failed: Failed) {
        if let Some(open) = self.recorded() {
            open.ended = true;
            open.record.attributes.push(("fulcrum.outcome", failed.code.into()));
            open.record.failed = Some(failed);
        }
    }
}

impl Drop for Span {
    fn drop(&mut self) {
        let Some(State::Open(mut open)) = self.0.take().map(|state| *state) else {
            return;
        };
        if !open.ended {
            open.record.attributes.push(("fulcrum.outcome", "cancelled".into()));
        }
        open.record.end = open.anchor.later();
        open.recorder.record(open.record);
    }
}
