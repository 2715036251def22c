//! How the typed layer's values are kept: JSON with a format number, in structs of their own, so that neither the nouns nor
//! a release's inner shapes are bound by what is stored.

use super::Revision;
use super::cluster_store::StoreError;
use crate::auth::text::SecretHash;
use crate::auth::{Grant, TokenId, TokenRecord, TokenTable};
use crate::keyspace::{Keyspace, KeyspaceOptions, Timing};
use crate::map::{ClusterId, ClusterMap, Group, NodeInfo, SlotTable};
use bytes::Bytes;
use fulcrum_placement::Settings;
use fulcrum_types::{
    ConfigVersion, DataId, Epoch, GroupConfiguration, GroupId, KeyspaceId, MapVersion, Member, NodeId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

const FORMAT: u32 = 1;

#[derive(Deserialize)]
struct Probe {
    format: u32,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MapV1 {
    format: u32,
    cluster_id: String,
    nodes: BTreeMap<u64, NodeV1>,
    keyspaces: BTreeMap<u64, KeyspaceV1>,
    groups: BTreeMap<u64, GroupV1>,
    next_keyspace: u64,
    next_group: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct NodeV1 {
    address: String,
    zone: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupV1 {
    keyspace: u64,
    replicas: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyspaceV1 {
    name: String,
    mode: String,
    replication_factor: u32,
    groups: u32,
    default_level: String,
    fsync: String,
    min_in_sync: u32,
    delimiter: Option<char>,
    idempotency_retention_ms: u64,
    tombstone_retention_ms: u64,
    heartbeat_ms: u64,
    lease_ms: u64,
    grace_ms: u64,
    /// `(first slot, number of slots, group)`.
    slots: Vec<(u16, u16, u64)>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigurationV1 {
    format: u32,
    epoch: u64,
    primary: Option<u64>,
    /// `(node, data)`.
    in_sync: Vec<(u64, u64)>,
    replicas: Vec<u64>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SettingsV1 {
    format: u32,
    rebuild_after_ms: u64,
    rebuilds: u64,
    balance_pause_ms: u64,
    calm_ms: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokensV1 {
    format: u32,
    tokens: Vec<TokenV1>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct TokenV1 {
    id: u64,
    name: String,
    sha256: String,
    /// `keyspace:right`.
    rights: Vec<String>,
    created_ms: u64,
    expires_ms: Option<u64>,
}

fn encode<T: Serialize>(key: &str, value: &T) -> Result<Bytes, StoreError> {
    serde_json::to_vec(value)
        .map(Bytes::from)
        .map_err(|error| corrupt(key, error))
}

fn decode<T: DeserializeOwned>(key: &str, bytes: &[u8]) -> Result<T, StoreError> {
    let probe: Probe = serde_json::from_slice(bytes).map_err(|error| corrupt(key, error))?;
    if probe.format > FORMAT {
        return Err(StoreError::NewerFormat {
            key: key.to_owned(),
            found: probe.format,
            supported: FORMAT,
        });
    }
    serde_json::from_slice(bytes).map_err(|error| corrupt(key, error))
}

fn corrupt(key: &str, detail: impl ToString) -> StoreError {
    StoreError::Corrupt {
        key: key.to_owned(),
        detail: detail.to_string(),
    }
}

pub(super) fn encode_map(key: &str, map: &ClusterMap) -> Result<Bytes, StoreError> {
    let nodes = map.nodes.iter().map(|(id, n)| {
        (
            id.0,
            NodeV1 {
                address: n.address.clone(),
                zone: n.zone.clone(),
            },
        )
    });
    let groups = map.groups.iter().map(|(id, group)| {
        let replicas = group.replicas.iter().map(|n| n.0).collect();
        (
            id.0,
            GroupV1 {
                keyspace: group.keyspace.0,
                replicas,
            },
        )
    });
    let stored = MapV1 {
        format: FORMAT,
        cluster_id: map.cluster_id.as_str().to_owned(),
        nodes: nodes.collect(),
        keyspaces: map
            .keyspaces
            .iter()
            .map(|(id, keyspace)| (id.0, keyspace_v1(keyspace)))
            .collect(),
        groups: groups.collect(),
        next_keyspace: map.next_keyspace.0,
        next_group: map.next_group.0,
    };
    encode(key, &stored)
}

pub(super) fn decode_map(key: &str, bytes: &[u8], version: MapVersion) -> Result<ClusterMap, StoreError> {
    let stored: MapV1 = decode(key, bytes)?;
    let cluster_id = ClusterId::new(stored.cluster_id).map_err(|error| corrupt(key, error))?;
    let mut map = ClusterMap::new(cluster_id).with_version(version);
    map.next_keyspace = KeyspaceId(stored.next_keyspace);
    map.next_group = GroupId(stored.next_group);
    for (id, node) in stored.nodes {
        map.set_node(
            NodeId(id),
            NodeInfo {
                address: node.address,
                zone: node.zone,
            },
        );
    }
    for (id, group) in stored.groups {
        let replicas = group.replicas.into_iter().map(NodeId).collect();
        map.groups.insert(
            GroupId(id),
            Group {
                keyspace: KeyspaceId(group.keyspace),
                replicas,
            },
        );
    }
    for (id, keyspace) in stored.keyspaces {
        let keyspace = keyspace_from(key, KeyspaceId(id), keyspace)?;
        map.insert_keyspace(keyspace);
    }
    Ok(map)
}

fn keyspace_v1(keyspace: &Keyspace) -> KeyspaceV1 {
    let options = &keyspace.options;
    KeyspaceV1 {
        name: keyspace.name.clone(),
        mode: options.mode.to_string(),
        replication_factor: options.replication_factor,
        groups: options.groups,
        default_level: options.default_level.to_string(),
        fsync: options.fsync.to_string(),
        min_in_sync: options.min_in_sync,
        delimiter: options.delimiter,
        idempotency_retention_ms: millis(options.idempotency_retention),
        tombstone_retention_ms: millis(options.tombstone_retention),
        heartbeat_ms: millis(options.timing.heartbeat),
        lease_ms: millis(options.timing.lease),
        grace_ms: millis(options.timing.grace),
        slots: keyspace
            .slots
            .ranges()
            .into_iter()
            .map(|(first, count, group)| (first, count, group.0))
            .collect(),
    }
}

fn keyspace_from(key: &str, id: KeyspaceId, stored: KeyspaceV1) -> Result<Keyspace, StoreError> {
    let options = KeyspaceOptions {
        mode: stored.mode.parse().map_err(|error: String| corrupt(key, error))?,
        replication_factor: stored.replication_factor,
        groups: stored.groups,
        default_level: stored
            .default_level
            .parse()
            .map_err(|error: String| corrupt(key, error))?,
        fsync: stored.fsync.parse().map_err(|error: String| corrupt(key, error))?,
        min_in_sync: stored.min_in_sync,
        delimiter: stored.delimiter,
        idempotency_retention: Duration::from_millis(stored.idempotency_retention_ms),
        tombstone_retention: Duration::from_millis(stored.tombstone_retention_ms),
        timing: Timing {
            heartbeat: Duration::from_millis(stored.heartbeat_ms),
            lease: Duration::from_millis(stored.lease_ms),
            grace: Duration::from_millis(stored.grace_ms),
        },
    };
    options.validate().map_err(|error| corrupt(key, error))?;
    let ranges: Vec<_> = stored
        .slots
        .into_iter()
        .map(|(first, count, group)| (first, count, GroupId(group)))
        .collect();
    let slots = SlotTable::from_ranges(&ranges).ok_or_else(|| {
        corrupt(
            key,
            format!("the slots of keyspace '{}' do not cover the table", stored.name),
        )
    })?;
    Ok(Keyspace {
        id,
        name: stored.name,
        options,
        slots,
    })
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

pub(super) fn encode_settings(key: &str, settings: &Settings) -> Result<Bytes, StoreError> {
    let stored = SettingsV1 {
        format: FORMAT,
        rebuild_after_ms: millis(settings.rebuild_after),
        rebuilds: settings.rebuilds as u64,
        balance_pause_ms: millis(settings.balance_pause),
        calm_ms: millis(settings.calm),
    };
    encode(key, &stored)
}

pub(super) fn decode_settings(key: &str, bytes: &[u8]) -> Result<Settings, StoreError> {
    let stored: SettingsV1 = decode(key, bytes)?;
    Ok(Settings {
        rebuild_after: Duration::from_millis(stored.rebuild_after_ms),
        rebuilds: usize::try_from(stored.rebuilds).unwrap_or(usize::MAX),
        balance_pause: Duration::from_millis(stored.balance_pause_ms),
        calm: Duration::from_millis(stored.calm_ms),
    })
}

pub(super) fn encode_configuration(key: &str, config: &GroupConfiguration) -> Result<Bytes, StoreError> {
    let stored = ConfigurationV1 {
        format: FORMAT,
        epoch: config.epoch.0,
        primary: config.primary.map(|n| n.0),
        in_sync: config.in_sync.iter().map(|m| (m.node.0, m.data.0)).collect(),
        replicas: config.replicas.iter().map(|n| n.0).collect(),
    };
    encode(key, &stored)
}

pub(super) fn decode_configuration(
    key: &str,
    bytes: &[u8],
    version: ConfigVersion,
) -> Result<GroupConfiguration, StoreError> {
    let stored: ConfigurationV1 = decode(key, bytes)?;
    Ok(GroupConfiguration {
        version,
        epoch: Epoch(stored.epoch),
        primary: stored.primary.map(NodeId),
        in_sync: stored
            .in_sync
            .into_iter()
            .map(|(node, data)| Member {
                node: NodeId(node),
                data: DataId(data),
            })
            .collect(),
        replicas: stored.replicas.into_iter().map(NodeId).collect(),
    })
}

pub(super) fn encode_tokens(key: &str, table: &TokenTable) -> Result<Bytes, StoreError> {
    let tokens = table.tokens.iter().map(|(id, token)| TokenV1 {
        id: id.0,
        name: token.name.clone(),
        sha256: token.hash.to_hex(),
        rights: token.grants.iter().map(Grant::to_string).collect(),
        created_ms: token.created_ms,
        expires_ms: token.expires_ms,
    });
    let stored = TokensV1 {
        format: FORMAT,
        tokens: tokens.collect(),
    };
    encode(key, &stored)
}

pub(super) fn decode_tokens(key: &str, bytes: &[u8], revision: Revision) -> Result<TokenTable, StoreError> {
    let stored: TokensV1 = decode(key, bytes)?;
    let token = |stored: TokenV1| {
        let hash = SecretHash::from_hex(&stored.sha256).ok_or_else(|| corrupt(key, "a hash is none"))?;
        let grants = stored.rights.iter().map(|right| right.parse::<Grant>());
        let record = TokenRecord {
            name: stored.name,
            hash,
            grants: grants.collect::<Result<_, _>>().map_err(|error| corrupt(key, error))?,
            created_ms: stored.created_ms,
            expires_ms: stored.expires_ms,
        };
        Ok((TokenId(stored.id), record))
    };
    Ok(TokenTable {
        revision,
        tokens: stored
            .tokens
            .into_iter()
            .map(token)
            .collect::<Result<_, StoreError>>()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Level, Mode};

    #[test]
    fn a_map_reads_back() {
        let mut map = ClusterMap::new(ClusterId::new("test").unwrap());
        for i in 1..=3 {
            let zone = (i > 1).then(|| format!("zone-{i}"));
            map.set_node(
                NodeId(i),
                NodeInfo {
                    address: format!("127.0.0.1:{i}"),
                    zone,
                },
            );
        }
        map.add_keyspace("users", KeyspaceOptions::default()).unwrap();
        let mut options = KeyspaceOptions::of(Mode::Async, 2);
        options.default_level = Level::Bounded(Duration::from_millis(500));
        options.delimiter = Some(':');
        map.add_keyspace("events", options).unwrap();
        let bytes = encode_map("map", &map).unwrap();
        assert!(bytes.len() < 64 * 1024, "{}", bytes.len());
        assert_eq!(
            decode_map("map", &bytes, MapVersion(9)).unwrap(),
            map.with_version(MapVersion(9))
        );
    }

    #[test]
    fn a_configuration_reads_back() {
        let config = GroupConfiguration {
            version: ConfigVersion(4),
            epoch: Epoch(3),
            primary: Some(NodeId(2)),
            in_sync: vec![Member {
                node: NodeId(2),
                data: DataId(u64::MAX),
            }],
            replicas: vec![NodeId(1), NodeId(2)],
        };
        let bytes = encode_configuration("g1", &config).unwrap();
        assert_eq!(decode_configuration("g1", &bytes, ConfigVersion(4)).unwrap(), config);
        let golden = r#"{"format":1,"epoch":3,"primary":2,"in_sync":[[2,18446744073709551615]],"replicas":[1,2]}"#;
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), golden);
    }

    #[test]
    fn tokens_read_back() {
        let record = TokenRecord {
            name: "app".into(),
            hash: SecretHash::from_hex(&"0a".repeat(32)).unwrap(),
            grants: vec!["orders:read".parse().unwrap(), "*:admin".parse().unwrap()],
            created_ms: 5,
            expires_ms: None,
        };
        let table = TokenTable {
            revision: Revision(4),
            tokens: [(TokenId(7), record)].into(),
        };
        let bytes = encode_tokens("tokens", &table).unwrap();
        assert_eq!(decode_tokens("tokens", &bytes, Revision(4)).unwrap(), table);
        let golden = format!(
            r#"{{"format":1,"tokens":[{{"id":7,"name":"app","sha256":"{}","rights":["orders:read","*:admin"],"created_ms":5,"expires_ms":null}}]}}"#,
            "0a".repeat(32)
        );
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), golden);
        let broken = golden.replace("0a0a", "xx");
        assert!(decode_tokens("tokens", broken.as_bytes(), Revision(1)).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        let newer = decode_configuration("g1", br#"{"format":2,"quorums":[]}"#, ConfigVersion(1)).unwrap_err();
        assert!(matches!(
            newer,
            StoreError::NewerFormat {
                found: 2,
                supported: 1,
                ..
            }
        ));
        for bad in ["", "{}", "[]", r#"{"format":1}"#, r#"{"format":1,"epoch":-1}"#, "\u{0}"] {
            let error = decode_map("the-map", bad.as_bytes(), MapVersion(1)).unwrap_err();
            assert!(error.to_string().contains("the-map"), "{error}");
        }
    }
}
