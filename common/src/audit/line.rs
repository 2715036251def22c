//! One line: what is in it, and how it is written.

use super::Asked;
use serde_json::{Value, json};
use std::time::Duration;

/// Most characters of one argument.
const LONGEST: usize = 256;
/// Most items of a list.
const MOST: usize = 64;

/// Which line of a verb it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// It is about to be done.
    Begin,
    /// What became of it.
    End,
    /// It is not done, for want of a right.
    Refused,
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Phase::Begin => "begin",
            Phase::End => "end",
            Phase::Refused => "refused",
        }
    }
}

/// What all lines of one verb have in common.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// The same in all of them.
    call: String,
    verb: &'static str,
    token: Option<String>,
    name: String,
    peer: Option<String>,
    arguments: Value,
}

impl Line {
    pub(super) fn new(asked: &Asked, call: u64) -> Self {
        let (token, name) = asked.caller.token();
        Self {
            call: format!("{call:016x}"),
            verb: asked.verb.name(),
            token,
            name: name.to_owned(),
            peer: asked.peer.map(|peer| peer.to_string()),
            arguments: bounded(asked.arguments.clone()),
        }
    }

    pub(super) fn to_json(
        &self,
        time_ms: u64,
        phase: Phase,
        outcome: Option<(&str, String)>,
        took: Option<Duration>,
    ) -> Value {
        let (outcome, message) = outcome.unzip();
        json!({
            "time_ms": time_ms,
            "call": self.call,
            "phase": phase.name(),
            "verb": self.verb,
            "token": self.token,
            "name": self.name,
            "peer": self.peer,
            "arguments": self.arguments,
            "outcome": outcome,
            "message": message.filter(|message| !message.is_empty()).map(|message| bounded(Value::String(message))),
            "duration_us": took.map(|took| u64::try_from(took.as_micros()).unwrap_or(u64::MAX)),
        })
    }
}

/// That so many refusals more are not written down each by itself.
pub(super) fn left_out(time_ms: u64, refused: u64) -> Value {
    json!({"time_ms": time_ms, "phase": "left_out", "refused": refused})
}

/// Arguments, and messages that repeat them, are what clients say: as long as they like.
fn bounded(value: Value) -> Value {
    match value {
        Value::String(text) if text.len() > LONGEST => {
            let begin: String = text.chars().take(LONGEST).collect();
            Value::String(format!("{begin}... ({} bytes)", text.len()))
        }
        Value::Array(items) => {
            let all = items.len();
            let left_out = (all > MOST).then(|| Value::String(format!("... ({all} in all)")));
            items.into_iter().take(MOST).map(bounded).chain(left_out).collect()
        }
        Value::Object(fields) => fields.into_iter().map(|(name, value)| (name, bounded(value))).collect(),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Caller, Verb};

    #[test]
    fn no_argument_is_longer_than_that() {
        let long = "x".repeat(5_000);
        let shown = bounded(json!({"name": long, "rights": [long, "orders:read"], "group": 7}));
        assert!(shown.to_string().len() < 3 * LONGEST, "{shown}");
        assert_eq!(
            (&shown["rights"][1], &shown["group"]),
            (&json!("orders:read"), &json!(7))
        );
    }

    #[test]
    fn no_line_is_longer_than_that_whatever_its_caller_says() {
        let mut request = tonic::Request::new(());
        request.extensions_mut().insert(Caller::anyone());
        let rights = vec!["orders:read"; 100_000];
        let asked = Asked::by(&request, Verb::CreateToken, json!({"rights": rights})).unwrap();
        let outcome = ("INVALID_ARGUMENT", "x".repeat(1 << 20));
        let shown = Line::new(&asked, 1).to_json(0, Phase::End, Some(outcome), None);
        assert!(shown.to_string().len() < 4_096, "{}", shown.to_string().len());
        let shown = &shown["arguments"]["rights"];
        assert_eq!(
            (&shown[0], &shown[MOST]),
            (&json!("orders:read"), &json!("... (100000 in all)"))
        );
    }
}
