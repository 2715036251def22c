//! Pages that come on a stream, of scans and of cuts. A stream that breaks is opened anew where its reader has got to.

use crate::client::Shared;
use crate::error::Error;
use crate::retry::{Next, Retries, Verdict};
use crate::rpc;
use crate::transport::Transport;
use fulcrum_common::routing::Failure;
use fulcrum_common::trace::Span;
use fulcrum_types::TraceContext;
use std::future::Future;
use tokio::time::Instant;
use tonic::{Response, Status, Streaming};

/// A stream of pages.
pub(crate) struct Pages<T> {
    /// When the next page must be there.
    until: Instant,
    retries: Retries,
    stream: Option<Streaming<T>>,
    span: Span,
}

impl<T> Pages<T> {
    /// None yet; the first must be there by then.
    pub(crate) fn new(until: Instant) -> Self {
        Self {
            until,
            retries: Retries::new(false),
            stream: None,
            span: Span::none(),
        }
    }

    /// The same on behalf of a span, from the first page to the last.
    pub(crate) fn under(self, span: Span) -> Self {
        Self { span, ..self }
    }

    /// In which span pages are asked for, if that is recorded.
    pub(crate) fn context(&self) -> Option<TraceContext> {
        self.span.context()
    }

    /// That was the last one.
    pub(crate) fn end(&mut self) {
        std::mem::take(&mut self.span).end(None);
    }

    /// The wait for the next one begins anew.
    pub(crate) fn renew(&mut self, until: Instant) {
        self.until = until;
        self.retries = Retries::new(false);
    }

    /// The next one. `open` begins the stream behind what was taken so far, at a router, with an answer by then.
    pub(crate) async fn next<F>(&mut self, shared: &Shared, open: impl Fn(Transport, Instant) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        loop {
            match self.read(shared, &open).await {
                Ok(page) => return Ok(page),
                Err(failure) => self.recover(shared, failure).await?,
            }
        }
    }

    async fn read<F>(&mut self, shared: &Shared, open: impl Fn(Transport, Instant) -> F) -> Result<T, Failure>
    where
        F: Future<Output = Result<Response<Streaming<T>>, Status>>,
    {
        let out_of_time = |_| Failure::Lost("no page came in time".into());
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => tokio::time::timeout_at(self.until, begin(shared, self.until, open))
                .await
                .map_err(out_of_time)??,
        };
        let message = tokio::time::timeout_at(self.until, stream.message())
            .await
            .map_err(out_of_time)?;
        let page = message.map_err(|status| rpc::failure(&status))?;
        self.stream = Some(stream);
        page.ok_or_else(|| Failure::Lost("the stream ended before its last page".into()))
    }

    async fn recover(&mut self, shared: &Shared, failure: Failure) -> Result<(), Error> {
        self.stream = None;
        self.span.event(|| format!("an attempt failed: {failure:?}").into());
        match self.retries.after(failure) {
            Next::Fail(verdict) => return Err(self.fail(verdict)),
            Next::Again { .. } => {
                let pause = shared.backoff.pause(self.retries.failed());
                if Instant::now() + pause >= self.until {
                    let verdict = self.retries.out_of_time();
                    return Err(self.fail(verdict));
                }
                tokio::time::sleep(pause).await;
            }
        }
        Ok(())
    }

    fn fail(&mut self, verdict: Verdict) -> Error {
        verdict.end(std::mem::take(&mut self.span));
        verdict.error()
    }
}

/// Begins a stream at a router, and remembers of it if it was not reached.
async fn begin<T, F>(
    shared: &Shared,
    until: Instant,
    open: impl Fn(Transport, Instant) -> F,
) -> Result<Streaming<T>, Failure>
where
    F: Future<Output = Result<Response<Streaming<T>>, Status>>,
{
    let chosen = shared.routers.choose();
    open(chosen.channel.clone(), until)
        .await
        .map(Response::into_inner)
        .map_err(|status| {
            let failure = rpc::failure(&status);
            if !matches!(failure, Failure::Refused(_)) {
                shared.routers.failed(&chosen);
            }
            failure
        })
}
