//! Scans: keys of a keyspace in order, over all its groups, page by page.
//!
//! A page carries a token to go on behind it, good at any router and at any time: a stream that breaks is taken up again
//! where it ended, and a caller can keep the token and go on in another process. Each group is read at the level asked;
//! a scan is not a snapshot.

use crate::answer::receipts;
use crate::error::Error;
use crate::keyspace::{Choices, IntoBytes, Keyspace, deadline, levels};
use crate::pages::Pages;
use crate::rpc;
use bytes::Bytes;
use fulcrum_common::trace::Span;
use fulcrum_common::wire::trace::into_metadata;
use fulcrum_common::wire::{Malformed, v1};
use fulcrum_types::{Level, Receipt, Versioned};
use futures::stream::{self, Stream, TryStreamExt};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Request;

/// Which keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Range {
    start: Bytes,
    end: Bytes,
    prefix: Bytes,
}

impl Range {
    /// All keys.
    #[must_use]
    pub fn all() -> Self {
        Self::default()
    }

    /// Keys from this one on.
    #[must_use]
    pub fn from(start: impl IntoBytes) -> Self {
        Self {
            start: start.into_bytes(),
            ..Self::default()
        }
    }

    /// Keys from the first, inclusive, to the second, exclusive.
    #[must_use]
    pub fn between(start: impl IntoBytes, end: impl IntoBytes) -> Self {
        Self {
            start: start.into_bytes(),
            end: end.into_bytes(),
            prefix: Bytes::new(),
        }
    }

    /// Keys that begin so.
    #[must_use]
    pub fn prefix(prefix: impl IntoBytes) -> Self {
        Self {
            prefix: prefix.into_bytes(),
            ..Self::default()
        }
    }
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Versioned,
}

impl Row {
    pub(crate) fn from_wire(key: Bytes, value: Option<v1::Value>) -> Result<Self, Malformed> {
        let value = value.ok_or_else(|| Malformed::missing("row.value"))?.into();
        Ok(Self { key, value })
    }
}

/// Some rows, and where to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// In key order.
    pub rows: Vec<Row>,
    /// To go on behind this page, with [`Scan::after`]; none if the range is read to its end.
    pub resume: Option<Bytes>,
    /// The proof, one a group.
    pub receipts: Vec<Receipt>,
}

impl Page {
    fn from_wire(wire: v1::ScanPage) -> Result<Self, Malformed> {
        let rows = wire.rows.into_iter().map(|row| Row::from_wire(row.key, row.value));
        Ok(Self {
            rows: rows.collect::<Result<_, Malformed>>()?,
            resume: Some(wire.resume_token).filter(|token| !token.is_empty()),
            receipts: receipts(wire.receipts)?,
        })
    }
}

/// A scan. Take its [`rows`](Scan::rows) or its [`pages`](Scan::pages).
///
/// ```no_run
/// use fulcrum_client::{Client, Config, Range};
/// use futures::TryStreamExt;
///
/// # async fn example(client: Client) -> Result<(), fulcrum_client::Error> {
/// let mut rows = std::pin::pin!(client.keyspace("orders").scan(Range::prefix("order:")).limit(100).rows());
/// while let Some(row) = rows.try_next().await? {
///     println!("{:?} = {:?}", row.key, row.value.value);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
#[must_use = "take its rows or pages"]
pub struct Scan {
    keyspace: Keyspace,
    range: Range,
    choices: Choices,
    limit: Option<u64>,
    resume: Bytes,
}

impl Scan {
    levels!();
    deadline!();

    pub(crate) fn new(keyspace: Keyspace, range: Range) -> Self {
        Self {
            choices: keyspace.choices.clone(),
            keyspace,
            range,
            limit: None,
            resume: Bytes::new(),
        }
    }

    /// At most so many rows.
    pub fn limit(mut self, rows: u64) -> Self {
        self.limit = Some(rows);
        self
    }

    /// Only what comes behind an earlier page of the same range.
    pub fn after(mut self, resume: Bytes) -> Self {
        self.resume = resume;
        self
    }

    /// The rows, in key order. The deadline bounds the wait for each page, not the whole.
    pub fn rows(self) -> impl Stream<Item = Result<Row, Error>> + Send + 'static {
        self.pages()
            .map_ok(|page| stream::iter(page.rows.into_iter().map(Ok)))
            .try_flatten()
    }

    /// The pages, with their receipts and resume tokens. The deadline bounds the wait for each page, not the whole.
    pub fn pages(self) -> impl Stream<Item = Result<Page, Error>> + Send + 'static {
        let shared = &self.keyspace.client.shared;
        let span = match self.limit {
            Some(0) => Span::none(),
            _ => shared.begin(Some("fulcrum.v1.Kv/Scan")),
        };
        let reading = Reading {
            left: self.limit,
            finished: self.limit == Some(0),
            pages: Pages::new(shared.until(self.choices.deadline)).under(span),
            scan: self,
        };
        stream::try_unfold(reading, |mut reading| async move {
            let page = reading.next().await?;
            Ok(page.map(|page| (page, reading)))
        })
    }
}

/// A scan under way.
struct Reading {
    scan: Scan,
    left: Option<u64>,
    finished: bool,
    pages: Pages<v1::ScanPage>,
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Page>, Error> {
        if self.finished {
            return Ok(None);
        }
        let scan = &self.scan;
        let request = v1::ScanRequest {
            keyspace: scan.keyspace.name.clone(),
            start: scan.range.start.clone(),
            end: scan.range.end.clone(),
            prefix: scan.range.prefix.clone(),
            limit: self.left.unwrap_or(0),
            resume_token: scan.resume.clone(),
            options: scan.choices.read_options(),
        };
        let trace = self.pages.context();
        let open = |router, until: Instant| {
            let mut request = Request::new(request.clone());
            into_metadata(trace, request.metadata_mut());
            request.set_timeout(until.saturating_duration_since(Instant::now()));
            async move { rpc::kv(router).scan(request).await }
        };
        let wire = self.pages.next(&scan.keyspace.client.shared, open).await?;
        self.take(wire).map(Some)
    }

    fn take(&mut self, wire: v1::ScanPage) -> Result<Page, Error> {
        let page = Page::from_wire(wire)?;
        for receipt in &page.receipts {
            self.scan.choices.observe(receipt);
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(page.rows.len() as u64);
        }
        match &page.resume {
            Some(token) => self.scan.resume = token.clone(),
            None => self.finished = true,
        }
        self.finished |= self.left == Some(0);
        if self.finished {
            self.pages.end();
        }
        let deadline = self.scan.choices.deadline;
        self.pages.renew(self.scan.keyspace.client.shared.until(deadline));
        Ok(page)
    }
}
