//! Who gives spans their ids, decides which traces begin, and hands over what has ended.

use super::{Kind, Record, Span};
use crate::entropy::random_u64;
use fulcrum_types::TraceContext;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where spans go that have ended. Must not block: it is called on event loops.
pub trait Sink: Send + Sync + 'static {
    /// Takes one, or drops it.
    fn take(&self, record: Record);
}

/// Records spans. Clones are the same one.
#[derive(Clone)]
pub struct Recorder(Arc<Inner>);

struct Inner {
    sink: Box<dyn Sink>,
    /// Traces begin whose number is below it.
    threshold: u64,
    drawn: AtomicU64,
}

impl Recorder {
    /// Hands spans to the sink; begins this part of the traces that could begin here: 0 to 1.
    #[must_use]
    pub fn new(sink: impl Sink, ratio: f64) -> Self {
        // A cast of floats saturates: 1 is all of them.
        let threshold = (ratio * u64::MAX as f64) as u64;
        Self(Arc::new(Inner {
            sink: Box::new(sink),
            threshold,
            drawn: AtomicU64::new(random_u64()),
        }))
    }

    /// Perhaps the first span of a trace.
    #[must_use]
    pub fn root(&self, kind: Kind, name: &'static str) -> Span {
        match self.0.threshold {
            0 => Span::none(),
            threshold if threshold < u64::MAX && self.draw() >= threshold => Span::none(),
            _ => self.wanted(kind, name),
        }
    }

    /// Surely the first span of a trace.
    #[must_use]
    pub fn wanted(&self, kind: Kind, name: &'static str) -> Span {
        let trace = u128::from(self.draw()) << 64 | u128::from(self.draw());
        let context = TraceContext {
            trace,
            span: self.draw(),
            sampled: true,
        };
        Span::open(self.clone(), context, None, kind, name)
    }

    /// A span under another one.
    #[must_use]
    pub fn child(&self, kind: Kind, name: &'static str, parent: TraceContext) -> Span {
        Span::open(self.clone(), self.reserve(parent), Some(parent.span), kind, name)
    }

    /// The context of a span under another one, which is recorded later.
    #[must_use]
    pub fn reserve(&self, parent: TraceContext) -> TraceContext {
        TraceContext {
            span: self.draw(),
            ..parent
        }
    }

    /// Hands over a span that has ended.
    pub fn record(&self, record: Record) {
        self.0.sink.take(record);
    }

    /// A number that nobody else has, other than 0. Ids need not be hard to guess: a counter that begins anywhere, well mixed.
    fn draw(&self) -> u64 {
        loop {
            let drawn = self.0.drawn.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
            let drawn = (drawn ^ drawn >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let drawn = (drawn ^ drawn >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
            let drawn = drawn ^ drawn >> 31;
            if drawn != 0 {
                return drawn;
            }
        }
    }
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").finish_non_exhaustive()
    }
}
