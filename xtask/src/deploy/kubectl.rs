//! A kubectl, which has kustomize built in.
//!
//! Debian's package is older than the overlays can do with in some releases: then the comparison is left out, and the command says so;
//! in CI that is a failure, as for etcd.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Result, bail};

use crate::package::{self, Package, Tools, on_path};
use crate::process;

const VARIABLE: &str = "FULCRUM_KUBECTL";
const PACKAGE: Package = Package {
    name: "kubernetes-client",
    program: "usr/bin/kubectl",
};

/// The first whose kustomize knows of `patches`: 1.21 has kustomize 4.
const OLDEST: u32 = 21;

/// What there is to build `k8s/` with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Kubectl {
    /// This program.
    There(PathBuf),
    /// None, for this reason.
    LeftOut(String),
}

/// Looks for a kubectl that will do, and fetches one if there is none.
///
/// # Errors
/// There is none, and this is CI.
pub(crate) fn ensure(folder: &Path) -> Result<Kubectl> {
    let found = find(folder).and_then(|program| match minor(&version_of(&program)?) {
        Some(minor) if minor >= OLDEST => Ok(program),
        Some(minor) => bail!(
            "{} is of Kubernetes 1.{minor}, and 1.{OLDEST} or newer is needed: name one in {VARIABLE}",
            program.display()
        ),
        None => bail!("{} does not tell its version", program.display()),
    });
    judge(found, std::env::var_os("CI").is_some())
}

fn find(folder: &Path) -> Result<PathBuf> {
    let folder = folder.join("kubectl");
    let fetched = folder.join(PACKAGE.program);
    let named = std::env::var_os(VARIABLE).map(PathBuf::from);
    let there = named
        .or_else(|| on_path("kubectl"))
        .or_else(|| Some(fetched.clone()).filter(|fetched| fetched.is_file()));
    if let Some(program) = there {
        return Ok(program);
    }
    println!(
        "kubectl is missing: apt-get fetches Debian's package {} into {}; nothing is installed on this system",
        PACKAGE.name,
        folder.display()
    );
    package::fetch(&folder, PACKAGE, &Tools::default())?;
    Ok(fetched)
}

fn version_of(program: &Path) -> Result<String> {
    let mut version = Command::new(program);
    version
        .args(["version", "--client", "--output=json"])
        .stderr(Stdio::null());
    Ok(String::from_utf8_lossy(&process::output_of(&mut version)?).into_owned())
}

/// The second number of what `kubectl version` says; some builds write a plus sign behind it.
fn minor(said: &str) -> Option<u32> {
    let said: serde_json::Value = serde_json::from_str(said).ok()?;
    let minor = said.get("clientVersion")?.get("minor")?.as_str()?;
    minor.trim_end_matches('+').parse().ok()
}

fn judge(found: Result<PathBuf>, is_ci: bool) -> Result<Kubectl> {
    match found {
        Ok(program) => Ok(Kubectl::There(program)),
        Err(error) if is_ci => Err(error.context("in CI the comparison of k8s/ with the chart is not left out")),
        Err(error) => Ok(Kubectl::LeftOut(format!("{error:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_they_are_written() {
        let said = |minor: &str| format!("{{\"clientVersion\":{{\"major\":\"1\",\"minor\":\"{minor}\"}}}}");
        assert_eq!(minor(&said("32")), Some(32));
        assert_eq!(minor(&said("20+")), Some(20));
        assert_eq!(minor("Client Version: v1.32.4"), None);
    }

    #[test]
    fn without_kubectl_ci_fails_and_a_laptop_leaves_the_comparison_out() {
        let missing = || Err(anyhow::anyhow!("too old"));
        assert!(format!("{:#}", judge(missing(), true).unwrap_err()).contains("too old"));
        assert_eq!(judge(missing(), false).unwrap(), Kubectl::LeftOut("too old".to_owned()));
    }
}
