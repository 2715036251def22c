//! `fulcrum scan`: keys in order. Says whether there is more, and how to go on.

use crate::args::ScanArgs;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Table, bytes_field, receipt_json};
use crate::value::Encoding;
use bytes::Bytes;
use fulcrum_client::{Range, Receipt, Row, Scan};
use fulcrum_types::GroupId;
use futures::TryStreamExt;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// What a scan found.
struct Found {
    rows: Vec<Row>,
    resume: Option<Bytes>,
    receipts: BTreeMap<GroupId, Receipt>,
}

/// Scans.
pub async fn run(context: &Context, args: &ScanArgs) -> Ending {
    let (keyspace, session) = context.keyspace(&args.keyspace).await?;
    let scan = keyspace.scan(range(args)).limit(args.limit);
    let scan = args.read.accept.iter().fold(scan, |scan, level| scan.or_at(*level));
    let scan = match args.read.level {
        Some(level) => scan.at(level),
        None => scan,
    };
    let scan = match &args.resume {
        Some(token) => scan.after(resume_token(token)?),
        None => scan,
    };
    let found = read(scan).await;
    let found = found.map_err(|error| Failure::client(format!("cannot scan '{}'", args.keyspace), &error))?;
    session.save()?;
    match context.json() {
        true => context.print_json(&as_json(&found, args.encoding.encoding()))?,
        false => show(context, &found, args.encoding.encoding())?,
    }
    Ok(Exit::Ok)
}

fn range(args: &ScanArgs) -> Range {
    match (&args.prefix, &args.start, &args.end) {
        (Some(prefix), _, _) => Range::prefix(prefix),
        (None, start, Some(end)) => Range::between(start.as_deref().unwrap_or_default(), end),
        (None, Some(start), None) => Range::from(start),
        (None, None, None) => Range::all(),
    }
}

fn resume_token(text: &str) -> Result<Bytes, Failure> {
    let token = Encoding::Hex.decode(text).ok().filter(|token| !token.is_empty());
    token
        .map(Bytes::from)
        .ok_or_else(|| Failure::usage("--resume", "this is no token: use what an earlier scan showed"))
}

async fn read(scan: Scan) -> Result<Found, fulcrum_client::Error> {
    let mut found = Found {
        rows: Vec::new(),
        resume: None,
        receipts: BTreeMap::new(),
    };
    let mut pages = std::pin::pin!(scan.pages());
    while let Some(page) = pages.try_next().await? {
        found.rows.extend(page.rows);
        found.resume = page.resume;
        found
            .receipts
            .extend(page.receipts.into_iter().map(|receipt| (receipt.group, receipt)));
    }
    Ok(found)
}

fn as_json(found: &Found, encoding: Encoding) -> Value {
    let rows = found.rows.iter().map(|row| {
        let mut object = Map::new();
        bytes_field(&mut object, "key", &row.key, Encoding::Text);
        bytes_field(&mut object, "value", &row.value.value, encoding);
        object.insert("version".to_owned(), row.value.version.0.into());
        Value::Object(object)
    });
    json!({
        "rows": rows.collect::<Vec<_>>(),
        "resume": found.resume.as_ref().map(|token| Encoding::Hex.encode(token)),
        "receipts": found.receipts.values().map(receipt_json).collect::<Vec<_>>(),
    })
}

fn show(context: &Context, found: &Found, encoding: Encoding) -> Result<(), Failure> {
    let mut table = Table::new(&[("key", Align::Left), ("version", Align::Right), ("value", Align::Left)]);
    for row in &found.rows {
        let key = row.key.escape_ascii().to_string();
        let key = String::from_utf8(row.key.to_vec()).unwrap_or(key);
        table.row([key, row.value.version.0.to_string(), encoding.encode(&row.value.value)]);
    }
    if !table.is_empty() {
        print(&table.render(context.paint))?;
    }
    match &found.resume {
        Some(token) => note(&format!(
            "{} rows, there may be more: go on with --resume {}",
            found.rows.len(),
            Encoding::Hex.encode(token)
        )),
        None => note(&format!("{} rows", found.rows.len())),
    }
    if context.global.verbose > 0 {
        found
            .receipts
            .values()
            .for_each(|receipt| context.show_receipt(receipt));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_that_are_none_are_refused() {
        for bad in ["", "xyz", "f"] {
            assert_eq!(resume_token(bad).unwrap_err().exit, Exit::Usage);
        }
        assert_eq!(resume_token("6162").unwrap(), "ab");
    }
}
