//! Why a service cannot start or go on: what, where, and what an operator can do.

use std::io;
use std::path::{Path, PathBuf};
use thiserror::Error;

/// An error for an operator.
#[derive(Debug, Error)]
pub enum StartError {
    /// Somebody else listens there.
    #[error("{address} is in use: stop the process that listens there, or choose another address for {what}")]
    PortInUse {
        /// The address.
        address: String,
        /// Who wanted to listen.
        what: String,
    },
    /// Another process has the directory open.
    #[error("{path} is in use by another process: stop it, or choose another data directory", path = path.display())]
    DirectoryLocked {
        /// The directory.
        path: PathBuf,
    },
    /// A newer release wrote it.
    #[error(
        "{path} has format {found}, this release reads up to {supported}: start the release that wrote it, or a newer one",
        path = path.display()
    )]
    NewerFormat {
        /// The file or directory.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that this release knows.
        supported: u32,
    },
    /// It belongs to another cluster.
    #[error(
        "{path} belongs to cluster '{found}', not '{expected}': choose the right data directory, or an empty one",
        path = path.display()
    )]
    OtherCluster {
        /// The file or directory.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who wants to open it.
        expected: String,
    },
    /// No space left.
    #[error("no space left for {path}: free some or move the data directory, then start again", path = path.display())]
    DiskFull {
        /// What was to be written.
        path: PathBuf,
    },
    /// A data directory that cannot be made, read or written.
    #[error(
        "cannot use data directory {path} ({reason}): make it readable and writable for this process, or choose another one",
        path = path.display()
    )]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What the system said.
        reason: String,
    },
    /// What was written before cannot be what is read now.
    #[error("{path} is corrupt at byte {offset} ({detail}): {remedy}", path = path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        detail: String,
        /// What can be done.
        remedy: String,
    },
    /// A node's data cannot be trusted; the reason names file, damage and remedy.
    #[error("{reason}")]
    CorruptStore {
        /// What is damaged, and what can be done.
        reason: String,
    },
    /// Any other trouble with a file or socket.
    #[error("cannot {action} {target}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        target: String,
        /// Why not.
        source: io::Error,
    },
    /// The configuration is wrong.
    #[error("configuration: {0}")]
    Config(String),
}

impl StartError {
    /// Names the file in an I/O error.
    pub fn file(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StartError::DiskFull { path: path.to_owned() },
            _ => StartError::Io {
                action,
                target: path.display().to_string(),
                source,
            },
        }
    }

    /// Names the address in an error of binding a socket.
    pub fn bind(what: &str, address: impl ToString, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::AddrInUse => StartError::PortInUse {
                address: address.to_string(),
                what: what.to_owned(),
            },
            _ => StartError::Io {
                action: "listen on",
                target: address.to_string(),
                source,
            },
        }
    }
}

/// A text with what an error's causes say beyond it.
#[must_use]
pub fn chain_of(mut text: String, error: &(dyn std::error::Error + 'static)) -> String {
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_named() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = taken.local_addr().unwrap();
        let error = StartError::bind("the router", address, std::net::TcpListener::bind(address).unwrap_err());
        assert!(matches!(error, StartError::PortInUse { .. }));
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }

    #[test]
    fn a_full_disk_is_named() {
        let error = StartError::file("write", Path::new("/data/x"), io::ErrorKind::StorageFull.into());
        assert!(matches!(error, StartError::DiskFull { .. }));
        assert!(error.to_string().contains("/data/x"), "{error}");
        let error = StartError::file("open", Path::new("/data/x"), io::ErrorKind::NotFound.into());
        assert!(error.to_string().starts_with("cannot open /data/x"), "{error}");
    }
}
