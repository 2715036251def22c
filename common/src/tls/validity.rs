//! From when and until when a certificate holds.
//!
//! rustls tells that only where it judges: so it is asked to judge the certificate far ahead. Of an end certificate it looks at the time
//! before anything else, so whatever more is wrong does not matter here.

use super::material::{provider, wall};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, Error, RootCertStore};
use std::sync::Arc;
use std::time::Duration;

/// The year 9999: as far ahead as a certificate can say.
const FAR_AHEAD: Duration = Duration::from_secs(253_402_300_799);

/// What is wrong with the certificate at a time, if it can be told at all.
fn judged(roots: Arc<RootCertStore>, certificate: &CertificateDer<'_>, at: UnixTime) -> Option<CertificateError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider())
        .build()
        .ok()?;
    match verifier.verify_client_cert(certificate, &[], at) {
        Err(Error::InvalidCertificate(error)) => Some(error),
        _ => None,
    }
}

/// The last second in which the certificate holds; none if it says no end that time could reach.
pub(super) fn not_after(roots: &Arc<RootCertStore>, certificate: &CertificateDer<'_>) -> Option<u64> {
    match judged(roots.clone(), certificate, UnixTime::since_unix_epoch(FAR_AHEAD)) {
        Some(CertificateError::ExpiredContext { not_after, .. }) => Some(not_after.as_secs()),
        _ => None,
    }
}

/// Whether whoever trusts the authority would find the certificate expired (both in PEM). Whatever else may be wrong with it is for them to judge:
/// their authority for clients may be another one.
#[must_use]
pub fn has_expired(authority: &[u8], certificate: &[u8]) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(authority).flatten());
    let Ok(certificate) = CertificateDer::from_pem_slice(certificate) else {
        return false;
    };
    matches!(
        judged(Arc::new(roots), &certificate, wall()),
        Some(CertificateError::Expired | CertificateError::ExpiredContext { .. })
    )
}

/// Whether that is all that is wrong.
pub(super) fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}
