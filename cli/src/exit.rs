//! How a command ends: with one of few exit codes that scripts can use, and a message that says what, why and what to do.

use fulcrum_client::Error;
use fulcrum_common::error::StartError;
use fulcrum_types::{Act, Refusal};
use serde_json::{Value, json};
use std::fmt;

/// Exit codes. They keep their meaning from release to release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done as asked.
    Ok = 0,
    /// Refused, or failed for any reason not named below. Nothing was applied.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// The key has no value.
    NotFound = 3,
    /// The condition of a write or transaction did not hold. Nothing was applied.
    ConditionFailed = 4,
    /// A write or transaction may or may not have been applied.
    Unknown = 5,
    /// Nobody answered, or not in time. Nothing was applied.
    Unreachable = 6,
    /// Some records of an import were malformed or refused; the others are there.
    Partial = 7,
    /// A promise of the store was seen broken.
    Violation = 8,
    /// A transaction was aborted at every attempt. Nothing was applied.
    Aborted = 9,
    /// Stopped by Ctrl-C or SIGTERM before it was done.
    Interrupted = 130,
}

/// The table of exit codes, as `--help` shows it.
pub const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused or failed; nothing was applied
  2  wrong usage
  3  not found: the key has no value
  4  a condition of a write or transaction did not hold; nothing was applied
  5  unknown outcome: it may or may not have been applied (see `fulcrum outcome`, `fulcrum txn show`)
  6  nobody answered in time; nothing was applied
  7  some records of an import were malformed or refused; the others are there
  8  a promise of the store was seen broken (demo)
  9  a transaction was aborted at every attempt; nothing was applied
  130  stopped by Ctrl-C or SIGTERM before it was done; what that leaves is told";

/// Why a command ended without doing what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// How the process ends.
    pub exit: Exit,
    /// Short stable name of the reason, for scripts.
    pub code: String,
    /// What was attempted.
    pub what: String,
    /// Why it failed.
    pub why: String,
    /// What can be done about it, if the reason does not say so.
    pub remedy: Option<String>,
}

impl Failure {
    /// A failure of the program's own.
    pub fn new(exit: Exit, code: &str, what: impl Into<String>, why: impl ToString) -> Self {
        Failure {
            exit,
            code: code.to_owned(),
            what: what.into(),
            why: why.to_string(),
            remedy: None,
        }
    }

