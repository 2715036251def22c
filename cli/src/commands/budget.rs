//! `fulcrum failover budget`: which timers add up to a failover.

use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Paint, Table, span};
use fulcrum_client::KeyspaceInfo;
use fulcrum_common::failover_budget::{Wait, failover_budget};
use serde_json::{Value, json};
use std::time::Duration;

/// Of one keyspace, or of all.
pub async fn run(context: &Context, keyspace: Option<&str>) -> Ending {
    let admin = context.client().await?.admin();
    let keyspaces = match keyspace {
        Some(name) => admin.show_keyspace(name).await.map(|one| vec![one]),
        None => admin.list_keyspaces().await,
    };
    let keyspaces = keyspaces.map_err(|error| Failure::client("cannot tell the budget", &error))?;
    if context.json() {
        context.print_json(&Value::Array(keyspaces.iter().map(as_json).collect()))?;
        return Ok(Exit::Ok);
    }
    if keyspaces.is_empty() {
        print("no keyspaces yet: `fulcrum keyspace create NAME`\n")?;
        return Ok(Exit::Ok);
    }
    let texts: Vec<String> = keyspaces.iter().map(|one| render(one, context.paint)).collect();
    print(&texts.join("\n"))?;
    note(
        "rounds, fsyncs and compare-and-swaps come on top: fulcrum_shard_node_failover_phase_seconds has them. \
         A disk that stalls is noticed after the node's times.sync_overdue",
    );
    Ok(Exit::Ok)
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

fn as_json(keyspace: &KeyspaceInfo) -> Value {
    let waits = failover_budget(&keyspace.options);
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
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
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_common::KeyspaceOptions;
    use fulcrum_types::{KeyspaceId, Mode};

    #[test]
    fn the_sum_is_that_of_the_rows() {
        let keyspace = KeyspaceInfo {
            id: KeyspaceId(1),
            name: "orders".to_owned(),
            options: KeyspaceOptions::of(Mode::Sync, 3),
            groups: Vec::new(),
        };
        let told = as_json(&keyspace);
        let sum = |what: &str| {
            let waits = told["waits"].as_array().unwrap();
            waits.iter().map(|wait| wait[what].as_u64().unwrap()).sum::<u64>()
        };
        assert_eq!(told["least_ms"], sum("least_ms"));
        assert_eq!(told["most_ms"], sum("most_ms"));
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
