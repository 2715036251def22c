//! A Python environment of its own, below `target`, with exactly what a file of requirements names: for the checks of the chart, and for
//! clients in Python (`cargo xtask interop`).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::package::{on_path, succeeds};
use crate::process;

/// What there is to run Python with.
#[derive(Debug)]
pub(crate) enum Python {
    /// The program of the environment.
    There(PathBuf),
    /// There is none, for this reason.
    Missing(String),
}

const NEEDED: &str = "this needs python3, 3.10 or newer, with its venv module: install it, then run this again";

/// The program of the environment, for a command that ends without it: then it was said on standard error what is missing.
///
/// # Errors
/// The folder cannot be read or written.
pub(crate) fn ensure_or_say(folder: &Path, requirements: &Path) -> Result<Option<PathBuf>> {
    Ok(match ensure(folder, requirements)? {
        Python::There(program) => Some(program),
        Python::Missing(reason) => {
            eprintln!("error: {reason}");
            None
        }
    })
}

/// Makes the environment, unless it is there with the same requirements.
///
/// # Errors
/// The folder cannot be read or written.
pub(crate) fn ensure(folder: &Path, requirements: &Path) -> Result<Python> {
    let Some(system) = on_path("python3") else {
        return Ok(Python::Missing(format!("there is no python3 on the path; {NEEDED}")));
    };
    let wanted = std::fs::read_to_string(requirements).with_context(|| format!("read {}", requirements.display()))?;
    let venv = folder.join("venv");
    let (program, installed) = (venv.join("bin/python"), venv.join("installed.txt"));
    if program.exists() && std::fs::read_to_string(&installed).is_ok_and(|there| there == wanted) {
        return Ok(Python::There(program));
    }
    let new_enough = "import sys, venv; sys.exit(sys.version_info < (3, 10))";
    if process::run(Command::new(&system).args(["-c", new_enough]))? != 0 {
        return Ok(Python::Missing(format!("{} will not do; {NEEDED}", system.display())));
    }
    println!("pip installs into {}, and nowhere else:", venv.display());
    wanted
        .lines()
        .filter(|line| !line.starts_with('#'))
        .for_each(|line| println!("  {line}"));
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    if process::run(Command::new(&system).args(["-m", "venv", "--clear"]).arg(&venv))? != 0 {
        return Ok(Python::Missing(format!(
            "{} makes no environment; {NEEDED}",
            system.display()
        )));
    }
    let mut pip = Command::new(&program);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]);
    if let Err(error) = succeeds(pip.arg(requirements)) {
        return Ok(Python::Missing(format!(
            "pip cannot install what {} names ({error:#}): is its registry within reach?",
            requirements.display()
        )));
    }
    std::fs::write(&installed, wanted).with_context(|| format!("write {}", installed.display()))?;
    Ok(Python::There(program))
}
