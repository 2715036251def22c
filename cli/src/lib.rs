//! `fulcrum`: the command line.
//!
//! Every command is one file in [`commands`]; [`demo`] is the large one. [`args`] is the command line as typed, [`context`] what
//! every command has at hand, [`exit`] how it ends. [`records`] are the files of import and export, [`backup`] those of backups, [`loader`] writes them,
//! [`script`] is the language of transactions, [`workload`] makes synthetic load, [`render`], [`progress`] and [`value`] are what people see.
//!
//! Results go to standard output, everything else to standard error; with `-o json` both are JSON. Exit codes keep their
//! meaning from release to release.

pub mod args;
pub mod context;
pub mod evidence;
pub mod exit;
mod follow;

pub mod commands;
pub mod demo;

pub mod backup;
pub mod loader;
pub mod records;
pub mod replay;
pub mod script;
pub mod workload;

pub mod progress;
pub mod render;
pub mod value;

use args::{Cli, Command, Global, Output};
use clap::Parser;
use context::{Context, Ending, note};
use exit::{Exit, Failure};
use fulcrum_common::telemetry::{self, TelemetryConfig};
use render::Paint;
use std::process::ExitCode;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way, too. Nobody is left to be told if the terminal is closed.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() {
                Exit::Usage as u8
            } else {
                Exit::Ok as u8
            });
        }
    };
    let global = cli.global.clone();
    let exit = match run(cli) {
        Ok(exit) => exit,
        Err(failure) => {
            report(&global, &failure);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

fn report(global: &Global, failure: &Failure) {
    match global.output {
        Output::Json => note(&failure.to_json().to_string()),
        Output::Table => note(&format!("{} {failure}", Paint::for_stderr().red("error:"))),
    }
}

/// One thread: clients that never hop threads cost half the CPU (DESIGN section 13). Services have threads of their own.
fn run(cli: Cli) -> Ending {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::file("cannot start", error))?;
    let ending = runtime.block_on(dispatch(cli));
    // A thread that waits for standard input must not hold up the end.
    runtime.shutdown_background();
    ending
}

async fn dispatch(cli: Cli) -> Ending {
    let telemetry = telemetry::init("fulcrum", &telemetry_config(&cli))
        .map_err(|error| Failure::start("cannot set up logging", &error))?;
    let followed = cli.global.trace.as_ref().map(|_| follow::begin());
    let ending = carry_out(cli).await;
    if let Some(followed) = followed {
        followed.end(&ending);
    }
    telemetry.shutdown().await;
    ending
}

async fn carry_out(cli: Cli) -> Ending {
    let context = Context::new(cli.global);
    match cli.command {
        Command::Demo(args) => demo::run(&context, &args).await,
        Command::Dev(args) => commands::dev::run(&context, &args).await,
        Command::Get(args) => commands::get::run(&context, &args).await,
        Command::Put(args) => commands::put::run(&context, &args).await,
        Command::Delete(args) => commands::delete::run(&context, &args).await,
        Command::Cas(args) => commands::cas::run(&context, &args).await,
        Command::Scan(args) => commands::scan::run(&context, &args).await,
        Command::Watch(args) => commands::watch::run(&context, &args).await,
        Command::Txn(command) => commands::txn::run(&context, &command).await,
        Command::Import(args) => commands::import::run(&context, &args).await,
        Command::Export(args) => commands::export::run(&context, &args).await,
        Command::Backup(command) => commands::backup::run(&context, &command).await,
        Command::Keyspace(command) => commands::keyspace::run(&context, &command).await,
        Command::Status(args) => commands::status::run(&context, &args).await,
        Command::Node(command) => commands::node::run(&context, &command).await,
        Command::Placement(command) => commands::placement::run(&context, &command).await,
        Command::Token(command) => commands::token::run(&context, &command).await,
        Command::Failover(command) => commands::failover::run(&context, &command).await,
        Command::Bench(args) => commands::bench::run(&context, &args).await,
        Command::Outcome(args) => commands::outcome::run(&context, &args).await,
        Command::Cert(command) => commands::cert::run(&context, &command),
        Command::Completions { shell } => commands::completions::run(shell),
    }
}

fn telemetry_config(cli: &Cli) -> TelemetryConfig {
    let filter = match (cli.global.verbose, &cli.command) {
        (0 | 1, Command::Dev(_)) => "warn",
        (0 | 1, _) => "error",
        (2, _) => "info",
        (_, _) => "debug,h2=info,hyper=info,tower=info",
    };
    TelemetryConfig {
        filter: filter.to_owned(),
        otlp_endpoint: cli.global.trace.clone(),
        ..TelemetryConfig::default()
    }
}
