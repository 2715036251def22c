//! `cargo xtask chaos`: builds the services and the fault tool, finds an etcd, and hands over.

use anyhow::{Result, bail};
use std::path::PathBuf;

use crate::etcd;
use crate::process;
use crate::workspace::{cargo, root};

const RELEASE: &str = "--release";
/// What changes nothing, and needs no cluster.
const TELLS_ONLY: [&str; 3] = ["--list", "--help", "-h"];

/// Runs it.
///
/// # Errors
/// Something could not be built, or there is no etcd.
pub(crate) fn run(flags: &[String]) -> Result<u8> {
    let release = flags.iter().any(|flag| flag == RELEASE);
    let mut build = cargo(&[
        "build",
        "--quiet",
        "--locked",
        "-p",
        "fulcrum-services",
        "-p",
        "fulcrum-chaos",
        "--bins",
    ]);
    if release {
        build.arg(RELEASE);
    }
    match process::run(&mut build)? {
        0 => {}
        code => bail!("the programs could not be built: cargo ended with {code}"),
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    let programs = target.join(if release { "release" } else { "debug" });
    let mut chaos = std::process::Command::new(programs.join("fulcrum-chaos"));
    chaos
        .current_dir(root())
        .args(flags.iter().filter(|flag| *flag != RELEASE));
    if !flags.iter().any(|flag| TELLS_ONLY.contains(&flag.as_str())) {
        chaos
            .arg("--programs")
            .arg(&programs)
            .arg("--etcd")
            .arg(etcd::required(root())?);
    }
    process::run(&mut chaos)
}
