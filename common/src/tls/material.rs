//! What is made of the three files: everything that a new connection needs, or why others would refuse us.
//!
//! TLS 1.3 only: there is no peer of ours that speaks nothing newer than 1.2, and what 1.3 left out is what attacks were about. Sessions are not
//! resumed: connections last, and a resumed one would be let in by a certificate that may have expired since.

use super::config::{ClientCertificates, TlsConfig};
use super::explain::own_certificate;
use super::role::{RoleName, ServersWithRole, ServicesOnly};
use super::serve::Port;
use super::{pem, validity};
use crate::config::{ConfigError, invalid};
use crate::{Clock, SystemClock};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use xxhash_rust::xxh3::xxh3_128;

static VERSIONS: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];
const HTTP_2: &[u8] = b"h2";
const HTTP_1: &[u8] = b"http/1.1";

/// The one implementation of cryptography that is linked.
pub(super) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// What certificates are judged by.
pub(super) fn wall() -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_millis(SystemClock.now().wall_ms))
}

/// The texts of the files.
pub(super) struct Contents {
    authority: String,
    identity: Option<(String, String)>,
}

impl Contents {
    /// Reads them anew.
    pub(super) fn read(ca: &Path, identity: Option<(&Path, &Path)>) -> Result<Self, ConfigError> {
        let authority = pem::read("tls.ca", ca, pem::CERTIFICATE)?;
        let identity = match identity {
            Some((cert, key)) => Some((
                pem::read("tls.cert", cert, pem::CERTIFICATE)?,
                pem::read("tls.key", key, pem::KEY)?,
            )),
            None => None,
        };
        Ok(Self { authority, identity })
    }

    /// Tells other texts from these.
    pub(super) fn fingerprint(&self) -> u128 {
        let (cert, key) = self.identity.as_ref().map_or(("", ""), |(cert, key)| (cert, key));
        xxh3_128(format!("{}\0{cert}\0{key}", self.authority).as_bytes())
    }
}

/// A certificate, those behind it, and its key.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn of(cert: &str, key: &str) -> Result<Self, ConfigError> {
        Ok(Self {
            chain: pem::certificates(cert).map_err(|reason| invalid("tls.cert", reason))?,
            key: pem::key(key).map_err(|reason| invalid("tls.key", reason))?,
        })
    }

    fn pair(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

/// What clients need: for whom they take servers, and who they are themselves.
pub(super) fn client(contents: &Contents) -> Result<Arc<ClientConfig>, ConfigError> {
    let roots = authorities(contents)?;
    let identity = match &contents.identity {
        Some((cert, key)) => Some(Identity::of(cert, key)?),
        None => None,
    };
    if let Some(identity) = &identity {
        // Whether the servers' authority for clients is this one, too, is for them to judge. Time passes everywhere alike.
        if let Err(error) = as_client(&roots, identity)
            && validity::is_about_time(&error)
        {
            return Err(invalid("tls.cert", own_certificate(&error)));
        }
    }
    client_config(roots, identity.as_ref(), None)
}

/// What a service needs.
pub(super) struct Material {
    clients: Arc<ServerConfig>,
    services: Arc<ServerConfig>,
    metrics: Arc<ServerConfig>,
    pub(super) client: Arc<ClientConfig>,
    /// The last second, by the wall clock, in which our certificate holds.
    pub(super) not_after: Option<u64>,
}

impl Material {
    /// Of what the files say; refuses what others would refuse.
    pub(super) fn of(config: &TlsConfig, role: &RoleName, contents: &Contents) -> Result<Self, ConfigError> {
        let roots = authorities(contents)?;
        let Some((cert, key)) = &contents.identity else {
            return Err(invalid("tls.cert", "a service needs a certificate"));
        };
        let identity = Identity::of(cert, key)?;
        check(&roots, &identity, role)?;
        let by_authority =
            || WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).clear_root_hint_subjects();
        let impossible = |error: rustls::server::VerifierBuilderError| invalid("tls.ca", error.to_string());
        let required = by_authority().build().map_err(impossible)?;
        let clients = match config.client_certificates {
            ClientCertificates::Required => Some(required.clone()),
            ClientCertificates::Optional => {
                let optional = by_authority().allow_unauthenticated();
                Some(optional.build().map_err(impossible)?)
            }
            ClientCertificates::None => None,
        };
        let services: Arc<dyn ClientCertVerifier> = match config.direct_clients {
            true => required,
            false => Arc::new(ServicesOnly::new(required, role.clone())),
        };
        Ok(Self {
            clients: server_config(&identity, clients, HTTP_2)?,
            services: server_config(&identity, Some(services), HTTP_2)?,
            metrics: server_config(&identity, None, HTTP_1)?,
            not_after: identity.chain.first().and_then(|own| validity::not_after(&roots, own)),
            client: client_config(roots, Some(&identity), Some(role))?,
        })
    }

    pub(super) fn server(&self, port: Port) -> Arc<ServerConfig> {
        match port {
            Port::Clients => self.clients.clone(),
            Port::Services => self.services.clone(),
            Port::Metrics => self.metrics.clone(),
        }
    }
}

