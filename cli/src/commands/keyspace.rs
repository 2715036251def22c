//! `fulcrum keyspace`: create, list, show, drop.

use crate::args::{KeyspaceCommand, KeyspaceCreateArgs};
use crate::context::{Context, Ending, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Table, span};
use fulcrum_client::{KeyspaceInfo, KeyspaceSpec};
use serde_json::{Value, json};

/// Runs one of them.
pub async fn run(context: &Context, command: &KeyspaceCommand) -> Ending {
    match command {
        KeyspaceCommand::Create(args) => create(context, args).await,
        KeyspaceCommand::List => list(context).await,
        KeyspaceCommand::Show { name } => show(context, name).await,
        KeyspaceCommand::Drop { name, yes } => drop_it(context, name, *yes).await,
    }
}

async fn create(context: &Context, args: &KeyspaceCreateArgs) -> Ending {
    let spec = spec(args);
    // Refused here already, so that a contradiction is named without a cluster.
    spec.resolve()
        .map_err(|error| Failure::usage(format!("keyspace '{}'", args.name), error))?;
    let admin = context.client().await?.admin();
    let created = admin.create_keyspace(&args.name, spec).await;
    let created =
        created.map_err(|error| Failure::client(format!("cannot create keyspace '{}'", args.name), &error))?;
    if context.json() {
        context.print_json(&as_json(&created))?;
        return Ok(Exit::Ok);
    }
    print(&format!("created keyspace '{}': {}\n", created.name, summary(&created)))?;
    Ok(Exit::Ok)
}

fn spec(args: &KeyspaceCreateArgs) -> KeyspaceSpec {
    KeyspaceSpec {
        mode: args.mode.clone(),
        replication_factor: args.replication_factor,
        groups: args.groups,
        default_level: args.default_level.clone(),
        fsync: args.fsync.clone(),
        min_in_sync: args.min_in_sync,
        delimiter: args.delimiter.clone(),
        idempotency_retention: args.idempotency_retention,
        tombstone_retention: args.tombstone_retention,
        heartbeat: args.heartbeat,
        lease: args.lease,
        grace: args.grace,
    }
}

async fn list(context: &Context) -> Ending {
    let admin = context.client().await?.admin();
    let keyspaces = admin.list_keyspaces().await;
    let keyspaces = keyspaces.map_err(|error| Failure::client("cannot list keyspaces", &error))?;
    if context.json() {
        context.print_json(&Value::Array(keyspaces.iter().map(as_json).collect()))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&[
        ("keyspace", Align::Left),
        ("mode", Align::Left),
        ("replicas", Align::Right),
        ("groups", Align::Right),
        ("reads by default", Align::Left),
        ("fsync", Align::Left),
    ]);
    for keyspace in &keyspaces {
        let options = &keyspace.options;
        table.row([
            keyspace.name.clone(),
            options.mode.to_string(),
            options.replication_factor.to_string(),
            options.groups.to_string(),
            options.default_level.to_string(),
            options.fsync.to_string(),
        ]);
    }
    match table.is_empty() {
        true => print("no keyspaces yet: `fulcrum keyspace create NAME`\n")?,
        false => print(&table.render(context.paint))?,
    }
    Ok(Exit::Ok)
}

async fn show(context: &Context, name: &str) -> Ending {
    let admin = context.client().await?.admin();
    let keyspace = admin.show_keyspace(name).await;
    let keyspace = keyspace.map_err(|error| Failure::client(format!("cannot show keyspace '{name}'"), &error))?;
    if context.json() {
        context.print_json(&as_json(&keyspace))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&[("option", Align::Left), ("value", Align::Left)]);
    for (option, value) in options_of(&keyspace) {
        table.row([option.to_owned(), value]);
    }
    print(&table.render(context.paint))?;
    Ok(Exit::Ok)
}

async fn drop_it(context: &Context, name: &str, yes: bool) -> Ending {
    if !yes {
        let why = "this removes all its data from every node, for good";
        return Err(Failure::usage(format!("keyspace '{name}' is not dropped"), why).remedy("say so with --yes"));
    }
    let admin = context.client().await?.admin();
    let dropped = admin.drop_keyspace(name).await;
    dropped.map_err(|error| Failure::client(format!("cannot drop keyspace '{name}'"), &error))?;
    match context.json() {
        true => context.print_json(&json!({"dropped": name}))?,
        false => print(&format!("dropped keyspace '{name}'\n"))?,
    }
    Ok(Exit::Ok)
}

fn summary(keyspace: &KeyspaceInfo) -> String {
    let options = &keyspace.options;
    format!(
        "{}, {} groups of {} replicas, reads {} by default, fsync {}",
        options.mode, options.groups, options.replication_factor, options.default_level, options.fsync
    )
}

fn options_of(keyspace: &KeyspaceInfo) -> Vec<(&'static str, String)> {
    let options = &keyspace.options;
    let groups: Vec<String> = keyspace.groups.iter().map(ToString::to_string).collect();
    vec![
        ("name", keyspace.name.clone()),
        ("id", keyspace.id.to_string()),
        ("mode", options.mode.to_string()),
        ("replication_factor", options.replication_factor.to_string()),
        ("groups", groups.join(" ")),
        ("default_level", options.default_level.to_string()),
        ("fsync", options.fsync.to_string()),
        ("min_in_sync", options.min_in_sync.to_string()),
        (
            "delimiter",
            options.delimiter.map_or("none: {tags}".to_owned(), |c| c.to_string()),
        ),
        ("idempotency_retention", span(options.idempotency_retention)),
        ("tombstone_retention", span(options.tombstone_retention)),
        ("heartbeat", span(options.timing.heartbeat)),
        ("lease", span(options.timing.lease)),
        ("grace", span(options.timing.grace)),
    ]
}

fn as_json(keyspace: &KeyspaceInfo) -> Value {
    let options = &keyspace.options;
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "id": keyspace.id.0,
        "name": keyspace.name,
        "groups": keyspace.groups.iter().map(|group| group.0).collect::<Vec<_>>(),
        "options": {
            "mode": options.mode.name(),
            "replication_factor": options.replication_factor,
            "default_level": options.default_level.to_string(),
            "fsync": options.fsync.name(),
            "min_in_sync": options.min_in_sync,
            "delimiter": options.delimiter,
            "idempotency_retention_ms": ms(options.idempotency_retention),
            "tombstone_retention_ms": ms(options.tombstone_retention),
            "heartbeat_ms": ms(options.timing.heartbeat),
            "lease_ms": ms(options.timing.lease),
            "grace_ms": ms(options.timing.grace),
        },
    })
}
