//! `fulcrum completions`: for bash, zsh, fish and others.

use crate::args::Cli;
use crate::context::{Ending, print};
use crate::exit::Exit;
use clap::CommandFactory;
use clap_complete::{Shell, generate};

/// Prints completions.
pub fn run(shell: Shell) -> Ending {
    let mut script = Vec::new();
    generate(shell, &mut Cli::command(), "fulcrum", &mut script);
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Ok)
}
