//! What an operator may set.

use crate::config::{ConfigError, Validate, invalid};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Who is let in: section `[auth]` of every service. `FULCRUM__AUTH__...` environment and TOML keys are spelled like the fields.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuthConfig {
    /// Clients have to show a token. Without it everybody may do everything, and tokens that are shown are not looked at.
    pub required: bool,
    /// A file with the root token, or its hash (`sha256:...`): it may do everything, and makes the first tokens.
    pub root_token_file: Option<PathBuf>,
    /// A file with the secret that services show each other; the same for all services of a cluster.
    pub internal_secret_file: Option<PathBuf>,
}

impl Validate for AuthConfig {
    fn validate(&self) -> Result<(), ConfigError> {
        if self.required && self.internal_secret_file.is_none() {
            let reason = "with auth.required, services must show each other a secret, else their internal ports stood open: make one with \
                          `fulcrum token generate internal` and give its file to all of them";
            return Err(invalid("auth.internal_secret_file", reason));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_not_required_while_internal_ports_stand_open() {
        assert!(AuthConfig::default().validate().is_ok());
        let mut config = AuthConfig {
            required: true,
            ..AuthConfig::default()
        };
        let refused = config.validate().unwrap_err().to_string();
        assert!(refused.contains("auth.internal_secret_file"), "{refused}");
        config.internal_secret_file = Some("secret".into());
        assert!(config.validate().is_ok());
    }
}
