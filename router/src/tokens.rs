//! Tokens as operators make, list, change and revoke them. What this router changes it goes by at once; all others hear of it by their watch.

use crate::admin::{AdminService, invalid, store_error};
use fulcrum_common::auth::text::Secret;
use fulcrum_common::auth::{Grant, TokenId, TokenRecord};
use fulcrum_common::entropy::random_u64;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::Refusal;
use tonic::{Response, Status};

impl AdminService {
    pub(crate) async fn make_token(
        &self,
        request: &v1::CreateTokenRequest,
    ) -> Result<Response<v1::CreateTokenResponse>, Status> {
        let now = self.clock.now().wall_ms;
        let secret = Secret::random().ok_or_else(|| {
            let reason = "the system gives no random numbers: look at the router's machine".to_owned();
            status::refusal_to_status(&Refusal::Stopped { reason })
        })?;
        let id = TokenId(random_u64());
        let record = TokenRecord {
            name: request.name.clone(),
            hash: secret.hash(),
            grants: grants(&request.rights)?,
            created_ms: now,
            expires_ms: request.expires_in_ms.map(|time| now.saturating_add(time)),
        };
        let made = self.store.create_token(id, record.clone(), now).await;
        self.guard.learn(&*made.map_err(store_error)?);
        Ok(Response::new(v1::CreateTokenResponse {
            token: Some(token_to_wire(id, &record)),
            text: secret.to_text(&id.to_string()),
        }))
    }

    pub(crate) async fn all_tokens(&self) -> Result<Response<v1::ListTokensResponse>, Status> {
        let table = self.store.tokens().await.map_err(store_error)?;
        let tokens = table.tokens.iter().map(|(id, record)| token_to_wire(*id, record));
        Ok(Response::new(v1::ListTokensResponse {
            tokens: tokens.collect(),
        }))
    }

    pub(crate) async fn give_rights(&self, request: &v1::SetTokenRightsRequest) -> Result<Response<v1::Token>, Status> {
        let grants = grants(&request.rights)?;
        let changed = self.store.set_token_rights(&request.token, &grants).await;
        let (id, table) = changed.map_err(store_error)?;
        self.guard.learn(&table);
        let record = table.tokens.get(&id);
        let record = record.ok_or_else(|| invalid("the token was revoked at once"))?;
        Ok(Response::new(token_to_wire(id, record)))
    }

    pub(crate) async fn take_back(&self, token: &str) -> Result<Response<v1::RevokeTokenResponse>, Status> {
        let (id, table) = self.store.revoke_token(token).await.map_err(store_error)?;
        self.guard.learn(&table);
        Ok(Response::new(v1::RevokeTokenResponse { id: id.to_string() }))
    }
}

/// As they are written down.
pub(crate) fn shown(rights: &[v1::TokenRight]) -> Vec<String> {
    let shown = rights.iter().map(|one| format!("{}:{}", one.keyspace, one.right));
    shown.collect()
}

fn grants(rights: &[v1::TokenRight]) -> Result<Vec<Grant>, Status> {
    rights.iter().map(|one| Grant::try_from(one).map_err(invalid)).collect()
}

fn token_to_wire(id: TokenId, record: &TokenRecord) -> v1::Token {
    v1::Token {
        id: id.to_string(),
        name: record.name.clone(),
        rights: record.grants.iter().map(Into::into).collect(),
        created_ms: record.created_ms,
        expires_ms: record.expires_ms,
    }
}
