//! Secrets as text: `fulcrum_<id>_<secret>`, where the secret is 256 random bits in hexadecimal.
//!
//! Only the hash is kept anywhere. Hashes are compared in constant time: how long it takes says nothing of how much was right.

use super::token::TokenId;
use crate::error::StartError;
use crate::secret_files::warn_if_open;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use std::fmt;
use subtle::ConstantTimeEq;

/// What every token begins with, so that scanners for leaked secrets find it.
const PREFIX: &str = "fulcrum_";
/// The id of the root token, which no record has.
pub const ROOT: &str = "root";
/// The id of the secret that services show each other.
pub const INTERNAL: &str = "internal";
/// Names a hash where a file may hold one in place of the secret.
const HASHED: &str = "sha256:";
const BYTES: usize = 32;

/// A secret. It is shown once, and never by accident: neither `Debug` nor logs show it.
#[derive(Clone)]
pub struct Secret([u8; BYTES]);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// The SHA-256 of a secret.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SecretHash([u8; BYTES]);

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_hex())
    }
}

impl Secret {
    /// A new one from the system's source of randomness. None if that fails: nothing else would do.
    #[must_use]
    pub fn random() -> Option<Self> {
        let mut bytes = [0; BYTES];
        SystemRandom::new().fill(&mut bytes).ok()?;
        Some(Self(bytes))
    }

    /// What is kept of it.
    #[must_use]
    pub fn hash(&self) -> SecretHash {
        let mut hash = [0; BYTES];
        hash.copy_from_slice(digest(&SHA256, &self.0).as_ref());
        SecretHash(hash)
    }

    /// As its owner sends it.
    #[must_use]
    pub fn to_text(&self, id: &str) -> String {
        format!("{PREFIX}{id}_{}", to_hex(&self.0))
    }
}

impl SecretHash {
    /// Of no secret that anybody knows.
    pub(super) const NOBODYS: Self = Self([0; BYTES]);

    /// Whether a secret is the one, in a time that does not depend on either.
    #[must_use]
    pub fn is_of(&self, secret: &Secret) -> bool {
        bool::from(self.0.ct_eq(&secret.hash().0))
    }

    /// As it is written down.
    #[must_use]
    pub fn to_hex(self) -> String {
        to_hex(&self.0)
    }

    /// From what was written down.
    #[must_use]
    pub fn from_hex(text: &str) -> Option<Self> {
        from_hex(text).map(Self)
    }
}

/// The id and the secret of a token as it is sent; none if it is none.
#[must_use]
pub fn parse(text: &str) -> Option<(&str, Secret)> {
    let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    Some((id, Secret(from_hex(secret)?)))
}

/// The id in a record's token.
#[must_use]
pub fn id_of(id: &str) -> Option<TokenId> {
    from_digits::<8>(id).map(|bytes| TokenId(u64::from_be_bytes(bytes)))
}

/// The hash of the secret of that id in a file: of one that stands there, or the hash alone (`sha256:<hexadecimal>`).
///
/// # Errors
/// The file cannot be read, or holds neither. What it holds is not repeated.
pub(super) fn hash_in_file(key: &str, path: &std::path::Path, id: &str) -> Result<SecretHash, StartError> {
    let text = read(path)?;
    if let Some(hash) = text.strip_prefix(HASHED).and_then(SecretHash::from_hex) {
        return Ok(hash);
    }
    warn_if_open(key, path);
    secret_in(&text, id).map(|secret| secret.hash()).ok_or_else(|| {
        StartError::Config(format!(
            "{key}: {} holds neither a secret `{PREFIX}{id}_...` nor `{HASHED}...`: make one with `fulcrum token generate {id}`",
            path.display()
        ))
    })
}

/// The secret of that id in a file.
///
/// # Errors
/// As above.
pub(super) fn secret_in_file(key: &str, path: &std::path::Path, id: &str) -> Result<Secret, StartError> {
    warn_if_open(key, path);
    secret_in(&read(path)?, id).ok_or_else(|| {
        StartError::Config(format!(
            "{key}: {} holds no secret `{PREFIX}{id}_...`: make one with `fulcrum token generate {id}`, the same for all services",
            path.display()
        ))
    })
}

fn read(path: &std::path::Path) -> Result<String, StartError> {
    let text = std::fs::read_to_string(path).map_err(|error| StartError::file("read", path, error))?;
    Ok(text.trim().to_owned())
}

fn secret_in(text: &str, wanted: &str) -> Option<Secret> {
    let (id, secret) = parse(text)?;
    (id == wanted).then_some(secret)
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; BYTES]> {
    from_digits::<BYTES>(text)
}

/// Of so many digits exactly, in lower case: a secret is written in one way.
fn from_digits<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_is_read_back() {
        let secret = Secret::random().unwrap();
        let text = secret.to_text("00000000000000ff");
        assert_eq!(text.len(), PREFIX.len() + 16 + 1 + 64);
        let (id, read) = parse(&text).unwrap();
        assert_eq!(id_of(id), Some(TokenId(255)));
        assert!(secret.hash().is_of(&read));
        assert!(!secret.hash().is_of(&Secret::random().unwrap()));
        assert_eq!(SecretHash::from_hex(&secret.hash().to_hex()), Some(secret.hash()));
    }

    #[test]
    fn the_hash_is_sha_256() {
        let hash = Secret([0; BYTES]).hash().to_hex();
        assert_eq!(hash, "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925");
    }

    #[test]
    fn what_is_none_is_no_token() {
        let digits = "0".repeat(64);
        let wrong = [
            String::new(),
            "fulcrum".into(),
            format!("fulcrum_{digits}"),
            format!("Fulcrum_1_{digits}"),
            format!("fulcrum_1_{digits}0"),
            format!("fulcrum_1_{}", &digits[1..]),
            format!("fulcrum_1_{}", "A".repeat(64)),
            format!("fulcrum_1_{}", "\u{e9}".repeat(32)),
        ];
        for text in wrong {
            assert!(parse(&text).is_none(), "{text}");
        }
        assert_eq!(id_of("1"), None);
        assert_eq!(id_of(ROOT), None);
    }

    #[test]
    fn a_secret_is_not_shown_by_accident() {
        let secret = Secret::random().unwrap();
        let digits = to_hex(&secret.0);
        assert!(!format!("{secret:?}").contains(&digits[..8]));
    }

    #[test]
    fn files_hold_a_secret_or_its_hash() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let secret = Secret::random().unwrap();
        let hashed = |text: &str| {
            std::fs::write(&path, text).unwrap();
            hash_in_file("auth.root_token_file", &path, ROOT)
        };
        assert_eq!(hashed(&format!("{}\n", secret.to_text(ROOT))).unwrap(), secret.hash());
        assert_eq!(
            hashed(&format!("sha256:{}", secret.hash().to_hex())).unwrap(),
            secret.hash()
        );
        let other = secret.to_text(INTERNAL);
        let refused = hashed(&other).unwrap_err().to_string();
        assert!(
            refused.contains("auth.root_token_file") && !refused.contains(&other),
            "{refused}"
        );
        assert!(secret_in_file("key", &path, INTERNAL).is_ok());
        assert!(secret_in_file("key", &folder.path().join("none"), INTERNAL).is_err());
    }
}
