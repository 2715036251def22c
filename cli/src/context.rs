//! What every command has at hand: the global flags, the client, the session file, and the ways to show a result.

use crate::args::{Global, KeyArgs, Output, ReadArgs};
use crate::exit::{Exit, Failure};
use crate::follow;
use crate::render::{Paint, receipt_line};
use crate::value::Encoding;
use bytes::Bytes;
use fulcrum_client::{Client, Config, Get, Keyspace, Session, Tls, Token};
use fulcrum_types::Receipt;
use serde_json::Value;
use std::io::{self, IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

/// How a command ends.
pub type Ending = Result<Exit, Failure>;

/// What every command has at hand.
#[derive(Clone, Debug)]
pub struct Context {
    /// The global flags.
    pub global: Global,
    /// For standard output.
    pub paint: Paint,
}

impl Context {
    /// From the global flags.
    #[must_use]
    pub fn new(global: Global) -> Self {
        let paint = Paint::for_stdout();
        Context { global, paint }
    }

    /// Whether results are JSON.
    #[must_use]
    pub fn json(&self) -> bool {
        self.global.output == Output::Json
    }

    /// Connects to the routers named.
    pub async fn client(&self) -> Result<Client, Failure> {
        let mut addresses = self.global.router.iter();
        let first = addresses.next().cloned().unwrap_or_default();
        let config = addresses.fold(Config::new(first), |config, next| config.or(next));
        let config = self
            .encrypted(config.deadline(self.global.deadline))?
            .trace_parent(follow::current)
            .token_in_clear(self.global.token_in_clear);
        let config = match self.token()? {
            Some(token) => config.token(token),
            None => config,
        };
        Client::connect(config)
            .await
            .map_err(|error| Failure::client("cannot connect", &error))
    }

    /// The token to show: of the file named, else of the environment.
    fn token(&self) -> Result<Option<Token>, Failure> {
        let token = match self
            .global
            .token_file
            .as_deref()
            .filter(|path| !path.as_os_str().is_empty())
        {
            Some(path) => Token::from_file(path).map(Some),
            None => Token::from_env(),
        };
        token.map_err(|error| Failure::client("cannot use the token", &error))
    }

    /// As the flags about encryption say.
    fn encrypted(&self, config: Config) -> Result<Config, Failure> {
        let global = &self.global;
        let Some(authority) = &global.tls_ca else {
            let others = global.tls_cert.is_some() || global.tls_key.is_some() || global.tls_server_name.is_some();
            return match others {
                true => {
                    Err(Failure::usage("encryption", "the servers' authority is not named")
                        .remedy("--tls-ca FILE, too"))
                }
                false => Ok(config),
            };
        };
        let mut tls = Tls::by(authority);
        match (&global.tls_cert, &global.tls_key) {
            (Some(certificate), Some(key)) => tls = tls.certificate(certificate, key),
            (None, None) => {}
            _ => {
                let why = "a certificate and its key go together";
                return Err(
                    Failure::usage("encryption", why).remedy("both of --tls-cert and --tls-key, or none of them")
                );
            }
        }
        if let Some(name) = &global.tls_server_name {
            tls = tls.server_name(name);
        }
        config
            .tls(tls)
            .map_err(|error| Failure::client("encryption cannot be set up", &error))
    }

    /// A keyspace, in the session of the session file if one is named.
    pub async fn keyspace(&self, name: &str) -> Result<(Keyspace, SessionFile), Failure> {
        let (client, file) = self.client_in_session().await?;
        let keyspace = client.keyspace(name);
        let keyspace = match &file.session {
            Some(session) => keyspace.in_session(session),
            None => keyspace,
        };
        Ok((keyspace, file))
    }

    /// A client, and the session file if one is named.
    pub async fn client_in_session(&self) -> Result<(Client, SessionFile), Failure> {
        let file = SessionFile::open(self.global.session.as_deref())?;
        Ok((self.client().await?, file))
    }

    /// Writes a JSON document to standard output.
    pub fn print_json(&self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(output_failed)?;
        print(&format!("{text}\n"))
    }

    /// Shows a receipt to people: on standard error, where it does not get in the way of a script.
    pub fn show_receipt(&self, receipt: &Receipt) {
        if self.json() || !(self.global.verbose > 0 || io::stderr().is_terminal()) {
            return;
        }
        let paint = Paint::for_stderr();
        // Nobody is left to be told if standard error is closed.
        let _ = writeln!(io::stderr(), "{}", paint.dim(&receipt_line(receipt)));
    }
}

/// Writes to standard output. A reader that has gone away is no error: `fulcrum scan | head`.
pub fn print(text: &str) -> Result<(), Failure> {
    let mut output = io::stdout().lock();
    let written = output.write_all(text.as_bytes()).and_then(|()| output.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(output_failed(error)),
        _ => Ok(()),
    }
}

/// Writes a line for people to standard error.
pub fn note(text: &str) {
    // Nobody is left to be told if standard error is closed.
    let _ = writeln!(io::stderr(), "{text}");
}

fn output_failed(error: impl ToString) -> Failure {
    Failure::file("cannot write to standard output", error)
}

/// Puts the levels of the command line into a read.
pub fn at_levels<'a>(get: Get<'a>, read: &ReadArgs) -> Get<'a> {
    let get = match read.level {
        Some(level) => get.at(level),
        None => get,
    };
    read.accept.iter().fold(get, |get, level| get.or_at(*level))
}

