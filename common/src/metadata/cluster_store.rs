//! The typed layer: cluster map, group configurations and node leases in a [`Metadata`] store.
//!
//! Keys: `/fulcrum/<cluster>/map`, `/fulcrum/<cluster>/groups/<id>/configuration`, `/fulcrum/<cluster>/nodes/<id>` (with a
//! lease: there while the node lives), and those of placement (`placing`). Beside them `services/` keeps `/fulcrum/<cluster>/founding`. Tokens are in `/fulcrum/<cluster>/tokens` (`tokens`). A version is the revision of its key: nothing else needs to be counted, and it never
//! recurs. A keyspace and the first configurations of its groups appear in one transaction, or not at all.

use super::format::{decode_configuration, decode_map, encode_configuration, encode_map};
use super::tokens::tokens_from;
use super::{Compare, KeyValue, LeaseId, Metadata, MetadataError, Op, Revision, TxnOutcome, WatchError, WatchEvent};
use crate::auth::{NotAToken, TokenTable};
use crate::keyspace::KeyspaceOptions;
use crate::map::{ClusterId, ClusterMap, MapError, NodeInfo};
use bytes::Bytes;
use fulcrum_types::{ConfigVersion, Epoch, GroupConfiguration, GroupId, KeyspaceId, MapVersion, NodeId};
use futures::StreamExt;
use futures::stream::BoxStream;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use thiserror::Error;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

/// Attempts to change the map before others' changes are said to be in the way.
const MAP_ATTEMPTS: u32 = 16;
const EVENTS_BUFFERED: usize = 256;
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Why the cluster's metadata could not be read or changed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// Surely nothing was applied; try again.
    #[error("the metadata store is unavailable, nothing was applied: {0}")]
    Unavailable(String),
    /// It may or may not have been applied; read back what is there.
    #[error("the outcome at the metadata store is unknown: {0}")]
    Unknown(String),
    /// The change makes no sense.
    #[error(transparent)]
    Map(#[from] MapError),
    /// A token cannot be so.
    #[error(transparent)]
    Token(#[from] NotAToken),
    /// A newer release wrote it.
    #[error(
        "metadata key {key} has format {found}, this release reads up to {supported}: use the release that wrote it"
    )]
    NewerFormat {
        /// The key.
        key: String,
        /// Its format.
        found: u32,
        /// The newest that this release knows.
        supported: u32,
    },
    /// It cannot be read.
    #[error("metadata key {key} is corrupt ({detail}): restore the metadata store from a backup")]
    Corrupt {
        /// The key.
        key: String,
        /// What is wrong.
        detail: String,
    },
}

impl From<MetadataError> for StoreError {
    fn from(error: MetadataError) -> Self {
        match error {
            MetadataError::Unknown(reason) => StoreError::Unknown(reason),
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}

/// What became of a compare-and-swap of a group's configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CasResult {
    /// It is in force, with its new version.
    Won(GroupConfiguration),
    /// Another version is in force. Nothing was changed.
    Lost(GroupConfiguration),
    /// The group no longer exists. Nothing was changed.
    Dropped,
}

/// A change of the cluster's metadata.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A newer map is in force. Groups that are not in it were dropped.
    Map(Arc<ClusterMap>),
    /// A newer configuration of a group is in force.
    Configuration(GroupId, GroupConfiguration),
    /// These tokens are in force, and no others.
    Tokens {
        /// All of them.
        table: Arc<TokenTable>,
        /// When the store was asked for what it holds. None: it told a change.
        asked: Option<Instant>,
    },
    /// The store holds tokens that this release cannot read.
    TokensUnreadable {
        /// Why.
        error: StoreError,
        /// Of which revision they are.
        revision: Revision,
        /// As of [`ClusterEvent::Tokens`].
        asked: Option<Instant>,
    },
}

/// A node's registration. The node is taken for alive while it is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeLease {
    pub(super) lease: LeaseId,
}

