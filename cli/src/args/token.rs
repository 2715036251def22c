//! Commands for operators: tokens.

use super::positive;
use clap::{Args, Subcommand, ValueEnum};
use fulcrum_client::Grant;
use std::time::Duration;

/// `fulcrum token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token; its text is shown this once
    Create(TokenCreateArgs),
    /// List all tokens, with their rights and without their secrets
    List,
    /// Give a token other rights in place of those that it has
    Rights {
        /// Its name or id
        token: String,
        /// A right in a keyspace, or in all: orders:read, orders:write, '*:admin' (may be repeated)
        #[arg(long = "right", required = true, value_name = "KEYSPACE:RIGHT")]
        rights: Vec<Grant>,
    },
    /// Make a token good for nothing, at once
    Revoke {
        /// Its name or id
        token: String,
    },
    /// Make a secret for a file of the services, without a cluster: the root token, or what they show each other
    Generate {
        /// Which
        #[arg(value_enum)]
        what: Generated,
    },
}

/// `fulcrum token create`.
#[derive(Clone, Debug, Args)]
pub struct TokenCreateArgs {
    /// Its name, for people: one token of a name
    pub name: String,
    /// A right in a keyspace, or in all: orders:read, orders:write, '*:admin' (may be repeated)
    #[arg(long = "right", required = true, value_name = "KEYSPACE:RIGHT")]
    pub rights: Vec<Grant>,
    /// For how long it is good, as in 12h or 90d [default: for ever]
    #[arg(long, value_parser = days, value_name = "TIME")]
    pub expires: Option<Duration>,
}

/// A secret that services read from a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Generated {
    /// For auth.root_token_file
    Root,
    /// For auth.internal_secret_file
    Internal,
}

/// A time that may be given in days.
fn days(text: &str) -> Result<Duration, String> {
    let Some(days) = text.strip_suffix('d').and_then(|days| days.parse::<u64>().ok()) else {
        return positive(text);
    };
    match days.checked_mul(24 * 60 * 60) {
        None | Some(0) => Err("from 1d to as many as a number holds, please".to_owned()),
        Some(seconds) => Ok(Duration::from_secs(seconds)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expiry_may_be_in_days() {
        assert_eq!(days("90d"), Ok(Duration::from_secs(90 * 86_400)));
        assert_eq!(days("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["0d", "d", "-1d", "18446744073709551615d", "0s"] {
            assert!(days(wrong).is_err(), "{wrong}");
        }
    }
}