impl KeyArgs {
    /// The key meant.
    pub fn bytes(&self) -> Result<Bytes, Failure> {
        let encoding = if self.hex_key { Encoding::Hex } else { Encoding::Text };
        let key = encoding.decode(&self.key);
        key.map(Bytes::from)
            .map_err(|why| Failure::usage(format!("the key '{}'", self.key), why))
    }

    /// The key and its keyspace, for messages.
    #[must_use]
    pub fn named(&self) -> String {
        format!("'{}' in '{}'", self.key, self.keyspace)
    }
}

/// A value from the command line, or from standard input if it is `-`.
pub fn value_from(text: &str, encoding: Encoding) -> Result<Bytes, Failure> {
    if text != "-" {
        let value = encoding.decode(text);
        return value.map(Bytes::from).map_err(|why| Failure::usage("the value", why));
    }
    let mut read = Vec::new();
    let limit = 4 * fulcrum_common::limits::MAX_VALUE_BYTES as u64;
    let result = io::stdin().lock().take(limit).read_to_end(&mut read);
    result.map_err(|error| Failure::file("cannot read standard input", error))?;
    if encoding == Encoding::Text {
        return Ok(read.into());
    }
    let text = String::from_utf8_lossy(&read);
    let value = encoding.decode(text.trim());
    value
        .map(Bytes::from)
        .map_err(|why| Failure::usage("standard input", why))
}

/// The session file: what this user has seen so far, one line of text.
#[derive(Debug)]
pub struct SessionFile {
    path: Option<PathBuf>,
    session: Option<Session>,
}

impl SessionFile {
    fn open(path: Option<&Path>) -> Result<Self, Failure> {
        let Some(path) = path else {
            return Ok(SessionFile {
                path: None,
                session: None,
            });
        };
        let session = match std::fs::read_to_string(path) {
            Ok(text) => Session::import(&text).map_err(|why| {
                let what = format!("the session file {}", path.display());
                Failure::usage(what, why).remedy("name another file, or remove this one to begin a new session")
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Session::new(),
            Err(error) => return Err(Failure::file(format!("cannot read {}", path.display()), error)),
        };
        Ok(SessionFile {
            path: Some(path.to_owned()),
            session: Some(session),
        })
    }

    /// The session, if a file is named.
    #[must_use]
    pub fn session(&self) -> Option<&Session> {
        self.session.as_ref()
    }

    /// Writes down what has been seen; at once or not at all.
    pub fn save(&self) -> Result<(), Failure> {
        let (Some(path), Some(session)) = (&self.path, &self.session) else {
            return Ok(());
        };
        let mut beside = path.clone().into_os_string();
        beside.push(".new");
        std::fs::write(&beside, session.export() + "\n")
            .and_then(|()| std::fs::rename(&beside, path))
            .map_err(|error| Failure::file(format!("cannot write the session file {}", path.display()), error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_file_is_made_kept_and_checked() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("session");
        let file = SessionFile::open(Some(&path)).unwrap();
        file.save().unwrap();
        assert!(SessionFile::open(Some(&path)).is_ok());
        std::fs::write(&path, "garbage").unwrap();
        let failure = SessionFile::open(Some(&path)).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.remedy.is_some());
        assert!(SessionFile::open(None).unwrap().save().is_ok());
    }

    #[test]
    fn keys_and_values_are_decoded() {
        let key = KeyArgs {
            keyspace: "k".into(),
            key: "6g".into(),
            hex_key: true,
        };
        assert_eq!(key.bytes().unwrap_err().exit, Exit::Usage);
        assert_eq!(value_from("Zm9v", Encoding::Base64).unwrap(), "foo");
        assert_eq!(value_from("zz", Encoding::Hex).unwrap_err().exit, Exit::Usage);
    }
}
