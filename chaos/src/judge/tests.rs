//! The judge is shown what it must not let pass.

use super::*;
use fulcrum_checker::{Call, ClientLog, Facts, Outcome, ValueId};
use fulcrum_client::{GroupStatus, LostEntry, ReplicaStatus};
use fulcrum_types::{
    ClientId, Condition, ConfigVersion, Epoch, GroupId, Index, LogPosition, MapVersion, Mutation, NodeId, Role,
    StalenessBasis, WriteOp,
};
use std::time::Duration;

const GROUP: GroupId = GroupId(1);

fn status(mode: Mode) -> ClusterStatus {
    let replica = |node| ReplicaStatus {
        node: NodeId(node),
        role: Some(Role::Backup),
        epoch: Epoch(2),
        last_index: Index(9),
        commit_index: Index(9),
        applied_index: Index(9),
        lag_entries: 0,
        lag: Duration::ZERO,
        staleness: None,
        reachable: true,
    };
    let group = GroupStatus {
        id: GROUP,
        keyspace: "k".to_owned(),
        mode,
        slots: 1024,
        epoch: Epoch(2),
        config_version: ConfigVersion(2),
        primary: Some(NodeId(2)),
        in_sync: vec![NodeId(1), NodeId(2)],
        replicas: vec![replica(1), replica(2)],
        ready: true,
        stranded: false,
    };
    ClusterStatus {
        cluster_id: "c".to_owned(),
        map_version: MapVersion(1),
        nodes: Vec::new(),
        groups: vec![group],
        placement: None,
    }
}

fn facts(epoch: u64, index: u64) -> Facts {
    Facts {
        group: GROUP,
        replica: NodeId(epoch),
        role: Role::Primary,
        achieved: Level::Linearizable,
        position: LogPosition {
            epoch: Epoch(epoch),
            index: Index(index),
        },
        acknowledged_by: [NodeId(1), NodeId(2)].into(),
        durable: true,
        staleness: Some(Duration::ZERO),
        basis: StalenessBasis::None,
    }
}

/// Two writes of epoch 1, acknowledged, and one of epoch 2 behind them.
fn three_writes(second_index: u64, third_index: u64) -> ClientLog {
    let mut log = ClientLog::new(ClientId(1));
    for (at, epoch, index) in [(10, 1, 5), (30, 1, second_index), (50, 2, third_index)] {
        let value = ValueId::of(format!("value {at}").as_bytes());
        let ticket = log.begin(at, Bytes::from(format!("key {at}")), Call::Put(value));
        let outcome = Outcome::Written {
            version: Some(Index(index)),
        };
        log.end(ticket, at + 10, outcome, Some(facts(epoch, index)));
    }
    log
}

fn finals(of: &[u64]) -> BTreeMap<Bytes, Seen> {
    let versions = BTreeMap::from([(10, 5), (30, 6), (50, 7)]);
    let one = |at: &u64| {
        let seen = Seen::Present {
            value: ValueId::of(format!("value {at}").as_bytes()),
            version: Some(Index(versions[at])),
        };
        (Bytes::from(format!("key {at}")), seen)
    };
    of.iter().map(one).collect()
}

fn judged(history: &History, finals: BTreeMap<Bytes, Seen>) -> Judged {
    let healed = Healed {
        status: &status(Mode::Sync),
        certificates: &[],
        finals,
    };
    keyspace("k", Mode::Sync, history, &healed)
}

fn broken(judged: &Judged) -> Vec<&str> {
    let broken = judged.checks.iter().filter(|check| !check.holds());
    broken.map(|check| check.name.as_str()).collect()
}

#[test]
fn a_history_without_fault_passes() {
    let history = History::merge([three_writes(6, 7)]);
    let judged = judged(&history, finals(&[10, 30, 50]));
    assert_eq!(broken(&judged), [""; 0], "{judged:?}");
    assert_eq!(judged.lost, 0);
}

