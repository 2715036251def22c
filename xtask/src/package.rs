//! Programs that are not there, from Debian's packages, without installing anything.
//!
//! A package is fetched with the ordinary package client and unpacked below `target`. Package lists and downloads stay there, too, so that
//! neither rights are needed nor anything else is touched; the client checks signatures as it always does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// A package, and the program in it that is wanted.
#[derive(Clone, Copy)]
pub(crate) struct Package {
    pub(crate) name: &'static str,
    /// Its path below the folder into which the package is unpacked.
    pub(crate) program: &'static str,
}

/// The programs that fetch and unpack a package.
pub(crate) struct Tools {
    apt_get: PathBuf,
    dpkg_deb: PathBuf,
}

impl Default for Tools {
    fn default() -> Self {
        Self {
            apt_get: "apt-get".into(),
            dpkg_deb: "dpkg-deb".into(),
        }
    }
}

/// Where the system has a program, if it has.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).map(|folder| folder.join(program));
    programs.find(|program| program.is_file())
}

/// Fetches a package and unpacks it into a folder.
///
/// # Errors
/// It cannot be had, or the program is not in it.
pub(crate) fn fetch(folder: &Path, package: Package, tools: &Tools) -> Result<()> {
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
    apt_get(&["download", package.name])?;
    let archive = archive_in(folder)?;
    succeeds(Command::new(&tools.dpkg_deb).arg("--extract").arg(&archive).arg(folder))?;
    for done in [&lists, &cache] {
        std::fs::remove_dir_all(done).with_context(|| format!("remove {}", done.display()))?;
    }
    match folder.join(package.program).is_file() {
        true => Ok(()),
        false => bail!("{} has no {}", archive.display(), package.program),
    }
}

fn archive_in(folder: &Path) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let mut archives: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    archives.retain(|path| path.extension().is_some_and(|extension| extension == "deb"));
    archives.sort();
    archives.pop().context("apt-get has downloaded nothing")
}

/// Runs a command that must succeed.
pub(crate) fn succeeds(command: &mut Command) -> Result<()> {
    match process::run(command)? {
        0 => Ok(()),
        code => bail!("{} failed with exit code {code}", process::shown(command)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const ETCD: Package = Package {
        name: "etcd-server",
        program: "usr/bin/etcd",
    };

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
    fn a_package_is_fetched_and_unpacked_and_lists_are_not_kept() {
        let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fetch(folder.path(), ETCD, &tools(bin.path(), DOWNLOADS)).unwrap();
        assert!(folder.path().join(ETCD.program).is_file());
        assert!(!folder.path().join("lists").exists(), "lists are not kept");
    }

    #[test]
    fn what_cannot_be_had_or_is_not_in_the_package_is_an_error() {
        let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let error = fetch(folder.path(), ETCD, &tools(bin.path(), "exit 100")).unwrap_err();
        assert!(format!("{error:#}").contains("exit code 100"), "{error:#}");
        let other = Package {
            program: "usr/bin/else",
            ..ETCD
        };
        let error = fetch(folder.path(), other, &tools(bin.path(), DOWNLOADS)).unwrap_err();
        assert!(format!("{error:#}").contains("usr/bin/else"), "{error:#}");
    }
}
