//! Scans over all groups of a keyspace, merged in key order, page by page.
//!
//! Keys are spread over the groups by hash, so every group is read from the same start. Each group's page is complete up
//! to its last key (or to the end of the range); only keys up to the *least* of these ends are surely merged without
//! gaps, and only those are given out. The resume token is the last key given out: it needs no state in the router and is
//! good at any other one.

use crate::dispatch::Order;
use crate::order::{self, Reading};
use crate::service::{KvService, unexpected};
use bytes::Bytes;
use fulcrum_common::Keyspace;
use fulcrum_common::limits;
use fulcrum_common::routing::Kind;
use fulcrum_common::trace::Span;
use fulcrum_common::wire::{status, v1};
use fulcrum_types::{Answer, GroupId, MapVersion, Query, Receipt, Refusal, TraceContext, Versioned};
use futures::future::try_join_all;
use std::collections::BTreeSet;
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;

/// Rows asked of each group at first; later pages ask for as many as a page takes.
const ROWS_PER_GROUP: u32 = 512;
const BYTES_PER_GROUP: u32 = 1024 * 1024;

/// Bytes of keys and values in one page, unless one row has more: with all around them it is below the 4 MiB that most clients take in
/// one message if nothing else is set.
const PAGE_BYTES: usize = 3 * 1024 * 1024;

/// Of how many pages of a scan it is followed what they ask of groups: the whole of a large keyspace would be a trace that nobody can read.
const PAGES_FOLLOWED: u64 = 8;

/// First byte of a resume token: its version.
const TOKEN_VERSION: u8 = 1;

/// Where pages go, or why there are no more.
type Pages = mpsc::Sender<Result<v1::ScanPage, Status>>;

/// One scan under way.
pub(crate) struct Scan {
    service: KvService,
    keyspace: Arc<Keyspace>,
    reading: Reading,
    start: Bytes,
    end: Bytes,
    /// Rows left to give out.
    left: u64,
    until: Instant,
    span: Span,
}

struct Part {
    rows: Vec<(Bytes, Versioned)>,
    complete: bool,
    receipt: Receipt,
}

impl Scan {
    pub(crate) fn new(service: KvService, request: v1::ScanRequest, until: Instant) -> Result<Self, Refusal> {
        let keyspace = service.keyspace(&request.keyspace)?;
        let reading = order::reading(&keyspace, request.options)?;
        let (start, end) = range(request.start, request.end, &request.prefix)?;
        let start = match resume_after(&request.resume_token)? {
            Some(key) => successor(&key),
            None => start,
        };
        let left = if request.limit == 0 { u64::MAX } else { request.limit };
        Ok(Self {
            service,
            keyspace,
            reading,
            start,
            end,
            left,
            until,
            span: Span::none(),
        })
    }

    /// The same on behalf of a span, which ends with the scan.
    pub(crate) fn under(self, span: Span) -> Self {
        Self { span, ..self }
    }

    pub(crate) async fn run(mut self, pages: Pages) {
        let seen = self
            .reading
            .session
            .as_ref()
            .map_or(MapVersion::ZERO, |token| token.map_version);
        if let Err(refusal) = self.service.catch_up(seen, self.until).await {
            return self.end(0, Err(refusal), &pages).await;
        }
        for given in 0.. {
            let page = self.page(given).await;
            let goes_on = |page: &v1::ScanPage| !page.resume_token.is_empty() && self.left > 0;
            match page {
                Ok(page) if goes_on(&page) => {
                    // Its span was cancelled, as the scan.
                    if pages.send(Ok(page)).await.is_err() {
                        return;
                    }
                }
                last => return self.end(given + 1, last, &pages).await,
            }
        }
    }

    /// The last page, or why there is none. The span ends before its asker's can.
    async fn end(mut self, asked: u64, last: Result<v1::ScanPage, Refusal>, pages: &Pages) {
        self.span.set("fulcrum.pages", asked);
        self.span.end(last.as_ref().err());
        let last = last.map_err(|refusal| status::refusal_to_status(&refusal));
        // The client may have gone.
        let _ = pages.send(last).await;
    }