fn authorities(contents: &Contents) -> Result<Arc<RootCertStore>, ConfigError> {
    let roots = pem::authorities(&contents.authority).map_err(|reason| invalid("tls.ca", reason))?;
    Ok(Arc::new(roots))
}

fn as_client(roots: &Arc<RootCertStore>, identity: &Identity) -> Result<(), rustls::Error> {
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider()).build();
    let verifier = verifier.map_err(|error| rustls::Error::General(error.to_string()))?;
    let (own, behind) = identity
        .chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    verifier.verify_client_cert(own, behind, wall()).map(|_| ())
}

fn as_server(roots: &RootCertStore, identity: &Identity) -> Result<(), rustls::Error> {
    let (own, behind) = identity
        .chain
        .split_first()
        .ok_or(rustls::Error::NoCertificatesPresented)?;
    rustls::client::verify_server_cert_signed_by_trust_anchor(
        &ParsedCertificate::try_from(own)?,
        roots,
        behind,
        wall(),
        provider().signature_verification_algorithms.all,
    )
}

/// A service connects and is connected to: others of the cluster would refuse it if either did not work, one by one and far from here.
fn check(roots: &Arc<RootCertStore>, identity: &Identity, role: &RoleName) -> Result<(), ConfigError> {
    let judged = as_client(roots, identity).and_then(|()| as_server(roots, identity));
    judged.map_err(|error| invalid("tls.cert", own_certificate(&error)))?;
    match identity.chain.first().is_some_and(|own| role.is_in(own)) {
        true => Ok(()),
        false => {
            let reason = format!(
                "the certificate has no DNS name '{role}', by which the cluster's processes know each other: have it issued with that \
                 name among its own, or set tls.service_name"
            );
            Err(invalid("tls.cert", reason))
        }
    }
}

fn server_config(
    identity: &Identity,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    protocol: &[u8],
) -> Result<Arc<ServerConfig>, ConfigError> {
    let (chain, key) = identity.pair();
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(|error| invalid("tls", error.to_string()))?;
    let builder = match clients {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| mismatch(&error))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

/// `role`: what servers must carry beside their name.
fn client_config(
    roots: Arc<RootCertStore>,
    identity: Option<&Identity>,
    role: Option<&RoleName>,
) -> Result<Arc<ClientConfig>, ConfigError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&VERSIONS)
        .map_err(|error| invalid("tls", error.to_string()))?;
    let builder = match role {
        Some(role) => {
            let by_authority = WebPkiServerVerifier::builder_with_provider(roots, provider()).build();
            let by_authority = by_authority.map_err(|error| invalid("tls.ca", error.to_string()))?;
            let with_role = ServersWithRole::new(by_authority, role.clone());
            builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(with_role))
        }
        None => builder.with_root_certificates(roots),
    };
    let mut config = match identity {
        Some(identity) => {
            let (chain, key) = identity.pair();
            builder
                .with_client_auth_cert(chain, key)
                .map_err(|error| mismatch(&error))?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HTTP_2.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn mismatch(error: &rustls::Error) -> ConfigError {
    let reason = match error {
        rustls::Error::InconsistentKeys(_) => "the key is not that of the certificate in tls.cert".to_owned(),
        other => format!("the certificate and its key cannot be used: {other}"),
    };
    invalid("tls.key", reason)
}
