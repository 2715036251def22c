//! `fulcrum node`: empties a node, and shows how far that is.

use super::failover::number;
use crate::args::NodeCommand;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use fulcrum_client::{Admin, Draining};
use fulcrum_types::NodeId;
use serde_json::json;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Runs one of them.
pub async fn run(context: &Context, command: &NodeCommand) -> Ending {
    let NodeCommand::Drain { node, abort, within } = command;
    let node = NodeId(number(node, 'n', "node")?);
    let admin = context.client().await?.admin();
    match abort {
        true => call_off(context, &admin, node).await,
        false => drain(context, &admin, node, *within).await,
    }
}

async fn call_off(context: &Context, admin: &Admin, node: NodeId) -> Ending {
    let called_off = admin.abort_drain(node).await;
    called_off.map_err(|error| Failure::client(format!("cannot call off the drain of {node}"), &error))?;
    match context.json() {
        true => context.print_json(&json!({"node": node.0, "draining": false}))?,
        false => print(&format!("{node} keeps what it has, and may be given more\n"))?,
    }
    Ok(Exit::Ok)
}

async fn drain(context: &Context, admin: &Admin, node: NodeId, within: Duration) -> Ending {
    let refused = |error| Failure::client(format!("cannot empty {node}"), &error);
    admin.drain_node(node).await.map_err(refused)?;
    if tokio::time::timeout(within, until_empty(context, admin, node))
        .await
        .is_err()
    {
        let why = format!("it is not empty after {} s; the drain goes on", within.as_secs());
        let failure = Failure::new(
            Exit::Unknown,
            "DRAIN_GOES_ON",
            format!("{node} still holds replicas"),
            why,
        );
        return Err(failure.remedy(format!(
            "look at `fulcrum status`, wait with `fulcrum node drain {node}`, or call it off with --abort"
        )));
    }
    match context.json() {
        true => context.print_json(&json!({"node": node.0, "draining": true, "replicas": 0}))?,
        false => print(&format!(
            "{node} is empty and gets nothing more: stop it, or call it back with `fulcrum node drain {node} --abort`\n"
        ))?,
    }
    Ok(Exit::Ok)
}

/// Looks until nothing is left. A look that fails is no news.
async fn until_empty(context: &Context, admin: &Admin, node: NodeId) {
    let mut said = None;
    loop {
        let status = admin.status(None).await.ok().and_then(|status| status.placement);
        let left = status.and_then(|p| p.draining.into_iter().find(|left| left.node == node));
        if let Some(left) = left {
            if left.replicas == 0 {
                return;
            }
            if said != Some(left) && !context.json() {
                say(left);
            }
            said = Some(left);
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

fn say(left: Draining) {
    note(&format!(
        "{}: {} replicas left, {} of them primaries",
        left.node, left.replicas, left.primaries
    ));
}