/// The cluster's metadata.
#[derive(Clone)]
pub struct ClusterStore {
    pub(super) metadata: Arc<dyn Metadata>,
    cluster_id: ClusterId,
    pub(super) prefix: String,
}

impl ClusterStore {
    /// Opens a cluster's metadata; a cluster that does not exist yet begins with an empty map.
    pub async fn open(metadata: Arc<dyn Metadata>, cluster_id: ClusterId) -> Result<Self, StoreError> {
        let prefix = format!("/fulcrum/{cluster_id}/");
        let store = Self {
            metadata,
            cluster_id,
            prefix,
        };
        let key = store.map_key();
        let empty = encode_map(&key, &ClusterMap::new(store.cluster_id.clone()))?;
        let absent = Compare {
            key: key.clone(),
            mod_revision: Revision::ABSENT,
        };
        // Either outcome leaves a map there; an unknown one shows when it is read.
        match store.metadata.txn(vec![absent], vec![Op::put(key, empty)]).await {
            Ok(_) | Err(MetadataError::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        store.load_map().await?;
        Ok(store)
    }

    /// The cluster.
    #[must_use]
    pub fn cluster_id(&self) -> &ClusterId {
        &self.cluster_id
    }

    pub(super) fn map_key(&self) -> String {
        format!("{}map", self.prefix)
    }

    pub(super) fn configuration_key(&self, group: GroupId) -> String {
        format!("{}groups/{}/configuration", self.prefix, group.0)
    }

    fn node_key(&self, node: NodeId) -> String {
        format!("{}nodes/{}", self.prefix, node.0)
    }

    /// The map in force.
    pub async fn load_map(&self) -> Result<Arc<ClusterMap>, StoreError> {
        let key = self.map_key();
        let Some(found) = self.metadata.get(&key).await? else {
            return Err(StoreError::Corrupt {
                key,
                detail: "the cluster map is missing".to_owned(),
            });
        };
        self.decode_map(&found).map(Arc::new)
    }

    pub(super) fn decode_map(&self, found: &KeyValue) -> Result<ClusterMap, StoreError> {
        decode_map(&found.key, &found.value, MapVersion(found.mod_revision.0))
    }

    /// Changes the map by `change`, again and again until nobody else changed it meanwhile. `change` adds operations that
    /// shall be applied together with the map; it says none if nothing is to be done.
    async fn change_map<T>(
        &self,
        mut change: impl FnMut(&mut ClusterMap, &mut Vec<Op>) -> Result<Option<T>, StoreError>,
    ) -> Result<(Option<T>, Arc<ClusterMap>), StoreError> {
        let key = self.map_key();
        for _ in 0..MAP_ATTEMPTS {
            let before = self.load_map().await?;
            let mut map = ClusterMap::clone(&before);
            let mut ops = Vec::new();
            let Some(result) = change(&mut map, &mut ops)? else {
                return Ok((None, before));
            };
            ops.insert(0, Op::put(key.clone(), encode_map(&key, &map)?));
            let unchanged = Compare {
                key: key.clone(),
                mod_revision: Revision(before.version().0),
            };
            if let TxnOutcome::Succeeded { revision } = self.metadata.txn(vec![unchanged], ops).await? {
                return Ok((Some(result), Arc::new(map.with_version(MapVersion(revision.0)))));
            }
        }
        Err(StoreError::Unavailable(
            "others keep changing the cluster map: try again".to_owned(),
        ))
    }

    /// Creates a keyspace with all its groups; answers its id and the map that has it.
    pub async fn create_keyspace(
        &self,
        name: &str,
        options: KeyspaceOptions,
    ) -> Result<(KeyspaceId, Arc<ClusterMap>), StoreError> {
        // Not to know who is unfit is no reason to refuse: what is placed badly is placed anew.
        let unfit = self.unfit_nodes().await.unwrap_or_default();
        let change = |map: &mut ClusterMap, ops: &mut Vec<Op>| {
            let id = map.add_keyspace_beside(name, options.clone(), &unfit)?;
            for group in map.groups_of(id) {
                let key = self.configuration_key(group);
                let first = GroupConfiguration {
                    epoch: Epoch::ZERO,
                    replicas: standing_first(group, map.replicas(group)),
                    ..GroupConfiguration::default()
                };
                let value = encode_configuration(&key, &first)?;
                ops.push(Op::put(key, value));
            }
            Ok(Some(id))
        };
        let (id, map) = self.change_map(change).await?;
        id.map(|id| (id, map))
            .ok_or_else(|| MapError::NoSuchKeyspace(name.to_owned()).into())
    }

    /// Drops a keyspace with all its groups; answers the map without it.
    pub async fn drop_keyspace(&self, name: &str) -> Result<Arc<ClusterMap>, StoreError> {
        let change = |map: &mut ClusterMap, ops: &mut Vec<Op>| {
            let (id, groups) = map.remove_keyspace(name)?;
            ops.extend(groups.into_iter().map(|group| Op::Delete {
                key: self.configuration_key(group),
            }));
            Ok(Some(id))
        };
        Ok(self.change_map(change).await?.1)
    }

    /// Makes a node known, with where it is, and alive for `ttl`.
    pub async fn register_node(&self, node: NodeId, info: NodeInfo, ttl: Duration) -> Result<NodeLease, StoreError> {
        let lease = self.metadata.grant_lease(ttl).await?;
        let alive = Op::Put {
            key: self.node_key(node),
            value: Bytes::from_static(b"{}"),
            lease: Some(lease),
        };
        // A node that is new in the map is alive in it, too: else a keyspace made at that moment would avoid it.
        let change = |map: &mut ClusterMap, ops: &mut Vec<Op>| {
            ops.push(alive.clone());
            Ok(map.set_node(node, info.clone()).then_some(()))
        };
        let (changed, _) = self.change_map(change).await?;
        if changed.is_none() {
            self.metadata.txn(Vec::new(), vec![alive]).await?;
        }
        Ok(NodeLease { lease })
    }

    /// Keeps a node alive for another `ttl`. False if its lease has run out: it has to register again.
    pub async fn keep_node_alive(&self, lease: NodeLease) -> Result<bool, StoreError> {
        match self.metadata.keep_alive(lease.lease).await {
            Ok(()) => Ok(true),
            Err(MetadataError::NoSuchLease { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Says that a node has stopped; it stays in the map.
    pub async fn leave_node(&self, lease: NodeLease) -> Result<(), StoreError> {
        match self.metadata.revoke_lease(lease.lease).await {
            Ok(()) | Err(MetadataError::NoSuchLease { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The nodes whose leases hold.
    pub async fn live_nodes(&self) -> Result<BTreeSet<NodeId>, StoreError> {
        let prefix = format!("{}nodes/", self.prefix);
        let listing = self.metadata.list(&prefix).await?;
        Ok(listing
            .entries
            .iter()
            .filter_map(|kv| kv.key.strip_prefix(&prefix)?.parse().ok().map(NodeId))
            .collect())
    }

    /// Whether a node's lease holds.
    pub async fn is_alive(&self, node: NodeId) -> Result<bool, StoreError> {
        Ok(self.metadata.get(&self.node_key(node)).await?.is_some())
    }

    /// A group's configuration in force; none if there is no such group.
    pub async fn configuration(&self, group: GroupId) -> Result<Option<GroupConfiguration>, StoreError> {
        let found = self.metadata.get(&self.configuration_key(group)).await?;
        found.map(|kv| configuration_from(&kv)).transpose()
    }

    /// The configurations of all groups, as of one moment.
    pub async fn configurations(&self) -> Result<BTreeMap<GroupId, GroupConfiguration>, StoreError> {
        let listing = self.metadata.list(&format!("{}groups/", self.prefix)).await?;
        let of_groups = listing
            .entries
            .iter()
            .filter_map(|kv| Some((self.group_of_key(&kv.key)?, kv)));
        of_groups
            .map(|(group, kv)| Ok((group, configuration_from(kv)?)))
            .collect()
    }

    /// Puts a configuration in force if `expected` is the version in force now. The proposal's own version does not count.
    ///
    /// [`StoreError::Unknown`] says that it may be in force or still come into force (rule 2); every other error, that it
    /// is not and will not be.
    pub async fn compare_and_swap(
        &self,
        group: GroupId,
        expected: ConfigVersion,
        proposal: GroupConfiguration,
    ) -> Result<CasResult, StoreError> {
        if expected == ConfigVersion::ZERO {
            // As a comparison it would mean "absent" and bring a dropped group back.
            return self.lost(group).await;
        }
        let key = self.configuration_key(group);
        let value = encode_configuration(&key, &proposal)?;
        let unchanged = Compare {
            key: key.clone(),
            mod_revision: Revision(expected.0),
        };
        match self.metadata.txn(vec![unchanged], vec![Op::put(key, value)]).await? {
            TxnOutcome::Succeeded { revision } => Ok(CasResult::Won(GroupConfiguration {
                version: ConfigVersion(revision.0),
                ..proposal
            })),
            TxnOutcome::Failed { .. } => self.lost(group).await,
        }
    }

    async fn lost(&self, group: GroupId) -> Result<CasResult, StoreError> {
        Ok(self
            .configuration(group)
            .await?
            .map_or(CasResult::Dropped, CasResult::Lost))
    }

    /// Everything in force now, then every change, without end: lists again after an interruption or compaction and tells
    /// only what is newer than what it has told; the tokens in any case, for a store that was restored from a snapshot holds older ones.
    /// Of several changes of one thing it may tell only the last. Values that cannot be read are logged and passed over, but for tokens. Must be called within a runtime; ends when the stream is dropped.
    #[must_use]
    pub fn watch(&self) -> BoxStream<'static, ClusterEvent> {
        let (sender, receiver) = mpsc::channel(EVENTS_BUFFERED);
        let mut watcher = Watcher {
            store: self.clone(),
            told: BTreeMap::new(),
            sender,
        };
        tokio::spawn(async move { watcher.run().await });
        ReceiverStream::new(receiver).boxed()
    }

    pub(super) fn group_of_key(&self, key: &str) -> Option<GroupId> {
        let rest = key.strip_prefix(&self.prefix)?.strip_prefix("groups/")?;
        rest.strip_suffix("/configuration")?.parse().ok().map(GroupId)
    }
}

/// A new group's replicas begin to count at the place that its number gives: there the one that placement put first must be.
fn standing_first(group: GroupId, replicas: &[NodeId]) -> Vec<NodeId> {
    let mut replicas = replicas.to_vec();
    let places = u64::try_from(replicas.len()).unwrap_or(1).max(1);
    replicas.rotate_right(usize::try_from(group.prev().0 % places).unwrap_or(0));
    replicas
}

pub(super) fn configuration_from(found: &KeyValue) -> Result<GroupConfiguration, StoreError> {
    decode_configuration(&found.key, &found.value, ConfigVersion(found.mod_revision.0))
}

/// The task behind [`ClusterStore::watch`].
struct Watcher {
    store: ClusterStore,
    told: BTreeMap<String, Revision>,
    sender: mpsc::Sender<ClusterEvent>,
}

/// Nobody listens any more.
struct Hushed;

impl Watcher {
    async fn run(&mut self) {
        let mut pause = FIRST_PAUSE;
        while !self.sender.is_closed() {
            let error = match self.list_and_follow(&mut pause).await {
                Err(Hushed) => return,
                Ok(error) => error,
            };
            tracing::debug!(%error, "watching the cluster's metadata was interrupted");
            tokio::select! {
                () = self.sender.closed() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(LONGEST_PAUSE),
            }
        }
    }

    /// Runs until the watch is interrupted, and says why.
    async fn list_and_follow(&mut self, pause: &mut Duration) -> Result<String, Hushed> {
        let prefix = self.store.prefix.clone();
        let asked = Some(Instant::now());
        let listing = match self.store.metadata.list(&prefix).await {
            Ok(listing) => listing,
            Err(error) => return Ok(error.to_string()),
        };
        let is_there = |key: &String| listing.entries.binary_search_by(|kv| kv.key.cmp(key)).is_ok();
        let (map_key, tokens_key) = (self.store.map_key(), self.store.tokens_key());
        // Somebody removed them by hand, or the store is of a time before them. A store without even a map has lost all that it knew, and says
        // nothing of tokens: what it says once it has one is held against what was told before.
        let has_map = is_there(&map_key);
        let removed = self.told.contains_key(&tokens_key) && !is_there(&tokens_key) && has_map;
        self.told
            .retain(|key, _| is_there(key) || (*key == tokens_key && !has_map));
        if removed {
            let table = Arc::new(TokenTable {
                revision: listing.revision,
                ..TokenTable::default()
            });
            let told = self.sender.send(ClusterEvent::Tokens { table, asked }).await;
            told.map_err(|_| Hushed)?;
        }
        // The map goes first: a configuration is of use only to who knows the group.
        let (maps, others): (Vec<_>, Vec<_>) = listing.entries.into_iter().partition(|kv| kv.key == map_key);
        for found in maps.iter().chain(&others) {
            self.tell(found, asked).await?;
        }
        let mut changes = match self.store.metadata.watch(&prefix, listing.revision.next()).await {
            Ok(changes) => changes,
            Err(error) => return Ok(error.to_string()),
        };
        // A store that was put back meanwhile has not come to that revision, and would tell nothing until it has.
        match self.store.metadata.list(&map_key).await {
            Ok(now) if now.revision < listing.revision => return Ok("the store has gone back".to_owned()),
            Ok(_) => {}
            Err(error) => return Ok(error.to_string()),
        }
        loop {
            let change = tokio::select! {
                () = self.sender.closed() => return Err(Hushed),
                change = changes.next() => change,
            };
            match change {
                Some(Ok(WatchEvent::Put(found))) => self.tell(&found, None).await?,
                Some(Ok(WatchEvent::Delete { key, .. })) if key == self.store.tokens_key() => {
                    *pause = FIRST_PAUSE;
                    return Ok("the tokens were removed: what else is gone?".to_owned());
                }
                Some(Ok(WatchEvent::Delete { key, .. })) => {
                    self.told.remove(&key);
                }
                Some(Err(error @ WatchError::Compacted { .. })) => {
                    *pause = FIRST_PAUSE;
                    return Ok(error.to_string());
                }
                Some(Err(error)) => return Ok(error.to_string()),
                None => return Ok("the watch ended".to_owned()),
            }
            *pause = FIRST_PAUSE;
        }
    }

    /// `asked`: the store was asked for all that it holds then, and this is of its answer.
    async fn tell(&mut self, found: &KeyValue, asked: Option<Instant>) -> Result<(), Hushed> {
        let told = self.told.get(&found.key);
        let is_old = told.is_some_and(|told| *told >= found.mod_revision);
        let is_of_tokens = found.key == self.store.tokens_key();
        if is_old && !(is_of_tokens && asked.is_some()) {
            return Ok(());
        }
        let event = if found.key == self.store.map_key() {
            self.store.decode_map(found).map(|map| ClusterEvent::Map(Arc::new(map)))
        } else if let Some(group) = self.store.group_of_key(&found.key) {
            configuration_from(found).map(|config| ClusterEvent::Configuration(group, config))
        } else if is_of_tokens {
            let tokens = tokens_from(found).map(Arc::new);
            let told = tokens.map(|table| ClusterEvent::Tokens { table, asked });
            Ok(told.unwrap_or_else(|error| ClusterEvent::TokensUnreadable {
                error,
                revision: found.mod_revision,
                asked,
            }))
        } else {
            return Ok(());
        };
        self.told.insert(found.key.clone(), found.mod_revision);
        match event {
            Ok(event) => self.sender.send(event).await.map_err(|_| Hushed),
            Err(error) => {
                tracing::error!(%error, "passing over what cannot be read");
                Ok(())
            }
        }
    }
}
