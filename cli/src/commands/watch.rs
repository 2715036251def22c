//! `fulcrum watch`: what changes, line by line. When it ends it says how to go on.

use super::dev::Stopping;
use crate::args::WatchArgs;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Paint, bytes_field, latency};
use crate::value::Encoding;
use bytes::Bytes;
use fulcrum_client::{ChangeKind, Watch, WatchEvent, WatchEvents, WatchToken};
use futures::TryStreamExt;
use serde_json::{Map, Value, json};

/// Watches.
pub async fn run(context: &Context, args: &WatchArgs) -> Ending {
    let (keyspace, _) = context.keyspace(&args.keyspace).await?;
    let mut events = narrowed(keyspace.watch(), args)?.events();
    let mut stopping = Stopping::listen()?;
    let time_up = async {
        match args.duration {
            Some(duration) => tokio::time::sleep(duration).await,
            None => std::future::pending().await,
        }
    };
    let shown = tokio::select! {
        shown = show_all(context, args, &mut events) => shown,
        () = time_up => Ok(()),
        () = stopping.asked() => Ok(()),
    };
    if let Some(token) = events.token() {
        tell_how_to_go_on(context, &token)?;
    }
    shown.map(|()| Exit::Ok)
}

fn narrowed(watch: Watch, args: &WatchArgs) -> Result<Watch, Failure> {
    let encoding = if args.hex_key { Encoding::Hex } else { Encoding::Text };
    let decoded = |text: &str| match encoding.decode(text) {
        Ok(bytes) => Ok(Bytes::from(bytes)),
        Err(why) => Err(Failure::usage(format!("'{text}'"), why)),
    };
    let watch = match (&args.key, &args.prefix) {
        (Some(key), _) => watch.key(decoded(key)?),
        (None, Some(prefix)) => watch.prefix(decoded(prefix)?),
        (None, None) => watch,
    };
    Ok(match (&args.from, args.include_current) {
        (Some(token), _) => watch.from(token.clone()),
        (None, true) => watch.with_current(),
        (None, false) => watch,
    })
}

async fn show_all(context: &Context, args: &WatchArgs, events: &mut WatchEvents) -> Result<(), Failure> {
    let encoding = args.encoding.encoding();
    let mut left = args.count;
    let failed = |error| Failure::client(format!("cannot watch '{}'", args.keyspace), &error);
    while let Some(event) = events.try_next().await.map_err(failed)? {
        let progress = matches!(event, WatchEvent::Progress(_));
        if progress && !args.progress {
            continue;
        }
        let token = progress.then(|| events.token()).flatten();
        print(&match context.json() {
            true => format!("{}\n", as_json(&event, token.as_ref(), encoding)),
            false => line(&event, token.as_ref(), encoding, context.paint),
        })?;
        if progress {
            continue;
        }
        left = left.map(|left| left - 1);
        if left == Some(0) {
            return Ok(());
        }
    }
    Ok(())
}

fn tell_how_to_go_on(context: &Context, token: &WatchToken) -> Result<(), Failure> {
    if context.json() {
        return print(&format!("{}\n", json!({"event": "end", "token": token.to_string()})));
    }
    note(&format!("go on with --from '{token}'"));
    Ok(())
}

fn as_json(event: &WatchEvent, token: Option<&WatchToken>, encoding: Encoding) -> Value {
    let mut object = Map::new();
    let mut set = |name: &str, value: Value| object.insert(name.to_owned(), value);
    set("group", event.group().0.into());
    match event {
        WatchEvent::Current { row, .. } => {
            set("event", "current".into());
            set("version", row.value.version.0.into());
            set("expires_at_ms", row.value.expires_at_ms.into());
            bytes_field(&mut object, "key", &row.key, Encoding::Text);
            bytes_field(&mut object, "value", &row.value.value, encoding);
        }
        WatchEvent::Change { change, .. } => {
            set("event", name_of(&change.kind).into());
            set("epoch", change.position.epoch.0.into());
            set("index", change.position.index.0.into());
            set("ordinal", change.ordinal.into());
            set("time_ms", change.time.0.into());
            match &change.kind {
                ChangeKind::Put(value) => {
                    set("version", value.version.0.into());
                    set("expires_at_ms", value.expires_at_ms.into());
                    bytes_field(&mut object, "value", &value.value, encoding);
                }
                ChangeKind::Delete { version } | ChangeKind::Expire { version } => {
                    set("version", version.0.into());
                }
            }
            bytes_field(&mut object, "key", &change.key, Encoding::Text);
        }
        WatchEvent::Progress(progress) => {
            set("event", "progress".into());
            set("epoch", progress.position.cursor.position.epoch.0.into());
            set("index", progress.position.cursor.position.index.0.into());
            set("time_ms", progress.time.0.into());
            let staleness = progress.staleness.map(|bound| bound.as_micros());
            set("staleness_us", json!(staleness.and_then(|us| u64::try_from(us).ok())));
            set("replica", progress.replica.0.into());
            set("token", token.map(ToString::to_string).into());
        }
    }
    Value::Object(object)
}

