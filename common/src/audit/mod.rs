//! What operators did: every verb that needs `admin`, allowed or refused, as lines of JSON.
//!
//! **The promise.** A verb that may change something is written down *before* it is begun and again when its outcome is known, in a file
//! if one is named, and always in the log (target `fulcrum::audit`). So a crash, or a client that goes away in between, leaves the first
//! line without a second, or with one that says `abandoned`. What is refused for want of a right is one line. Lines are on disk before the caller is answered.
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
use crate::tls::ConnectionInfo;
use crate::wire::status::{refusal_from_status, refusal_to_status};
use file::Writer;
use fulcrum_types::{Mono, Refusal};
use line::{Line, Phase};
use serde_json::Value;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::{Request, Status};

/// Writes down what operators do, for one service.
#[derive(Clone)]
pub struct Audit {
    writer: Option<Writer>,
    /// A verb that cannot be written down is not begun.
    required: bool,
    clock: Arc<dyn Clock>,
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
            clock,
        })
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
            let outcome = (refusal.code(), refusal.to_string());
            let refused = line.to_json(begun.wall_ms, Phase::Refused, Some(outcome), None);
            // It is refused anyway; that it was not written down is in the log.
            let _ = self.write_refusal(refused).await;
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
        if let Err(reason) = self.write(begin).await
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
        let _ = self.write(end).await;
        result
    }

    /// To the log, and to the file if there is one. Says why the file does not have it.
    async fn write(&self, line: Value) -> Result<(), String> {
        let line = told(line);
        match &self.writer {
            Some(writer) => writer.write(line).await.inspect_err(|reason| cannot(writer, reason)),
            None => Ok(()),
        }
    }

    /// The same for what is refused: if too many of them wait, only the log has it.
    async fn write_refusal(&self, line: Value) -> Result<(), String> {
        let line = told(line);
        match &self.writer {
            Some(writer) => writer
                .write_refusal(line)
                .await
                .inspect_err(|reason| cannot(writer, reason)),
            None => Ok(()),
        }
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
