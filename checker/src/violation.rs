//! What a checker says when a property does not hold.

use crate::history::History;
use bytes::Bytes;
use std::fmt;

/// A broken property, with the operations that show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Short name of what is broken, stable enough to count by.
    pub property: &'static str,
    /// The key concerned, if it is about one.
    pub key: Option<Bytes>,
    /// The operations that together show it, as places in the history; the one that cannot be explained comes first.
    pub operations: Vec<usize>,
    /// What is wrong, for people.
    pub explanation: String,
}

impl Violation {
    pub(crate) fn new(property: &'static str, operations: Vec<usize>, explanation: String) -> Self {
        Violation {
            property,
            key: None,
            operations,
            explanation,
        }
    }

    pub(crate) fn on_key(mut self, key: &Bytes) -> Self {
        self.key = Some(key.clone());
        self
    }

    /// The violation with its operations written out, one a line.
    #[must_use]
    pub fn describe(&self, history: &History) -> String {
        self.with_lines(|place| history.operations().get(place).map(ToString::to_string))
    }

    /// The violation, and a line for each of its places that `line` knows.
    pub(crate) fn with_lines(&self, line: impl Fn(usize) -> Option<String>) -> String {
        let mut text = self.to_string();
        for &place in &self.operations {
            if let Some(line) = line(place) {
                text.push_str(&format!("\n  #{place} {line}"));
            }
        }
        text
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.property)?;
        if let Some(key) = &self.key {
            write!(f, " on key {}", key.escape_ascii())?;
        }
        write!(f, ": {}", self.explanation)
    }
}
