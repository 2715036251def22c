//! demo
use crate::args::DemoArgs;
use crate::context::{Context, Ending};
/// x
pub async fn run(_: &Context, _: &DemoArgs) -> Ending {
    Ok(crate::exit::Exit::Ok)
}