    /// An argument that makes no sense.
    pub fn usage(what: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Exit::Usage, "USAGE", what, why)
    }

    /// Trouble with a file.
    pub fn file(what: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Exit::Failed, "FILE", what, why)
    }

    /// A service of this process could not be started.
    #[must_use]
    pub fn start(what: &str, error: &StartError) -> Self {
        Self::new(Exit::Failed, "START", what, error)
    }

    /// What a cluster answered, or that it did not.
    #[must_use]
    pub fn client(what: impl Into<String>, error: &Error) -> Self {
        let failure = Self::new(exit_of(error), error.code(), what, error);
        match remedy_of(error) {
            Some(remedy) => failure.remedy(remedy),
            None => failure,
        }
    }

    /// Something was stopped by Ctrl-C or SIGTERM.
    pub fn interrupted(what: impl Into<String>, why: impl ToString) -> Self {
        Self::new(Exit::Interrupted, "INTERRUPTED", what, why)
    }

    /// Says what can be done.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = Some(remedy.into());
        self
    }

    /// For scripts.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({"error": {
            "code": self.code,
            "exit": self.exit as u8,
            "what": self.what,
            "why": self.why,
            "remedy": self.remedy,
        }})
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.why)?;
        match &self.remedy {
            Some(remedy) => write!(f, "\n  try: {remedy}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Failure {}

fn exit_of(error: &Error) -> Exit {
    match error {
        Error::Unreachable { .. } => Exit::Unreachable,
        Error::Config { .. } => Exit::Usage,
        Error::GaveUp { .. } => Exit::Aborted,
        Error::Refused(Refusal::DeadlineExceeded | Refusal::Unreachable { .. }) => Exit::Unreachable,
        other if other.act() == Act::LookUp => Exit::Unknown,
        _ => Exit::Failed,
    }
}

fn remedy_of(error: &Error) -> Option<String> {
    match error {
        Error::Unknown { write, .. } => {
            let key = write.idempotency();
            Some(format!(
                "fulcrum outcome {} {} --client {} --sequence {} --issued-at {}",
                write.keyspace(),
                shell_word(write.key()),
                key.client.0,
                key.sequence.0,
                key.issued_at_ms,
            ))
        }
        Error::UnknownTransaction { transaction, .. } => {
            let show = format!("fulcrum txn show {}", transaction.id());
            let first = transaction.first_written();
            Some(first.map_or(show.clone(), |first| {
                format!("{show} --keyspace {} --key {}", first.keyspace, shell_word(&first.what))
            }))
        }
        Error::GaveUp { .. } => Some("again when less is going on, or with a longer --deadline".to_owned()),
        Error::Refused(Refusal::DeadlineExceeded) => Some("a longer --deadline, or `fulcrum status`".to_owned()),
        Error::Refused(Refusal::NotEnoughReplicas { .. } | Refusal::Fenced | Refusal::NotReady) => {
            Some("`fulcrum status` shows which replicas are missing".to_owned())
        }
        Error::Refused(Refusal::Unauthenticated) => Some(
            "a token: --token-file, FULCRUM_TOKEN_FILE or FULCRUM_TOKEN; why one is not good is only in the server's log".to_owned(),
        ),
        Error::Refused(Refusal::Denied { .. }) => {
            Some("another token, or `fulcrum token rights` by whoever may".to_owned())
        }
        Error::Refused(Refusal::HistoryLost { .. }) => {
            Some("a new session (remove the --session file), or a new watch (without --from)".to_owned())
        }
        Error::Refused(Refusal::Compacted { .. }) => {
            Some("`fulcrum watch` with --include-current instead of --from".to_owned())
        }
        _ => None,
    }
}

/// A key as a shell takes it; one that is no text in hexadecimal.
fn shell_word(key: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._:+-{}@".contains(byte);
    match std::str::from_utf8(key) {
        Ok(text) if !key.is_empty() && key.iter().all(plain) && !text.starts_with('-') => text.to_owned(),
        Ok(text) if !text.chars().any(char::is_control) && !text.starts_with('-') => {
            format!("'{}'", text.replace('\'', "'\\''"))
        }
        _ => format!("{} --hex-key", crate::value::Encoding::Hex.encode(key)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_client::{AbortCause, TransactionId};

    fn exit(refusal: Refusal) -> Exit {
        Failure::client("x", &Error::Refused(refusal)).exit
    }

    #[test]
    fn refusals_have_the_exit_code_of_who_must_act() {
        assert_eq!(exit(Refusal::DeadlineExceeded), Exit::Unreachable);
        assert_eq!(exit(Refusal::Unknown { reason: "r".into() }), Exit::Unknown);
        assert_eq!(exit(Refusal::UnknownKeyspace { keyspace: "k".into() }), Exit::Failed);
        assert_eq!(exit(Refusal::Overloaded), Exit::Failed);
        let unreachable = Error::Unreachable {
            reason: "refused".into(),
        };
        assert_eq!(Failure::client("x", &unreachable).exit, Exit::Unreachable);
    }

    #[test]
    fn transactions_end_by_who_must_act() {
        let id: TransactionId = "5-6-7".parse().unwrap();
        let last = Refusal::Aborted {
            id,
            cause: AbortCause::Conflict { with: id },
        };
        let gave_up = Failure::client("x", &Error::GaveUp { attempts: 3, last });
        assert_eq!((gave_up.exit, gave_up.code.as_str()), (Exit::Aborted, "ABORTED"));
        let unknown = Error::UnknownTransaction {
            reason: "lost".into(),
            transaction: id.into(),
        };
        let unknown = Failure::client("x", &unknown);
        assert_eq!(unknown.exit, Exit::Unknown);
        assert_eq!(unknown.remedy.as_deref(), Some("fulcrum txn show 5-6-7"));
    }

    #[test]
    fn a_failure_reads_as_what_why_and_remedy() {
        let failure = Failure::client("cannot put 'a' in 'k'", &Error::Refused(Refusal::DeadlineExceeded));
        let text = failure.to_string();
        assert!(text.starts_with("cannot put 'a' in 'k': "), "{text}");
        assert!(
            text.ends_with("\n  try: a longer --deadline, or `fulcrum status`"),
            "{text}"
        );
        let json = failure.to_json();
        assert_eq!(
            (&json["error"]["code"], &json["error"]["exit"]),
            (&json!("DEADLINE_EXCEEDED"), &json!(6))
        );
    }

    #[test]
    fn keys_are_quoted_for_a_shell() {
        assert_eq!(shell_word(b"char/U+00BD"), "char/U+00BD");
        assert_eq!(shell_word(b"it's"), r"'it'\''s'");
        assert_eq!(shell_word(b"-o"), "2d6f --hex-key");
        assert_eq!(shell_word(&[0xff]), "ff --hex-key");
        assert_eq!(shell_word(b"a b"), "'a b'");
    }

    #[test]
    fn the_help_names_every_code() {
        for exit in [
            Exit::Ok,
            Exit::Failed,
            Exit::Usage,
            Exit::NotFound,
            Exit::ConditionFailed,
            Exit::Unknown,
            Exit::Unreachable,
            Exit::Partial,
            Exit::Violation,
            Exit::Aborted,
            Exit::Interrupted,
        ] {
            assert!(EXIT_CODES.contains(&format!("\n  {}  ", exit as u8)), "{exit:?}");
        }
    }
}