#[test]
fn a_planted_lost_write_is_found_in_the_log_and_at_the_end() {
    // The second write was acknowledged at the index that the next epoch then used again, and its key has no value.
    let history = History::merge([three_writes(6, 6)]);
    let judged = judged(&history, finals(&[10, 50]));
    let broken = broken(&judged);
    assert!(broken.contains(&"sync: nothing acknowledged is lost"), "{broken:?}");
    assert!(broken.contains(&"sync: what is read at the end"), "{broken:?}");
    assert_eq!(judged.lost, 1);
}

#[test]
fn a_stale_read_is_not_linearizable() {
    let mut reader = ClientLog::new(ClientId(2));
    let ticket = reader.begin(100, "key 50".into(), Call::Get(Level::Linearizable));
    reader.end(ticket, 110, Outcome::Read(Seen::Absent), None);
    let history = History::merge([three_writes(6, 7), reader]);
    let judged = judged(&history, finals(&[10, 30, 50]));
    assert!(broken(&judged).contains(&"sync: linearizable"), "{judged:?}");
}

fn certificate(value: &str, extent_known: bool) -> Certificate {
    let position = LogPosition {
        epoch: Epoch(1),
        index: Index(6),
    };
    let write = WriteOp {
        key: "key".into(),
        condition: Condition::None,
        mutation: Mutation::Put {
            value: Bytes::from(value.to_owned()),
            ttl: None,
        },
    };
    Certificate {
        group: GROUP,
        keyspace: "k".to_owned(),
        old_epoch: Epoch(1),
        new_epoch: Epoch(2),
        promotion: Some(position),
        extent_known,
        acknowledged_lost: 1,
        never_acknowledged: 0,
        entries: vec![LostEntry {
            position,
            acknowledged: true,
            time_ms: 0,
            writes: vec![write],
            idempotency: vec![None],
        }],
        seen_on: Some(NodeId(1)),
        common: Some(position),
    }
}

#[test]
fn certificates_hold_what_clients_wrote_and_admit_what_nobody_knows() {
    let mut log = ClientLog::new(ClientId(1));
    for (value, outcome) in [("unknown", Outcome::Unknown), ("failed", Outcome::Failed)] {
        let ticket = log.begin(1, "key".into(), Call::Put(ValueId::of(value.as_bytes())));
        log.end(ticket, 2, outcome, None);
    }
    let history = History::merge([log]);
    let violations = |value, known, gone: &[GroupId]| {
        let gone = gone.iter().copied().collect();
        certified("k", &history, &[certificate(value, known)], &gone).violations
    };
    assert_eq!(violations("unknown", true, &[]), 0);
    assert_eq!(violations("failed", true, &[]), 1);
    assert_eq!(violations("never written", true, &[]), 1);
    assert_eq!(violations("unknown", true, &[GROUP]), 1);
    assert_eq!(violations("unknown", false, &[GROUP]), 0);
}

#[test]
fn a_list_that_lost_an_append_is_not_serializable() {
    use fulcrum_checker::{Element, Step, TransactionKey, TransactionLog, TransactionOutcome};
    let key = TransactionKey {
        keyspace: fulcrum_types::KeyspaceId(1),
        key: "list".into(),
    };
    for (seen, broken) in [(vec![Element(1)], 0), (Vec::new(), 1)] {
        let mut log = TransactionLog::new(ClientId(1));
        let (key, element) = (key.clone(), Element(1));
        let append = log.begin(10);
        log.step(
            &append,
            Step::Append {
                key: key.clone(),
                element,
            },
        );
        log.end(append, 20, TransactionOutcome::Committed);
        let read = log.begin(30);
        log.step(&read, Step::Read { key, seen });
        log.end(read, 40, TransactionOutcome::Committed);
        let check = lists(&TransactionHistory::merge([log]));
        assert_eq!((check.judged, check.violations), (2, broken));
        assert_eq!(check.holds(), broken == 0);
        assert_eq!(check.shown.len(), broken);
    }
}
