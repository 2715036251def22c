//! Encryption to etcd: what the settings name becomes rustls's, and what rustls and etcd say of certificates becomes advice.
//!
//! The files are read anew for every connection that is made after a failure, so certificates that were renewed in place are
//! taken up without a restart.

use crate::config::EtcdConfig;
use etcd_client::{Certificate, Identity, TlsOptions};
use fulcrum_common::config::{ConfigError, invalid};
use fulcrum_common::error::chain_of;
use fulcrum_common::tls::has_expired;
use fulcrum_common::tls::pem::{CERTIFICATE, KEY, read};
use tonic::transport::Endpoint;

/// What a connection needs; none without encryption.
pub(crate) fn options(config: &EtcdConfig) -> Result<Option<TlsOptions>, ConfigError> {
    let Some(ca_file) = &config.ca_file else {
        return Ok(None);
    };
    let authority = read("etcd.ca_file", ca_file, CERTIFICATE)?;
    let mut options = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(&authority))
        .timeout(config.connect_timeout);
    if let (Some(file), Some(key)) = (&config.certificate_file, &config.key_file) {
        let certificate = read("etcd.certificate_file", file, CERTIFICATE)?;
        // etcd says so only by hanging up, after what could be the answer to a request.
        if has_expired(authority.as_bytes(), certificate.as_bytes()) {
            let reason = format!("the certificate in {} has expired: renew it", file.display());
            return Err(invalid("etcd.certificate_file", reason));
        }
        let key = read("etcd.key_file", key, KEY)?;
        options = options.identity(Identity::from_pem(certificate, key));
    }
    if let Some(name) = &config.server_name {
        options = options.domain_name(name);
    }
    check(options).map(Some)
}

/// A key that is not the certificate's, or a name that is none, is found before anything is connected.
fn check(options: TlsOptions) -> Result<TlsOptions, ConfigError> {
    let endpoint = Endpoint::from_static("https://localhost").tls_config(options.clone());
    endpoint.map_err(|error| {
        let reason = format!(
            "the certificate, key or server name cannot be used: {}",
            chain_of(error.to_string(), &error)
        );
        invalid("etcd.certificate_file", reason)
    })?;
    Ok(options)
}

/// What an operator may do about an error of a connection, by its text: neither library has a type that survives to here.
pub(crate) fn advice(text: &str) -> Option<&'static str> {
    const OURS_REFUSED: &str =
        "etcd refuses the certificate in etcd.certificate_file: it is missing, has expired or is by another authority";
    // Of a refused certificate etcd may tell by an alert, or be quicker to hang up: then it depends on who was writing or reading
    // just then what is said here.
    const HUNG_UP: &str =
        "etcd hung up: it stopped, or, with encryption, it refuses the certificate in etcd.certificate_file";
    const WRONG_AUTHORITY: &str = "etcd's certificate is not by the authority in etcd.ca_file: name the right one";
    const ADVICE: [(&str, &str); 16] = [
        (
            "certificate expired",
            "the certificate that etcd shows has expired: renew it on etcd's members (or is the clock here wrong?)",
        ),
        (
            "certificate not valid yet",
            "the certificate that etcd shows is not valid yet: is the clock here or of who issued it wrong?",
        ),
        ("UnknownIssuer", WRONG_AUTHORITY),
        // Another authority of the same name: one that was made anew.
        ("BadSignature", WRONG_AUTHORITY),
        (
            "certificate not valid for name",
            "etcd's certificate is for another name: use one of its names in etcd.endpoints, or set etcd.server_name",
        ),
        ("CertificateExpired", OURS_REFUSED),
        ("BadCertificate", OURS_REFUSED),
        ("UnknownCA", OURS_REFUSED),
        (
            "CertificateRequired",
            "etcd wants a client certificate: set etcd.certificate_file and etcd.key_file",
        ),
        ("connection closed", HUNG_UP),
        ("broken pipe", HUNG_UP),
        ("Broken pipe", HUNG_UP),
        ("connection reset", HUNG_UP),
        ("Connection reset", HUNG_UP),
        ("without sending TLS close_notify", HUNG_UP),
        (
            "InvalidContentType",
            "no TLS is spoken there: use http:// in etcd.endpoints, or switch encryption on in etcd",
        ),
    ];
    let found = ADVICE.iter().find(|(said, _)| text.contains(said));
    found.map(|(_, advice)| *advice)
}

#[cfg(test)]
mod tests {
    use super::advice;

    /// Each was seen, or is what the system's error says, when etcd closes a connection whose client's certificate it refuses.
    #[test]
    fn however_a_hang_up_is_told_the_certificate_is_named() {
        let told = [
            "transport error: connection error: stream closed because of a broken pipe",
            "transport error: connection error: Broken pipe (os error 32)",
            "transport error: connection error: Connection reset by peer (os error 104)",
            "transport error: connection error: connection reset",
            "transport error: connection error: peer closed connection without sending TLS close_notify",
            "transport error: connection closed",
        ];
        for text in told {
            let advice = advice(text).unwrap_or_default();
            assert!(advice.contains("etcd.certificate_file"), "{text}: '{advice}'");
        }
    }

    #[test]
    fn of_what_is_no_matter_of_connections_nothing_is_said() {
        assert_eq!(advice("etcdserver: mvcc: required revision has been compacted"), None);
    }
}
