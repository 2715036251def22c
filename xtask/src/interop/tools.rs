//! Python, Node and what is installed for them: below `target/interop`, in the versions that `tests/interop` pins.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::deploy::python::{self, Python};
use crate::package::{on_path, succeeds};
use crate::process;
use crate::workspace::root;

const NODE_NEEDED: &str = "clients in Node and buf need node, 20 or newer, and npm: install them, then run this again";

/// What a part cannot do without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tool {
    Python,
    Node,
}

/// Those that were asked for.
pub(super) struct Tools {
    /// Of the environment; empty if it was not asked for.
    python: PathBuf,
    /// Where `node_modules` is.
    pub(super) node_folder: PathBuf,
}

impl Tools {
    /// Installs what is wanted and not there yet; or says what is missing on this machine.
    ///
    /// # Errors
    /// A folder cannot be read or written.
    pub(super) fn ensure(folder: &Path, wanted: impl Fn(Tool) -> bool) -> Result<Result<Self, String>> {
        let mut tools = Self {
            python: PathBuf::new(),
            node_folder: folder.join("node"),
        };
        if wanted(Tool::Python) {
            match python::ensure(folder, &root().join("tests/interop/python/requirements.txt"))? {
                Python::There(program) => tools.python = program,
                Python::Missing(reason) => return Ok(Err(reason)),
            }
        }
        if wanted(Tool::Node)
            && let Some(missing) = ensure_node(&tools.node_folder)?
        {
            return Ok(Err(missing));
        }
        Ok(Ok(tools))
    }

    /// The interpreter with all that was installed, and programs beside it on the path.
    pub(super) fn python(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        command
    }

    pub(super) fn pytest(&self, tests: &Path, arguments: &[&str]) -> Command {
        let mut command = self.python();
        command.current_dir(tests).args(["-m", "pytest"]).args(arguments);
        command
    }

    /// A shell that finds `python` and `buf` where they were installed.
    pub(super) fn shell(&self) -> Command {
        let own = [self.python.parent().map(Path::to_owned), Some(self.bin())];
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = own.into_iter().flatten().chain(std::env::split_paths(&path));
        let mut command = Command::new("sh");
        command.env("PYTHONDONTWRITEBYTECODE", "1");
        if let Ok(path) = std::env::join_paths(all) {
            command.env("PATH", path);
        }
        command
    }

    /// Node's own runner over the tests of a folder.
    pub(super) fn node_tests(&self, tests: &Path, told: &Path) -> Result<Command> {
        let entries = std::fs::read_dir(tests).with_context(|| format!("list {}", tests.display()))?;
        let mut files: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| path.to_string_lossy().ends_with(".test.js"));
        files.sort();
        if files.is_empty() {
            bail!("{} has no tests", tests.display());
        }
        let reporter = root().join("tests/interop/node/reporter.js");
        let mut command = Command::new("node");
        command
            .args([
                "--test",
                "--test-concurrency=1",
                "--test-reporter=spec",
                "--test-reporter-destination=stdout",
            ])
            .arg(format!("--test-reporter={}", reporter.display()))
            .arg(format!("--test-reporter-destination={}", told.display()))
            .args(files)
            .env("NODE_PATH", self.node_folder.join("node_modules"))
            .env("FULCRUM_BUF", self.buf_program());
        Ok(command)
    }

    pub(super) fn buf(&self) -> Command {
        Command::new(self.buf_program())
    }

    fn buf_program(&self) -> PathBuf {
        self.bin().join("buf")
    }

    fn bin(&self) -> PathBuf {
        self.node_folder.join("node_modules/.bin")
    }
}

/// Installs what the lock file names, unless it is there. What is missing, if something is.
fn ensure_node(folder: &Path) -> Result<Option<String>> {
    let (Some(node), Some(npm)) = (on_path("node"), on_path("npm")) else {
        return Ok(Some(format!("node or npm is not on the path; {NODE_NEEDED}")));
    };
    let new_enough = "process.exit(parseInt(process.versions.node, 10) < 20 ? 1 : 0)";
    if process::run(Command::new(&node).args(["-e", new_enough]))? != 0 {
        return Ok(Some(format!("{} will not do; {NODE_NEEDED}", node.display())));
    }
    let pinned = root().join("tests/interop/node");
    let (lock, installed) = (pinned.join("package-lock.json"), folder.join("installed.json"));
    let wanted = std::fs::read_to_string(&lock).with_context(|| format!("read {}", lock.display()))?;
    if std::fs::read_to_string(&installed).is_ok_and(|there| there == wanted) {
        return Ok(None);
    }
    println!(
        "npm installs into {}, and nowhere else",
        folder.join("node_modules").display()
    );
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    for name in ["package.json", "package-lock.json"] {
        std::fs::copy(pinned.join(name), folder.join(name)).with_context(|| format!("copy {name}"))?;
    }
    let mut install = Command::new(npm);
    // No script of a package is run: none is needed.
    install.args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]);
    if let Err(error) = succeeds(install.current_dir(folder)) {
        let reason = format!(
            "npm cannot install what {} names ({error:#}): is its registry within reach?",
            lock.display()
        );
        return Ok(Some(reason));
    }
    std::fs::write(&installed, wanted).with_context(|| format!("write {}", installed.display()))?;
    Ok(None)
}
