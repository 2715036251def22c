//! What was not answered as asked.

use fulcrum_client::Error;
use std::collections::BTreeMap;

/// Failures of transactions: refused, aborted at every attempt, or unknown, though it be told later what became of it.
#[derive(Clone, Debug, Default)]
pub struct Failures {
    /// How many, by code.
    pub by_code: BTreeMap<&'static str, u64>,
    /// The first of each code, in words.
    pub like: BTreeMap<&'static str, String>,
}

impl Failures {
    /// One more.
    pub fn note(&mut self, whose: &str, error: &Error) {
        *self.by_code.entry(error.code()).or_default() += 1;
        let words = || format!("{whose}: {error}");
        self.like.entry(error.code()).or_insert_with(words);
    }

    /// Together.
    pub fn join(&mut self, other: Failures) {
        for (code, words) in other.like {
            self.like.entry(code).or_insert(words);
        }
        for (code, number) in other.by_code {
            *self.by_code.entry(code).or_default() += number;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_client::Refusal;
    use fulcrum_types::TransactionId;

    #[test]
    fn whatever_was_not_answered_as_asked_is_a_failure() {
        let locked = Refusal::Locked {
            by: TransactionId::default(),
        };
        let mut told = Failures::default();
        told.note("of the bank", &Error::Refused(locked.clone()));
        told.note(
            "of the bank",
            &Error::GaveUp {
                attempts: 9,
                last: locked,
            },
        );
        let mut other = Failures::default();
        other.note(
            "of the lists",
            &Error::Unreachable {
                reason: "refused".to_owned(),
            },
        );
        told.join(other);
        assert_eq!(told.by_code, BTreeMap::from([("LOCKED", 2), ("UNREACHABLE", 1)]));
        assert!(told.like["UNREACHABLE"].starts_with("of the lists: "));
    }
}
