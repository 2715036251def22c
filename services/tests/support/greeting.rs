//! Callers that open a connection by hand: they see what a stranger sees.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use fulcrum_metadata_etcd::testing::Signed;

const PATIENCE: Duration = Duration::from_secs(20);
/// How a client of HTTP/2 begins: its preface, and empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const PING: &[u8] = b"\0\0\x08\x06\0\0\0\0\0";
const ALERT: u8 = 0x15;

/// Takes any server: what the server thinks of its callers is what these tests are about.
#[derive(Debug)]
struct Credulous;

impl ServerCertVerifier for Credulous {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let provider = rustls::crypto::ring::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}

/// A connection that is greeted, and on which the server has said something.
pub struct Greeted {
    stream: TlsStream<TcpStream>,
    pings: u64,
}

/// Greets a server, and speaks HTTP/2 to it; an error is what the caller is told.
pub async fn greet(
    address: &str,
    identity: Option<&Signed>,
    version: &'static SupportedProtocolVersion,
) -> Result<Greeted, std::io::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Credulous));
    let mut config = match identity {
        Some(signed) => {
            let chain = CertificateDer::pem_file_iter(&signed.certificate).unwrap();
            let key = PrivateKeyDer::from_pem_file(&signed.key).unwrap();
            builder
                .with_client_auth_cert(chain.map(Result::unwrap).collect(), key)
                .unwrap()
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    let greeted = async {
        let stream = TcpStream::connect(address).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
        stream.write_all(PREFACE).await?;
        stream.flush().await?;
        // A server that takes us sends its settings; another one an alert.
        let mut first = [0; 9];
        stream.read_exact(&mut first).await?;
        Ok(Greeted { stream, pings: 0 })
    };
    tokio::time::timeout(PATIENCE, greeted)
        .await
        .expect("a greeting is answered or refused")
}

impl Greeted {
    /// The certificate that the server shows.
    pub fn shown(&self) -> Vec<u8> {
        let shown = self.stream.get_ref().1.peer_certificates().unwrap();
        shown[0].to_vec()
    }

    /// Whether the connection still serves: a ping comes back.
    pub async fn lives(&mut self) -> bool {
        self.pings += 1;
        let ping = [PING, &self.pings.to_be_bytes()].concat();
        let pong = [b"\0\0\x08\x06\x01\0\0\0\0", self.pings.to_be_bytes().as_slice()].concat();
        let asked = async {
            self.stream.write_all(&ping).await.ok()?;
            self.stream.flush().await.ok()?;
            let mut said = Vec::new();
            while !said.windows(pong.len()).any(|part| part == pong) {
                self.stream.read_buf(&mut said).await.ok().filter(|read| *read > 0)?;
            }
            Some(())
        };
        matches!(tokio::time::timeout(PATIENCE, asked).await, Ok(Some(())))
    }
}

/// Says something in plain text, and checks that the answer is a bare alert, or nothing, and the end.
pub async fn is_hung_up_on(address: &str, said: &[u8]) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(said).await.unwrap();
    let mut answer = Vec::new();
    let end = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    // A reset is an end, too.
    let _ = end.expect("whoever speaks no TLS 1.3 is hung up on");
    let is_alert = |answer: &[u8]| answer.len() == 7 && answer[0] == ALERT;
    assert!(answer.is_empty() || is_alert(&answer), "a stranger is told: {answer:?}");
}

/// How a client of TLS 1.1 greets.
pub fn old_greeting() -> Vec<u8> {
    let mut hello = vec![3, 2];
    hello.extend([7; 32]);
    // No session, two cipher suites of its time, no compression.
    hello.extend([0, 0, 4, 0, 0x2f, 0, 0x35, 1, 0]);
    let length = u8::try_from(hello.len()).unwrap();
    let mut record = vec![22, 3, 1, 0, length + 4, 1, 0, 0, length];
    record.extend(hello);
    record
}
