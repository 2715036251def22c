//! `fulcrum txn run`: a script as one transaction.

use crate::args::TxnRunArgs;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Table, bytes_field, count, latency, receipt_json};
use crate::script::{Codes, Command, Verb, parse};
use crate::value::Encoding;
use bytes::Bytes;
use fulcrum_client::{ConditionFailed, Error, Transacted, Transaction};
use fulcrum_common::limits::MAX_TRANSACTION_BYTES;
use serde_json::{Map, Value, json};
use std::io::Read;

/// Hexadecimal, quotes and comments make a script longer than what it says.
const MAX_SCRIPT_BYTES: u64 = 4 * MAX_TRANSACTION_BYTES as u64;

/// Values in the order of the gets.
type Seen = Vec<Option<Bytes>>;

pub(super) async fn run(context: &Context, args: &TxnRunArgs) -> Ending {
    let values = args.encoding.encoding();
    let keys = if args.hex_key { Encoding::Hex } else { Encoding::Text };
    let commands = parse(&source(args)?, Codes { keys, values });
    let commands = commands.map_err(|error| Failure::usage("the script", error))?;
    if args.check {
        return say_what_it_would_do(context, &commands);
    }
    let (client, session) = context.client_in_session().await?;
    let transactions = client.transactions().attempts(args.attempts);
    let transactions = match session.session() {
        Some(session) => transactions.in_session(session),
        None => transactions,
    };
    let done = transactions.run(async |t| perform(&t, &commands).await).await;
    let done = done.map_err(|error| Failure::client("cannot commit the script", &error))?;
    session.save()?;
    let exit = if done.committed() {
        Exit::Ok
    } else {
        Exit::ConditionFailed
    };
    match context.json() {
        true => context.print_json(&as_json(&commands, &done, values))?,
        false => show(context, &commands, &done, values)?,
    }
    Ok(exit)
}

fn source(args: &TxnRunArgs) -> Result<Vec<u8>, Failure> {
    let Some(path) = &args.file else {
        return Ok(args.line.join("\n").into_bytes());
    };
    let what = format!("cannot read the script {}", path.display());
    let mut source = Vec::new();
    let input: Box<dyn Read> = match path.as_os_str() == "-" {
        true => Box::new(std::io::stdin().lock()),
        false => Box::new(std::fs::File::open(path).map_err(|error| Failure::file(&what, error))?),
    };
    let read = input.take(MAX_SCRIPT_BYTES + 1).read_to_end(&mut source);
    read.map_err(|error| Failure::file(&what, error))?;
    if source.len() as u64 > MAX_SCRIPT_BYTES {
        return Err(Failure::usage(
            what,
            format!("it is larger than {MAX_SCRIPT_BYTES} bytes"),
        ));
    }
    Ok(source)
}

/// Gets that follow each other are one round.
async fn perform(t: &Transaction, commands: &[Command]) -> Result<Seen, Error> {
    let mut seen = Vec::new();
    for alike in commands.chunk_by(|one, next| one.verb == Verb::Get && next.verb == Verb::Get) {
        let is_get = |command: &&Command| command.verb == Verb::Get;
        let gets = alike.iter().filter(is_get).map(|get| (get.keyspace.as_str(), &get.key));
        seen.extend(t.get_many(gets).await?);
        for Command { keyspace, key, verb } in alike {
            match verb {
                Verb::Get => {}
                Verb::Put(value) => drop(t.put(keyspace, key, value)),
                Verb::Delete => t.delete(keyspace, key),
                Verb::If(condition) => t.only_if(keyspace, key, condition.clone()),
            }
        }
    }
    Ok(seen)
}

fn say_what_it_would_do(context: &Context, commands: &[Command]) -> Ending {
    let number = |is: fn(&Verb) -> bool| commands.iter().filter(|command| is(&command.verb)).count();
    let reads = number(|verb| matches!(verb, Verb::Get));
    let conditions = number(|verb| matches!(verb, Verb::If(_)));
    let writes = commands.len() - reads - conditions;
    match context.json() {
        true => context.print_json(&json!({"reads": reads, "conditions": conditions, "writes": writes}))?,
        false => print(&format!(
            "the script makes sense: {reads} reads, {conditions} conditions, {writes} writes; nothing was sent\n"
        ))?,
    }
    Ok(Exit::Ok)
}

fn gets(commands: &[Command]) -> impl Iterator<Item = &Command> {
    commands.iter().filter(|command| command.verb == Verb::Get)
}

fn show(context: &Context, commands: &[Command], done: &Transacted<Seen>, values: Encoding) -> Result<(), Failure> {
    let seen = match &done.outcome {
        Ok(seen) => seen,
        Err(failed) => {
            note(&in_words(failed));
            return Ok(());
        }
    };
    if !seen.is_empty() {
        let mut table = Table::new(&[("keyspace", Align::Left), ("key", Align::Left), ("value", Align::Left)]);
        for (get, value) in gets(commands).zip(seen) {
            let value = value.as_ref().map_or("(none)".to_owned(), |value| values.encode(value));
            table.row([get.keyspace.clone(), Encoding::Text.encode(&get.key), value]);
        }
        print(&table.render(context.paint))?;
    }
    let attempts = match done.attempts {
        1 => "at the first attempt".to_owned(),
        attempts => format!("at attempt {attempts}"),
    };
    let writes = match done.versions.len() {
        1 => "1 write".to_owned(),
        writes => format!("{} writes", count(writes as u64)),
    };
    note(&format!(
        "committed {attempts}: {writes} in {}, transaction {}",
        latency(done.took.committing),
        done.id
    ));
    done.receipts.iter().for_each(|receipt| context.show_receipt(receipt));
    Ok(())
}

fn in_words(failed: &ConditionFailed) -> String {
    let key = format!("'{}' in '{}'", Encoding::Text.encode(&failed.key), failed.keyspace);
    match failed.current {
        Some(version) => format!(
            "a condition does not hold: {key} has version {}; nothing was changed",
            version.0
        ),
        None => format!("a condition does not hold: {key} has no value; nothing was changed"),
    }
}

fn as_json(commands: &[Command], done: &Transacted<Seen>, values: Encoding) -> Value {
    let seen = done.outcome.as_ref().map(Vec::as_slice).unwrap_or_default();
    let read = |(get, value): (&Command, &Option<Bytes>)| {
        let mut object = named(&get.keyspace, &get.key);
        object.insert("found".to_owned(), value.is_some().into());
        if let Some(value) = value {
            bytes_field(&mut object, "value", value, values);
        }
        Value::Object(object)
    };
    let failed = done.outcome.as_ref().err().map(|failed| {
        let mut object = named(&failed.keyspace, &failed.key);
        object.insert("version".to_owned(), failed.current.map(|version| version.0).into());
        Value::Object(object)
    });
    json!({
        "committed": done.committed(),
        "id": done.id.to_string(),
        "reads": gets(commands).zip(seen).map(read).collect::<Vec<_>>(),
        "condition_failed": failed,
        "versions": done.versions.iter().map(|version| version.0).collect::<Vec<_>>(),
        "attempts": done.attempts,
        "retries": done.retries,
        "rounds": done.rounds,
        "receipts": done.receipts.iter().map(receipt_json).collect::<Vec<_>>(),
    })
}

fn named(keyspace: &str, key: &[u8]) -> Map<String, Value> {
    let mut object = Map::new();
    object.insert("keyspace".to_owned(), keyspace.into());
    bytes_field(&mut object, "key", key, Encoding::Text);
    object
}
