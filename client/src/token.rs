//! The token that a client shows with every call and stream. It is in no `Debug` output, log or error.

use crate::error::Error;
use fulcrum_common::auth::text;
use http::HeaderValue;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};
use tokio::time::Instant;

/// Names a file with the token.
const FILE_VARIABLE: &str = "FULCRUM_TOKEN_FILE";
/// Holds the token.
const VARIABLE: &str = "FULCRUM_TOKEN";
/// How often a file is looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A token: its text, or a file that holds it and is read again when it changes.
///
/// ```
/// use fulcrum_client::{Config, Token};
///
/// let token = Token::new(&format!("fulcrum_00000000000000ff_{}", "0".repeat(64)))?;
/// let config = Config::new("http://127.0.0.1:7400").token(token);
/// assert!(!format!("{config:?}").contains("0000"));
/// # Ok::<(), fulcrum_client::Error>(())
/// ```
#[derive(Clone)]
pub struct Token(Source);

#[derive(Clone)]
enum Source {
    Text(HeaderValue),
    File(Arc<Watched>),
}

struct Watched {
    path: PathBuf,
    read: Mutex<Read>,
}

struct Read {
    shown: HeaderValue,
    changed: Option<SystemTime>,
    looked_at: Instant,
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Source::Text(_) => f.write_str("Token(..)"),
            Source::File(file) => write!(f, "Token({})", file.path.display()),
        }
    }
}

impl Token {
    /// From its text, `fulcrum_<id>_<secret>`.
    ///
    /// # Errors
    /// It is none; what it is is not repeated.
    pub fn new(text: &str) -> Result<Self, Error> {
        shown(text)
            .map(|shown| Self(Source::Text(shown)))
            .ok_or_else(|| Error::Config {
                reason: "that is no token: a token is fulcrum_<id>_<secret>, as `fulcrum token create` shows it".into(),
            })
    }

    /// From a file, which is read now, and again when it changes: so a token is replaced without a restart.
    ///
    /// # Errors
    /// It cannot be read, or holds no token.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, Error> {
        let path = path.into();
        let (shown, changed) = read(&path).map_err(|reason| Error::Config { reason })?;
        let read = Mutex::new(Read {
            shown,
            changed,
            looked_at: Instant::now(),
        });
        Ok(Self(Source::File(Arc::new(Watched { path, read }))))
    }

    /// From the environment: the file that `FULCRUM_TOKEN_FILE` names, else what `FULCRUM_TOKEN` holds; none if neither is set.
    ///
    /// # Errors
    /// As above.
    pub fn from_env() -> Result<Option<Self>, Error> {
        if let Some(path) = std::env::var_os(FILE_VARIABLE).filter(|path| !path.is_empty()) {
            return Self::from_file(path).map(Some);
        }
        match std::env::var(VARIABLE) {
            Ok(text) if !text.is_empty() => Self::new(&text).map(Some),
            _ => Ok(None),
        }
    }

    /// As it is sent. A file that cannot be read any more, or holds no token, changes nothing.
    pub(crate) fn header(&self) -> HeaderValue {
        let file = match &self.0 {
            Source::Text(shown) => return shown.clone(),
            Source::File(file) => file,
        };
        let mut last = file.read.lock().unwrap_or_else(PoisonError::into_inner);
        if last.looked_at.elapsed() < LOOK_EVERY {
            return last.shown.clone();
        }
        last.looked_at = Instant::now();
        if changed(&file.path) != last.changed {
            match read(&file.path) {
                Ok((shown, changed)) => {
                    last.shown = shown;
                    last.changed = changed;
                }
                Err(reason) => tracing::warn!(%reason, "the token is not replaced"),
            }
        }
        last.shown.clone()
    }
}

fn shown(text: &str) -> Option<HeaderValue> {
    let text = text.trim();
    text::parse(text)?;
    let mut shown = HeaderValue::from_str(&format!("Bearer {text}")).ok()?;
    shown.set_sensitive(true);
    Some(shown)
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|about| about.modified()).ok()
}

fn read(path: &Path) -> Result<(HeaderValue, Option<SystemTime>), String> {
    // Before it is read: what is written meanwhile is read the next time.
    let changed = changed(path);
    let text = std::fs::read_to_string(path)
        .map_err(|error| format!("the token file {} cannot be read: {error}", path.display()))?;
    let shown = shown(&text).ok_or_else(|| {
        format!(
            "the token file {} holds no token: it is one line, fulcrum_<id>_<secret>",
            path.display()
        )
    })?;
    Ok((shown, changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(digit: char) -> String {
        format!("fulcrum_00000000000000ff_{}", String::from(digit).repeat(64))
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_repeated() {
        let error = Token::new("hunter2").unwrap_err().to_string();
        assert!(!error.contains("hunter2"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        assert!(Token::from_file(&path).is_err());
        std::fs::write(&path, "hunter2").unwrap();
        let error = Token::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("token") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn it_is_not_shown_by_accident() {
        let token = Token::new(&text('a')).unwrap();
        assert!(!format!("{token:?} {:?}", token.header()).contains("aaaa"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_again_when_it_changes() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let replace = |text: &str, at: u64| {
            std::fs::write(&path, text).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(at))
                .unwrap();
        };
        replace(&text('a'), 1);
        let token = Token::from_file(&path).unwrap();
        replace(&format!("{}\n", text('b')), 2);
        assert!(
            token.header() == format!("Bearer {}", text('a')).as_str(),
            "not at every call"
        );
        tokio::time::advance(LOOK_EVERY).await;
        assert!(token.header() == format!("Bearer {}", text('b')).as_str());
        replace("nonsense", 3);
        tokio::time::advance(LOOK_EVERY).await;
        assert!(token.header() == format!("Bearer {}", text('b')).as_str());
    }
}
