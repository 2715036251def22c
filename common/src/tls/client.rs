//! The same for clients: whom they take for a server of the cluster, and who they are.
//!
//! No task watches the files of a client. They are read again when a connection is made anew, and what makes no sense is not taken.

use super::config::check_server_name;
use super::live::name_of;
use super::material::{self, Contents};
use crate::config::ConfigError;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

/// The files of a client, all in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// The authority that signs for the servers.
    pub ca: PathBuf,
    /// Its own certificate and key, if servers want clients to have one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name that servers are asked for, in place of the address that is dialled.
    pub server_name: Option<String>,
}

impl ClientFiles {
    fn read(&self) -> Result<Contents, ConfigError> {
        let identity = self.identity.as_ref();
        Contents::read(&self.ca, identity.map(|(cert, key)| (cert.as_path(), key.as_path())))
    }
}

/// Encryption of one client's connections.
#[derive(Debug)]
pub struct ClientTls {
    files: ClientFiles,
    last: Mutex<(u128, Arc<ClientConfig>)>,
}

impl ClientTls {
    /// Loads the files.
    ///
    /// # Errors
    /// They cannot be read, do not go together, or the certificate has expired.
    pub fn open(files: ClientFiles) -> Result<Self, ConfigError> {
        check_server_name("tls.server_name", files.server_name.as_deref())?;
        let contents = files.read()?;
        let config = material::client(&contents)?;
        Ok(Self {
            files,
            last: Mutex::new((contents.fingerprint(), config)),
        })
    }

    /// What the files say now; what they said last if that makes no sense. Reads files: for the moment of connecting.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        let contents = self.files.read();
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (fingerprint, config) = &mut *last;
        let renewed = contents.and_then(|contents| {
            let found = contents.fingerprint();
            if found != *fingerprint {
                (*fingerprint, *config) = (found, material::client(&contents)?);
            }
            Ok(())
        });
        if let Err(error) = renewed {
            tracing::warn!(%error, "the certificates that were put in place cannot be used: those before are");
        }
        config.clone()
    }

    /// Whom a server must be, to be dialled there.
    ///
    /// # Errors
    /// That is no name.
    pub fn server_name(&self, host: &str) -> Result<ServerName<'static>, ConfigError> {
        name_of(self.files.server_name.as_deref().unwrap_or(host))
    }
}