    async fn page(&mut self, number: u64) -> Result<v1::ScanPage, Refusal> {
        let groups: BTreeSet<GroupId> = self.keyspace_groups();
        let limit = u32::try_from(self.left).unwrap_or(u32::MAX).clamp(1, ROWS_PER_GROUP);
        let asked_by = self.span.context().filter(|_| number < PAGES_FOLLOWED);
        let parts = try_join_all(groups.into_iter().map(|group| self.part(group, limit, asked_by))).await?;
        let receipts = parts.iter().map(|part| part.receipt.clone().into()).collect();
        let (mut rows, mut complete) = merge(parts);
        let fits = usize::try_from(self.left).unwrap_or(usize::MAX).min(fitting(&rows));
        if rows.len() > fits {
            rows.truncate(fits);
            complete = false;
        }
        self.left -= rows.len() as u64;
        let resume_token = match rows.last() {
            Some((key, _)) if !complete => {
                self.start = successor(key);
                token(key)
            }
            _ => Bytes::new(),
        };
        let rows = rows
            .into_iter()
            .map(|(key, value)| v1::scan_page::Row {
                key,
                value: Some(value.into()),
            })
            .collect();
        Ok(v1::ScanPage {
            rows,
            resume_token,
            receipts,
        })
    }

    fn keyspace_groups(&self) -> BTreeSet<GroupId> {
        let view = self.service.dispatch.table.view();
        view.map.groups_of(self.keyspace.id).collect()
    }

    async fn part(&self, group: GroupId, limit: u32, asked_by: Option<TraceContext>) -> Result<Part, Refusal> {
        let query = Query::Scan {
            start: self.start.clone(),
            end: self.end.clone(),
            limit,
            max_bytes: BYTES_PER_GROUP.min(limits::MAX_SCAN_BYTES),
        };
        let operation = self.reading.request(group, query);
        let order = Order {
            keyspace: self.keyspace.clone(),
            group,
            operation,
            kind: Kind::Read(self.reading.level),
            name: "scan",
            until: self.until,
            pass_on: false,
            in_doubt: false,
        };
        let answered = self.service.dispatch.ask(order, asked_by).await?;
        match answered.answer {
            Answer::Rows { rows, complete } if complete || !rows.is_empty() => Ok(Part {
                rows,
                complete,
                receipt: answered.receipt,
            }),
            other => Err(unexpected(&other)),
        }
    }
}

/// Rows in key order up to the least end of an incomplete part, and whether that is the whole range.
fn merge(parts: Vec<Part>) -> (Vec<(Bytes, Versioned)>, bool) {
    let horizon = parts
        .iter()
        .filter(|part| !part.complete)
        .filter_map(|part| part.rows.last())
        .map(|(key, _)| key.clone())
        .min();
    let mut rows: Vec<_> = parts.into_iter().flat_map(|part| part.rows).collect();
    rows.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    if let Some(horizon) = &horizon {
        rows.truncate(rows.partition_point(|(key, _)| key <= horizon));
    }
    (rows, horizon.is_none())
}

/// How many of the first rows make a page: at least one.
fn fitting(rows: &[(Bytes, Versioned)]) -> usize {
    let sizes = rows.iter().map(|(key, value)| key.len() + value.value.len());
    let totals = sizes.scan(0, |total, size| {
        *total += size;
        Some(*total)
    });
    totals.take_while(|total| *total <= PAGE_BYTES).count().max(1)
}

/// The least key above this one.
pub(crate) fn successor(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    next.into()
}

/// The least key above all that start with this prefix; empty: there is none.
pub(crate) fn after_prefix(prefix: &[u8]) -> Bytes {
    let kept = prefix
        .iter()
        .rposition(|byte| *byte != u8::MAX)
        .map_or(0, |last| last + 1);
    let mut end = prefix[..kept].to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end.into()
}

