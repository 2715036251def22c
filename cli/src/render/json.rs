//! Answers as JSON, and receipts as one line for people.

use super::units::latency;
use crate::value::Encoding;
use fulcrum_types::{NodeId, Receipt, Role, StalenessBasis};
use serde_json::{Map, Value, json};
use std::time::Duration;

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// A receipt, every field of it.
#[must_use]
pub fn receipt_json(receipt: &Receipt) -> Value {
    json!({
        "mode": receipt.mode.name(),
        "asked": receipt.asked.to_string(),
        "achieved": receipt.achieved.to_string(),
        "group": receipt.group.0,
        "replica": receipt.replica.0,
        "role": receipt.role.name(),
        "epoch": receipt.epoch.0,
        "index": receipt.index.0,
        "acknowledged_by": receipt.acknowledged_by.iter().map(|node| node.0).collect::<Vec<_>>(),
        "durable": receipt.durable,
        "staleness_us": receipt.staleness.map(micros),
        "staleness_basis": receipt.basis.name(),
        "map_version": receipt.map_version.0,
        "rounds": receipt.rounds,
        "elapsed_us": micros(receipt.elapsed),
    })
}

/// A receipt in one line: what was got, from whom, and what it cost.
#[must_use]
pub fn receipt_line(receipt: &Receipt) -> String {
    let mut parts = Vec::new();
    match receipt.acknowledged_by.is_empty() {
        true if receipt.asked == receipt.achieved => parts.push(format!("{} read", receipt.achieved)),
        true => parts.push(format!("{} read (asked: {})", receipt.achieved, receipt.asked)),
        false => {
            let durable = if receipt.durable { "on disk at" } else { "in memory of" };
            parts.push(format!(
                "{} write, {durable} {}",
                receipt.mode,
                nodes(&receipt.acknowledged_by)
            ));
        }
    }
    let who = match receipt.role {
        Role::Primary => "primary",
        Role::Backup => "backup",
        Role::Learner => "learner",
    };
    parts.push(format!(
        "{} of {} ({who}, epoch {})",
        receipt.replica, receipt.group, receipt.epoch.0
    ));
    parts.push(format!("index {}", receipt.index.0));
    if receipt.acknowledged_by.is_empty() {
        parts.push(match (receipt.staleness, receipt.basis) {
            (Some(Duration::ZERO), _) => format!("fresh by {}", receipt.basis.name()),
            (Some(bound), _) => format!("at most {} stale by {}", latency(bound), receipt.basis.name()),
            (None, StalenessBasis::None) => "staleness unknown".to_owned(),
            (None, basis) => format!("staleness unknown, {}", basis.name()),
        });
    }
    let rounds = if receipt.rounds == 1 { "round" } else { "rounds" };
    parts.push(format!("{} {rounds} in {}", receipt.rounds, latency(receipt.elapsed)));
    parts.join(", ")
}

fn nodes(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join("+")
}

/// Adds bytes under a name: as text if they are, unless an encoding is asked for; the name tells which.
pub fn bytes_field(object: &mut Map<String, Value>, name: &str, bytes: &[u8], encoding: Encoding) {
    let (name, text) = match (encoding, std::str::from_utf8(bytes)) {
        (Encoding::Text, Ok(text)) => (name.to_owned(), text.to_owned()),
        (Encoding::Hex, _) => (format!("{name}_hex"), Encoding::Hex.encode(bytes)),
        (Encoding::Base64, _) | (Encoding::Text, Err(_)) => (format!("{name}_base64"), Encoding::Base64.encode(bytes)),
    };
    object.insert(name, text.into());
}

#[cfg(test)]
mod tests {
    use super::*;
    use fulcrum_types::{Epoch, GroupId, Index, Level, MapVersion, Mode};

    fn read() -> Receipt {
        Receipt {
            mode: Mode::Sync,
            asked: Level::Linearizable,
            achieved: Level::Linearizable,
            group: GroupId(3),
            replica: NodeId(2),
            role: Role::Primary,
            epoch: Epoch(4),
            index: Index(17),
            acknowledged_by: Vec::new(),
            durable: false,
            staleness: Some(Duration::ZERO),
            basis: StalenessBasis::Lease,
            map_version: MapVersion(9),
            rounds: 0,
            elapsed: Duration::from_micros(120),
        }
    }

    #[test]
    fn receipts_read_as_sentences() {
        assert_eq!(
            receipt_line(&read()),
            "linearizable read, n2 of g3 (primary, epoch 4), index 17, fresh by lease, 0 rounds in 120 us"
        );
        let stale = Receipt {
            asked: Level::Bounded(Duration::from_millis(500)),
            achieved: Level::Eventual,
            role: Role::Backup,
            staleness: Some(Duration::from_millis(700)),
            basis: StalenessBasis::Echo,
            ..read()
        };
        assert_eq!(
            receipt_line(&stale),
            "eventual read (asked: bounded(500ms)), n2 of g3 (backup, epoch 4), index 17, at most 700 ms stale by echo, 0 rounds in 120 us"
        );
        let write = Receipt {
            acknowledged_by: vec![NodeId(1), NodeId(2)],
            durable: true,
            rounds: 1,
            ..read()
        };
        assert_eq!(
            receipt_line(&write),
            "sync write, on disk at n1+n2, n2 of g3 (primary, epoch 4), index 17, 1 round in 120 us"
        );
    }

    #[test]
    fn a_receipt_as_json_names_its_units() {
        let json = receipt_json(&read());
        assert_eq!(json["staleness_us"], 0);
        assert_eq!(json["elapsed_us"], 120);
        assert_eq!(json["achieved"], "linearizable");
        assert_eq!(json.as_object().map(Map::len), Some(15));
    }

    #[test]
    fn the_name_tells_the_encoding() {
        let mut object = Map::new();
        bytes_field(&mut object, "a", b"text", Encoding::Text);
        bytes_field(&mut object, "b", b"\xff", Encoding::Text);
        bytes_field(&mut object, "c", b"text", Encoding::Hex);
        assert_eq!(
            Value::Object(object),
            json!({"a": "text", "b_base64": "/w==", "c_hex": "74657874"})
        );
    }
}
