//! The rules on text. Words that a rule looks for are assembled here, so that this file does not break its own rules.

use super::{Finding, Tree};

const MAX_LINES: usize = 700;

/// Marks of unfinished work.
const LEFTOVERS: [&str; 4] = [
    concat!("FIX", "ME"),
    concat!("TO", "DO"),
    concat!("XX", "X"),
    concat!("to", "do!"),
];

/// Places that mean something on one machine or behind one mirror only.
const FOREIGN_PLACES: [&str; 9] = [
    concat!("/wo", "rk/"),
    concat!("/fa", "rm/"),
    concat!("/ro", "ot/"),
    concat!("bash", "_jobs"),
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("python", "hosted.org"),
    concat!("npm", "js.org"),
    concat!("debian", ".org"),
];

/// Every module opens with a chapter: what it promises.
pub(super) fn module_docs(tree: &Tree) -> Vec<Finding> {
    let opens_with_docs = |text: &str| {
        let mut lines = text
            .lines()
            .skip_while(|line| line.trim().is_empty() || line.starts_with("#!"));
        lines.next().is_some_and(|line| line.starts_with("//!"))
    };
    let missing = tree.texts_ending_in(".rs").filter(|(_, text)| !opens_with_docs(text));
    missing
        .map(|(path, _)| finding(path, 1, "no module docs: open with `//!` and say what it promises"))
        .collect()
}

/// A file that cannot be read in one sitting holds two things.
pub(super) fn file_length(tree: &Tree) -> Vec<Finding> {
    let lengths = tree
        .texts_ending_in(".rs")
        .map(|(path, text)| (path, text.lines().count()));
    let too_long = lengths.filter(|(_, lines)| *lines > MAX_LINES);
    too_long
        .map(|(path, lines)| {
            finding(
                path,
                lines,
                &format!("{lines} lines, at most {MAX_LINES}: split it by role"),
            )
        })
        .collect()
}

/// Nothing is left for later in the sources.
pub(super) fn leftovers(tree: &Tree) -> Vec<Finding> {
    each_line(tree, |line| {
        let word = LEFTOVERS.iter().find(|word| contains_word(line, word))?;
        Some(format!("`{word}`: finish it, or describe it in the issue tracker"))
    })
}

/// The repository works anywhere: no paths of one machine, no host of a registry (cargo's own files know theirs).
pub(super) fn foreign_places(tree: &Tree) -> Vec<Finding> {
    each_line(tree, |line| {
        let place = FOREIGN_PLACES.iter().find(|place| line.contains(*place))?;
        Some(format!("`{place}` means something on one machine only"))
    })
}

/// A lint is switched off for a reason that the next reader can judge. (Clippy's own lint would reach generated code.)
pub(super) fn reasons(tree: &Tree) -> Vec<Finding> {
    let opens = |line: &str| {
        ["#[allow(", "#![allow(", "#[expect(", "#![expect("]
            .iter()
            .any(|open| line.starts_with(open))
    };
    let mut findings = Vec::new();
    for (path, text) in tree.texts_ending_in(".rs") {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        for (index, _) in lines.iter().enumerate().filter(|(_, line)| opens(line)) {
            let end = lines[index..]
                .iter()
                .position(|line| line.contains(")]"))
                .map_or(lines.len(), |n| index + n + 1);
            if !lines[index..end].iter().any(|line| line.contains("reason = ")) {
                findings.push(finding(
                    path,
                    index + 1,
                    "a lint is switched off without `reason = \"...\"`",
                ));
            }
        }
    }
    findings
}

/// The map of the code names every crate.
pub(super) fn crates_in_architecture(tree: &Tree) -> Vec<Finding> {
    const MAP: &str = "ARCHITECTURE.md";
    let Some(map) = tree.texts.get(MAP) else {
        return Vec::new();
    };
    let manifests = tree.texts.keys().filter_map(|path| path.strip_suffix("/Cargo.toml"));
    let named = |folder: &str| {
        let name = folder.rsplit('/').next().unwrap_or(folder);
        contains_word(map, &format!("{folder}/")) || contains_word(map, &format!("fulcrum-{name}"))
    };
    let missing = manifests.filter(|folder| !named(folder));
    missing
        .map(|folder| finding(MAP, 1, &format!("does not name the crate `{folder}/`")))
        .collect()
}

