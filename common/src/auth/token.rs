//! Tokens as the metadata store keeps them: everything but their secrets.

use super::rights::{Grant, Scope};
use super::text::SecretHash;
use crate::keyspace::validate_name;
use crate::metadata::Revision;
use std::collections::BTreeMap;
use std::fmt;
use thiserror::Error;

/// Most tokens of a cluster: they are kept as one value, as the map is.
pub const TOKENS_MAX: usize = 1024;
/// Most rights of one token, and most bytes of its name.
const GRANTS_MAX: usize = 16;
const NAME_MAX: usize = 64;

/// A token's id: no secret, and in every line about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is known of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenRecord {
    /// For people; one token of a name.
    pub name: String,
    /// Of its secret.
    pub hash: SecretHash,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// From when on it is good for nothing; none: never.
    pub expires_ms: Option<u64>,
}

/// All tokens of a cluster, as of one revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenTable {
    /// The revision.
    pub revision: Revision,
    /// By their ids.
    pub tokens: BTreeMap<TokenId, TokenRecord>,
}

/// Why a token cannot be made or changed so.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NotAToken {
    /// The name is none.
    #[error("'{0}' is no name for a token: use 1 to {NAME_MAX} letters, digits and . _ - @ /")]
    Name(String),
    /// Another one has it.
    #[error("there is a token named '{0}': revoke it first, or choose another name")]
    NameTaken(String),
    /// It could do nothing, or its record would be too large.
    #[error("a token has 1 to {GRANTS_MAX} rights, not {0}")]
    Grants(usize),
    /// A right in what can be no keyspace.
    #[error("'{0}' can be no keyspace: give its name, or * for all")]
    Keyspace(String),
    /// Too many.
    #[error("a cluster has at most {TOKENS_MAX} tokens: revoke those that nobody uses")]
    TooMany,
    /// There is none.
    #[error("there is no token '{0}': see `fulcrum token list`")]
    Unknown(String),
}

impl TokenRecord {
    /// Whether it is good for nothing any more.
    #[must_use]
    pub fn is_expired(&self, wall_ms: u64) -> bool {
        self.expires_ms.is_some_and(|expires| expires <= wall_ms)
    }

    /// Whether it may be kept so.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn validate(&self) -> Result<(), NotAToken> {
        let fits = |c: char| c.is_ascii_alphanumeric() || "._-@/".contains(c);
        if self.name.is_empty() || self.name.len() > NAME_MAX || !self.name.chars().all(fits) {
            return Err(NotAToken::Name(self.name.clone()));
        }
        if self.grants.is_empty() || self.grants.len() > GRANTS_MAX {
            return Err(NotAToken::Grants(self.grants.len()));
        }
        for grant in &self.grants {
            if let Scope::Keyspace(name) = &grant.scope
                && validate_name(name).is_err()
            {
                return Err(NotAToken::Keyspace(name.clone()));
            }
        }
        Ok(())
    }
}

impl TokenTable {
    /// Adds one.
    ///
    /// # Errors
    /// It is none, its name is taken, or there are too many.
    pub fn add(&mut self, id: TokenId, record: TokenRecord) -> Result<(), NotAToken> {
        record.validate()?;
        if self.tokens.values().any(|other| other.name == record.name) {
            return Err(NotAToken::NameTaken(record.name));
        }
        if self.tokens.len() >= TOKENS_MAX || self.tokens.contains_key(&id) {
            return Err(NotAToken::TooMany);
        }
        self.tokens.insert(id, record);
        Ok(())
    }

    /// The one with that id or name.
    ///
    /// # Errors
    /// There is none.
    pub fn find(&self, id_or_name: &str) -> Result<TokenId, NotAToken> {
        let by_id = super::text::id_of(id_or_name).filter(|id| self.tokens.contains_key(id));
        let by_name = || self.tokens.iter().find(|(_, record)| record.name == id_or_name);
        by_id
            .or_else(|| by_name().map(|(id, _)| *id))
            .ok_or_else(|| NotAToken::Unknown(id_or_name.to_owned()))
    }

    /// Those that have expired go: they are good for nothing, and take the place of others.
    pub fn forget_expired(&mut self, wall_ms: u64) {
        self.tokens.retain(|_, record| !record.is_expired(wall_ms));
    }
}
