//! What the client makes of a watch whose stream breaks.

#[allow(dead_code, reason = "each test file uses a part of it")]
mod support;

use fulcrum_client::{Act, Client, Config, Error, Refusal, WatchEvent, WatchPosition, WatchToken};
use fulcrum_common::wire::v1;
use fulcrum_types::{
    Change, ChangeKind, Cursor, Epoch, GroupId, Index, LogPosition, MapVersion, ReplicatedTime, Version, Versioned,
};
use futures::{StreamExt, TryStreamExt};
use std::time::Duration;
use support::{Fake, Reaction};

async fn connected() -> (Fake, Client) {
    let fake = Fake::new(1);
    let address = fake.start().await;
    let client = Client::connect(Config::new(address.to_string())).await.unwrap();
    (fake, client)
}

fn at(index: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(1),
        index: Index(index),
    }
}

fn token(position: WatchPosition) -> WatchToken {
    WatchToken {
        map_version: MapVersion(1),
        groups: [(GroupId(1), position)].into(),
    }
}

fn behind(index: u64) -> WatchPosition {
    WatchPosition {
        cursor: Cursor::behind(at(index)),
        loading: None,
    }
}

fn start(position: WatchPosition) -> v1::WatchResponse {
    v1::WatchResponse {
        start: Some(token(position).into()),
        ..Default::default()
    }
}

/// Puts of one entry, then where the group stands.
fn told(index: u64, puts: u32) -> v1::WatchResponse {
    let put = |ordinal| Change {
        position: at(index),
        ordinal,
        time: ReplicatedTime(9),
        key: "a".into(),
        kind: ChangeKind::Put(Versioned {
            value: format!("{index}.{ordinal}").into(),
            version: Version(index),
            expires_at_ms: 0,
        }),
    };
    v1::WatchResponse {
        group: 1,
        changes: (0..puts).map(|ordinal| put(ordinal).into()).collect(),
        position: Some(behind(index).into()),
        map_version: 1,
        ..Default::default()
    }
}

fn value(event: &WatchEvent) -> Option<String> {
    match event {
        WatchEvent::Change { change, .. } => match &change.kind {
            ChangeKind::Put(value) => Some(String::from_utf8_lossy(&value.value).into_owned()),
            _ => None,
        },
        _ => None,
    }
}

#[tokio::test]
async fn a_broken_watch_goes_on_where_it_was() {
    let (fake, client) = connected().await;
    fake.with(|state| {
        state.scripts.push_back(vec![]);
        state.scripts.push_back(vec![start(behind(4)), told(5, 2)]);
        state.scripts.push_back(vec![start(behind(5)), told(6, 1), told(7, 0)]);
        state.scripts.push_back(vec![start(behind(7)), told(8, 1)]);
    });
    let mut events = client.keyspace("k").watch().key("a").events();
    assert_eq!(events.token(), None);
    let mut values = Vec::new();
    while values.len() < 4 {
        let event = events.try_next().await.unwrap().unwrap();
        values.extend(value(&event));
    }
    assert_eq!(values, ["5.0", "5.1", "6.0", "8.0"]);
    let asked = fake.with(|state| state.watches.clone());
    let from: Vec<Option<WatchToken>> = asked.into_iter().map(|asked| asked.from.map(Into::into)).collect();
    assert_eq!(
        from,
        [None, None, Some(token(behind(5))), Some(token(behind(7)))],
        "nothing was told before the second broke"
    );
}

#[tokio::test]
async fn the_token_stands_behind_each_event() {
    let (fake, client) = connected().await;
    fake.with(|state| state.scripts.push_back(vec![start(behind(4)), told(5, 2)]));
    let mut events = client.keyspace("k").watch().events();
    for part in [1, 2] {
        events.try_next().await.unwrap().unwrap();
        let half = WatchPosition {
            cursor: Cursor {
                position: at(5),
                part: Some(part),
            },
            loading: None,
        };
        assert_eq!(events.token(), Some(token(half)));
    }
    assert!(matches!(events.try_next().await, Ok(Some(WatchEvent::Progress(_)))));
    assert_eq!(events.token(), Some(token(behind(5))));
}

#[tokio::test]
async fn values_told_in_part_are_told_again_to_whoever_goes_on() {
    let (fake, client) = connected().await;
    let to_load = WatchPosition {
        cursor: Cursor::default(),
        loading: Some("".into()),
    };
    let row = |key: &'static str| v1::scan_page::Row {
        key: key.into(),
        value: Some(v1::Value::default()),
    };
    let page = v1::WatchResponse {
        current: vec![row("a"), row("b")],
        ..told(5, 1)
    };
    fake.with(|state| state.scripts.push_back(vec![start(to_load.clone()), page]));
    let mut events = client.keyspace("k").watch().with_current().events();
    for _ in 0..3 {
        events.try_next().await.unwrap().unwrap();
        assert_eq!(events.token(), Some(token(to_load.clone())));
    }
    events.try_next().await.unwrap().unwrap();
    assert_eq!(events.token(), Some(token(behind(5))));
    assert!(fake.with(|state| state.watches[0].include_current));
}

#[tokio::test]
async fn what_cannot_be_gone_on_with_ends_the_watch() {
    let (fake, client) = connected().await;
    let lost = Refusal::HistoryLost {
        group: GroupId(1),
        seen: at(5),
    };
    fake.with(|state| state.scripts.push_back(vec![start(behind(4)), told(5, 1)]));
    fake.react([
        Reaction::Answer,
        Reaction::Refuse(Refusal::Overloaded),
        Reaction::Refuse(lost.clone()),
    ]);
    let events: Vec<_> = client.keyspace("k").watch().events().collect().await;
    let Some(Err(error @ Error::Refused(refusal))) = events.last() else {
        panic!("{events:?}")
    };
    assert_eq!((refusal, error.act()), (&lost, Act::Reject));
    assert_eq!(fake.with(|state| state.watches.len()), 3);
}

#[tokio::test]
async fn patience_ends() {
    let (_fake, client) = connected().await;
    let watch = client.keyspace("k").watch().patience(Duration::from_millis(200));
    let last = watch.events().collect::<Vec<_>>().await.pop();
    assert!(matches!(last, Some(Err(Error::Unreachable { .. }))), "{last:?}");
}
