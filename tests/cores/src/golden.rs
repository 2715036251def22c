//! Golden stories: scripts of one behaviour each, with the expected output in the file.
//!
//! A block is comments (`#`), commands, `---`, and what they print, up to an empty line. `UPDATE_GOLDEN=1` rewrites the
//! output; read the difference before you keep it. The verbs are those of the core's own [`Script`].

use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

/// Runs the commands of a story.
pub trait Script {
    /// What a command prints, or why it cannot be run.
    ///
    /// # Errors
    /// The command is not understood, or asks for what is not there.
    fn run(&mut self, command: &str) -> Result<Vec<String>, String>;
}

/// The stories of a core: each `testscripts/*.txt` of its crate.
#[derive(Debug)]
pub struct Stories {
    paths: Vec<PathBuf>,
}

impl Stories {
    /// Those of a crate, in the order of their names; its folder is `env!("CARGO_MANIFEST_DIR")`.
    ///
    /// # Panics
    /// They cannot be listed.
    #[must_use]
    pub fn of(package: &str) -> Self {
        let folder = Path::new(package).join("testscripts");
        let files = std::fs::read_dir(&folder).expect("testscripts");
        let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
        paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
        paths.sort();
        Self { paths }
    }

    /// Asserts that each prints what it says.
    ///
    /// # Panics
    /// One does not, or there is none.
    pub fn hold<S: Script>(&self, script: impl Fn() -> S) {
        assert!(!self.paths.is_empty(), "there are no stories");
        let update = std::env::var_os("UPDATE_GOLDEN").is_some();
        let mut wrong = Vec::new();
        for path in &self.paths {
            let expected = read(path);
            let actual = replay(script(), &expected);
            if update {
                std::fs::write(path, &actual).expect("written");
            }
            let first = expected.lines().zip(actual.lines()).find(|(e, a)| e != a);
            if actual.contains("error: ") || actual.contains("BROKEN") {
                wrong.push(format!("{}: an error in the output", path.display()));
            } else if let (Some((e, a)), false) = (first, update) {
                wrong.push(format!("{}:\n  expected {e}\n  printed  {a}", path.display()));
            } else if expected != actual && !update {
                wrong.push(format!("{}: lengths differ", path.display()));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// The names of those that go otherwise with a core that has a bug: by what is printed, or by an assertion of the core.
    pub fn changed_by<S: Script>(&self, script: impl Fn() -> S) -> Vec<&str> {
        let differs = |path: &&PathBuf| {
            let expected = read(path);
            catch_unwind(AssertUnwindSafe(|| replay(script(), &expected))).map_or(true, |actual| actual != expected)
        };
        let changed = self.paths.iter().filter(differs);
        changed.filter_map(|path| path.file_stem()?.to_str()).collect()
    }
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).expect("a script")
}

fn replay(mut script: impl Script, text: &str) -> String {
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        let commands = block.split("\n---").next().unwrap_or_default();
        let _ = writeln!(out, "{commands}");
        let has_commands = commands.lines().any(|l| !l.starts_with('#'));
        if !has_commands {
            out.push('\n');
            continue;
        }
        let mut printed = Vec::new();
        for command in commands.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            match script.run(command) {
                Ok(lines) => printed.extend(lines),
                Err(error) => printed.push(format!("error: {command}: {error}")),
            }
        }
        if printed.is_empty() {
            printed.push("ok".into());
        }
        let _ = writeln!(out, "---\n{}\n", printed.join("\n"));
    }
    out.trim_end().to_string() + "\n"
}
