//! Sessions: read your own writes and never go back in time, on any replica (DESIGN rule 8).

use fulcrum_common::wire::v1;
use fulcrum_types::{Epoch, GroupId, Index, LogPosition, MapVersion, Receipt, SessionToken};
use std::fmt::Write;
use std::sync::{Arc, Mutex, PoisonError};

/// What has been seen, kept up to date from every receipt. Clones share it.
///
/// ```
/// use fulcrum_client::Session;
///
/// let session = Session::new();
/// // ... requests of `client.keyspace("orders").in_session(&session)` ...
/// let text = session.export();
/// // Another process goes on where this one was:
/// let session = Session::import(&text).unwrap();
/// ```
#[derive(Clone, Debug, Default)]
pub struct Session {
    token: Arc<Mutex<SessionToken>>,
}

/// A session's text that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is no session: use what Session::export gave")]
pub struct NotASession(String);

impl Session {
    /// A session that has seen nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A session that has seen what another one has.
    #[must_use]
    pub fn from_token(token: SessionToken) -> Self {
        Self {
            token: Arc::new(Mutex::new(token)),
        }
    }

    /// What it has seen so far.
    #[must_use]
    pub fn token(&self) -> SessionToken {
        self.with(|token| token.clone())
    }

    /// Takes in all that another session has seen: what follows is not older than either.
    pub fn merge(&self, token: &SessionToken) {
        self.with(|own| own.merge(token));
    }

    /// Takes in what an answer proves.
    pub fn observe(&self, receipt: &Receipt) {
        let position = LogPosition {
            epoch: receipt.epoch,
            index: receipt.index,
        };
        self.with(|token| {
            token.map_version = token.map_version.max(receipt.map_version);
            token.observe(receipt.group, position);
        });
    }

    /// As one line of text: `1;map;group=epoch.index,...`.
    #[must_use]
    pub fn export(&self) -> String {
        self.with(|token| {
            let mut text = format!("1;{};", token.map_version.0);
            for (at, (group, position)) in token.groups.iter().enumerate() {
                let comma = if at == 0 { "" } else { "," };
                // Writing to a string does not fail.
                let _ = write!(text, "{comma}{}={}.{}", group.0, position.epoch.0, position.index.0);
            }
            text
        })
    }

    /// From the text of [`Session::export`].
    ///
    /// # Errors
    /// The text is not one.
    pub fn import(text: &str) -> Result<Self, NotASession> {
        parse(text)
            .map(Self::from_token)
            .ok_or_else(|| NotASession(text.to_owned()))
    }

    pub(crate) fn wire(&self) -> v1::SessionToken {
        self.with(|token| (&*token).into())
    }

    fn with<T>(&self, run: impl FnOnce(&mut SessionToken) -> T) -> T {
        run(&mut self.token.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn parse(text: &str) -> Option<SessionToken> {
    let mut parts = text.trim().strip_prefix("1;")?.splitn(2, ';');
    let map_version = MapVersion(parts.next()?.parse().ok()?);
    let mut token = SessionToken {
        map_version,
        ..SessionToken::default()
    };
    for entry in parts.next()?.split(',').filter(|entry| !entry.is_empty()) {
        let (group, position) = entry.split_once('=')?;
        let (epoch, index) = position.split_once('.')?;
        let position = LogPosition {
            epoch: Epoch(epoch.parse().ok()?),
            index: Index(index.parse().ok()?),
        };
        token.observe(GroupId(group.parse().ok()?), position);
    }
    Some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_survives_its_text() {
        let session = Session::new();
        assert_eq!(Session::import(&session.export()).unwrap().token(), session.token());
        let mut token = SessionToken {
            map_version: MapVersion(9),
            ..SessionToken::default()
        };
        for group in 1..4 {
            let position = LogPosition {
                epoch: Epoch(2),
                index: Index(group * 10),
            };
            token.observe(GroupId(group), position);
        }
        session.merge(&token);
        assert_eq!(session.export(), "1;9;1=2.10,2=2.20,3=2.30");
        assert_eq!(Session::import(&session.export()).unwrap().token(), token);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "1;",
            "2;1;",
            "1;x;",
            "1;1;a=1.1",
            "1;1;1=1",
            "1;1;1=1.1.1",
            "1;1;=,",
        ] {
            assert!(Session::import(text).is_err(), "{text:?}");
        }
    }
}
