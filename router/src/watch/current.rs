//! The initial state of a watch: present values page by page, with the changes of what was already said in between.
//!
//! **The promise.** A key's value is said as of one entry, and behind it exactly the changes of later entries.
//!
//! **The protocol.** A page of rows is read behind the last key said, at some entry P. Before it is said, the log is followed
//! to P or a little further, to C: changes of keys said before are told, those of keys that are still to come are dropped,
//! for their page will be read at C or later. Then the page is said together with what changed its own keys between P and C,
//! and the watch stands at C. So the cursor keeps up with the log however large the keyspace is, and a token taken between
//! two pages goes on with the next. (The idea is that of watermark-based snapshots in change data capture: Andreakis and
//! Papapanagiotou, *DBLog*, 2019.)

use super::follow::{FRESH, Follower, Step};
use crate::scan::{after_prefix, successor};
use crate::service::unexpected;
use bytes::Bytes;
use fulcrum_common::wire::v1;
use fulcrum_types::{Answer, Change, Cursor, Level, LogPosition, Mode, Query, Receipt, Refusal, Selection, Versioned};
use std::time::Duration;

const PAGE_ROWS: u32 = 512;
const PAGE_BYTES: u32 = 512 * 1024;

/// Rows behind the last key said, as of one entry.
struct Page {
    rows: Vec<(Bytes, Versioned)>,
    complete: bool,
    receipt: Receipt,
}

impl Page {
    fn at(&self) -> LogPosition {
        LogPosition {
            epoch: self.receipt.epoch,
            index: self.receipt.index,
        }
    }

    /// The last key that it speaks for; none if it speaks for all to the end.
    fn through(&self) -> Option<&Bytes> {
        if self.complete {
            return None;
        }
        self.rows.last().map(|(key, _)| key)
    }
}

impl Follower {
    /// Says the page behind `said`, and what changed meanwhile.
    pub(super) async fn load_page(&mut self, said: &Bytes) -> Result<(), Refusal> {
        let page = self.page(said).await?;
        let mut since = Vec::new();
        if !self.has_begun() {
            self.position.cursor = Cursor::behind(page.at());
        }
        let mut time = None;
        while is_before(self.position.cursor, page.at()) {
            let step = self.step(Duration::ZERO).await?;
            self.position.cursor = step.reached;
            time = Some(step.time());
            since = self.tell_of_said(said, &page, step).await;
        }
        self.position.loading = page.through().cloned();
        let receipt = page.receipt;
        let rows = page.rows.into_iter().map(|(key, value)| v1::scan_page::Row {
            key,
            value: Some(value.into()),
        });
        self.tell(rows.collect(), since, time.unwrap_or_default(), &receipt)
            .await;
        Ok(())
    }

    /// Tells the changes of keys said before; gives back those that the page does not hold yet.
    async fn tell_of_said(&self, said: &Bytes, page: &Page, step: Step) -> Vec<Change> {
        let (time, receipt) = (step.time(), step.receipt().clone());
        let (of_said, to_come): (Vec<_>, Vec<_>) = step.changes.into_iter().partition(|change| change.key <= *said);
        if !of_said.is_empty() {
            self.tell(Vec::new(), of_said, time, &receipt).await;
        }
        let of_page = |change: &Change| page.through().is_none_or(|through| change.key <= *through);
        let newer = |change: &Change| change.position.index > page.at().index;
        to_come.into_iter().filter(|c| of_page(c) && newer(c)).collect()
    }

    async fn page(&self, said: &Bytes) -> Result<Page, Refusal> {
        let (start, end) = self.range(said);
        // Not older than what was told: `ask` says from where.
        let level = match self.keyspace.options.mode {
            Mode::Sync => Level::Linearizable,
            Mode::Async if self.has_begun() => Level::Session,
            Mode::Async => FRESH,
        };
        let query = Query::Scan {
            start,
            end,
            limit: PAGE_ROWS,
            max_bytes: PAGE_BYTES,
        };
        let answered = self.ask(level, query).await?;
        match answered.answer {
            Answer::Rows { rows, complete } if complete || !rows.is_empty() => Ok(Page {
                rows,
                complete,
                receipt: answered.receipt,
            }),
            other => Err(unexpected(&other)),
        }
    }

    fn range(&self, said: &Bytes) -> (Bytes, Bytes) {
        let (start, end) = match &self.selection {
            Selection::All => (Bytes::new(), Bytes::new()),
            Selection::Prefix(prefix) => (prefix.clone(), after_prefix(prefix)),
            Selection::Key(key) => (key.clone(), successor(key)),
        };
        if said.is_empty() {
            return (start, end);
        }
        (successor(said), end)
    }
}

/// Whether something of the entry at `position` was not told yet.
fn is_before(cursor: Cursor, position: LogPosition) -> bool {
    let at = cursor.position.index;
    at < position.index || (at == position.index && cursor.part.is_some())
}
