//! bench
use crate::args::BenchArgs;
use crate::context::{Context, Ending};
/// x
pub async fn run(_: &Context, _: &BenchArgs) -> Ending {
    Ok(crate::exit::Exit::Ok)
}
