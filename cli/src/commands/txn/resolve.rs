//! `fulcrum txn resolve`: has a transaction aborted that nobody finishes. Asks before it does.

use super::{outcome_in_words, outcome_json};
use crate::args::TxnResolveArgs;
use crate::commands::failover::number;
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use fulcrum_client::{Client, GroupId, ListInDoubt, TransactionId, TransactionOutcome};
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

/// Of all that is listed to find a home group.
const LISTED_MAX: u32 = 100_000;
/// To see whether it is decided: a group that is down is not waited for any longer.
const LOOK_UP_WITHIN: Duration = Duration::from_secs(2);

pub(super) async fn run(context: &Context, args: &TxnResolveArgs) -> Ending {
    let named = args.home.as_deref().map(|text| number(text, 'g', "group"));
    let named = named.transpose()?.map(GroupId);
    if !args.yes && !io::stdin().is_terminal() {
        let why = "an abort is for good, and its client may still be waiting for it";
        return Err(Failure::usage(format!("transaction {} is left alone", args.id), why).remedy("say so with --yes"));
    }
    let client = context.client().await?;
    let home = match (pending_home(&client, args.id).await?, named) {
        (Home::At(home), Some(named)) if home != named => {
            let why = format!("its home is {home}, not {named}: an abort that is recorded elsewhere ends nothing");
            return Err(Failure::usage(format!("transaction {} is left alone", args.id), why));
        }
        (Home::At(home), _) => home,
        (Home::Unknown(_), Some(named)) => match decided(&client, args.id).await {
            Some(outcome) => return show(context, &outcome),
            None => named,
        },
        (Home::Unknown(why), None) => return Err(why),
    };
    if !args.yes && !confirmed(args.id, home)? {
        note("left alone");
        return Ok(Exit::Failed);
    }
    let outcome = client.admin().abort_transaction(args.id, home).await;
    let outcome =
        outcome.map_err(|error| Failure::client(format!("cannot resolve transaction {}", args.id), &error))?;
    show(context, &outcome)
}

fn show(context: &Context, outcome: &TransactionOutcome) -> Ending {
    match context.json() {
        true => context.print_json(&outcome_json(outcome))?,
        false => print(&format!("{}\n", outcome_in_words(outcome).1))?,
    }
    Ok(match outcome {
        TransactionOutcome::Aborted(_) => Exit::Ok,
        TransactionOutcome::TooOld => Exit::Unknown,
        _ => Exit::Failed,
    })
}

enum Home {
    At(GroupId),
    Unknown(Failure),
}

/// As some group tells it that has it prepared.
async fn pending_home(client: &Client, id: TransactionId) -> Result<Home, Failure> {
    let what = format!("cannot resolve transaction {id}");
    let which = ListInDoubt {
        limit: LISTED_MAX,
        ..ListInDoubt::default()
    };
    let listed = client.admin().in_doubt(which).await;
    let listed = listed.map_err(|error| Failure::client(&what, &error))?;
    if let Some((_, info)) = listed.transactions.iter().find(|(_, info)| info.id == id) {
        return Ok(Home::At(info.home.group));
    }
    let why = match listed.silent.len() {
        0 => "no group has it in doubt".to_owned(),
        silent => format!("no group that answers has it in doubt, and {silent} do not answer"),
    };
    let remedy = format!("`fulcrum txn show {id}`, or name its home group with --home");
    let failure = Failure::new(Exit::NotFound, "NOT_IN_DOUBT", what, why).remedy(remedy);
    Ok(Home::Unknown(failure))
}

/// The decision, if there is one: a group that is not the home would say that it is aborted, whatever became of it.
async fn decided(client: &Client, id: TransactionId) -> Option<TransactionOutcome> {
    let outcome = client.transaction_outcome(id).within(LOOK_UP_WITHIN).await.ok()?;
    let is_decided = matches!(
        outcome,
        TransactionOutcome::Committed(_) | TransactionOutcome::Aborted(_)
    );
    is_decided.then_some(outcome)
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
