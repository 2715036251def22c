//! `fulcrum`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulcrum_cli::main()
}
