//! Tokens in the metadata store: one value under `/fulcrum/<cluster>/tokens`, as the map is, so that a change of any is one event of the
//! same watch, and whoever has a table has all of one moment. It is absent until the first token is made.

use super::cluster_store::{ClusterStore, StoreError};
use super::format::{decode_tokens, encode_tokens};
use super::{Compare, KeyValue, Op, Revision, TxnOutcome};
use crate::auth::{Grant, NotAToken, TokenId, TokenRecord, TokenTable};
use std::sync::Arc;

/// Attempts to change the table before others' changes are said to be in the way.
const ATTEMPTS: u32 = 16;

impl ClusterStore {
    pub(super) fn tokens_key(&self) -> String {
        format!("{}tokens", self.prefix)
    }

    /// The tokens in force.
    ///
    /// # Errors
    /// The store does not answer, or what it holds cannot be read.
    pub async fn tokens(&self) -> Result<Arc<TokenTable>, StoreError> {
        let found = self.metadata.get(&self.tokens_key()).await?;
        let table = found.map(|kv| tokens_from(&kv)).transpose()?;
        Ok(Arc::new(table.unwrap_or_default()))
    }

    /// Makes a token; answers all that are in force then. What has expired by now is forgotten.
    ///
    /// # Errors
    /// The record is none or its name is taken; otherwise as for every change.
    pub async fn create_token(
        &self,
        id: TokenId,
        record: TokenRecord,
        wall_ms: u64,
    ) -> Result<Arc<TokenTable>, StoreError> {
        let change = |table: &mut TokenTable| {
            table.forget_expired(wall_ms);
            table.add(id, record.clone())
        };
        Ok(self.change_tokens(change).await?.1)
    }

    /// Gives a token, by id or name, other rights; answers which, and all that are in force then.
    ///
    /// # Errors
    /// There is no such token, or these are no rights; otherwise as for every change.
    pub async fn set_token_rights(
        &self,
        token: &str,
        grants: &[Grant],
    ) -> Result<(TokenId, Arc<TokenTable>), StoreError> {
        let change = |table: &mut TokenTable| {
            let id = table.find(token)?;
            if let Some(record) = table.tokens.get_mut(&id) {
                record.grants = grants.to_vec();
                record.validate()?;
            }
            Ok(id)
        };
        self.change_tokens(change).await
    }

    /// Makes a token, by id or name, good for nothing; answers which, and all that are in force then.
    ///
    /// # Errors
    /// There is no such token; otherwise as for every change.
    pub async fn revoke_token(&self, token: &str) -> Result<(TokenId, Arc<TokenTable>), StoreError> {
        let change = |table: &mut TokenTable| {
            let id = table.find(token)?;
            table.tokens.remove(&id);
            Ok(id)
        };
        self.change_tokens(change).await
    }

    /// Again and again until nobody else changed it meanwhile.
    async fn change_tokens<T>(
        &self,
        change: impl Fn(&mut TokenTable) -> Result<T, NotAToken>,
    ) -> Result<(T, Arc<TokenTable>), StoreError> {
        let key = self.tokens_key();
        for _ in 0..ATTEMPTS {
            let before = self.tokens().await?;
            let mut table = TokenTable::clone(&before);
            let changed = change(&mut table)?;
            let value = encode_tokens(&key, &table)?;
            let unchanged = Compare {
                key: key.clone(),
                mod_revision: before.revision,
            };
            let put = vec![Op::put(key.clone(), value)];
            if let TxnOutcome::Succeeded { revision } = self.metadata.txn(vec![unchanged], put).await? {
                table.revision = revision;
                return Ok((changed, Arc::new(table)));
            }
        }
        Err(StoreError::Unavailable(
            "others keep changing the tokens: try again".to_owned(),
        ))
    }
}

pub(super) fn tokens_from(found: &KeyValue) -> Result<TokenTable, StoreError> {
    decode_tokens(&found.key, &found.value, Revision(found.mod_revision.0))
}
