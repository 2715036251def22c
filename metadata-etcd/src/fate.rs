//! What an error says about a write: surely not applied, not a request, or unknown.
//!
//! A gRPC code alone decides nothing. The same `Unavailable` comes from a connection that was refused, from one that broke
//! after the request had arrived, from etcd while it has no leader, and from etcd that gave up waiting for a proposal which
//! Raft then commits all the same. And a code may come from this process, from a proxy, or from etcd. So two things only
//! are believed:
//!
//! 1. **The request never left.** tonic reports a failed attempt to connect as a [`ConnectError`] in the chain of sources,
//!    and the request waits for a connection before any of it is sent. No request is sent twice, but for one that etcd
//!    refused because of its token (`is_stale_token`), which it does before it proposes anything.
//! 2. **etcd's own word, word for word** (its messages begin with `etcdserver: `), if it is said before anything is proposed
//!    or instead of applying it, by every release from 3.4 on. Those are listed in `SAID`. What is checked when a proposal
//!    is applied (a lease that is not there, rights) is checked before anything of it is changed, on all members alike.
//!
//! Everything else is unknown. What looks like a refusal and is none:
//! - `etcdserver: mvcc: database space exceeded`: the member that finds the quota exhausted while it applies a write says
//!   so *after* it has applied it. Said before proposing, it means "not applied"; the two read the same.
//! - `etcdserver: request timed out` in all its variants, `leader changed`, `server stopped`: the proposal is in Raft's
//!   hands and may be committed later (rule 2: "the CAS may yet land").
//! - `ResourceExhausted` that is not etcd's: HTTP/2's ENHANCE_YOUR_CALM, which can end a request that has arrived.
//! - A deadline that passed, here or there; a stream that was reset; a connection that broke.
//!
//! A read has nothing to apply: any error of one is "unavailable".

use crate::tls;
use etcd_client::Error;
use fulcrum_common::error::chain_of;
use fulcrum_common::metadata::MetadataError;
use std::error::Error as _;
use tonic::{ConnectError, Status};

/// What an error says about a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It never left this process: it can be sent again.
    NotSent,
    /// etcd did not take it, and may later. Nothing was applied.
    NotNow,
    /// etcd never will take it as it is. Nothing was applied.
    Never,
    /// The lease that it names is not there. Nothing was applied.
    NoLease,
    /// It may have been applied, or may still be.
    Unknown,
}

/// etcd's words that say that nothing was and nothing will be applied.
const SAID: [(&str, Fate); 17] = [
    // Refused at the door: the request is checked before it is proposed.
    ("etcdserver: key is not provided", Fate::Never),
    ("etcdserver: duplicate key given in txn request", Fate::Never),
    ("etcdserver: too many operations in txn request", Fate::Never),
    ("etcdserver: request is too large", Fate::Never),
    ("etcdserver: too large lease TTL", Fate::Never),
    ("etcdserver: value is provided", Fate::Never),
    ("etcdserver: lease is provided", Fate::Never),
    // Refused at the door, for now: asked for by `hasleader`, or too much is proposed and not yet applied.
    ("etcdserver: no leader", Fate::NotNow),
    ("etcdserver: not capable", Fate::NotNow),
    ("etcdserver: too many requests", Fate::NotNow),
    // Who one is, and what one may do: before proposing, or before a transaction is applied as a whole.
    ("etcdserver: invalid auth token", Fate::NotNow),
    ("etcdserver: revision of auth store is old", Fate::NotNow),
    ("etcdserver: user name is empty", Fate::NotNow),
    ("etcdserver: permission denied", Fate::NotNow),
    (
        "etcdserver: authentication failed, invalid user ID or password",
        Fate::NotNow,
    ),
    // All operations of a transaction are checked before the first is applied.
    ("etcdserver: requested lease not found", Fate::NoLease),
    ("lease not found", Fate::NoLease),
];

/// Reads an error.
#[must_use]
pub fn fate_of(error: &Error) -> Fate {
    match error {
        Error::GRpcStatus(status) => fate_of_status(status),
        // The client's way to say that etcd answered a sign of life with no time to live. All else in this variant is
        // about its channels.
        Error::LeaseKeepAliveError(said) => said_by_etcd(said)
            .filter(|fate| *fate == Fate::NoLease)
            .unwrap_or(Fate::Unknown),
        // Before anything is sent.
        Error::InvalidArgs(_) | Error::InvalidUri(_) | Error::InvalidMetadataValue(_) => Fate::Never,
        _ => Fate::Unknown,
    }
}

