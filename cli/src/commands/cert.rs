//! `fulcrum cert dev`: an authority, and certificates for processes and clients by it.
//!
//! For development: the authority's key lies beside what it has signed. Keys can be read by their owner only, and nothing that is there is
//! overwritten without being told to.

use crate::args::{CertCommand, CertDevArgs};
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use fulcrum_common::tls::{TlsConfig, check_server_name};
use fulcrum_common::{Clock, SystemClock};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    date_time_ymd,
};
use serde_json::json;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const OPEN_TO_ALL: u32 = 0o644;
const OWNER_ONLY: u32 = 0o600;
const FOLDER_OF_OWNER: u32 = 0o700;
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Clocks of other machines may be behind.
const HOUR: Duration = Duration::from_secs(60 * 60);
/// Where every process is reached that is on this machine.
const HERE: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Makes what is asked for.
pub fn run(context: &Context, command: &CertCommand) -> Ending {
    let CertCommand::Dev(args) = command;
    let files = Files::of(&args.dir);
    let made = make(args)?;
    files.write(&made, args.force)?;
    match context.json() {
        true => context.print_json(&json!({
            "ca": shown(&files.ca.0), "service": shown(&files.service.0), "client": shown(&files.client.0), "names": made.names,
        }))?,
        false => print(&usage(&files, &made, args.days))?,
    }
    Ok(Exit::Ok)
}

/// Where the files of `fulcrum cert dev` are, for a cluster that runs with them.
#[must_use]
pub fn config_of(dir: &Path) -> TlsConfig {
    let Files { ca, service, .. } = Files::of(dir);
    TlsConfig {
        cert: Some(service.0),
        key: Some(service.1),
        ca: Some(ca.0),
        ..TlsConfig::default()
    }
}

/// What a client has to be told of the files in a folder.
#[must_use]
pub fn exports(dir: &Path) -> String {
    let Files { ca, client, .. } = Files::of(dir);
    let [ca, cert, key] = [&ca.0, &client.0, &client.1].map(|file| shown(file));
    format!("export FULCRUM_TLS_CA={ca} FULCRUM_TLS_CERT={cert} FULCRUM_TLS_KEY={key}")
}

fn shown(file: &Path) -> String {
    file.display().to_string()
}

/// Certificates and their keys.
struct Files {
    ca: (PathBuf, PathBuf),
    service: (PathBuf, PathBuf),
    client: (PathBuf, PathBuf),
}

/// The same, as PEM.
struct Made {
    ca: (String, String),
    service: (String, String),
    client: (String, String),
    names: Vec<String>,
}

impl Files {
    fn of(dir: &Path) -> Self {
        let pair = |name: &str| (dir.join(format!("{name}.pem")), dir.join(format!("{name}.key")));
        Self {
            ca: pair("ca"),
            service: pair("service"),
            client: pair("client"),
        }
    }

    fn write(&self, made: &Made, force: bool) -> Result<(), Failure> {
        let pairs = [
            (&self.ca, &made.ca),
            (&self.service, &made.service),
            (&self.client, &made.client),
        ];
        let files = pairs
            .into_iter()
            .flat_map(|(files, texts)| [(&files.0, &texts.0, OPEN_TO_ALL), (&files.1, &texts.1, OWNER_ONLY)]);
        let files: Vec<_> = files.collect();
        let there = files.iter().find(|(file, ..)| file.exists());
        if let Some((file, ..)) = there.filter(|_| !force) {
            let what = format!("{} is there already", shown(file));
            let why = "whoever uses these certificates would not know the new ones";
            return Err(Failure::file(what, why).remedy("another --dir, or --force to put new ones in their place"));
        }
        if let Some(dir) = self.ca.0.parent() {
            let made = DirBuilder::new().recursive(true).mode(FOLDER_OF_OWNER).create(dir);
            made.map_err(|error| Failure::file(format!("cannot make {}", dir.display()), error))?;
        }
        for (file, text, mode) in files {
            write(file, text, mode).map_err(|error| Failure::file(format!("cannot write {}", shown(file)), error))?;
        }
        Ok(())
    }
}

/// Made anew: a file that is there would keep its mode.
fn write(file: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut made = OpenOptions::new().write(true).create_new(true).mode(mode).open(file)?;
    made.write_all(text.as_bytes())
}

/// Of a name, for as long as all of them hold.
fn params(name: &str, names: &[String], days: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(names.to_vec())?;
    let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(SystemClock.now().wall_ms);
    params.not_before = now - HOUR;
    params.not_after = now + DAY * u32::try_from(days).unwrap_or(u32::MAX);
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

fn make(args: &CertDevArgs) -> Result<Made, Failure> {
    let remedy = "DNS names and IP addresses, without ports";
    for host in &args.host {
        check_server_name("--host", Some(host)).map_err(|error| Failure::usage("--host", error).remedy(remedy))?;
    }
    let role = TlsConfig::default().service_name;
    let mut names: Vec<String> = std::iter::once(role).chain(HERE.map(str::to_owned)).collect();
    names.extend(args.host.iter().cloned());
    let made = sign_all(&names, args.days);
    let (ca, service, client) = made.map_err(|error| Failure::usage("certificates cannot be made", error))?;
    Ok(Made {
        ca,
        service,
        client,
        names,
    })
}

type Pair = (String, String);

fn sign_all(names: &[String], days: u64) -> Result<(Pair, Pair, Pair), rcgen::Error> {
    let mut authority = params("Fulcrum development authority", &[], days)?;
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = KeyPair::generate()?;
    let ca = (authority.self_signed(&key)?.pem(), key.serialize_pem());
    let issuer = Issuer::new(authority, key);
    let sign = |name: &str, names: &[String], usages: &[ExtendedKeyUsagePurpose]| {
        let mut params = params(name, names, days)?;
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = usages.to_vec();
        let key = KeyPair::generate()?;
        Ok::<_, rcgen::Error>((params.signed_by(&key, &issuer)?.pem(), key.serialize_pem()))
    };
    let both = [ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let service = sign("Fulcrum process", names, &both)?;
    let client = sign("Fulcrum client", &["fulcrum-client".to_owned()], &both[1..])?;
    Ok((ca, service, client))
}

fn usage(files: &Files, made: &Made, days: u64) -> String {
    let dir = files.ca.0.parent().unwrap_or(Path::new(".")).display();
    let [ca, cert, key] = [&files.ca.0, &files.service.0, &files.service.1].map(|file| shown(file));
    format!(
        "made in {dir}, for {days} days: an authority (ca), a certificate for all processes (service: {}), one for clients (client)\n  \
         processes: --tls-ca {ca} --tls-cert {cert} --tls-key {key}\n  clients:   {}\n",
        made.names.join(", "),
        exports(files.ca.0.parent().unwrap_or(Path::new("."))),
    )
}
