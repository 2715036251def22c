//! `cargo xtask image`: the image of `deploy/Dockerfile`, by a docker that is there.
//!
//! Tags name what is in it: the version, and version and commit (with `-dirty` if the tree has changes). Where no base image can be
//! pulled, one is made of Debian's packages with debootstrap, which docker then knows under the name of the real one; that needs
//! root, and the command says that it did so. A compiler cannot be had that way: then `--binaries` names programs that were built before.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::package::{self, Package, Tools, succeeds};
use crate::process;
use crate::workspace::root;

pub(crate) const HELP: &str = "\
Examples:
  cargo xtask image                                compiles in rust:1-bookworm, as deploy/Dockerfile says
  cargo xtask image --binaries target/release      takes programs that are built already; needs no compiler's image
  cargo xtask image --repository registry:5000/fulcrum

Needs docker; DOCKER_HOST says which. Without a registry it makes debian:bookworm-slim with debootstrap (as root).";

const PROGRAMS: [&str; 4] = ["fulcrum", "fulcrum-shard-node", "fulcrum-router", "fulcrum-coordinator"];
pub(crate) const RUNTIME: &str = "debian:bookworm-slim";
const RELEASE: &str = "bookworm";
const DEBOOTSTRAP: Package = Package {
    name: "debootstrap",
    program: "usr/sbin/debootstrap",
};

#[derive(Args)]
pub(crate) struct ImageArgs {
    /// Folder with the four programs, built before for Debian 12 or older; none are compiled
    #[arg(long, value_name = "DIR")]
    binaries: Option<PathBuf>,
    /// Name of the image, without a tag
    #[arg(long, default_value = "fulcrum", value_name = "NAME")]
    repository: String,
}

/// `cargo xtask image`
pub(crate) fn run(args: &ImageArgs) -> Result<u8> {
    let folder = root().join("target/deploy");
    ensure_docker()?;
    ensure_runtime(&folder)?;
    let (version, revision) = (env!("CARGO_PKG_VERSION"), revision()?);
    let tags = tags(&args.repository, version, &revision);
    let mut build = docker(&["build", "--file"]);
    build.arg(root().join("deploy/Dockerfile"));
    for (name, value) in [("VERSION", version), ("REVISION", &revision), ("RUNTIME", RUNTIME)] {
        build.arg("--build-arg").arg(format!("{name}={value}"));
    }
    tags.iter().for_each(|tag| {
        build.arg("--tag").arg(tag);
    });
    match &args.binaries {
        Some(binaries) => {
            let context = folder.join("context");
            lay_out(&context, binaries)?;
            build.arg("--build-arg").arg(format!("BUILDER={RUNTIME}")).arg(context);
        }
        None => {
            build.arg(root());
        }
    }
    let code = process::run(&mut build)?;
    if code == 0 {
        println!("built: {}", tags.join(", "));
    }
    Ok(code)
}

/// There is a docker, and it answers.
pub(crate) fn ensure_docker() -> Result<()> {
    if package::on_path("docker").is_none() {
        bail!("there is no docker: install it, then run this again");
    }
    if !succeeds_silently(&["version"])? {
        bail!("docker does not answer: start its daemon, or name another one in DOCKER_HOST");
    }
    Ok(())
}

pub(crate) fn docker(arguments: &[&str]) -> Command {
    let mut command = Command::new("docker");
    command.args(arguments);
    command
}

/// Runs docker, and tells only whether it did.
pub(crate) fn succeeds_silently(arguments: &[&str]) -> Result<bool> {
    let code = process::run(docker(arguments).stdout(Stdio::null()).stderr(Stdio::null()))?;
    Ok(code == 0)
}

fn tags(repository: &str, version: &str, revision: &str) -> [String; 2] {
    [
        format!("{repository}:{version}"),
        format!("{repository}:{version}-{revision}"),
    ]
}

/// The commit, and whether the tree has changes that are not in it.
fn revision() -> Result<String> {
    let mut describe = Command::new("git");
    describe
        .current_dir(root())
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]);
    let revision = process::output_of(&mut describe).context("an image is named after its commit")?;
    Ok(String::from_utf8_lossy(&revision).trim().to_owned())
}

/// A context with nothing but the programs: the repository need not be sent.
fn lay_out(context: &Path, binaries: &Path) -> Result<()> {
    let prebuilt = context.join("prebuilt");
    std::fs::create_dir_all(&prebuilt).with_context(|| format!("make {}", prebuilt.display()))?;
    for program in PROGRAMS {
        let from = binaries.join(program);
        std::fs::copy(&from, prebuilt.join(program)).with_context(|| format!("copy {}", from.display()))?;
    }
    Ok(())
}

/// Docker has the base image, or pulls it, or is given one.
pub(crate) fn ensure_runtime(folder: &Path) -> Result<()> {
    if succeeds_silently(&["image", "inspect", RUNTIME])? || succeeds_silently(&["pull", RUNTIME])? {
        return Ok(());
    }
    println!(
        "{RUNTIME} cannot be pulled: debootstrap makes one of Debian's packages, which docker will know by that name"
    );
    let tree = bootstrap(folder)?;
    let archive = folder.join("runtime.tar");
    succeeds(
        Command::new("tar")
            .arg("-C")
            .arg(&tree)
            .arg("-cf")
            .arg(&archive)
            .arg("."),
    )?;
    succeeds(
        docker(&["import", "--change", "CMD [\"bash\"]"])
            .arg(&archive)
            .arg(RUNTIME),
    )?;
    std::fs::remove_file(&archive).with_context(|| format!("remove {}", archive.display()))
}

/// The files of a minimal Debian, without what only people read.
fn bootstrap(folder: &Path) -> Result<PathBuf> {
    let (tools, tree) = (folder.join("debootstrap"), folder.join("runtime"));
    if tree.join("usr/bin/env").exists() {
        return Ok(tree);
    }
    package::fetch(&tools, DEBOOTSTRAP, &Tools::default())?;
    let program = tools.join(DEBOOTSTRAP.program);
    let mut debootstrap = Command::new("sh");
    debootstrap
        .arg(program)
        .args(["--variant=minbase", RELEASE])
        .arg(&tree)
        .env("DEBOOTSTRAP_DIR", tools.join("usr/share/debootstrap"));
    succeeds(&mut debootstrap).context("debootstrap needs root and Debian's packages")?;
    for unneeded in [
        "var/cache/apt/archives",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ] {
        let path = tree.join(unneeded);
        if path.exists() {
            std::fs::remove_dir_all(&path).with_context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(tree)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_name_version_and_commit() {
        let tags = tags("registry:5000/fulcrum", "0.1.0", "0123456789ab-dirty");
        assert_eq!(
            tags,
            [
                "registry:5000/fulcrum:0.1.0",
                "registry:5000/fulcrum:0.1.0-0123456789ab-dirty"
            ]
        );
    }

    #[test]
    fn a_program_that_is_missing_is_named() {
        let (context, binaries) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let fill = |programs: &[&str]| {
            for program in programs {
                std::fs::write(binaries.path().join(program), program).unwrap();
            }
            lay_out(context.path(), binaries.path())
        };
        let error = fill(&PROGRAMS[..3]).unwrap_err();
        assert!(format!("{error:#}").contains("fulcrum-coordinator"), "{error:#}");
        fill(&PROGRAMS).unwrap();
        assert!(context.path().join("prebuilt/fulcrum-coordinator").is_file());
    }
}