fn fate_of_status(status: &Status) -> Fate {
    if never_left(status) {
        return Fate::NotSent;
    }
    match status.message().starts_with("etcdserver: ") {
        true => said_by_etcd(status.message()).unwrap_or(Fate::Unknown),
        false => Fate::Unknown,
    }
}

fn said_by_etcd(message: &str) -> Option<Fate> {
    SAID.iter().find(|(said, _)| *said == message).map(|(_, fate)| *fate)
}

/// What etcd says of a token that has expired, that it no longer knows (a simple token does not survive its restart), or that is
/// older than the last change of users and rights.
const STALE: [&str; 3] = [
    "etcdserver: invalid auth token",
    "etcdserver: revision of auth store is old",
    "etcdserver: user name is empty",
];
const WATCH_REFUSED: &str = "etcd refused the watch: ";
/// Of a watch etcd 3.4 says the same of a token that has expired as of rights that one never had.
const NO_RIGHTS: &str = "etcdserver: permission denied";

/// Whether a request was refused because of its token, before anything was done.
pub(crate) fn is_stale_token(error: &Error) -> bool {
    let Error::GRpcStatus(status) = error else { return false };
    match status.message().strip_prefix(WATCH_REFUSED) {
        Some(reason) => STALE.iter().chain([&NO_RIGHTS]).any(|said| reason.ends_with(said)),
        None => STALE.contains(&status.message()),
    }
}

/// A watch that etcd has answered with its end.
pub(crate) fn watch_refused(reason: &str) -> Error {
    Error::GRpcStatus(Status::failed_precondition(format!("{WATCH_REFUSED}{reason}")))
}

/// Whether the connection that should have carried the request could not be made.
fn never_left(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What to tell of a read that failed.
pub(crate) fn of_read(error: &Error) -> MetadataError {
    MetadataError::Unavailable(explained(error))
}

/// What to tell of a write that failed, unless it is about a lease.
pub(crate) fn of_write(error: &Error) -> MetadataError {
    match fate_of(error) {
        Fate::NotSent | Fate::NotNow | Fate::NoLease => MetadataError::Unavailable(explained(error)),
        Fate::Never => MetadataError::Invalid(explained(error)),
        Fate::Unknown => MetadataError::Unknown(explained(error)),
    }
}

/// An error with all its causes, and what may be done about it: "transport error" alone helps nobody.
pub(crate) fn explained(error: &Error) -> String {
    let text = match error {
        Error::GRpcStatus(status) => chain_of(status.message().to_owned(), status),
        Error::TransportError(error) => chain_of(error.to_string(), error),
        other => other.to_string(),
    };
    match (text.is_empty(), tls::advice(&text)) {
        (true, _) => format!("{error:?}"),
        (_, Some(advice)) => format!("{advice} ({text})"),
        (_, None) => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;

    fn status(code: Code, message: &str) -> Error {
        Error::GRpcStatus(Status::new(code, message))
    }

    #[test]
    fn no_code_alone_says_that_nothing_was_applied() {
        for code in (0..=16).map(Code::from) {
            for message in ["", "transport error", "no leader", "permission denied"] {
                assert_eq!(fate_of(&status(code, message)), Fate::Unknown, "{code:?} {message}");
            }
        }
    }

    #[test]
    fn what_may_yet_land_is_unknown() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
            ),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to connection lost",
            ),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::DataLoss, "etcdserver: corrupt cluster"),
            // Said by the member that has just applied it, too.
            (Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded"),
            // What a later release may say.
            (Code::InvalidArgument, "etcdserver: no leader today"),
        ] {
            assert_eq!(fate_of(&status(code, message)), Fate::Unknown, "{message}");
        }
        assert_eq!(
            fate_of(&Error::LeaseKeepAliveError("channel closed".into())),
            Fate::Unknown
        );
        assert_eq!(
            fate_of(&Error::WatchError("failed to create lease keeper".into())),
            Fate::Unknown
        );
    }

    #[test]
    fn etcds_own_word_is_believed() {
        for (said, fate) in SAID.iter().filter(|(said, _)| said.starts_with("etcdserver: ")) {
            assert_eq!(fate_of(&status(Code::Unknown, said)), *fate, "{said}");
        }
        let gone = Error::LeaseKeepAliveError("lease not found".into());
        assert_eq!(fate_of(&gone), Fate::NoLease);
    }

    #[test]
    fn a_request_that_found_no_connection_never_left() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        let error = Error::GRpcStatus(status);
        assert_eq!(fate_of(&error), Fate::NotSent);
        assert!(
            explained(&error).contains("connection refused"),
            "{}",
            explained(&error)
        );
        let broken = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
        let error = Error::GRpcStatus(Status::from_error(Box::new(broken)));
        assert_eq!(fate_of(&error), Fate::Unknown);
    }
}
