//! `fulcrum-shard-node`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    fulcrum_services::shard_node::main()
}
