//! `cargo xtask chaos`: builds the services and the fault tool, finds an etcd, and hands over.
//!
//! For containers the services and etcd are in images, of which that of etcd is built if there is none; pods are there already. The tool is built with all other
//! programs there, too.

use anyhow::Result;

use crate::compose;
use crate::etcd;
use crate::process;
use crate::workspace::{self, root};

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
    let programs = workspace::programs(release)?;
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
