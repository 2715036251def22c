//! An etcd for the tests that need one.
//!
//! Nothing is installed on the system: where there is no etcd, Debian's package is unpacked below `target/etcd`
//! ([`crate::debian`]), where the tests look for it.
//!
//! Where etcd cannot be had, a CI run fails: tests that nobody runs prove nothing. On a laptop the tests that need it are
//! left out, and the command says so.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::debian::{self, on_path};

/// Names the program for the tests, or says that they shall do without (`none`).
pub(crate) const VARIABLE: &str = "FULCRUM_ETCD";
pub(crate) const WITHOUT: &str = "none";

const PACKAGE: &str = "etcd-server";
const PROGRAM: &str = "usr/bin/etcd";

/// What the tests have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Etcd {
    /// They find it.
    There,
    /// They shall do without, for this reason.
    LeftOut(String),
}

/// Looks for etcd, and fetches it if there is none.
///
/// # Errors
/// There is none, and this is CI.
pub(crate) fn ensure(root: &Path) -> Result<Etcd> {
    let named = std::env::var_os(VARIABLE);
    if named.as_deref().is_some_and(|named| named == WITHOUT) {
        return Ok(Etcd::LeftOut(format!("{VARIABLE}={WITHOUT}")));
    }
    let folder = root.join("target/etcd");
    let fetched = program(&folder);
    if named.is_some() || fetched.is_file() || on_path("etcd").is_some() {
        return Ok(Etcd::There);
    }
    println!(
        "etcd is missing: apt-get fetches Debian's package {PACKAGE} into {}; nothing is installed on this system",
        folder.display()
    );
    let fetched = debian::fetch(&folder, PACKAGE, PROGRAM, &debian::Tools::default());
    judge(fetched.map(drop), std::env::var_os("CI").is_some())
}

/// The program, where the tests look for it, too.
fn find(root: &Path) -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(VARIABLE) {
        return Some(PathBuf::from(named));
    }
    on_path("etcd").or_else(|| Some(program(&root.join("target/etcd"))).filter(|fetched| fetched.is_file()))
}

/// The program, for what cannot do without.
///
/// # Errors
/// There is none, and none can be fetched.
pub(crate) fn required(root: &Path) -> Result<PathBuf> {
    if let Etcd::LeftOut(reason) = ensure(root)? {
        bail!("a cluster needs etcd: install it, or name one in {VARIABLE} ({reason})");
    }
    find(root).context("etcd was there a moment ago")
}

fn program(folder: &Path) -> PathBuf {
    folder.join(PROGRAM)
}

fn judge(fetched: Result<()>, is_ci: bool) -> Result<Etcd> {
    match fetched {
        Ok(()) => Ok(Etcd::There),
        Err(error) if is_ci => Err(error.context(format!(
            "etcd cannot be had, and in CI its tests are not left out: install it, or name one in {VARIABLE}"
        ))),
        Err(error) => Ok(Etcd::LeftOut(format!("{error:#}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_etcd_ci_fails_and_a_laptop_leaves_the_tests_out() {
        let missing = || Err(anyhow::anyhow!("apt-get failed with exit code 100"));
        let error = judge(missing(), true).unwrap_err();
        assert!(format!("{error:#}").contains("exit code 100"), "{error:#}");
        assert!(matches!(judge(missing(), false), Ok(Etcd::LeftOut(why)) if why.contains("exit code 100")));
        assert_eq!(judge(Ok(()), true).unwrap(), Etcd::There);
    }
}
