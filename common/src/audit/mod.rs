//! What operators did: every verb that needs `admin`, allowed or refused, as lines of JSON.
//!
//! **The promise.** A verb that may change something is written down *before* it is begun and again when its outcome is known, in a file
//! if one is named, and always in the log (target `fulcrum::audit`). So a crash, or a client that goes away in between, leaves the first
//! line without a second, or with one that says `abandoned`. What is refused for want of a right is one line. Lines are on disk before the caller is answered.
//!
//! **Refusals** can be had by whoever has any token, as often as it likes: so many are written down in some time, and how many more there were.
//!
//! **When a line cannot be written** (a full disk) the verb is refused before it is begun, unless `audit.required` is off; an outcome that
//! cannot be written is answered all the same, for it has happened, and the log has it.
//!
//! Values and secrets are in no line. Who shows no valid token is in no line either: strangers must not fill this file. The gate's
//! own log names them.

mod config;
mod file;
mod line;

pub use config::AuditConfig;

use crate::auth::{Caller, Verb};
use crate::clock::Clock;
use crate::entropy::random_u64;
use crate::error::StartError;
use crate::few_lines::FewLines;
use crate::tls::ConnectionInfo;
use crate::wire::status::{refusal_from_status, refusal_to_status};
use file::Writer;
use fulcrum_types::{Mono, Now, Refusal};
use line::{Line, Phase};
use serde_json::Value;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tonic::{Request, Status};

/// Refusals that are written down in so much time: a burst is told in full, and a day of them is some megabytes.
const REFUSALS: u64 = 100;
const REFUSALS_IN: Duration = Duration::from_secs(10 * 60);

/// Writes down what operators do, for one service.
#[derive(Clone)]
pub struct Audit {
    writer: Option<Writer>,
    /// A verb that cannot be written down is not begun.
    required: bool,
    refusals: Arc<Refusals>,
    clock: Arc<dyn Clock>,
}

/// What of refusals is written down.
struct Refusals {
    lines: Mutex<FewLines>,
    /// How many were not, since that was told last.
    left_out: AtomicU64,
}

/// A verb as it is asked for: by whom, from where, with which arguments.
#[derive(Clone, Debug)]
pub struct Asked {
    verb: Verb,
    caller: Caller,
    peer: Option<SocketAddr>,
    arguments: Value,
}

impl Asked {
    /// From the request that asks for it. No values of clients belong into `arguments`.
    ///
    /// # Errors
    /// There is no gate before this service.
    pub fn by<T>(request: &Request<T>, verb: Verb, arguments: Value) -> Result<Self, Status> {
        Ok(Self {
            verb,
            caller: Caller::of(request)?,
            peer: request.extensions().get::<ConnectionInfo>().and_then(|from| from.peer),
            arguments,
        })
    }

    /// Whether the caller may, on this keyspace or on what belongs to none.
    ///
    /// # Errors
    /// It may not.
    pub fn permitted(&self, keyspace: Option<&str>) -> Result<(), Refusal> {
        self.caller.may_use(self.verb, keyspace)
    }
}

impl Audit {
    /// Opens the file, if one is named.
    ///
    /// # Errors
    /// It cannot be opened for writing.
    pub fn open(config: &AuditConfig, clock: Arc<dyn Clock>) -> Result<Self, StartError> {
        let writer = config.file.as_deref().map(Writer::start).transpose()?;
        Ok(Self {
            writer,
            required: config.required,
            refusals: Arc::new(Refusals {
                lines: Mutex::new(FewLines::new(REFUSALS, REFUSALS_IN)),
                left_out: AtomicU64::new(0),
            }),
            clock,
        })
    }

    /// A verb that a request asks for, in this keyspace or in what belongs to none: done if its caller may, and written down.
    ///
    /// # Errors
    /// As for [`Self::perform`]; or there is no gate before this service.
    pub async fn verb<R: Sync, T>(
        &self,
        request: &Request<R>,
        verb: Verb,
        arguments: Value,
        keyspace: Option<&str>,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let asked = Asked::by(request, verb, arguments)?;
        let permitted = asked.permitted(keyspace);
        self.perform(asked, permitted, work).await
    }