fn name_of(kind: &ChangeKind) -> &'static str {
    match kind {
        ChangeKind::Put(_) => "put",
        ChangeKind::Delete { .. } => "delete",
        ChangeKind::Expire { .. } => "expire",
    }
}

fn line(event: &WatchEvent, token: Option<&WatchToken>, encoding: Encoding, paint: Paint) -> String {
    let text = |bytes: &[u8]| match std::str::from_utf8(bytes) {
        Ok(text) => text.replace(['\n', '\r', '\t'], " "),
        Err(_) => bytes.escape_ascii().to_string(),
    };
    let value = |bytes: &[u8]| match encoding {
        Encoding::Text => text(bytes),
        other => other.encode(bytes),
    };
    let group = event.group().to_string();
    match event {
        WatchEvent::Current { row, .. } => {
            let (key, shown) = (text(&row.key), value(&row.value.value));
            let version = row.value.version.0;
            format!(
                "{group:<6} {:>12}  {:<8} {key} = {shown}  {}\n",
                "",
                "current",
                at(version, paint)
            )
        }
        WatchEvent::Change { change, .. } => {
            let (key, index) = (text(&change.key), change.position.index.0);
            let (what, version) = match &change.kind {
                ChangeKind::Put(put) => (format!("{key} = {}", value(&put.value)), put.version.0),
                ChangeKind::Delete { version } | ChangeKind::Expire { version } => (key, version.0),
            };
            let name = name_of(&change.kind);
            format!("{group:<6} {index:>12}  {name:<8} {what}  {}\n", at(version, paint))
        }
        WatchEvent::Progress(progress) => {
            let index = progress.position.cursor.position.index.0;
            let fresh = match progress.staleness {
                Some(bound) => format!("at most {} old", latency(bound)),
                None => "age unknown".to_owned(),
            };
            let token = token.map(ToString::to_string).unwrap_or_default();
            let told = format!("{group:<6} {index:>12}  {:<8} {fresh}, {token}", "progress");
            format!("{}\n", paint.dim(&told))
        }
    }
}

fn at(version: u64, paint: Paint) -> String {
    paint.dim(&format!("(version {version})"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_client::{Change, GroupId, Version, Versioned};
    use fulcrum_types::{Epoch, Index, LogPosition, ReplicatedTime};

    fn event(kind: ChangeKind) -> WatchEvent {
        let change = Change {
            position: LogPosition {
                epoch: Epoch(2),
                index: Index(17),
            },
            ordinal: 0,
            time: ReplicatedTime(99),
            key: "k\n".into(),
            kind,
        };
        WatchEvent::Change {
            group: GroupId(3),
            change,
        }
    }

    #[test]
    fn a_change_is_one_line() {
        let put = event(ChangeKind::Put(Versioned {
            value: "v\tw".into(),
            version: Version(17),
            expires_at_ms: 0,
        }));
        let shown = line(&put, None, Encoding::Text, Paint::plain());
        assert_eq!(shown, "g3               17  put      k  = v w  (version 17)\n");
        let expired = event(ChangeKind::Expire { version: Version(5) });
        let shown = line(&expired, None, Encoding::Text, Paint::plain());
        assert_eq!(shown, "g3               17  expire   k   (version 5)\n");
        assert_eq!(
            as_json(&expired, None, Encoding::Text),
            json!({"event": "expire", "group": 3, "epoch": 2, "index": 17, "ordinal": 0, "time_ms": 99,
                "key": "k\n", "version": 5})
        );
    }
}