fn range(start: Bytes, end: Bytes, prefix: &Bytes) -> Result<(Bytes, Bytes), Refusal> {
    if !prefix.is_empty() {
        if !start.is_empty() || !end.is_empty() {
            return Err(Refusal::Invalid {
                reason: "a scan takes a prefix, or start and end, not both".into(),
            });
        }
        return Ok((prefix.clone(), after_prefix(prefix)));
    }
    if !end.is_empty() && start > end {
        return Err(Refusal::Invalid {
            reason: "the scan's start lies behind its end".into(),
        });
    }
    Ok((start, end))
}

fn token(key: &[u8]) -> Bytes {
    let mut token = Vec::with_capacity(key.len() + 1);
    token.push(TOKEN_VERSION);
    token.extend_from_slice(key);
    token.into()
}

fn resume_after(token: &Bytes) -> Result<Option<Bytes>, Refusal> {
    match token.first() {
        None => Ok(None),
        Some(&TOKEN_VERSION) => Ok(Some(token.slice(1..))),
        Some(_) => Err(Refusal::Invalid {
            reason: "the resume token was not made by this release: scan anew".into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Epoch, Index, Level, MapVersion, Mode, NodeId, Role, StalenessBasis, Version};
    use std::time::Duration;

    fn part(keys: &[&str], complete: bool) -> Part {
        let receipt = Receipt {
            mode: Mode::Sync,
            asked: Level::Eventual,
            achieved: Level::Eventual,
            group: GroupId(1),
            replica: NodeId(1),
            role: Role::Primary,
            epoch: Epoch(1),
            index: Index(1),
            acknowledged_by: Vec::new(),
            durable: false,
            staleness: None,
            basis: StalenessBasis::None,
            map_version: MapVersion(1),
            rounds: 0,
            elapsed: Duration::ZERO,
        };
        let value = Versioned {
            value: Bytes::new(),
            version: Version(1),
            expires_at_ms: 0,
        };
        let rows = keys
            .iter()
            .map(|key| (Bytes::copy_from_slice(key.as_bytes()), value.clone()))
            .collect();
        Part {
            rows,
            complete,
            receipt,
        }
    }

    #[test]
    fn a_page_is_cut_where_it_would_be_too_large_and_has_one_row_at_least() {
        let row = |bytes: usize| {
            let value = Versioned {
                value: vec![0; bytes].into(),
                version: Version(1),
                expires_at_ms: 0,
            };
            (Bytes::from_static(b"k"), value)
        };
        let third = PAGE_BYTES / 3 - 1;
        assert_eq!(fitting(&[row(third), row(third), row(third)]), 3, "it is full");
        assert_eq!(fitting(&[row(third), row(third), row(third), row(1)]), 3);
        assert_eq!(fitting(&[row(PAGE_BYTES), row(0)]), 1);
    }

    fn keys(rows: &[(Bytes, Versioned)]) -> Vec<String> {
        rows.iter()
            .map(|(key, _)| String::from_utf8_lossy(key).into_owned())
            .collect()
    }

    #[test]
    fn only_what_no_group_can_still_come_before_is_given_out() {
        let (rows, complete) = merge(vec![
            part(&["a", "d"], false),
            part(&["b", "c", "e"], true),
            part(&["c1"], false),
        ]);
        assert_eq!(keys(&rows), ["a", "b", "c", "c1"]);
        assert!(!complete);
    }

    #[test]
    fn complete_parts_give_the_whole_range() {
        let (rows, complete) = merge(vec![part(&["b"], true), part(&[], true), part(&["a"], true)]);
        assert_eq!(keys(&rows), ["a", "b"]);
        assert!(complete);
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(after_prefix(b"ab").as_ref(), b"ac");
        assert_eq!(after_prefix(b"a\xff\xff").as_ref(), b"b");
        assert_eq!(after_prefix(b"\xff").as_ref(), b"");
    }

    #[test]
    fn a_token_goes_on_right_behind_its_key() {
        let after = resume_after(&token(b"k")).unwrap().unwrap();
        assert_eq!(successor(&after).as_ref(), b"k\0");
        assert!(resume_after(&Bytes::from_static(b"\x09k")).is_err());
        assert_eq!(resume_after(&Bytes::new()).unwrap(), None);
    }
}
