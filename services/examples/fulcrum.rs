//! The command line, built beside the services for their end-to-end tests: an example is built with a package's tests,
//! another package's program is not.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulcrum_cli::main()
}
