//! What a service knows of tokens, and whom it recognises by that. Calls look into memory only.

use super::caller::{Caller, InForce, Over};
use super::config::AuthConfig;
use super::internal::{Internal, InternalSecret};
use super::refused::{Reason, Refused};
use super::text::{self, INTERNAL, ROOT, Secret, SecretHash};
use super::token::{TokenId, TokenTable};
use crate::clock::Clock;
use crate::error::StartError;
use crate::metadata::{Revision, StoreError};
use crate::metrics::{MetricError, Metrics};
use fulcrum_types::Refusal;
use prometheus::IntGauge;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::time::Instant;

/// How often expired tokens are looked for: what runs under one ends so much later at most.
const EXPIRY_CHECK: Duration = Duration::from_millis(500);
/// How often it is said again that tokens cannot be read, in such looks.
const LOOKS_UNTIL_SAID_AGAIN: u32 = 120;
const SCHEME: &str = "Bearer ";

/// Recognises callers, for one service.
#[derive(Debug)]
pub struct Guard {
    required: bool,
    root: Option<SecretHash>,
    internal: Option<InternalSecret>,
    known: RwLock<Known>,
    clock: Clocked,
    refused: Arc<Refused>,
    /// 1 while newer tokens than those known cannot be read.
    unreadable: IntGauge,
}

/// A clock, of which `Debug` has nothing to say.
struct Clocked(Arc<dyn Clock>);

impl std::fmt::Debug for Clocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

/// The tokens in force. Before the first table comes nobody is recognised.
#[derive(Debug, Default)]
struct Known {
    revision: Option<Revision>,
    /// When the store answered the call of which they are, and not the watch.
    answered: Option<Instant>,
    tokens: HashMap<TokenId, Arc<InForce>>,
    /// Why newer ones are not known.
    unreadable: Option<String>,
}

/// What a table is to what is known.
#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    None,
    Newer,
    /// The store has gone back to it.
    OfAnEarlierTime,
}

impl Known {
    fn news(&self, revision: Revision, asked: Option<Instant>) -> News {
        let is_older = self.revision.is_some_and(|known| known > revision);
        let answered_since = asked.is_some_and(|asked| self.answered.is_some_and(|answered| answered > asked));
        match asked {
            None if is_older || self.revision == Some(revision) => News::None,
            Some(_) if is_older && answered_since => News::None,
            Some(_) if is_older => News::OfAnEarlierTime,
            _ => News::Newer,
        }
    }
}

/// What came with a call.
pub(super) struct Shown<'a> {
    pub(super) authorization: Option<&'a [u8]>,
    pub(super) peer: Option<SocketAddr>,
    pub(super) path: &'a str,
}

impl Guard {
    /// Reads the files that the settings name. What was refused is counted among the service's metrics.
    ///
    /// # Errors
    /// A file cannot be read or holds no secret, or the settings contradict themselves.
    pub fn open(config: &AuthConfig, clock: Arc<dyn Clock>, metrics: &Metrics) -> Result<Arc<Self>, StartError> {
        use crate::config::Validate;
        config.validate()?;
        let root = config.root_token_file.as_deref();
        let root = root.map(|path| text::hash_in_file("auth.root_token_file", path, ROOT));
        let internal = config.internal_secret_file.as_deref();
        let internal = internal.map(|path| text::secret_in_file("auth.internal_secret_file", path, INTERNAL));
        let twice = |error: MetricError| StartError::Config(error.to_string());
        let refused = Refused::new(metrics, clock.clone()).map_err(twice)?;
        let help = "1 while the metadata store holds tokens that this process cannot read: it goes by those that it knew before.";
        let unreadable = metrics.gauge("fulcrum_auth_tokens_unreadable", help, &[]);
        Ok(Arc::new(Self {
            required: config.required,
            root: root.transpose()?,
            internal: internal.transpose()?.as_ref().map(InternalSecret::new),
            known: RwLock::default(),
            clock: Clocked(clock),
            refused: Arc::new(refused),
            unreadable: unreadable.map_err(twice)?.with_label_values(&[] as &[&str]),
        }))
    }

    /// For the calls that this service makes to others.
    #[must_use]
    pub fn to_show(&self) -> Internal {
        self.internal.as_ref().map(InternalSecret::to_show).unwrap_or_default()
    }

    /// Says so if strangers can connect and nothing is asked of them.
    pub fn warn_if_open(&self, listen: SocketAddr) {
        if !self.required && !listen.ip().is_loopback() {
            tracing::warn!(
                %listen,
                "other machines can connect here, and everybody may do everything: set auth.required (docs/security-tokens.md)"
            );
        }
    }

