//! `fulcrum-router`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulcrum_services::router::main()
}
