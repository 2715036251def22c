//! Who is on the other side, by its certificate: one of the cluster's own processes, a client, or nobody in particular.
//!
//! A certificate of the authority is not enough to act as a part of the cluster: clients have those, too. It must carry the role as a DNS
//! name. The role has no dots, so that no wildcard (`*.example.com`) can stand for it. It is asked of both sides: of who dials what is for the
//! cluster's own processes, and of whom one of them dials.

use super::serve::ConnectionInfo;
use crate::few_lines::Pace;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use std::fmt;
use std::sync::Arc;
use tonic::service::Interceptor;
use tonic::{Request, Status};

/// Who opened a connection, by its certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerRole {
    /// Nobody knows: nothing is encrypted here.
    Unencrypted,
    /// It showed no certificate.
    Anonymous,
    /// Its certificate is by the authority.
    Client,
    /// And carries the role.
    Service,
}

/// Lets only the cluster's own processes in, where connections are encrypted: for services that share a port with the client API.
#[derive(Clone, Debug)]
pub struct OnlyServices {
    encrypted: bool,
    /// Of what is said about those that are refused.
    pace: Arc<Pace>,
}

impl OnlyServices {
    /// At a port that is encrypted, or not.
    #[must_use]
    pub fn new(encrypted: bool) -> Self {
        Self {
            encrypted,
            pace: Arc::default(),
        }
    }
}

impl Interceptor for OnlyServices {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let from = request.extensions().get::<ConnectionInfo>();
        let is_service = from.is_some_and(|from| from.role == PeerRole::Service);
        if self.encrypted && !is_service {
            if self.pace.admits("not_for_clients").is_some() {
                let peer = from.and_then(|from| from.peer).map(|peer| peer.to_string());
                let peer = peer.unwrap_or_default();
                tracing::warn!(%peer, "refused a call of a client to what is for the cluster's own processes: what is it up to?");
            }
            return Err(Status::permission_denied("not for clients"));
        }
        Ok(request)
    }
}

/// Refuses what could be mistaken for another name.
pub(super) fn check_role_name(name: &str) -> Result<(), String> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '-';
    if name.is_empty() || !name.chars().all(fits) {
        return Err(format!(
            "'{name}' will not do: letters, digits and hyphens only; a name with dots could be met by a wildcard"
        ));
    }
    match ServerName::try_from(name) {
        Ok(ServerName::DnsName(_)) => Ok(()),
        _ => Err(format!("'{name}' is no DNS name")),
    }
}

/// The DNS name that makes a certificate one of the cluster's own processes.
#[derive(Clone, Debug)]
pub(super) struct RoleName(ServerName<'static>);

impl RoleName {
    pub(super) fn new(name: &str) -> Result<Self, String> {
        check_role_name(name)?;
        let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        Ok(Self(name))
    }

    pub(super) fn is_in(&self, certificate: &CertificateDer<'_>) -> bool {
        ParsedCertificate::try_from(certificate).is_ok_and(|parsed| verify_server_name(&parsed, &self.0).is_ok())
    }

    /// What was found of a certificate by other rules, if it carries the role, too.
    fn asked_of<T>(&self, certificate: &CertificateDer<'_>, found: T) -> Result<T, Error> {
        match self.is_in(certificate) {
            true => Ok(found),
            false => Err(CertificateError::ApplicationVerificationFailure.into()),
        }
    }

    /// Who showed these, if the authority has signed them.
    pub(super) fn caller(&self, shown: Option<&[CertificateDer<'_>]>) -> PeerRole {
        match shown.and_then(<[_]>::first) {
            None => PeerRole::Anonymous,
            Some(certificate) if self.is_in(certificate) => PeerRole::Service,
            Some(_) => PeerRole::Client,
        }
    }
}

impl fmt::Display for RoleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.to_str())
    }
}

/// Takes certificates of the authority that carry the role.
#[derive(Debug)]
pub(super) struct ServicesOnly {
    by_authority: Arc<dyn ClientCertVerifier>,
    role: RoleName,
}

impl ServicesOnly {
    pub(super) fn new(by_authority: Arc<dyn ClientCertVerifier>, role: RoleName) -> Self {
        Self { by_authority, role }
    }
}

impl ClientCertVerifier for ServicesOnly {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.by_authority.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        behind: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.by_authority.verify_client_cert(certificate, behind, now)?;
        self.role.asked_of(certificate, verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

/// Takes servers of the authority, by their name or address as ever, that carry the role, too: a process of the cluster dials no others.
#[derive(Debug)]
pub(super) struct ServersWithRole {
    by_authority: Arc<WebPkiServerVerifier>,
    role: RoleName,
}

impl ServersWithRole {
    pub(super) fn new(by_authority: Arc<WebPkiServerVerifier>, role: RoleName) -> Self {
        Self { by_authority, role }
    }
}

impl ServerCertVerifier for ServersWithRole {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        behind: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let verified = self
            .by_authority
            .verify_server_cert(certificate, behind, name, ocsp, now)?;
        self.role.asked_of(certificate, verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_authority.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_authority.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tracing::{Event, Subscriber};
    use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

    struct Lines(Arc<AtomicUsize>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn a_client_at_an_internal_service_does_not_fill_the_log() {
        let lines = Arc::new(AtomicUsize::new(0));
        let log = tracing_subscriber::registry().with(Lines(lines.clone()));
        tracing::subscriber::with_default(log, || {
            let gate = OnlyServices::new(true);
            for _ in 0..1_000 {
                gate.clone().call(Request::new(())).unwrap_err();
            }
        });
        assert!((1..=20).contains(&lines.load(Ordering::SeqCst)), "{lines:?}");
    }
}
