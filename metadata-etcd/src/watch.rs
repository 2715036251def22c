//! What etcd tells a watch, as the trait's stream of changes.

use crate::fate::explained;
use bytes::Bytes;
use etcd_client::{WatchResponse, WatchStream as EtcdWatch};
use fulcrum_common::metadata::{KeyValue, LeaseId, Revision, WatchError, WatchEvent, WatchStream};
use futures::StreamExt;
use std::collections::VecDeque;

/// etcd's words for "that revision is gone" and "that revision is not there yet".
pub(crate) const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
pub(crate) const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";

/// A key and its value without the prefix; none if it is not ours to read.
pub(crate) fn key_value(prefix: &str, found: &etcd_client::KeyValue) -> Option<KeyValue> {
    Some(KeyValue {
        key: own_key(prefix, found)?,
        value: Bytes::copy_from_slice(found.value()),
        mod_revision: revision_of(found),
        lease: u64::try_from(found.lease()).ok().filter(|id| *id > 0).map(LeaseId),
    })
}

fn own_key(prefix: &str, found: &etcd_client::KeyValue) -> Option<String> {
    let key = std::str::from_utf8(found.key()).ok();
    let key = key.and_then(|key| key.strip_prefix(prefix)).map(str::to_owned);
    if key.is_none() {
        tracing::warn!(key = ?found.key(), "a foreign key among the cluster's metadata is passed over");
    }
    key
}

fn revision_of(found: &etcd_client::KeyValue) -> Revision {
    Revision(u64::try_from(found.mod_revision()).unwrap_or(0))
}

/// A watch that etcd has answered with `first`; it ends at once if what it begins with is `forgotten`.
pub(crate) fn stream(
    prefix: String,
    changes: EtcdWatch,
    first: Option<WatchResponse>,
    forgotten: Option<Revision>,
) -> WatchStream {
    let mut follower = Follower {
        prefix,
        changes,
        ready: VecDeque::new(),
        end: None,
        ended: false,
    };
    match forgotten {
        Some(from) => follower.end = Some(WatchError::Compacted { compacted: from }),
        None => first.iter().for_each(|first| follower.take(first)),
    }
    futures::stream::unfold(follower, Follower::next).boxed()
}

struct Follower {
    prefix: String,
    /// Both ways of the stream: etcd ends a watch whose client has closed its own.
    changes: EtcdWatch,
    ready: VecDeque<WatchEvent>,
    /// Told once everything before it is.
    end: Option<WatchError>,
    ended: bool,
}

impl Follower {
    async fn next(mut self) -> Option<(Result<WatchEvent, WatchError>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            if self.ended {
                return None;
            }
            if let Some(end) = self.end.take() {
                self.ended = true;
                return Some((Err(end), self));
            }
            match self.changes.message().await {
                Ok(Some(message)) => self.take(&message),
                Ok(None) => self.end = Some(WatchError::Unavailable("etcd closed the watch".to_owned())),
                Err(error) => self.end = Some(WatchError::Unavailable(explained(&error))),
            }
        }
    }

    fn take(&mut self, message: &WatchResponse) {
        self.ready.extend(message.events().iter().filter_map(|event| {
            let found = event.kv()?;
            // A key that is there has been changed at least once; etcd tells a delete by a key without a version.
            match found.version() {
                0 => Some(WatchEvent::Delete {
                    key: own_key(&self.prefix, found)?,
                    revision: revision_of(found),
                }),
                _ => key_value(&self.prefix, found).map(WatchEvent::Put),
            }
        }));
        if message.compact_revision() > 0 {
            // Of the compaction's own revision deletes may be gone, too.
            let compacted = Revision(u64::try_from(message.compact_revision()).unwrap_or(0));
            self.end = Some(WatchError::Compacted { compacted });
        } else if message.canceled() {
            let reason = format!("etcd ended the watch: {}", message.cancel_reason());
            self.end = Some(WatchError::Unavailable(reason));
        }
    }
}
