//! `fulcrum txn show`: what became of a transaction.

use super::{exit_of, outcome_in_words, outcome_json};
use crate::args::TxnShowArgs;
use crate::context::{Context, Ending, print};
use crate::exit::Failure;
use crate::value::Encoding;

pub(super) async fn run(context: &Context, args: &TxnShowArgs) -> Ending {
    let look_up = context.client().await?.transaction_outcome(args.id);
    let look_up = match (&args.keyspace, &args.key) {
        (Some(keyspace), Some(key)) => {
            let encoding = if args.hex_key { Encoding::Hex } else { Encoding::Text };
            let bytes = encoding.decode(key);
            let bytes = bytes.map_err(|why| Failure::usage(format!("the key '{key}'"), why))?;
            look_up.first_written(keyspace, bytes)
        }
        _ => look_up,
    };
    let outcome = look_up.await;
    let outcome =
        outcome.map_err(|error| Failure::client(format!("cannot look up transaction {}", args.id), &error))?;
    match context.json() {
        true => {
            let mut shown = outcome_json(&outcome);
            shown["id"] = args.id.to_string().into();
            context.print_json(&shown)?;
        }
        false => print(&format!("{}\n", outcome_in_words(&outcome).1))?,
    }
    Ok(exit_of(&outcome))
}
