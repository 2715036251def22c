//! What rustls says, as what happened and who can do something about it.
//!
//! A refused caller learns nothing but rustls's alert; the log of who refused says why. A caller with an honest mistake finds its side of
//! the story here, from the alert.

use rustls::{AlertDescription, CertificateError, Error, InvalidMessage};
use std::io;

/// Why a server refused a caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    /// For the metric: one of few.
    pub(super) reason: &'static str,
    /// For the log.
    pub(super) told: &'static str,
}

const fn refusal(reason: &'static str, told: &'static str) -> Refusal {
    Refusal { reason, told }
}

/// It did not come to an end in time.
pub(super) const TOO_SLOW: Refusal = refusal("timeout", "it did not finish its greeting in time");
/// Others came while it was about it.
pub(super) const CROWDED_OUT: Refusal = refusal(
    "overload",
    "too many others are at their greeting at once, and it was the oldest",
);
/// It went without a word, as probes of open ports do.
pub(super) const HUNG_UP: Refusal = refusal("hung_up", "it hung up before its greeting was finished");
const OTHER: Refusal = refusal("other", "its greeting makes no sense");

fn of_rustls(error: &io::Error) -> Option<&Error> {
    error.get_ref().and_then(|inner| inner.downcast_ref::<Error>())
}

/// Of a handshake that failed at the server.
pub(super) fn refused(error: &io::Error) -> Refusal {
    let Some(error) = of_rustls(error) else {
        return HUNG_UP;
    };
    match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => refusal(
            "plain_text",
            "it speaks plain text: set it up for TLS (https://, or --tls-ca)",
        ),
        Error::PeerIncompatible(_) => refusal("version", "it does not speak TLS 1.3: use a newer one"),
        Error::NoApplicationProtocol => refusal("protocol", "it does not speak the protocol of this port"),
        Error::NoCertificatesPresented => refusal(
            "no_certificate",
            "it shows no certificate: give it one by the authority in tls.ca",
        ),
        Error::InvalidCertificate(error) => of_certificate(error),
        Error::AlertReceived(alert) => of_alert_from_caller(*alert),
        _ => OTHER,
    }
}

fn of_certificate(error: &CertificateError) -> Refusal {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => refusal(
            "expired",
            "its certificate has expired: renew it (or is the clock here wrong?)",
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => refusal(
            "not_yet_valid",
            "its certificate is not valid yet: is the clock here or of who issued it wrong?",
        ),
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            refusal("wrong_authority", "its certificate is not by the authority in tls.ca")
        }
        CertificateError::ApplicationVerificationFailure => refusal(
            "wrong_role",
            "its certificate is by the authority, but does not carry tls.service_name: only the cluster's own processes come in here \
             (tls.direct_clients lets clients use the client API)",
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => refusal(
            "wrong_purpose",
            "its certificate is not for clients: have it issued with the usage clientAuth",
        ),
        _ => refusal("bad_certificate", "its certificate cannot be judged"),
    }
}

fn of_alert_from_caller(alert: AlertDescription) -> Refusal {
    match alert {
        AlertDescription::UnknownCA | AlertDescription::DecryptError => refusal(
            "refused_by_caller",
            "it does not know the authority of our certificate: give it that of tls.ca",
        ),
        AlertDescription::CertificateExpired => refusal("refused_by_caller", "it takes our certificate for expired"),
        AlertDescription::BadCertificate => refusal(
            "refused_by_caller",
            "it takes our certificate for that of another server: which names does the certificate in tls.cert have?",
        ),
        AlertDescription::AccessDenied => refusal(
            "refused_by_caller",
            "our certificate does not carry what it has for tls.service_name: the same everywhere is needed",
        ),
        _ => refusal("refused_by_caller", "it does not want to speak with us"),
    }
}

/// Of a connection that could not be made, or was closed before the server said anything: for a person at the caller's side.
pub(super) fn not_connected(error: &io::Error) -> String {
    let Some(error) = of_rustls(error) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => {
                format!(
                    "{error}: the server hung up; it stopped, speaks no TLS there, or refuses our certificate (its log tells)"
                )
            }
            _ => error.to_string(),
        };
    };
    let advice = match error {
        Error::InvalidCertificate(error) => of_servers_certificate(error),
        Error::AlertReceived(alert) => of_alert_from_server(*alert),
        Error::InvalidMessage(InvalidMessage::InvalidContentType) => {
            "no TLS is spoken there: connect without it, or switch it on at the server"
        }
        Error::PeerIncompatible(_) => "the server does not speak TLS 1.3: is it a Fulcrum server?",
        _ => "the server's greeting makes no sense: is it a Fulcrum server?",
    };
    format!("{advice} ({error})")
}

fn of_servers_certificate(error: &CertificateError) -> &'static str {
    match error {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it (or is the clock here wrong?)"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: is the clock here or of who issued it wrong?"
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "the server's certificate is not by the authority that was named (tls.ca, --tls-ca): name the right one"
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "the server's certificate is for other names: connect to one of them, or set the name to ask for \
             (tls.server_name, --tls-server-name)"
        }
        CertificateError::ApplicationVerificationFailure => {
            "the server's certificate is by the authority, but does not carry tls.service_name: no process of the cluster is there \
             (the address is wrong, or tls.service_name is not the same everywhere)"
        }
        _ => "the server's certificate cannot be trusted",
    }
}

fn of_alert_from_server(alert: AlertDescription) -> &'static str {
    match alert {
        AlertDescription::CertificateRequired => {
            "the server wants a certificate: name one and its key (tls.cert and tls.key, --tls-cert and --tls-key)"
        }
        AlertDescription::UnknownCA | AlertDescription::DecryptError => {
            "the server does not know the authority of our certificate: use one by the server's"
        }
        AlertDescription::CertificateExpired => {
            "the server takes our certificate for expired, or not valid yet: renew it (or is a clock wrong?)"
        }
        AlertDescription::AccessDenied => {
            "the server lets only the cluster's own processes in: connect to a router (or set tls.direct_clients there)"
        }
        AlertDescription::UnsupportedCertificate => {
            "our certificate is not for clients: have it issued with the usage clientAuth"
        }
        AlertDescription::ProtocolVersion => "the server speaks another version of TLS",
        _ => "the server refuses our certificate: its log tells why",
    }
}

/// Of our own certificate, before others find it.
pub(super) fn own_certificate(error: &Error) -> String {
    let advice = match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => {
            "the certificate has expired: renew it (or is the clock here wrong?)"
        }
        Error::InvalidCertificate(CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. }) => {
            "the certificate is not valid yet: is the clock here or of who issued it wrong?"
        }
        Error::InvalidCertificate(CertificateError::UnknownIssuer | CertificateError::BadSignature) => {
            "the certificate is not by the authority in tls.ca, or those between them are missing behind it: others would refuse it"
        }
        Error::InvalidCertificate(
            CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. },
        ) => {
            "the certificate must be for servers and clients, for a process is both: have it issued with serverAuth and clientAuth"
        }
        _ => "the certificate cannot be used",
    };
    format!("{advice} ({error})")
}
