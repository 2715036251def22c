//! Relative links in Markdown lead to a file or folder of the repository. Web addresses and anchors are not followed.

use super::{Finding, Tree};

pub(super) fn relative_links(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (path, text) in tree.texts_ending_in(".md") {
        for (line, target) in targets(text) {
            let resolved = resolve(path, &target);
            if !resolved
                .as_ref()
                .is_some_and(|resolved| resolved.is_empty() || tree.paths.contains(resolved))
            {
                let message = format!("the link `{target}` leads nowhere");
                findings.push(Finding {
                    path: path.to_owned(),
                    line,
                    message,
                });
            }
        }
    }
    findings
}

/// The relative targets of a document with their lines, code left out.
fn targets(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut fenced = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        let prose = without_code(line);
        let inline = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        let definition = prose
            .strip_prefix('[')
            .and_then(|rest| rest.split_once("]: "))
            .map(|(_, target)| target);
        for target in inline.chain(definition) {
            if let Some(target) = relative(target) {
                found.push((index + 1, target.to_owned()));
            }
        }
    }
    found
}

fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("`")
}

/// The path of a target without title and anchor; `None` for a web address or an anchor of the same page.
fn relative(target: &str) -> Option<&str> {
    let target = target.split_whitespace().next()?.trim_matches(['<', '>']);
    let has_scheme = target
        .split_once(':')
        .is_some_and(|(scheme, _)| scheme.chars().all(|c| c.is_ascii_alphanumeric()));
    let path = target.split('#').next()?;
    (!has_scheme && !path.is_empty()).then_some(path)
}

/// The target seen from the root; `None` if it climbs out of the repository.
fn resolve(document: &str, target: &str) -> Option<String> {
    let mut parts: Vec<&str> = Vec::new();
    if !target.starts_with('/') {
        parts.extend(document.split('/'));
        parts.pop();
    }
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_that_lead_nowhere_are_found() {
        let text = "[a](common/src) [b](./cli/src/main.rs#L3 \"title\") [c](https://example.org/x) [d](#words)\n\
                    [gone](common/gone.rs) and [out](../secret)\n\
                    `[code](nowhere)`\n\
                    ```\n[fenced](nowhere)\n```\n\
                    [ref]: docs/gone.md\n";
        let tree = Tree::of(&[("README.md", text), ("common/src/lib.rs", ""), ("cli/src/main.rs", "")]);
        let lines: Vec<usize> = relative_links(&tree).iter().map(|finding| finding.line).collect();
        assert_eq!(lines, [2, 2, 7]);
    }

    #[test]
    fn links_are_relative_to_their_document() {
        let good = (
            "docs/decisions/a.md",
            "[up](../../README.md) [beside](b.md) [root](/README.md) [here](./)",
        );
        let tree = Tree::of(&[good, ("docs/decisions/b.md", ""), ("README.md", "")]);
        assert_eq!(relative_links(&tree), []);
    }
}
