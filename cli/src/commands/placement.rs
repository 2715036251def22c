//! `fulcrum placement`: how patient the cluster is.

use crate::args::{PlacementCommand, PlacementSetArgs};
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use fulcrum_client::{PlacementChange, PlacementSettings};
use fulcrum_common::config::duration;
use serde_json::{Value, json};
use std::time::Duration;

/// Runs one of them.
pub async fn run(context: &Context, command: &PlacementCommand) -> Ending {
    let change = match command {
        PlacementCommand::Show => PlacementChange::default(),
        PlacementCommand::Set(args) => change(args),
    };
    let admin = context.client().await?.admin();
    let settings = admin.placement(change).await;
    let settings = settings.map_err(|error| Failure::client("cannot show or change placement", &error))?;
    match context.json() {
        true => context.print_json(&as_json(&settings))?,
        false => print(&render(&settings))?,
    }
    Ok(Exit::Ok)
}

fn change(args: &PlacementSetArgs) -> PlacementChange {
    PlacementChange {
        rebuild_after: args.rebuild_after,
        rebuilds: args.rebuilds,
        balance_pause: args.balance_pause,
        calm: args.calm,
    }
}

fn render(settings: &PlacementSettings) -> String {
    format!(
        "rebuild after  {}\nrebuilds       {} at a time, one at a node\nbalance pause  {}\ncalm           {}\n",
        duration::format(settings.rebuild_after),
        settings.rebuilds,
        duration::format(settings.balance_pause),
        duration::format(settings.calm)
    )
}

fn as_json(settings: &PlacementSettings) -> Value {
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "rebuild_after_ms": ms(settings.rebuild_after),
        "rebuilds": settings.rebuilds,
        "balance_pause_ms": ms(settings.balance_pause),
        "calm_ms": ms(settings.calm),
    })
}
