//! `cargo xtask dashboards`: Grafana's dashboards, made from one description of their panels, and checked.
//!
//! What is committed is what this makes: the tests say so, and that every metric that a query or rule names exists, and that every metric
//! is used. [`check`] shows that the queries have answers: it asks a real Prometheus that watches a real cluster.
//!
//! Reading order: [`panel`] is what a dashboard is; [`tradeoffs`], [`groups`], [`transactions`] and [`nodes`] are the four; [`grafana`] and [`pages`] are what is
//! made of them; [`check`].
//!
//! Left out: Grafana itself, which no test here starts.

mod panel;
mod promql;

mod groups;
mod nodes;
mod tradeoffs;
mod transactions;

mod grafana;
mod metrics;
mod pages;

pub(crate) mod check;
#[cfg(test)]
mod tests;

use std::path::Path;

use anyhow::{Context, Result};
use clap::{Args, Subcommand};

use crate::workspace::root;
use panel::Dashboard;

const FOLDER: &str = "deploy/grafana/dashboards";
const PAGE: &str = "docs/dashboards.md";

#[derive(Args)]
pub(crate) struct DashboardsArgs {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Ask a real Prometheus that watches a real cluster: every panel must have data
    Check(check::CheckArgs),
}

/// Writes the files, or checks.
///
/// # Errors
/// What could not be done.
pub(crate) fn run(args: &DashboardsArgs) -> Result<u8> {
    match &args.command {
        Some(Command::Check(args)) => check::run(args),
        None => write(root()),
    }
}

/// All dashboards, in the order of the docs.
fn all() -> Vec<Dashboard> {
    vec![
        tradeoffs::dashboard(),
        groups::dashboard(),
        transactions::dashboard(),
        nodes::dashboard(),
    ]
}

/// Every file that is made, with its content.
fn files() -> Result<Vec<(String, String)>> {
    let dashboards = all();
    let mut files = vec![(PAGE.to_owned(), pages::page(&dashboards))];
    for dashboard in &dashboards {
        let text = serde_json::to_string_pretty(&grafana::json(dashboard))?;
        files.push((format!("{FOLDER}/{}.json", dashboard.uid), text + "\n"));
    }
    Ok(files)
}

fn write(root: &Path) -> Result<u8> {
    std::fs::create_dir_all(root.join(FOLDER)).with_context(|| format!("make {FOLDER}"))?;
    for (path, text) in files()? {
        std::fs::write(root.join(&path), text).with_context(|| format!("write {path}"))?;
        println!("{path}");
    }
    Ok(0)
}
