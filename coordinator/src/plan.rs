//! From a client's request to a plan by group: the only place where a transaction meets the cluster map.

use bytes::Bytes;
use fulcrum_common::key::{validate_key, validate_value};
use fulcrum_common::limits::{MAX_PARTICIPANTS, MAX_TRANSACTION_BYTES, MAX_TRANSACTION_KEYS};
use fulcrum_common::{ClusterMap, Keyspace};
use fulcrum_two_phase::{Plan, PlannedPart};
use fulcrum_types::{
    CommitRequest, Condition, Fingerprint, GroupId, InKeyspace, KeyCondition, KeyWrite, KeyspaceId, Mode, Mutation,
    Part, Participant, ReadCheck, Refusal,
};
use std::collections::{BTreeMap, BTreeSet};
use xxhash_rust::xxh3::Xxh3;

/// Splits a transaction by group.
///
/// # Errors
/// Unknown or `async` keyspaces, a key that is written twice, a broken limit: nothing was asked of any group.
pub fn plan(map: &ClusterMap, request: CommitRequest) -> Result<Plan, Refusal> {
    let mut split = Split::new(map);
    for InKeyspace { keyspace, what } in request.reads {
        split.read(&keyspace, what)?;
    }
    for InKeyspace { keyspace, what } in request.conditions {
        split.condition(&keyspace, what)?;
    }
    for InKeyspace { keyspace, what } in request.writes {
        split.write(&keyspace, what)?;
    }
    split.check_size()?;
    let home = split.first_written.or(split.first_condition);
    let Some(home) = home.or_else(|| split.parts.first_key_value().map(|(participant, _)| *participant)) else {
        return Err(invalid(
            "the transaction is empty: it reads, tests and writes nothing".into(),
        ));
    };
    let parts = split.parts.into_iter().map(|(participant, part)| PlannedPart {
        participant,
        seen: request.session.groups.get(&participant.group).copied(),
        part,
    });
    let mut parts: Vec<_> = parts.collect();
    parts.sort_by_key(|planned| planned.participant.group);
    Ok(Plan {
        id: request.id,
        priority: request.priority,
        fingerprint: Fingerprint(split.hash.digest128()),
        home,
        parts,
    })
}

/// What stands before each item in the hash: a read is never taken for a write.
mod tag {
    pub(super) const READ: u8 = 1;
    pub(super) const CONDITION: u8 = 2;
    pub(super) const PUT: u8 = 3;
    pub(super) const DELETE: u8 = 4;
}

struct Split<'a> {
    map: &'a ClusterMap,
    parts: BTreeMap<Participant, Part>,
    written: BTreeSet<(KeyspaceId, Bytes)>,
    first_written: Option<Participant>,
    first_condition: Option<Participant>,
    keys: usize,
    bytes: usize,
    hash: Xxh3,
}

impl<'a> Split<'a> {
    fn new(map: &'a ClusterMap) -> Self {
        Self {
            map,
            parts: BTreeMap::new(),
            written: BTreeSet::new(),
            first_written: None,
            first_condition: None,
            keys: 0,
            bytes: 0,
            hash: Xxh3::new(),
        }
    }

    fn read(&mut self, keyspace: &str, read: ReadCheck) -> Result<(), Refusal> {
        let (_, at) = self.place(keyspace, &read.key, tag::READ)?;
        self.number(read.version.0);
        self.number(read.exists.into());
        self.parts.entry(at).or_default().reads.push(read);
        Ok(())
    }

    fn condition(&mut self, keyspace: &str, condition: KeyCondition) -> Result<(), Refusal> {
        let (_, at) = self.place(keyspace, &condition.key, tag::CONDITION)?;
        match &condition.condition {
            Condition::None => return Err(invalid("a condition is empty: leave it out".into())),
            Condition::Absent => self.number(1),
            Condition::Exists => self.number(2),
            Condition::VersionIs(version) => {
                self.number(3);
                self.number(version.0);
            }
            Condition::ValueIs(value) => {
                validate_value(value)?;
                self.number(4);
                self.text(value);
            }
            Condition::UnchangedSince(version) => {
                self.number(5);
                self.number(version.0);
            }
        }
        self.first_condition.get_or_insert(at);
        self.parts.entry(at).or_default().conditions.push(condition);
        Ok(())
    }

