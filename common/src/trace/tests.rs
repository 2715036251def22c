//! What is recorded of spans, and which traces begin.

use super::*;
use fulcrum_types::Refusal;
use std::sync::{Arc, Mutex};

#[derive(Clone, Default)]
struct Kept(Arc<Mutex<Vec<Record>>>);

impl Sink for Kept {
    fn take(&self, record: Record) {
        self.0.lock().unwrap().push(record);
    }
}

impl Kept {
    fn all(&self) -> Vec<Record> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn recorder(ratio: f64) -> (Recorder, Kept) {
    let kept = Kept::default();
    (Recorder::new(kept.clone(), ratio), kept)
}

#[test]
fn a_child_ends_within_its_parent_and_says_how() {
    let (recorder, kept) = recorder(1.0);
    let mut parent = recorder.root(Kind::Server, "parent");
    parent.set("fulcrum.group", 7);
    let context = parent.context().unwrap();
    let mut child = recorder.child(Kind::Client, "child", context);
    child.event(|| "tried again".into());
    child.end(Some(&Refusal::Fenced));
    parent.end(None);
    let [child, parent] = <[Record; 2]>::try_from(kept.all()).unwrap();
    assert_eq!((parent.context, parent.parent), (context, None));
    assert_eq!((child.context.trace, child.parent), (context.trace, Some(context.span)));
    assert!(parent.start <= child.start && child.start <= child.end && child.end <= parent.end);
    assert!(child.events[0].0 >= child.start && child.events[0].0 <= child.end);
    assert_eq!(child.failed.unwrap().code, "FENCED");
    assert!(child.attributes.contains(&("fulcrum.outcome", "FENCED".into())));
    assert_eq!(
        parent.attributes,
        [("fulcrum.group", Value::Number(7)), ("fulcrum.outcome", "ok".into())]
    );
}

#[test]
fn one_that_is_dropped_was_cancelled() {
    let (recorder, kept) = recorder(1.0);
    drop(recorder.wanted(Kind::Internal, "given up"));
    assert_eq!(kept.all()[0].attributes, [("fulcrum.outcome", "cancelled".into())]);
}

#[test]
fn as_many_traces_begin_as_the_ratio_says() {
    for (ratio, least, most) in [(0.0, 0, 0), (0.1, 700, 1300), (1.0, 10_000, 10_000)] {
        let (recorder, kept) = recorder(ratio);
        (0..10_000).for_each(|_| drop(recorder.root(Kind::Server, "one")));
        let begun = kept.all();
        assert!((least..=most).contains(&begun.len()), "{ratio}: {}", begun.len());
        let ids: std::collections::BTreeSet<_> = begun.iter().map(|record| record.context.trace).collect();
        assert_eq!(ids.len(), begun.len());
    }
}

#[test]
fn what_is_wanted_is_recorded_whatever_the_ratio() {
    let (recorder, kept) = recorder(0.0);
    recorder.wanted(Kind::Client, "wanted").end(None);
    assert_eq!(kept.all().len(), 1);
}

/// No test of this crate's library installs a recorder but the one of telemetry, which sends to nobody.
#[test]
fn where_nobody_records_contexts_are_passed_on_if_they_are_sampled() {
    let sampled = TraceContext {
        trace: 5,
        span: 6,
        sampled: true,
    };
    let passing = Span::passing(sampled);
    assert_eq!((passing.context(), passing.is_recorded()), (Some(sampled), false));
    let unsampled = TraceContext {
        sampled: false,
        ..sampled
    };
    assert_eq!(begin(Kind::Server, "no", Some(unsampled)).context(), None);
    assert_eq!(follow(Kind::Server, "no", None).context(), None);
    assert_eq!(Span::none().child(Kind::Client, "no").context(), None);
}
