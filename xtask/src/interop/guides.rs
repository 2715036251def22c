//! The code of the guides in `docs/clients`, run as it stands.
//!
//! A guide's blocks of one language are one program, in their order: a reader who types them in has the same. Blocks of `sh` are run by a
//! shell; `console` blocks (with prompts) are to be read only. The folder in which they run has a link `fulcrum` to this repository,
//! as if it had been cloned there.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::Stage;
use crate::fences::{Fence, fences};
use crate::process;
use crate::report::Report;
use crate::workspace::root;

const FOLDER: &str = "docs/clients";

/// A guide, and the languages whose blocks make its programs, in the order in which they are run.
const GUIDES: [(&str, &[&str]); 3] = [
    ("python.md", &["sh", "python"]),
    ("node.md", &["js"]),
    ("any.md", &["sh"]),
];

/// A step for each guide.
pub(super) fn run(report: &mut Report, stage: &Stage) -> Result<()> {
    for (name, languages) in GUIDES {
        report.step(&format!("guide {name}"), || {
            let path = root().join(FOLDER).join(name);
            let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
            let folder = stage.tools.node_folder.join("guides").join(name);
            prepare(&folder)?;
            for language in languages {
                let program = blocks(&text, language).join("\n");
                if program.is_empty() {
                    bail!("{name} has no block of {language}");
                }
                let code = process::run(&mut command(stage, &folder, language, &program)?)?;
                if code != 0 {
                    return Ok(code);
                }
            }
            Ok(0)
        })?;
    }
    Ok(())
}

fn prepare(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    let link = folder.join("fulcrum");
    match std::os::unix::fs::symlink(root(), &link) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("link {}", link.display()))
        }
        _ => Ok(()),
    }
}

fn command(stage: &Stage, folder: &Path, language: &str, program: &str) -> Result<Command> {
    let write = |name: &str, text: &str| -> Result<PathBuf> {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    };
    let mut command = match language {
        "python" => {
            let mut python = stage.tools.python();
            python.arg(write("guide.py", program)?);
            python
        }
        "js" => {
            let mut node = Command::new("node");
            node.arg(write("guide.mjs", program)?);
            node
        }
        _ => {
            let mut shell = stage.tools.shell();
            shell.arg(write("guide.sh", &format!("set -eu\n{program}"))?);
            shell
        }
    };
    stage.describe(&mut command);
    command.current_dir(folder);
    Ok(command)
}

/// The blocks of a language, as they stand.
fn blocks(text: &str, language: &str) -> Vec<String> {
    let of_language = fences(text).into_iter().filter(|fence| fence.language == language);
    let block = |fence: Fence<'_>| fence.lines.iter().map(|(_, line)| format!("{line}\n")).collect();
    of_language.map(block).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_told_apart_by_their_language() {
        let text = "# T\n```sh\nls\n```\ntext `python`\n```python\na = 1\n\nb = 2\n```\n```console\n$ ls\n```\n```python\nc = 3\n```\n";
        assert_eq!(blocks(text, "python"), ["a = 1\n\nb = 2\n", "c = 3\n"]);
        assert_eq!(blocks(text, "sh"), ["ls\n"]);
        assert!(blocks(text, "js").is_empty());
    }

    #[test]
    fn every_guide_has_blocks_of_its_languages() {
        for (name, languages) in GUIDES {
            let text = std::fs::read_to_string(root().join(FOLDER).join(name)).unwrap();
            for language in languages {
                assert!(!blocks(&text, language).is_empty(), "{name} has no block of {language}");
            }
        }
    }
}
