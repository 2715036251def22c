//! `fulcrum`: see the library.

use std::process::ExitCode;

/// Messages are made on one thread and dropped on another all the time, which the system allocator pays dearly for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    fulcrum_cli::main()
}