fn each_line(tree: &Tree, rule: impl Fn(&str) -> Option<String>) -> Vec<Finding> {
    let texts = tree.texts.iter().filter(|(path, _)| !path.ends_with(".lock"));
    let lines = texts.flat_map(|(path, text)| text.lines().enumerate().map(move |(index, line)| (path, index, line)));
    lines
        .filter_map(|(path, index, line)| Some(finding(path, index + 1, &rule(line)?)))
        .collect()
}

fn contains_word(line: &str, word: &str) -> bool {
    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '-');
    // A word that ends in a sign (`cli/`) is complete whatever follows.
    let open_ended = !word.ends_with(char::is_alphanumeric);
    line.match_indices(word).any(|(at, _)| {
        let after = line[at + word.len()..].chars().next();
        !is_part(line[..at].chars().next_back()) && (open_ended || !is_part(after))
    })
}

fn finding(path: &str, line: usize, message: &str) -> Finding {
    Finding {
        path: path.to_owned(),
        line,
        message: message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(findings: &[Finding]) -> Vec<(&str, usize)> {
        findings
            .iter()
            .map(|finding| (finding.path.as_str(), finding.line))
            .collect()
    }

    #[test]
    fn a_module_opens_with_docs() {
        let tree = Tree::of(&[
            ("a.rs", "//! Promise.\nfn a() {}\n"),
            ("b.rs", "fn b() {}\n//! Late.\n"),
            ("c.rs", "#![forbid(unsafe_code)]\n\n//! Promise.\n"),
            ("d.rs", ""),
            ("e.md", "Prose."),
        ]);
        assert_eq!(lines(&module_docs(&tree)), [("b.rs", 1), ("d.rs", 1)]);
    }

    #[test]
    fn a_file_has_a_bound() {
        let (fits, long) = ("//! x\n".repeat(MAX_LINES), "//! x\n".repeat(MAX_LINES + 1));
        let tree = Tree::of(&[("fits.rs", &fits), ("long.rs", &long), ("long.md", &long)]);
        assert_eq!(lines(&file_length(&tree)), [("long.rs", MAX_LINES + 1)]);
    }

    #[test]
    fn every_leftover_is_found_and_no_longer_word() {
        for word in LEFTOVERS {
            let tree = Tree::of(&[
                ("a.rs", &format!("fine\n// {word}: later\n")),
                ("b.rs", &format!("fn a{word}s() {{}}")),
            ]);
            assert_eq!(lines(&leftovers(&tree)), [("a.rs", 2)], "{word}");
        }
    }

    #[test]
    fn every_foreign_place_is_found_outside_lock_files() {
        for place in FOREIGN_PLACES {
            let text = format!("see {place}x");
            let tree = Tree::of(&[("docs/a.md", &text), ("Cargo.lock", &text)]);
            assert_eq!(lines(&foreign_places(&tree)), [("docs/a.md", 1)], "{place}");
        }
    }

    #[test]
    fn a_lint_is_switched_off_for_a_reason() {
        let text = "//! x\n#![allow(dead_code)]\n#[expect(lint, reason = \"why\")]\n#[allow(\n    lint,\n    reason = \"why\"\n)]\n  #[allow(lint)]\n";
        assert_eq!(
            lines(&reasons(&Tree::of(&[("a.rs", text)]))),
            [("a.rs", 2), ("a.rs", 8)]
        );
    }

    #[test]
    fn the_map_names_every_crate() {
        let crates = [("cli/Cargo.toml", ""), ("common/Cargo.toml", ""), ("Cargo.toml", "")];
        assert_eq!(
            crates_in_architecture(&Tree::of(&crates)),
            [],
            "nothing to say without a map"
        );
        let map = (
            "ARCHITECTURE.md",
            "`fulcrum-common` is shared; a public-cli/ is something else",
        );
        let findings = crates_in_architecture(&Tree::of(&[crates[0], crates[1], crates[2], map]));
        assert_eq!(findings.len(), 1);
        assert!(findings[0].message.contains("`cli/`"), "{}", findings[0]);
    }
}
