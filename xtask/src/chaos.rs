//! `cargo xtask chaos`: builds the services and the fault tool, finds an etcd, and hands over.
//!
//! For containers the services and etcd are in images: then only the tool is built, and the image of etcd if there is none. Pods are there already.

use anyhow::{Result, bail};
use std::path::PathBuf;

use crate::compose;
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
    let (in_containers, in_pods) = (asks_for(flags, "docker"), asks_for(flags, "kind"));
    let mut build = cargo(&["build", "--quiet", "--locked", "-p", "fulcrum-chaos"]);
    match in_containers || in_pods {
        true => build.args(["--bin", "fulcrum-chaos"]),
        false => build.args(["-p", "fulcrum-services", "--bins"]),
    };
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
    match flags.iter().any(|flag| TELLS_ONLY.contains(&flag.as_str())) {
        true => {}
        false if in_pods => {}
        false if in_containers => compose::ensure_images()?,
        false => {
            chaos
                .arg("--programs")
                .arg(&programs)
                .arg("--etcd")
                .arg(etcd::required(root())?);
        }
    }
    process::run(&mut chaos)
}

fn asks_for(flags: &[String], backend: &str) -> bool {
    let pairs = flags
        .windows(2)
        .any(|pair| pair[0] == "--backend" && pair[1] == backend);
    pairs || flags.iter().any(|flag| *flag == format!("--backend={backend}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_asked_for_in_either_way_of_writing_flags() {
        let owned = |flags: &[&str]| flags.iter().map(|flag| (*flag).to_owned()).collect::<Vec<_>>();
        let asked = |flags: &[&str]| asks_for(&owned(flags), "docker");
        assert!(asks_for(&owned(&["--backend", "kind"]), "kind") && !asked(&["--backend", "kind"]));
        assert!(asked(&["--runs", "1", "--backend", "docker"]) && asked(&["--backend=docker"]));
        assert!(!asked(&["--backend", "process"]) && !asked(&["docker"]) && !asked(&["--backend"]));
    }
}
