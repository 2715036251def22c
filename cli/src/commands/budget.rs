//! `fulcrum failover budget`: which timers add up to a failover.

use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Paint, Table, span};
use fulcrum_client::{ClusterStatus, KeyspaceInfo};
use fulcrum_common::failover_budget::{FailoverPauses, Wait, failover_budget};
use serde_json::{Value, json};
use std::time::Duration;

/// Of one keyspace, or of all.
pub async fn run(context: &Context, keyspace: Option<&str>) -> Ending {
    let admin = context.client().await?.admin();
    let keyspaces = match keyspace {
        Some(name) => admin.show_keyspace(name).await.map(|one| vec![one]),
        None => admin.list_keyspaces().await,
    };
    let failed = |error| Failure::client("cannot tell the budget", &error);
    let keyspaces = keyspaces.map_err(failed)?;
    let pauses = pauses_of(&admin.status(keyspace).await.map_err(failed)?);
    if context.json() {
        let told = keyspaces.iter().map(|one| as_json(one, pauses));
        context.print_json(&Value::Array(told.collect()))?;
        return Ok(Exit::Ok);
    }
    if keyspaces.is_empty() {
        print("no keyspaces yet: `fulcrum keyspace create NAME`\n")?;
        return Ok(Exit::Ok);
    }
    let texts: Vec<String> = keyspaces.iter().map(|one| render(one, context.paint)).collect();
    print(&texts.join("\n"))?;
    print(&format!("\n{}\n", between(pauses)))?;
    note(
        "rounds, fsyncs and compare-and-swaps come on top: fulcrum_shard_node_failover_phase_seconds has them. \
         A disk that stalls is noticed after the node's times.sync_overdue",
    );
    Ok(Exit::Ok)
}

/// What nodes keep failovers of one group apart by; the longest, if they do not agree. None if no node told.
fn pauses_of(status: &ClusterStatus) -> Option<FailoverPauses> {
    let told = status.nodes.iter().filter_map(|node| node.failover_pauses);
    told.reduce(FailoverPauses::or_longer)
}

/// What comes on top if failovers of one group follow each other.
fn between(pauses: Option<FailoverPauses>) -> String {
    match pauses {
        None => "no node told what keeps failovers of one group apart (times.failover_pause)".to_owned(),
        Some(pauses) if pauses.first.is_zero() => {
            "failovers of one group may follow each other at once (times.failover_pause is 0)".to_owned()
        }
        Some(pauses) => format!(
            "a failover waits until {} after the last one of its group, twice as long after each that came within twice the last pause, at most {},\n\
             unless the primary's node has no lease (set by the nodes' times.failover_pause, times.failover_pause_max)",
            span(pauses.first),
            span(pauses.longest)
        ),
    }
}

fn total(waits: &[Wait], of: fn(&Wait) -> Duration) -> Duration {
    waits.iter().map(of).sum()
}

fn render(keyspace: &KeyspaceInfo, paint: Paint) -> String {
    let waits = failover_budget(&keyspace.options);
    let mut table = Table::new(&[
        ("phase", Align::Left),
        ("wait", Align::Left),
        ("set by", Align::Left),
        ("least", Align::Right),
        ("most", Align::Right),
    ]);
    for wait in &waits {
        table.row([
            wait.phase.name().to_owned(),
            wait.what.to_owned(),
            wait.setting.unwrap_or("fixed").to_owned(),
            span(wait.least),
            span(wait.most),
        ]);
    }
    let (least, most) = (total(&waits, |wait| wait.least), total(&waits, |wait| wait.most));
    table.row([
        "all".to_owned(),
        "from the primary's death to the first write it can take".to_owned(),
        String::new(),
        span(least),
        span(most),
    ]);
    format!("{}, {}\n{}", keyspace.name, keyspace.options.mode, table.render(paint))
}

fn as_json(keyspace: &KeyspaceInfo, pauses: Option<FailoverPauses>) -> Value {
    let waits = failover_budget(&keyspace.options);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let between = pauses.map(|pauses| {
        json!({
            "setting": "times.failover_pause",
            "first_ms": ms(pauses.first),
            "longest_ms": ms(pauses.longest),
        })
    });
    json!({
        "keyspace": keyspace.name,
        "mode": keyspace.options.mode.name(),
        "waits": waits.iter().map(|wait| json!({
            "phase": wait.phase.name(),
            "what": wait.what,
            "setting": wait.setting,
            "least_ms": ms(wait.least),
            "most_ms": ms(wait.most),
        })).collect::<Vec<_>>(),
        "least_ms": ms(total(&waits, |wait| wait.least)),
        "most_ms": ms(total(&waits, |wait| wait.most)),
        "between_failovers": between,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::KeyspaceOptions;
    use fulcrum_types::{KeyspaceId, Mode};

    const PAUSES: FailoverPauses = FailoverPauses {
        first: Duration::from_secs(2),
        longest: Duration::from_secs(30),
    };

    #[test]
    fn what_keeps_failovers_apart_is_told_beside_the_sum() {
        let shown = between(Some(PAUSES));
        for word in ["2.00 s", "30.00 s", "no lease", "times.failover_pause_max"] {
            assert!(shown.contains(word), "'{word}' is not in: {shown}");
        }
        let off = FailoverPauses {
            first: Duration::ZERO,
            longest: Duration::ZERO,
        };
        assert!(between(Some(off)).contains("at once"));
        assert!(between(None).contains("no node told"));
        let other = FailoverPauses {
            longest: Duration::from_secs(60),
            ..off
        };
        let both = PAUSES.or_longer(other);
        assert_eq!((both.first, both.longest), (PAUSES.first, other.longest));
    }

    #[test]
    fn the_sum_is_that_of_the_rows() {
        let keyspace = KeyspaceInfo {
            id: KeyspaceId(1),
            name: "orders".to_owned(),
            options: KeyspaceOptions::of(Mode::Sync, 3),
            groups: Vec::new(),
        };
        let told = as_json(&keyspace, Some(PAUSES));
        let sum = |what: &str| {
            let waits = told["waits"].as_array().unwrap();
            waits.iter().map(|wait| wait[what].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(told["least_ms"], sum("least_ms"));
        assert_eq!(told["most_ms"], sum("most_ms"), "pauses are no part of it");
        let between = &told["between_failovers"];
        assert_eq!(
            (&between["first_ms"], &between["longest_ms"]),
            (&2_000.into(), &30_000.into())
        );
        assert_eq!(as_json(&keyspace, None)["between_failovers"], Value::Null);
        let shown = render(&keyspace, Paint::plain());
        for word in [
            "orders, sync",
            "detect",
            "fence",
            "catch up",
            "grace",
            "1.30 s",
            "1.20 s",
        ] {
            assert!(shown.contains(word), "'{word}' is not in:\n{shown}");
        }
    }
}
