//! Where the workspace is, how cargo is called in it, and what cargo knows about it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::process;

/// The folder of the root manifest.
pub(crate) fn root() -> &'static Path {
    static ROOT: OnceLock<PathBuf> = OnceLock::new();
    ROOT.get_or_init(|| {
        let here = Path::new(env!("CARGO_MANIFEST_DIR"));
        here.parent().unwrap_or(here).to_owned()
    })
}

/// `cargo`, the one that started us, in the workspace's root.
///
/// What cargo tells us of our own package is not passed on: the build script of `ring` watches these variables, so that it and nearly all that we have would be
/// built again whenever a build by this command follows one without it.
pub(crate) fn cargo(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(arguments);
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_our_package(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    command
}

fn is_of_our_package(name: &str) -> bool {
    name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")
}

/// Who is built together. Which features a dependency gets is up to all packages of a build: with fewer of them most of what lies in `target` would be
/// built again, and again with the next command that names others.
const TOGETHER: [&str; 3] = ["fulcrum-services", "fulcrum-cli", "fulcrum-chaos"];

/// Builds all programs, and says in which folder they are.
pub(crate) fn programs(release: bool) -> Result<PathBuf> {
    let mut build = cargo(&["build", "--locked", "--bins"]);
    for package in TOGETHER {
        build.args(["-p", package]);
    }
    if release {
        build.arg("--release");
    }
    match process::run(&mut build)? {
        0 => {}
        code => bail!("the programs could not be built: cargo ended with {code}"),
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(if release { "release" } else { "debug" }))
}

/// The part of `cargo metadata` that the policy needs.
#[derive(Deserialize)]
pub(crate) struct Metadata {
    pub(crate) packages: Vec<Package>,
    pub(crate) workspace_members: Vec<String>,
    pub(crate) resolve: Resolve,
}

#[derive(Clone, Deserialize)]
pub(crate) struct Package {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) license: Option<String>,
    pub(crate) source: Option<String>,
    pub(crate) manifest_path: PathBuf,
}

#[derive(Deserialize)]
pub(crate) struct Resolve {
    pub(crate) nodes: Vec<Node>,
}

#[derive(Deserialize)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) deps: Vec<Dependency>,
}

#[derive(Deserialize)]
pub(crate) struct Dependency {
    pub(crate) pkg: String,
    pub(crate) dep_kinds: Vec<DependencyKind>,
}

#[derive(Deserialize)]
pub(crate) struct DependencyKind {
    /// `None` for a normal dependency, else `dev` or `build`.
    pub(crate) kind: Option<String>,
}

impl Metadata {
    pub(crate) fn load() -> Result<Metadata> {
        let output = process::output_of(&mut cargo(&["metadata", "--format-version", "1", "--locked"]))?;
        serde_json::from_slice(&output).context("parse the output of cargo metadata")
    }

    pub(crate) fn members(&self) -> impl Iterator<Item = &Package> {
        self.packages
            .iter()
            .filter(|package| self.workspace_members.contains(&package.id))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// This test is run by cargo, which has told it of its package: else it would prove nothing.
    #[test]
    fn a_cargo_that_is_called_hears_nothing_of_our_package() {
        let ours = || std::env::vars_os().filter(|(name, _)| is_of_our_package(&name.to_string_lossy()));
        let command = cargo(&["build"]);
        let removed: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| value.is_none().then_some(name))
            .collect();
        assert!(ours().any(|(name, _)| name == "CARGO_MANIFEST_DIR"));
        assert!(ours().all(|(name, _)| removed.contains(&name.as_os_str())));
    }
}
