//! `fulcrum txn resolve`: has a transaction aborted that nobody finishes. Asks before it does.

use super::{outcome_in_words, outcome_json};
use crate::args::TxnResolveArgs;
use crate::commands::failover::number;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use fulcrum_client::{Admin, GroupId, ListInDoubt, TransactionId, TransactionOutcome};
use std::io::{self, IsTerminal, Write};

/// Of all that is listed to find a home group.
const LISTED_MAX: u32 = 100_000;

pub(super) async fn run(context: &Context, args: &TxnResolveArgs) -> Ending {
    let named = args.home.as_deref().map(|text| number(text, 'g', "group"));
    let named = named.transpose()?.map(GroupId);
    if !args.yes && !io::stdin().is_terminal() {
        let why = "an abort is for good, and its client may still be waiting for it";
        return Err(Failure::usage(format!("transaction {} is left alone", args.id), why).remedy("say so with --yes"));
    }
    let admin = context.client().await?.admin();
    let home = match named {
        Some(home) => home,
        None => home_of(&admin, args.id).await?,
    };
    if !args.yes && !confirmed(args.id, home)? {
        note("left alone");
        return Ok(Exit::Failed);
    }
    let outcome = admin.abort_transaction(args.id, home).await;
    let outcome =
        outcome.map_err(|error| Failure::client(format!("cannot resolve transaction {}", args.id), &error))?;
    match context.json() {
        true => context.print_json(&outcome_json(&outcome))?,
        false => print(&format!("{}\n", outcome_in_words(&outcome).1))?,
    }
    Ok(match outcome {
        TransactionOutcome::Aborted(_) => Exit::Ok,
        TransactionOutcome::TooOld => Exit::Unknown,
        _ => Exit::Failed,
    })
}

/// As some group tells it that has it prepared.
async fn home_of(admin: &Admin, id: TransactionId) -> Result<GroupId, Failure> {
    let what = format!("cannot resolve transaction {id}");
    let which = ListInDoubt {
        limit: LISTED_MAX,
        ..ListInDoubt::default()
    };
    let listed = admin.in_doubt(which).await;
    let listed = listed.map_err(|error| Failure::client(&what, &error))?;
    let found = listed.transactions.iter().find(|(_, info)| info.id == id);
    found.map(|(_, info)| info.home.group).ok_or_else(|| {
        let why = match listed.silent.len() {
            0 => "no group has it in doubt".to_owned(),
            silent => format!("no group that answers has it in doubt, and {silent} do not answer"),
        };
        let remedy = format!("`fulcrum txn show {id}`, or name its home group with --home");
        Failure::new(Exit::NotFound, "NOT_IN_DOUBT", what, why).remedy(remedy)
    })
}

fn confirmed(id: TransactionId, home: GroupId) -> Result<bool, Failure> {
    let failed = |error| Failure::file("cannot ask", error);
    write!(
        io::stderr(),
        "Abort transaction {id}, whose home is {home}, for good? [y/N] "
    )
    .map_err(failed)?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
