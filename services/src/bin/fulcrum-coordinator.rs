//! `fulcrum-coordinator`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulcrum_services::coordinator::main()
}
