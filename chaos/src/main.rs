//! The program behind `cargo xtask chaos`.

use anyhow::Result;
use clap::Parser;
use fulcrum_chaos::args::{Options, Place};
use fulcrum_chaos::backend::process::{Links, enclosure};
use fulcrum_chaos::site::Site;
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
    let links = match options.backend {
        Place::Process => Some(enclose(options)?),
        Place::Docker | Place::Kind => None,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let site = match links {
            Some(links) => Site::Process(links),
            None if options.backend == Place::Kind => Site::Kubernetes,
            None => Site::containers(options).await?,
        };
        if let Some(Links::Namespaces) = links {
            enclosure::furnish().await?;
        }
        campaign::all(options, &site).await
    })
}

/// Once it returns, this command is where processes are to be.
fn enclose(options: &Options) -> Result<Links> {
    if enclosure::is_inside() {
        return Ok(Links::Namespaces);
    }
    match campaign::choose_links(options)? {
        Links::Namespaces => match enclosure::enter()? {},
        Links::Proxies => Ok(Links::Proxies),
    }
}
