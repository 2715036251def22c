//! What compilers do not check: each rule looks at the tracked files and names every line to repair.
//!
//! Rules are functions over a [`Tree`] of texts, so that each is tested on a planted one; the last test runs them over the
//! repository itself, which makes tidiness part of `cargo test`.

mod guides;
mod links;
mod rules;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::process;

/// The files of the repository: tracked, or new and not ignored.
pub(crate) struct Tree {
    /// Every file and every folder, relative to the root, with `/` between parts.
    paths: BTreeSet<String>,
    /// The files that are text.
    texts: BTreeMap<String, String>,
}

/// A line to repair.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Finding {
    path: String,
    line: usize,
    message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.message)
    }
}

/// The findings of every rule.
pub(crate) fn check(tree: &Tree) -> Vec<String> {
    let rules = [
        rules::module_docs,
        rules::file_length,
        rules::leftovers,
        rules::foreign_places,
        rules::reasons,
        rules::crates_in_architecture,
        links::relative_links,
        guides::names_in_guides,
    ];
    rules
        .iter()
        .flat_map(|rule| rule(tree))
        .map(|finding| finding.to_string())
        .collect()
}

impl Tree {
    pub(crate) fn load(root: &Path) -> Result<Tree> {
        let mut files = Vec::new();
        for path in listed(root)? {
            let bytes = match std::fs::read(root.join(&path)) {
                Ok(bytes) => bytes,
                // Deleted, and the deletion not yet committed.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error).with_context(|| format!("read {path}")),
            };
            files.push((path, String::from_utf8(bytes).ok()));
        }
        Ok(Tree::new(files))
    }

    fn new(files: impl IntoIterator<Item = (String, Option<String>)>) -> Tree {
        let mut tree = Tree {
            paths: BTreeSet::new(),
            texts: BTreeMap::new(),
        };
        for (path, text) in files {
            let folders = path.match_indices('/').map(|(at, _)| path[..at].to_owned());
            tree.paths.extend(folders.chain([path.clone()]));
            if let Some(text) = text {
                tree.texts.insert(path, text);
            }
        }
        tree
    }

    fn texts_ending_in(&self, ending: &str) -> impl Iterator<Item = (&str, &str)> {
        let texts = self.texts.iter().map(|(path, text)| (path.as_str(), text.as_str()));
        texts.filter(move |(path, _)| path.ends_with(ending))
    }
}

/// The paths to look at. Without git (an unpacked archive) that is every file outside build output and hidden folders.
fn listed(root: &Path) -> Result<Vec<String>> {
    let mut git = Command::new("git");
    git.current_dir(root)
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    if let Ok(output) = process::output_of(git.stderr(std::process::Stdio::null())) {
        let output = String::from_utf8(output).context("file names in the repository")?;
        return Ok(output.split_terminator('\0').map(str::to_owned).collect());
    }
    let mut files = Vec::new();
    walk(root, "", &mut files)?;
    Ok(files)
}

fn walk(root: &Path, folder: &str, files: &mut Vec<String>) -> Result<()> {
    let entries = std::fs::read_dir(root.join(folder)).with_context(|| format!("list {folder}"))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {folder}"))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = if folder.is_empty() {
            name.clone()
        } else {
            format!("{folder}/{name}")
        };
        let is_folder = entry.file_type().with_context(|| format!("look at {path}"))?.is_dir();
        match is_folder {
            true if name.starts_with('.') && name != ".ci" && name != ".cargo" => {}
            true if folder.is_empty() && name.starts_with("target") => {}
            true => walk(root, &path, files)?,
            false => files.push(path),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Tree {
        /// A planted tree of texts.
        pub(super) fn of(files: &[(&str, &str)]) -> Tree {
            Tree::new(
                files
                    .iter()
                    .map(|(path, text)| ((*path).to_owned(), Some((*text).to_owned()))),
            )
        }
    }

    #[test]
    fn without_git_the_folder_is_walked() {
        let folder = tempfile::tempdir().unwrap();
        for path in ["src/lib.rs", "target/debug/x", ".git/HEAD", ".ci/run"] {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, "").unwrap();
        }
        let mut files = Vec::new();
        walk(folder.path(), "", &mut files).unwrap();
        files.sort();
        assert_eq!(files, [".ci/run", "src/lib.rs"]);
    }

    #[test]
    fn the_repository_is_tidy() {
        let findings = check(&Tree::load(crate::workspace::root()).unwrap());
        assert!(findings.is_empty(), "\n{}\n", findings.join("\n"));
    }
}