    /// Takes in a table that the store answered to a call, unless it is older than the one known. What runs under tokens that are gone or
    /// changed is ended.
    pub fn learn(&self, table: &TokenTable) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known.revision.is_none_or(|revision| revision < table.revision) {
            known.answered = Some(Instant::now());
            self.replace(&mut known, table);
        }
    }

    /// The same of the watch. A change counts unless it is older than what is known; but what a store that was `asked` says it holds takes the
    /// place of all that was known by then, whatever its revision: a store that was restored from a snapshot begins to count again from there.
    /// Only what the store has answered to others since it was asked may be newer.
    pub fn hear(&self, table: &TokenTable, asked: Option<Instant>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let news = known.news(table.revision, asked);
        if news == News::OfAnEarlierTime {
            tracing::warn!(
                known = ?known.revision,
                found = %table.revision,
                "the metadata store holds older tokens than before, as if restored from a snapshot; they are in force now: \
                 look through `fulcrum token list`, and revoke again what was revoked since (docs/security-tokens.md)"
            );
        }
        if news != News::None {
            self.replace(&mut known, table);
        }
    }

    /// The store holds tokens that cannot be read. Those known before stay in force: nobody can make or revoke any meanwhile, and to let nobody in
    /// would help none but who broke them. Said loudly, and again and again.
    pub fn cannot_read(&self, error: &StoreError, revision: Revision, asked: Option<Instant>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        // What repairs them is newer than they are, and may be older than those known before.
        if known.news(revision, asked) != News::None {
            known.revision = Some(revision);
        }
        known.unreadable = Some(error.to_string());
        self.unreadable.set(1);
        say_unreadable(&known);
    }

    fn replace(&self, known: &mut Known, table: &TokenTable) {
        known.unreadable = None;
        self.unreadable.set(0);
        let mut before = std::mem::take(&mut known.tokens);
        for (id, record) in &table.tokens {
            let kept = before.remove(id).filter(|old| {
                let same = old.record == *record;
                if !same {
                    old.end(Over::Changed);
                }
                same
            });
            let token = kept.unwrap_or_else(|| Arc::new(InForce::new(*id, record.clone(), self.refused.clone())));
            known.tokens.insert(*id, token);
        }
        before.values().for_each(|gone| gone.end(Over::Gone));
        known.revision = Some(table.revision);
    }

    /// Ends what runs under tokens that expire, as long as it is polled.
    pub async fn end_expired(self: Arc<Self>) {
        let mut looks = tokio::time::interval(EXPIRY_CHECK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for look in 1.. {
            looks.tick().await;
            if look % LOOKS_UNTIL_SAID_AGAIN == 0 {
                say_unreadable(&self.known.read().unwrap_or_else(PoisonError::into_inner));
            }
            self.end_those_expired_by(self.clock.0.now().wall_ms);
        }
    }

    /// What ran under such a token is ended for good. The token is not: a wall clock that was ahead may be set back.
    fn end_those_expired_by(&self, wall_ms: u64) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let expired = |token: &&mut Arc<InForce>| token.record.is_expired(wall_ms) && Arc::strong_count(token) > 1;
        for token in known.tokens.values_mut().filter(expired) {
            let anew = InForce::new(token.id, token.record.clone(), self.refused.clone());
            std::mem::replace(token, Arc::new(anew)).end(Over::Gone);
        }
    }

    /// Whoever makes a client's call.
    pub(super) fn client(&self, shown: &Shown<'_>) -> Result<Caller, Refusal> {
        if !self.required {
            return Ok(Caller::anyone());
        }
        let (id, secret) = self.read(shown)?;
        self.recognise(id, &secret)
            .map_err(|reason| self.refuse(reason, Some(id), shown))
    }

    /// Whether another service makes this call.
    pub(super) fn service(&self, shown: &Shown<'_>) -> Result<(), Refusal> {
        let Some(internal) = self.internal.as_ref().filter(|_| self.required) else {
            return Ok(());
        };
        let (id, secret) = self.read(shown)?;
        match internal.is(&secret) && id == INTERNAL {
            true => Ok(()),
            false => Err(self.refuse(Reason::NotInternal, Some(id), shown)),
        }
    }

    fn read<'a>(&self, shown: &Shown<'a>) -> Result<(&'a str, Secret), Refusal> {
        let header = shown
            .authorization
            .ok_or_else(|| self.refuse(Reason::Missing, None, shown))?;
        std::str::from_utf8(header)
            .ok()
            .and_then(|header| text::parse(header.strip_prefix(SCHEME)?))
            .ok_or_else(|| self.refuse(Reason::Malformed, None, shown))
    }

    /// One hash, whoever it is: how long it takes does not tell whether there is such a token.
    fn recognise(&self, id: &str, secret: &Secret) -> Result<Caller, Reason> {
        if id == ROOT {
            let hash = self.root.unwrap_or(SecretHash::NOBODYS);
            let is_root = hash.is_of(secret) && self.root.is_some();
            return is_root.then(Caller::root).ok_or(match self.root {
                Some(_) => Reason::WrongSecret,
                None => Reason::Unknown,
            });
        }
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let token = text::id_of(id).and_then(|id| known.tokens.get(&id));
        let hash = token.map_or(SecretHash::NOBODYS, |token| token.record.hash);
        let right = hash.is_of(secret);
        match token {
            None if known.revision.is_none() => Err(Reason::NoTokensKnown),
            None => Err(Reason::Unknown),
            Some(_) if !right => Err(Reason::WrongSecret),
            Some(token) if token.record.is_expired(self.clock.0.now().wall_ms) => Err(Reason::Expired),
            Some(token) => Ok(Caller::with(token.clone())),
        }
    }

    /// An id that makes no sense may be anything, and is not written down.
    fn refuse(&self, reason: Reason, id: Option<&str>, shown: &Shown<'_>) -> Refusal {
        let id = id.filter(|id| [ROOT, INTERNAL].contains(id) || text::id_of(id).is_some());
        self.refused.note(reason, id, shown.peer, shown.path);
        Refusal::Unauthenticated
    }
}

fn say_unreadable(known: &Known) {
    if let Some(error) = &known.unreadable {
        tracing::error!(
            %error,
            known = ?known.revision,
            "the tokens in the metadata store cannot be read: those known before stay in force, and none can be made or revoked; restore \
             their key, or remove it, which revokes all (docs/security-tokens.md)"
        );
    }
}
