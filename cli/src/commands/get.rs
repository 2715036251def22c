//! `fulcrum get`: the value on standard output, nothing else; with `-o json` the version and the receipt, too.

use crate::args::GetArgs;
use crate::context::{Context, Ending, at_levels, print};
use crate::exit::{Exit, Failure};
use crate::render::{bytes_field, receipt_json};
use crate::value::Encoding;
use serde_json::{Map, Value};
use std::io::Write;

/// Reads a key.
pub async fn run(context: &Context, args: &GetArgs) -> Ending {
    let key = args.key.bytes()?;
    let (keyspace, session) = context.keyspace(&args.key.keyspace).await?;
    let got = at_levels(keyspace.get(&key), &args.read).await;
    let got = got.map_err(|error| Failure::client(format!("cannot get {}", args.key.named()), &error))?;
    session.save()?;
    let encoding = args.encoding.encoding();
    let exit = if got.value.is_some() { Exit::Ok } else { Exit::NotFound };
    if context.json() {
        let mut object = Map::new();
        bytes_field(&mut object, "key", &key, Encoding::Text);
        object.insert("found".to_owned(), got.value.is_some().into());
        if let Some(found) = &got.value {
            bytes_field(&mut object, "value", &found.value, encoding);
            object.insert("version".to_owned(), found.version.0.into());
            if found.expires_at_ms > 0 {
                object.insert("expires_at_ms".to_owned(), found.expires_at_ms.into());
            }
        }
        object.insert("receipt".to_owned(), receipt_json(&got.receipt));
        context.print_json(&Value::Object(object))?;
        return Ok(exit);
    }
    match &got.value {
        Some(found) if encoding == Encoding::Text => print_raw(&found.value)?,
        Some(found) => print(&format!("{}\n", encoding.encode(&found.value)))?,
        None => crate::context::note(&format!("not found: {}", args.key.named())),
    }
    context.show_receipt(&got.receipt);
    Ok(exit)
}

/// Bytes as they are, with a line break behind them that is not part of the value.
fn print_raw(value: &[u8]) -> Result<(), Failure> {
    let mut output = std::io::stdout().lock();
    let written = output.write_all(value).and_then(|()| output.write_all(b"\n"));
    match written {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::file("cannot write to standard output", error))
        }
        _ => Ok(()),
    }
}
