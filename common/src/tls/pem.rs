//! Files in PEM: what they must hold, and which setting names them.

use crate::config::{ConfigError, invalid};
use rustls::RootCertStore;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use std::path::Path;

/// How a certificate begins.
pub const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----";
/// Ends in `-----`, too: PKCS #8, PKCS #1 and SEC 1 each have their own word before it.
pub const KEY: &str = "PRIVATE KEY-----";

/// Reads the file of a setting, which must have something in PEM.
///
/// # Errors
/// It cannot be read, or has nothing of the kind.
pub fn read(setting: &str, file: &Path, must_have: &str) -> Result<String, ConfigError> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| invalid(setting, format!("cannot read {}: {error}", file.display())))?;
    match text.contains(must_have) {
        true => Ok(text),
        false => {
            let reason = format!("{} has no '{must_have}': a file in PEM is needed", file.display());
            Err(invalid(setting, reason))
        }
    }
}

/// All certificates of a text, in their order.
pub(super) fn certificates(text: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    match all {
        Ok(all) if !all.is_empty() => Ok(all),
        Ok(_) => Err("no certificate is in it".to_owned()),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

/// Those who may sign.
pub(super) fn authorities(text: &str) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(text)? {
        roots
            .add(certificate)
            .map_err(|error| format!("a certificate in it cannot be an authority's: {error}"))?;
    }
    Ok(roots)
}

/// The first key of a text.
pub(super) fn key(text: &str) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| format!("it is no key in PEM: {error}"))
}
