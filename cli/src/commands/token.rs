//! `fulcrum token`: make, list, change and revoke tokens.

use crate::args::{Generated, TokenCommand, TokenCreateArgs};
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Table, span};
use fulcrum_client::{Grant, TokenInfo};
use fulcrum_common::auth::text::{INTERNAL, ROOT, Secret};
use fulcrum_common::{Clock, SystemClock};
use serde_json::{Value, json};
use std::time::Duration;

/// Runs one of them.
pub async fn run(context: &Context, command: &TokenCommand) -> Ending {
    match command {
        TokenCommand::Create(args) => create(context, args).await,
        TokenCommand::List => list(context).await,
        TokenCommand::Rights { token, rights } => change(context, token, rights).await,
        TokenCommand::Revoke { token } => revoke(context, token).await,
        TokenCommand::Generate { what } => generate(context, *what),
    }
}

async fn create(context: &Context, args: &TokenCreateArgs) -> Ending {
    let admin = context.client().await?.admin();
    let made = admin.create_token(&args.name, &args.rights, args.expires).await;
    let made = made.map_err(|error| Failure::client(format!("cannot make token '{}'", args.name), &error))?;
    if context.json() {
        let mut shown = as_json(&made.info);
        shown["text"] = json!(made.text);
        context.print_json(&shown)?;
        return Ok(Exit::Ok);
    }
    note("keep it now: it is shown this once, and kept nowhere");
    print(&format!("{}\n", made.text))?;
    Ok(Exit::Ok)
}

async fn list(context: &Context) -> Ending {
    let admin = context.client().await?.admin();
    let tokens = admin.list_tokens().await;
    let tokens = tokens.map_err(|error| Failure::client("cannot list tokens", &error))?;
    if context.json() {
        context.print_json(&Value::Array(tokens.iter().map(as_json).collect()))?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&[
        ("id", Align::Left),
        ("name", Align::Left),
        ("rights", Align::Left),
        ("expires", Align::Left),
    ]);
    let now_ms = SystemClock.now().wall_ms;
    for token in &tokens {
        table.row([
            token.id.clone(),
            token.name.clone(),
            joined(&token.rights),
            expiry(token, now_ms),
        ]);
    }
    match table.is_empty() {
        true => print("no tokens yet: `fulcrum token create NAME --right KEYSPACE:RIGHT`\n")?,
        false => print(&table.render(context.paint))?,
    }
    Ok(Exit::Ok)
}

async fn change(context: &Context, token: &str, rights: &[Grant]) -> Ending {
    let admin = context.client().await?.admin();
    let changed = admin.set_token_rights(token, rights).await;
    let changed =
        changed.map_err(|error| Failure::client(format!("cannot change the rights of token '{token}'"), &error))?;
    match context.json() {
        true => context.print_json(&as_json(&changed))?,
        false => print(&format!("token '{}' has {}\n", changed.name, joined(&changed.rights)))?,
    }
    Ok(Exit::Ok)
}

async fn revoke(context: &Context, token: &str) -> Ending {
    let admin = context.client().await?.admin();
    let revoked = admin.revoke_token(token).await;
    let id = revoked.map_err(|error| Failure::client(format!("cannot revoke token '{token}'"), &error))?;
    match context.json() {
        true => context.print_json(&json!({"id": id, "revoked": true}))?,
        false => print(&format!("token {id} is good for nothing any more\n"))?,
    }
    Ok(Exit::Ok)
}

fn generate(context: &Context, what: Generated) -> Ending {
    let id = match what {
        Generated::Root => ROOT,
        Generated::Internal => INTERNAL,
    };
    let secret = Secret::random().ok_or_else(|| {
        let why = "the system gives no random numbers";
        Failure::new(Exit::Failed, "RANDOM", "cannot make a secret", why)
    })?;
    let (text, hash) = (secret.to_text(id), format!("sha256:{}", secret.hash().to_hex()));
    if context.json() {
        context.print_json(&json!({"text": text, "hash": hash}))?;
        return Ok(Exit::Ok);
    }
    if what == Generated::Root {
        note(&format!("services need only its hash: {hash}"));
    }
    print(&format!("{text}\n"))?;
    Ok(Exit::Ok)
}

fn joined(rights: &[Grant]) -> String {
    let rights: Vec<String> = rights.iter().map(Grant::to_string).collect();
    rights.join(" ")
}

fn expiry(token: &TokenInfo, now_ms: u64) -> String {
    match token.expires_ms {
        None => "never".to_owned(),
        Some(at) if at <= now_ms => "has expired".to_owned(),
        Some(at) => format!("in {}", span(Duration::from_millis(at - now_ms))),
    }
}

fn as_json(token: &TokenInfo) -> Value {
    json!({
        "id": token.id,
        "name": token.name,
        "rights": token.rights.iter().map(Grant::to_string).collect::<Vec<_>>(),
        "created_ms": token.created_ms,
        "expires_ms": token.expires_ms,
    })
}
