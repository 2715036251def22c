//! An etcd for the tests that need one.
//!
//! Nothing is installed on the system: where there is no etcd, Debian's package is fetched with the ordinary package client
//! and unpacked below `target/etcd`, where the tests look for it. Package lists and downloads stay there, too, so that
//! neither rights are needed nor anything else is touched; the client checks signatures as it always does.
//!
//! Where etcd cannot be had, a CI run fails: tests that nobody runs prove nothing. On a laptop the tests that need it are
//! left out, and the command says so.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// Names the program for the tests, or says that they shall do without (`none`).
pub(crate) const VARIABLE: &str = "FULCRUM_ETCD";
pub(crate) const WITHOUT: &str = "none";

const PACKAGE: &str = "etcd-server";

/// What the tests have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Etcd {
    /// They find it.
    There,
    /// They shall do without, for this reason.
    LeftOut(String),
}

/// The programs that fetch and unpack a package.
struct Tools {
    apt_get: PathBuf,
    dpkg_deb: PathBuf,
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
    let tools = Tools {
        apt_get: "apt-get".into(),
        dpkg_deb: "dpkg-deb".into(),
    };
    judge(fetch(&folder, &tools), std::env::var_os("CI").is_some())
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
    folder.join("usr/bin/etcd")
}

fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).map(|folder| folder.join(program));
    programs.find(|program| program.is_file())
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

fn fetch(folder: &Path, tools: &Tools) -> Result<()> {
    let (lists, cache) = (folder.join("lists"), folder.join("cache"));
    for needed in [lists.join("partial"), cache.join("archives/partial")] {
        std::fs::create_dir_all(&needed).with_context(|| format!("make {}", needed.display()))?;
    }
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new(&tools.apt_get);
        command
            .current_dir(folder)
            .args(["-qq", "-o", "APT::Sandbox::User=root"])
            .args(["-o", &format!("Dir::State::Lists={}", lists.display())])
            .args(["-o", &format!("Dir::Cache={}", cache.display())])
            .args(arguments);
        succeeds(&mut command)
    };
    apt_get(&["update"])?;
    apt_get(&["download", PACKAGE])?;
    let package = package_in(folder)?;
    succeeds(Command::new(&tools.dpkg_deb).arg("--extract").arg(&package).arg(folder))?;
    for done in [&lists, &cache] {
        std::fs::remove_dir_all(done).with_context(|| format!("remove {}", done.display()))?;
    }
    match program(folder).is_file() {
        true => Ok(()),
        false => bail!("{} has no {}", package.display(), program(folder).display()),
    }
}

fn package_in(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut packages: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    packages.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    packages.sort();
    packages.pop().context("apt-get has downloaded nothing")
}

fn succeeds(command: &mut Command) -> Result<()> {
    match process::run(command)? {
        0 => Ok(()),
        code => bail!("{} failed with exit code {code}", process::shown(command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    /// A stand-in for a program.
    fn script(folder: &Path, name: &str, lines: &str) -> PathBuf {
        let path = folder.join(name);
        std::fs::write(&path, format!("#!/bin/sh\nset -eu\n{lines}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn tools(folder: &Path, apt_get: &str) -> Tools {
        Tools {
            apt_get: script(folder, "apt-get", apt_get),
            dpkg_deb: script(
                folder,
                "dpkg-deb",
                "mkdir -p \"$3/usr/bin\"; cp \"$2\" \"$3/usr/bin/etcd\"",
            ),
        }
    }

    const DOWNLOADS: &str = "case \"$*\" in *download*) echo etcd > etcd-server_1.deb;; esac";

    #[test]
    fn a_package_is_fetched_and_unpacked_where_tests_look() {
        let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fetch(folder.path(), &tools(bin.path(), DOWNLOADS)).unwrap();
        assert!(program(folder.path()).is_file());
        assert!(!folder.path().join("lists").exists(), "lists are not kept");
    }

    #[test]
    fn without_etcd_ci_fails_and_a_laptop_leaves_the_tests_out() {
        let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let missing = || fetch(folder.path(), &tools(bin.path(), "exit 100"));
        let error = judge(missing(), true).unwrap_err();
        assert!(format!("{error:#}").contains("exit code 100"), "{error:#}");
        assert!(matches!(judge(missing(), false), Ok(Etcd::LeftOut(why)) if why.contains("exit code 100")));
        assert_eq!(judge(Ok(()), true).unwrap(), Etcd::There);
    }
}
