//! Tokens, as operators make, list, change and revoke them.

use crate::admin::Admin;
use crate::error::Error;
use fulcrum_common::auth::Grant;
use fulcrum_common::wire::{Malformed, v1};
use std::fmt;
use std::time::Duration;

/// All that is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// No secret: it is in every line about the token.
    pub id: String,
    /// For people; one token of a name.
    pub name: String,
    /// What it may do.
    pub rights: Vec<Grant>,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// From when on it is good for nothing; none: never.
    pub expires_ms: Option<u64>,
}

/// A token that was just made.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// What is kept of it.
    pub info: TokenInfo,
    /// What its owner sends, and all there is of its secret: it is shown this once.
    pub text: String,
}

impl fmt::Debug for NewToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewToken")
            .field("info", &self.info)
            .finish_non_exhaustive()
    }
}

impl Admin {
    /// Makes a token; good at the router that made it once this returns, elsewhere as soon as they have heard of it.
    ///
    /// # Errors
    /// The name is taken, or these are no rights.
    pub async fn create_token(
        &self,
        name: &str,
        rights: &[Grant],
        expires_in: Option<Duration>,
    ) -> Result<NewToken, Error> {
        let request = v1::CreateTokenRequest {
            name: name.to_owned(),
            rights: rights.iter().map(Into::into).collect(),
            expires_in_ms: expires_in.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX)),
        };
        let made = self.call(request).await?;
        let token = made.token.ok_or_else(|| Malformed::missing("token"))?;
        Ok(NewToken {
            info: token.try_into()?,
            text: made.text,
        })
    }

    /// All tokens.
    ///
    /// # Errors
    /// As for a read.
    pub async fn list_tokens(&self) -> Result<Vec<TokenInfo>, Error> {
        let listed = self.call(v1::ListTokensRequest {}).await?;
        let tokens = listed.tokens.into_iter().map(TryInto::try_into);
        Ok(tokens.collect::<Result<_, Malformed>>()?)
    }

    /// Gives a token, by id or name, these rights in place of those that it has. Its streams end, and may be opened anew.
    ///
    /// # Errors
    /// There is no such token, or these are no rights.
    pub async fn set_token_rights(&self, token: &str, rights: &[Grant]) -> Result<TokenInfo, Error> {
        let request = v1::SetTokenRightsRequest {
            token: token.to_owned(),
            rights: rights.iter().map(Into::into).collect(),
        };
        Ok(self.call(request).await?.try_into()?)
    }

    /// Makes a token, by id or name, good for nothing; answers its id. Its streams end.
    ///
    /// # Errors
    /// There is no such token.
    pub async fn revoke_token(&self, token: &str) -> Result<String, Error> {
        let token = token.to_owned();
        Ok(self.call(v1::RevokeTokenRequest { token }).await?.id)
    }
}

impl TryFrom<v1::Token> for TokenInfo {
    type Error = Malformed;

    fn try_from(wire: v1::Token) -> Result<Self, Malformed> {
        let grant = |one: &v1::TokenRight| Grant::try_from(one).map_err(Malformed);
        Ok(Self {
            id: wire.id,
            name: wire.name,
            rights: wire.rights.iter().map(grant).collect::<Result<_, Malformed>>()?,
            created_ms: wire.created_ms,
            expires_ms: wire.expires_ms,
        })
    }
}
