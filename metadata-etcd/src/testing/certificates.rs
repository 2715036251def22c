//! Certificates for tests: an authority of one's own, and what it has signed.

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use std::path::{Path, PathBuf};

/// An authority, with its certificate in a file.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    folder: PathBuf,
}

/// The files of a certificate.
#[derive(Clone, Debug)]
pub struct Signed {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
}

/// Until when a certificate holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holds {
    /// For long.
    Now,
    /// No longer.
    Expired,
    /// Not for long.
    NotYet,
}

impl Authority {
    /// A new one, of the folder's name; its files lie there.
    ///
    /// # Panics
    /// If files cannot be written.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        std::fs::create_dir_all(folder).unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let name = folder.file_name().unwrap_or_default().to_string_lossy();
        params.distinguished_name.push(DnType::CommonName, name.as_ref());
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("authority.pem"), certificate.pem()).unwrap();
        Self {
            issuer: Issuer::new(params, key),
            folder: folder.to_owned(),
        }
    }

    /// Its own certificate.
    #[must_use]
    pub fn file(&self) -> PathBuf {
        self.folder.join("authority.pem")
    }

    /// Signs a certificate for these names, of servers and clients alike, into the files of that name.
    ///
    /// # Panics
    /// If files cannot be written.
    #[must_use]
    pub fn sign(&self, file: &str, names: &[&str], holds: Holds) -> Signed {
        let usages = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign_for(&usages, file, names, holds)
    }

    /// The same for clients only.
    ///
    /// # Panics
    /// If files cannot be written.
    #[must_use]
    pub fn sign_for_clients(&self, file: &str, names: &[&str], holds: Holds) -> Signed {
        self.sign_for(&[ExtendedKeyUsagePurpose::ClientAuth], file, names, holds)
    }

    /// The same for servers only.
    ///
    /// # Panics
    /// If files cannot be written.
    #[must_use]
    pub fn sign_for_servers(&self, file: &str, names: &[&str], holds: Holds) -> Signed {
        self.sign_for(&[ExtendedKeyUsagePurpose::ServerAuth], file, names, holds)
    }

    fn sign_for(&self, usages: &[ExtendedKeyUsagePurpose], file: &str, names: &[&str], holds: Holds) -> Signed {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, file);
        params.extended_key_usages = usages.to_vec();
        match holds {
            Holds::Now => {}
            Holds::Expired => params.not_after = date_time_ymd(2001, 1, 1),
            Holds::NotYet => params.not_before = date_time_ymd(2999, 1, 1),
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let signed = Signed {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        std::fs::write(&signed.certificate, certificate.pem()).unwrap();
        std::fs::write(&signed.key, key.serialize_pem()).unwrap();
        signed
    }
}
