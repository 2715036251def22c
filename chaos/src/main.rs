//! The program behind `cargo xtask chaos`.

use anyhow::Result;
use clap::Parser;
use fulcrum_chaos::args::{Options, Place};
use fulcrum_chaos::backend::process::{Links, enclosure};
use fulcrum_chaos::{backend, campaign};
use std::process::ExitCode;

const CANNOT: u8 = 3;

fn main() -> ExitCode {
    let options = Options::parse();
    match begin(&options) {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(CANNOT)
        }
    }
}

fn begin(options: &Options) -> Result<u8> {
    if let Some(datagram) = &options.datagram {
        return Ok(backend::process::datagrams::run(datagram));
    }
    if options.list {
        print!("{}", campaign::list());
        return Ok(0);
    }
    options.scenarios()?;
    let links = match enclosure::is_inside() {
        true => Links::Namespaces,
        // Pods have a network already.
        false if options.backend == Place::Kind => Links::Proxies,
        false => campaign::choose_links(options)?,
    };
    if links == Links::Namespaces && !enclosure::is_inside() {
        match enclosure::enter()? {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        if links == Links::Namespaces {
            enclosure::furnish().await?;
        }
        campaign::all(options, links).await
    })
}
