//! Certificates to try encryption with.

use clap::{Args, Subcommand};
use std::path::PathBuf;

/// `fulcrum cert`.
#[derive(Clone, Debug, Subcommand)]
pub enum CertCommand {
    /// Make an authority and certificates for one machine or a few, to develop and to try with
    Dev(CertDevArgs),
}

/// `fulcrum cert dev`.
#[derive(Clone, Debug, Args)]
pub struct CertDevArgs {
    /// Where the files go; made if it does not exist
    #[arg(long, default_value = "fulcrum-certs", value_name = "DIR")]
    pub dir: PathBuf,
    /// Another name or address under which processes are reached, beside localhost (may be repeated)
    #[arg(long, value_name = "NAME")]
    pub host: Vec<String>,
    /// For how many days all of it holds
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u64).range(1..=3650))]
    pub days: u64,
    /// Put others in the place of those that are there
    #[arg(long)]
    pub force: bool,
}
