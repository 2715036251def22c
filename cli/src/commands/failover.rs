//! `fulcrum failover`: how long failovers may take, what they lost, and changes of primary by hand.

use crate::args::FailoverCommand;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Table, bytes_field};
use crate::value::Encoding;
use fulcrum_client::{Certificate, FailoverReport, LostEntry};
use fulcrum_types::{GroupId, Mutation, NodeId};
use serde_json::{Map, Value, json};

/// Runs one of them.
pub async fn run(context: &Context, command: &FailoverCommand) -> Ending {
    match command {
        FailoverCommand::Report { group, entries } => report(context, group.as_deref(), *entries).await,
        FailoverCommand::Budget { keyspace } => super::budget::run(context, keyspace.as_deref()).await,
        FailoverCommand::Replay(args) => super::replay::run(context, args).await,
        FailoverCommand::Promote { group, node } => promote(context, group, node.as_deref()).await,
        FailoverCommand::Force {
            group,
            node,
            accept_loss,
        } => force(context, group, node, *accept_loss).await,
    }
}

/// A number with its letter or without, as in g3.
pub(super) fn number(text: &str, letter: char, what: &str) -> Result<u64, Failure> {
    let digits = text.strip_prefix(letter).unwrap_or(text);
    digits
        .parse()
        .ok()
        .filter(|number| *number > 0)
        .ok_or_else(|| Failure::usage(format!("the {what} '{text}'"), format!("write it as in {letter}3")))
}

async fn report(context: &Context, group: Option<&str>, entries: bool) -> Ending {
    let group = group.map(|text| number(text, 'g', "group")).transpose()?.map(GroupId);
    let admin = context.client().await?.admin();
    let report = admin.failover_report(group, entries).await;
    let report = report.map_err(|error| Failure::client("cannot report failovers", &error))?;
    if context.json() {
        context.print_json(&as_json(&report))?;
    } else {
        print(&render(context, &report, entries))?;
    }
    if !report.unreachable.is_empty() && !context.json() {
        let nodes: Vec<String> = report.unreachable.iter().map(NodeId::to_string).collect();
        note(&format!(
            "could not be asked, so that the report may lack what they hold: {}",
            nodes.join(" ")
        ));
    }
    Ok(Exit::Ok)
}

fn render(context: &Context, report: &FailoverReport, entries: bool) -> String {
    if report.certificates.is_empty() {
        return "no loss certificates: no failover has put an acknowledged write at risk\n".to_owned();
    }
    let mut table = Table::new(&[
        ("group", Align::Left),
        ("keyspace", Align::Left),
        ("epochs", Align::Left),
        ("promoted at", Align::Left),
        ("acknowledged lost", Align::Right),
        ("never acknowledged", Align::Right),
        ("extent", Align::Left),
    ]);
    for certificate in &report.certificates {
        table.row([
            certificate.group.to_string(),
            certificate.keyspace.clone(),
            format!("{} -> {}", certificate.old_epoch.0, certificate.new_epoch.0),
            certificate.promotion.map_or("unknown".to_owned(), |at| at.to_string()),
            certificate.acknowledged_lost.to_string(),
            certificate.never_acknowledged.to_string(),
            extent(certificate),
        ]);
    }
    let mut text = table.render(context.paint);
    for certificate in report.certificates.iter().filter(|_| entries) {
        for entry in &certificate.entries {
            text.push_str(&entry_lines(certificate, entry));
        }
    }
    text
}

fn extent(certificate: &Certificate) -> String {
    match (certificate.extent_known, certificate.seen_on) {
        (true, Some(node)) => format!("known, from the log of {node}"),
        (true, None) => "known".to_owned(),
        (false, _) => "unknown until the old primary's log is seen".to_owned(),
    }
}

