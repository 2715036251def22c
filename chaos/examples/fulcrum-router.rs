//! `fulcrum-router`, for this package's tests: cargo builds a package's examples before it runs its tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulcrum_services::router::main()
}