    fn write(&mut self, keyspace: &str, write: KeyWrite) -> Result<(), Refusal> {
        let at = match &write.mutation {
            Mutation::Put { value, ttl } => {
                validate_value(value)?;
                let placed = self.place(keyspace, &write.key, tag::PUT)?;
                self.text(value);
                let ttl = ttl.map_or(0, |ttl| u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
                self.number(ttl);
                placed
            }
            Mutation::Delete => self.place(keyspace, &write.key, tag::DELETE)?,
        };
        let (keyspace, at) = at;
        if !self.written.insert((keyspace.id, write.key.clone())) {
            return Err(invalid(format!(
                "key '{}' of keyspace '{}' is written twice: keep the last write only",
                write.key.escape_ascii(),
                keyspace.name
            )));
        }
        self.first_written.get_or_insert(at);
        self.parts.entry(at).or_default().writes.push(write);
        Ok(())
    }

    /// Finds the group of a key, and takes both into account.
    fn place(&mut self, keyspace: &str, key: &Bytes, tag: u8) -> Result<(&'a Keyspace, Participant), Refusal> {
        let Some(keyspace) = self.map.keyspace_by_name(keyspace) else {
            return Err(Refusal::UnknownKeyspace {
                keyspace: keyspace.to_owned(),
            });
        };
        if keyspace.options.mode != Mode::Sync {
            return Err(Refusal::NoTransactions {
                keyspace: keyspace.name.clone(),
                mode: keyspace.options.mode,
            });
        }
        validate_key(key)?;
        self.keys += 1;
        self.hash.update(&[tag]);
        self.number(keyspace.id.0);
        self.text(key);
        let group: GroupId = keyspace.group_of(key);
        let at = Participant {
            keyspace: keyspace.id,
            group,
        };
        Ok((keyspace, at))
    }

    fn number(&mut self, number: u64) {
        self.hash.update(&number.to_be_bytes());
    }

    fn text(&mut self, text: &[u8]) {
        self.bytes += text.len();
        self.number(text.len() as u64);
        self.hash.update(text);
    }

    fn check_size(&self) -> Result<(), Refusal> {
        let groups = self.parts.len();
        for (what, found, most) in [
            ("keys", self.keys, MAX_TRANSACTION_KEYS),
            ("bytes of keys and values", self.bytes, MAX_TRANSACTION_BYTES),
            ("shard groups", groups, MAX_PARTICIPANTS),
        ] {
            if found > most {
                return Err(invalid(format!(
                    "the transaction has {found} {what}, at most {most} may be: split it"
                )));
            }
        }
        Ok(())
    }
}

fn invalid(reason: String) -> Refusal {
    Refusal::Invalid { reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::{ClusterId, KeyspaceOptions, NodeInfo};
    use fulcrum_two_phase::Shape;
    use fulcrum_types::{Act, NodeId, TransactionId, Version};

    fn map() -> ClusterMap {
        let mut map = ClusterMap::new(ClusterId::random());
        for node in 1..=3 {
            map.set_node(
                NodeId(node),
                NodeInfo {
                    address: format!("127.0.0.1:{node}"),
                    zone: None,
                },
            );
        }
        for (name, mode) in [("orders", Mode::Sync), ("stock", Mode::Sync), ("cache", Mode::Async)] {
            map.add_keyspace(name, KeyspaceOptions::of(mode, 3)).unwrap();
        }
        map
    }

    fn put(keyspace: &str, key: &str) -> InKeyspace<KeyWrite> {
        let what = KeyWrite {
            key: Bytes::copy_from_slice(key.as_bytes()),
            mutation: Mutation::Put {
                value: Bytes::from_static(b"v"),
                ttl: None,
            },
        };
        InKeyspace {
            keyspace: keyspace.into(),
            what,
        }
    }

    fn read(keyspace: &str, key: &str) -> InKeyspace<ReadCheck> {
        let what = ReadCheck {
            key: Bytes::copy_from_slice(key.as_bytes()),
            version: Version(1),
            exists: true,
        };
        InKeyspace {
            keyspace: keyspace.into(),
            what,
        }
    }

    fn writes(writes: Vec<InKeyspace<KeyWrite>>) -> CommitRequest {
        CommitRequest {
            writes,
            ..CommitRequest::default()
        }
    }

    #[test]
    fn the_home_group_is_that_of_the_first_written_key() {
        let map = map();
        let request = CommitRequest {
            reads: vec![read("stock", "{a}1")],
            ..writes(vec![put("orders", "{b}1"), put("stock", "{a}2"), put("orders", "{b}2")])
        };
        let plan = plan(&map, request).unwrap();
        let orders = map.keyspace_by_name("orders").unwrap();
        assert_eq!(plan.home.group, orders.group_of(b"{b}"));
        assert_eq!((plan.shape(), plan.parts.len()), (Shape::Spanning, 2));
        let home = plan.parts.iter().find(|part| part.participant == plan.home).unwrap();
        assert_eq!((home.part.reads.len(), home.part.writes.len()), (0, 2));
    }

    #[test]
    fn one_group_and_no_writes_have_shapes_of_their_own() {
        let map = map();
        let one = plan(&map, writes(vec![put("orders", "{b}1"), put("orders", "{b}2")])).unwrap();
        assert_eq!(one.shape(), Shape::OneGroup);
        let request = CommitRequest {
            reads: vec![read("stock", "a"), read("orders", "b")],
            ..CommitRequest::default()
        };
        assert_eq!(plan(&map, request).unwrap().shape(), Shape::ReadOnly);
    }

    #[test]
    fn the_fingerprint_tells_contents_and_nothing_else() {
        let map = map();
        let of = |request| plan(&map, request).unwrap().fingerprint;
        let once = of(writes(vec![put("orders", "a")]));
        let again = CommitRequest {
            id: TransactionId {
                begun_at_ms: 9,
                ..TransactionId::default()
            },
            ..writes(vec![put("orders", "a")])
        };
        assert_eq!(of(again), once);
        assert_ne!(of(writes(vec![put("stock", "a")])), once);
        assert_ne!(of(writes(vec![put("orders", "b")])), once);
    }

    #[test]
    fn what_cannot_be_is_refused_and_says_why() {
        let map = map();
        let refused = |request| plan(&map, request).unwrap_err();
        assert_eq!(refused(writes(vec![put("cache", "a")])).code(), "NO_TRANSACTIONS");
        assert_eq!(refused(writes(vec![put("none", "a")])).code(), "UNKNOWN_KEYSPACE");
        let twice = refused(writes(vec![put("orders", "a"), put("orders", "a")]));
        assert!(twice.to_string().contains("written twice"), "{twice}");
        assert_eq!(refused(CommitRequest::default()).act(), Act::Reject);
        let many = (0..=MAX_TRANSACTION_KEYS).map(|n| put("orders", &format!("{{a}}{n}")));
        let many = refused(writes(many.collect()));
        assert!(many.to_string().contains("at most 1024"), "{many}");
    }
}
