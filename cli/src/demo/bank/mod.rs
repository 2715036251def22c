//! The bank: money moves between accounts of two keyspaces while a primary and then the coordinator are dropped.
//!
//! Clients transfer (two reads, two writes, any two accounts, so mostly two groups), others take statements of all accounts at one
//! moment. They speak to a router of their own, whose coordinator dies with it; then to the other one. What is promised: every
//! statement is explained by the transfers that were acknowledged, wholly and once, so that the total never differs; and
//! soon after all is quiet no transaction is in doubt. The first is judged by `fulcrum_checker::bank`, the second by asking.
//!
//! Left out: crashes at chosen steps of a commit. They come when they come here; `local-cluster/tests` and the simulation choose.

mod accounts;
mod clients;
mod conduct;
mod found;
mod metrics;

pub(super) use found::Bank;

use super::PATIENCE;
use super::load::now;
use super::story::Story;
use crate::exit::Failure;
use crate::progress::Progress;
use crate::render::span;
use accounts::Accounts;
use clients::{Shared, Told};
use conduct::{Conductor, until_nothing_is_pending};
use fulcrum_checker::bank::{Ledger, check};
use fulcrum_client::{Client, Config};
use fulcrum_local_cluster::LocalCluster;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;

/// How long money moves.
const LOAD: Duration = Duration::from_secs(7);
/// Clients that transfer, and clients that take statements.
const TRANSFERS: u64 = 6;
const STATEMENTS: u64 = 2;

/// Opens the accounts, moves money, and judges what was seen.
pub(super) async fn run(cluster: &mut LocalCluster, admin: &Client, story: Story, seed: u64) -> Result<Bank, Failure> {
    let accounts = Arc::new(Accounts::open(cluster, admin).await?);
    let router = cluster
        .add_router()
        .await
        .map_err(|error| Failure::start("cannot start a second router", &error))?;
    story.line(
        None,
        &format!(
            "{} accounts in {} groups, {} in all; a second router with a coordinator of its own",
            accounts.len(),
            accounts.groups(),
            accounts.total()
        ),
    )?;
    let began = now();
    let shared = Arc::new(Shared::new(
        accounts.clone(),
        seed,
        began + super::incident::nanos(LOAD),
    ));
    let mut working = JoinSet::new();
    for number in 0..TRANSFERS + STATEMENTS {
        let client = connect_both(cluster, router).await?;
        let shared = shared.clone();
        match number < TRANSFERS {
            true => working.spawn(clients::transfers(shared, client, number)),
            false => working.spawn(clients::statements(shared, client, number)),
        };
    }
    let progress = Progress::start("  bank", None);
    let conductor = Conductor {
        cluster,
        admin,
        shared: &shared,
        story,
        progress: &progress,
        began,
        router,
    };
    let incidents = conductor.run().await?;
    let mut told = Told::default();
    while let Some(ended) = working.join_next().await {
        told.join(ended.map_err(|error| Failure::file("a client of the bank ended early", error))?);
    }
    let took = Duration::from_nanos(now().saturating_sub(began));
    progress.finish();

    let quiet = until_nothing_is_pending(admin).await?;
    told.join(clients::last_statement(&shared, admin).await?);
    let text = match &quiet.pending {
        0 => format!("nothing is in doubt {} after the last transfer", span(quiet.took)),
        pending => story.paint.red(&format!(
            "{pending} transactions are still pending after {}",
            span(quiet.took)
        )),
    };
    story.line(None, &text)?;
    let totals = (
        told.totals.len(),
        told.totals.iter().filter(|total| **total != accounts.total()).count(),
    );
    let ledger = Ledger::merge(accounts.opening(), std::mem::take(&mut told.logs));
    let judging = tokio::task::spawn_blocking(move || {
        let report = check(&ledger);
        let shown = report
            .violations
            .iter()
            .take(3)
            .map(|one| ledger.describe(one))
            .collect();
        (report, shown)
    });
    let (report, shown) = judging
        .await
        .map_err(|error| Failure::file("the checker of the bank ended early", error))?;
    Ok(Bank {
        accounts: accounts.len(),
        groups: accounts.groups(),
        took,
        told,
        wrong_totals: totals.1,
        totals: totals.0,
        report,
        shown,
        incidents,
        quiet,
    })
}

/// A client that turns to the first router if the one that it shares with the other clients of the bank is gone.
async fn connect_both(cluster: &LocalCluster, router: SocketAddr) -> Result<Client, Failure> {
    let config = Config::new(router.to_string())
        .or(cluster.router_address().to_string())
        .deadline(PATIENCE);
    Client::connect(config)
        .await
        .map_err(|error| Failure::client("cannot connect", &error))
}