    /// Does what is asked if it is permitted, and writes down what became of it.
    ///
    /// # Errors
    /// It is not permitted, cannot be written down, or failed.
    pub async fn perform<T>(
        &self,
        asked: Asked,
        permitted: Result<(), Refusal>,
        work: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Status> {
        let begun = self.clock.now();
        let line = Line::new(&asked, random_u64());
        if let Err(refusal) = permitted {
            self.refused(&line, begun, &refusal).await;
            return Err(refusal_to_status(&refusal));
        }
        let begin = line.to_json(begun.wall_ms, Phase::Begin, None, None);
        // From here on: the client may go while the first line is on its way.
        let mut open = Open {
            audit: self,
            line,
            begun: begun.mono,
            told: false,
        };
        if let Err(reason) = self.write(begin, Phase::Begin).await
            && self.required
        {
            let reason = format!("the audit log cannot be written ({reason}), so nothing was done: make room for it");
            let refusal = Refusal::Stopped { reason };
            // A disk that was only slow may have the first line yet.
            self.write_later(open.end((refusal.code(), refusal.to_string())));
            return Err(refusal_to_status(&refusal));
        }
        let result = work.await;
        let outcome = match &result {
            Ok(_) => ("done", String::new()),
            Err(status) => {
                let refusal = refusal_from_status(status);
                (refusal.code(), refusal.to_string())
            }
        };
        let end = open.end(outcome);
        // It has happened: the caller is told so, and the log has the line.
        let _ = self.write(end, Phase::End).await;
        result
    }

    /// Writes down a refusal, or counts it. The first one that is only counted sees to it that the count is written.
    async fn refused(&self, line: &Line, at: Now, refusal: &Refusal) {
        let lines = &self.refusals.lines;
        let (shown, _) = lines.lock().unwrap_or_else(PoisonError::into_inner).one_more(at.mono);
        if shown {
            let outcome = (refusal.code(), refusal.to_string());
            // It is refused anyway; that it was not written down is in the log.
            let line = line.to_json(at.wall_ms, Phase::Refused, Some(outcome), None);
            let _ = self.write(line, Phase::Refused).await;
        } else if self.refusals.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            let owed = Owed(self.clone());
            tokio::spawn(async move {
                tokio::time::sleep(REFUSALS_IN).await;
                drop(owed);
            });
        }
    }

    /// To the log, and to the file if there is one. Says why the file does not have it: of what is refused few lines may wait, others do more.
    async fn write(&self, line: Value, phase: Phase) -> Result<(), String> {
        let line = told(line);
        let Some(writer) = &self.writer else { return Ok(()) };
        let written = match phase {
            Phase::Refused => writer.write_refusal(line).await,
            Phase::Begin | Phase::End => writer.write(line).await,
        };
        written.inspect_err(|reason| cannot(writer, reason))
    }

    /// The same, and nobody waits for it.
    fn write_later(&self, line: Value) {
        let line = told(line);
        if let Some(writer) = &self.writer {
            writer.write_later(line);
        }
    }
}

/// The line as text, which the log has whatever becomes of the file.
fn told(line: Value) -> String {
    let line = line.to_string();
    tracing::info!(target: "fulcrum::audit", %line);
    line
}

fn cannot(writer: &Writer, reason: &str) {
    tracing::error!(%reason, file = %writer.path(), "the audit log cannot be written: make room for it, or name another file");
}

/// A count of refusals that are not written down. It is once time is up, or when the service ends.
struct Owed(Audit);

impl Drop for Owed {
    fn drop(&mut self) {
        let count = self.0.refusals.left_out.swap(0, Ordering::Relaxed);
        self.0.write_later(line::left_out(self.0.clock.now().wall_ms, count));
    }
}

/// A verb that is begun: if its client goes away, that is written down, too.
struct Open<'a> {
    audit: &'a Audit,
    line: Line,
    begun: Mono,
    told: bool,
}

impl Open<'_> {
    fn end(&mut self, outcome: (&str, String)) -> Value {
        self.told = true;
        let now = self.audit.clock.now();
        let took = now.mono.since(self.begun);
        self.line.to_json(now.wall_ms, Phase::End, Some(outcome), Some(took))
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        if self.told {
            return;
        }
        let why = "the client went away: it may or may not have happened".to_owned();
        let line = self.end(("abandoned", why));
        self.audit.write_later(line);
    }
}

#[cfg(test)]
mod tests;