fn entry_lines(certificate: &Certificate, entry: &LostEntry) -> String {
    let kind = if entry.acknowledged {
        "may have been acknowledged"
    } else {
        "never acknowledged"
    };
    let mut text = format!("\n{} {} ({kind})\n", certificate.group, entry.position);
    for write in &entry.writes {
        let key = write.key.escape_ascii();
        let line = match &write.mutation {
            Mutation::Put { value, .. } => format!("  put {key} = {}\n", value.escape_ascii()),
            Mutation::Delete => format!("  delete {key}\n"),
        };
        text.push_str(&line);
    }
    text
}

fn as_json(report: &FailoverReport) -> Value {
    json!({
        "certificates": report.certificates.iter().map(certificate_json).collect::<Vec<_>>(),
        "unreachable": report.unreachable.iter().map(|node| node.0).collect::<Vec<_>>(),
    })
}

fn certificate_json(certificate: &Certificate) -> Value {
    json!({
        "group": certificate.group.0,
        "keyspace": certificate.keyspace,
        "old_epoch": certificate.old_epoch.0,
        "new_epoch": certificate.new_epoch.0,
        "promotion": certificate.promotion.map(|at| json!({"epoch": at.epoch.0, "index": at.index.0})),
        "extent_known": certificate.extent_known,
        "acknowledged_lost": certificate.acknowledged_lost,
        "never_acknowledged": certificate.never_acknowledged,
        "seen_on": certificate.seen_on.map(|node| node.0),
        "entries": certificate.entries.iter().map(entry_json).collect::<Vec<_>>(),
    })
}

fn entry_json(entry: &LostEntry) -> Value {
    let writes = entry.writes.iter().map(|write| {
        let mut object = Map::new();
        bytes_field(&mut object, "key", &write.key, Encoding::Text);
        match &write.mutation {
            Mutation::Put { value, .. } => bytes_field(&mut object, "put", value, Encoding::Text),
            Mutation::Delete => {
                object.insert("delete".to_owned(), true.into());
            }
        }
        Value::Object(object)
    });
    json!({
        "epoch": entry.position.epoch.0,
        "index": entry.position.index.0,
        "acknowledged": entry.acknowledged,
        "time_ms": entry.time_ms,
        "writes": writes.collect::<Vec<_>>(),
    })
}

async fn promote(context: &Context, group: &str, node: Option<&str>) -> Ending {
    let group = GroupId(number(group, 'g', "group")?);
    let node = node.map(|text| number(text, 'n', "node")).transpose()?.map(NodeId);
    let admin = context.client().await?.admin();
    let promoted = admin.promote(group, node).await;
    let led = promoted.map_err(|error| Failure::client(format!("cannot change the primary of {group}"), &error))?;
    match context.json() {
        true => context.print_json(&json!({"group": group.0, "node": led.node.0, "epoch": led.epoch.0}))?,
        false => print(&format!("{group} is led by {} now; nothing was lost\n", led.node))?,
    }
    Ok(Exit::Ok)
}

async fn force(context: &Context, group: &str, node: &str, accept_loss: bool) -> Ending {
    let group = GroupId(number(group, 'g', "group")?);
    let node = NodeId(number(node, 'n', "node")?);
    if !accept_loss {
        let why = "acknowledged writes may be lost: what the node lacks is gone";
        return Err(
            Failure::usage(format!("{group} is not started from {node}"), why).remedy("say so with --accept-loss")
        );
    }
    let admin = context.client().await?.admin();
    let forced = admin.force_start(group, node).await;
    let led = forced.map_err(|error| Failure::client(format!("cannot start {group} from {node}"), &error))?;
    match context.json() {
        true => context.print_json(&json!({"group": group.0, "node": node.0, "epoch": led.epoch.0}))?,
        false => print(&format!(
            "{group} has started from what {node} has; `fulcrum failover report {group}` says what may be missing\n"
        ))?,
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_and_nodes_may_be_written_with_or_without_their_letter() {
        assert_eq!(number("g12", 'g', "group"), Ok(12));
        assert_eq!(number("12", 'g', "group"), Ok(12));
        for bad in ["", "g", "g0", "n1", "-1", "g1x"] {
            assert_eq!(number(bad, 'g', "group").unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }
}
