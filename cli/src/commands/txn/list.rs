//! `fulcrum txn list`: transactions that are not finished, as each group tells it.

use crate::args::{TxnListArgs, TxnState};
use crate::context::{Context, Ending, note, print};
use crate::exit::{Exit, Failure};
use crate::render::{Align, Table, span};
use fulcrum_client::{GroupId, InDoubt, ListInDoubt, PendingTransaction, TransactionInfo};
use serde_json::{Value, json};

pub(super) async fn run(context: &Context, args: &TxnListArgs) -> Ending {
    let which = ListInDoubt {
        keyspace: args.keyspace.clone(),
        limit: args.limit,
        unresolved: args.state != TxnState::InDoubt,
    };
    let listed = context.client().await?.admin().in_doubt(which).await;
    let mut listed = listed.map_err(|error| Failure::client("cannot list transactions", &error))?;
    listed.transactions.retain(|(_, info)| is_wanted(info, args.state));
    if context.json() {
        context.print_json(&as_json(&listed))?;
        return Ok(Exit::Ok);
    }
    print(&render(context, &listed))?;
    if !listed.silent.is_empty() {
        let groups: Vec<String> = listed.silent.iter().map(GroupId::to_string).collect();
        note(&format!(
            "could not be asked, so that what is pending there is not shown: {}",
            groups.join(" ")
        ));
    }
    Ok(Exit::Ok)
}

fn is_wanted(info: &TransactionInfo, state: TxnState) -> bool {
    match state {
        TxnState::InDoubt => info.pending == PendingTransaction::InDoubt,
        TxnState::Unresolved => info.pending == PendingTransaction::Unresolved,
        TxnState::All => true,
    }
}

fn name_of(pending: PendingTransaction) -> &'static str {
    match pending {
        PendingTransaction::InDoubt => "in-doubt",
        PendingTransaction::Unresolved => "unresolved",
    }
}

fn render(context: &Context, listed: &InDoubt) -> String {
    if listed.transactions.is_empty() {
        return "none\n".to_owned();
    }
    let mut table = Table::new(&[
        ("transaction", Align::Left),
        ("group", Align::Left),
        ("state", Align::Left),
        ("age", Align::Right),
        ("silent for", Align::Right),
        ("locked keys", Align::Right),
        ("home", Align::Left),
        ("participants", Align::Left),
    ]);
    for (group, info) in &listed.transactions {
        let participants: Vec<String> = info.participants.iter().map(|one| one.group.to_string()).collect();
        table.row([
            info.id.to_string(),
            group.to_string(),
            name_of(info.pending).to_owned(),
            span(info.age),
            info.silent.map_or("-".to_owned(), span),
            info.keys.to_string(),
            info.home.group.to_string(),
            participants.join(" "),
        ]);
    }
    table.render(context.paint)
}

fn as_json(listed: &InDoubt) -> Value {
    let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let one = |(group, info): &(GroupId, TransactionInfo)| {
        json!({
            "id": info.id.to_string(),
            "group": group.0,
            "state": name_of(info.pending),
            "age_ms": ms(info.age),
            "silent_ms": info.silent.map(ms),
            "locked_keys": info.keys,
            "home": info.home.group.0,
            "participants": info.participants.iter().map(|one| one.group.0).collect::<Vec<_>>(),
        })
    };
    json!({
        "transactions": listed.transactions.iter().map(one).collect::<Vec<_>>(),
        "silent_groups": listed.silent.iter().map(|group| group.0).collect::<Vec<_>>(),
    })
}
