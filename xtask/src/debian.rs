//! Programs out of Debian's packages, without installing them: fetched with the ordinary package client and unpacked in a folder
//! below `target`.
//!
//! Package lists and downloads stay there, too, so that neither rights are needed nor anything else is touched; the client checks
//! signatures as it always does.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::process;

/// The programs that fetch and unpack a package.
pub(crate) struct Tools {
    pub(crate) apt_get: PathBuf,
    pub(crate) dpkg_deb: PathBuf,
}

impl Default for Tools {
    fn default() -> Tools {
        Tools {
            apt_get: "apt-get".into(),
            dpkg_deb: "dpkg-deb".into(),
        }
    }
}

/// Where a shell would find the program.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut programs = std::env::split_paths(&path).map(|folder| folder.join(program));
    programs.find(|program| program.is_file())
}

/// Unpacks `package` into `folder`, and answers with its `program` there (a path within the package).
///
/// # Errors
/// The package cannot be had, or has no such program.
pub(crate) fn fetch(folder: &Path, package: &str, program: &str, tools: &Tools) -> Result<PathBuf> {
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
    apt_get(&["download", package])?;
    let archive = archive_in(folder)?;
    succeeds(Command::new(&tools.dpkg_deb).arg("--extract").arg(&archive).arg(folder))?;
    for done in [&lists, &cache] {
        std::fs::remove_dir_all(done).with_context(|| format!("remove {}", done.display()))?;
    }
    let unpacked = folder.join(program);
    match unpacked.is_file() {
        true => Ok(unpacked),
        false => bail!("{} has no {}", archive.display(), unpacked.display()),
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
    fn a_package_is_fetched_and_unpacked() {
        let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tools = tools(bin.path(), DOWNLOADS);
        let program = fetch(folder.path(), "etcd-server", "usr/bin/etcd", &tools).unwrap();
        assert!(program.is_file() && program.starts_with(folder.path()));
        assert!(!folder.path().join("lists").exists(), "lists are not kept");
        let error = fetch(folder.path(), "etcd-server", "usr/bin/other", &tools).unwrap_err();
        assert!(format!("{error:#}").contains("usr/bin/other"), "{error:#}");
    }

    #[test]
    fn a_package_that_cannot_be_had_is_told() {
        let (bin, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let tools = tools(bin.path(), "exit 100");
        let error = fetch(folder.path(), "etcd-server", "usr/bin/etcd", &tools).unwrap_err();
        assert!(format!("{error:#}").contains("exit code 100"), "{error:#}");
    }
}
