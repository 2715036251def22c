//! Licence expressions (SPDX, with the older `/` for `OR`) against the list of licences that we accept.

use std::collections::BTreeSet;

use crate::workspace::Metadata;

pub(super) fn check(allowed: &BTreeSet<String>, metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in &metadata.packages {
        let name = &package.name;
        let Some(licence) = &package.license else {
            found.push(format!("{name} states no licence"));
            continue;
        };
        match accepts(allowed, licence) {
            Some(true) => {}
            Some(false) => found.push(format!("{name} is under `{licence}`, which deny.toml does not allow")),
            None => found.push(format!("{name} has a licence that cannot be read: `{licence}`")),
        }
    }
    found
}

/// Whether the list satisfies the expression; `None` if it is no expression.
fn accepts(allowed: &BTreeSet<String>, expression: &str) -> Option<bool> {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut parser = Parser { allowed, words: &words };
    let verdict = parser.any_of()?;
    parser.words.is_empty().then_some(verdict)
}

struct Parser<'a> {
    allowed: &'a BTreeSet<String>,
    words: &'a [&'a str],
}

impl<'a> Parser<'a> {
    fn any_of(&mut self) -> Option<bool> {
        let mut verdict = self.all_of()?;
        while self.take("OR") {
            verdict |= self.all_of()?;
        }
        Some(verdict)
    }

    fn all_of(&mut self) -> Option<bool> {
        let mut verdict = self.one()?;
        while self.take("AND") {
            verdict &= self.one()?;
        }
        Some(verdict)
    }

    fn one(&mut self) -> Option<bool> {
        if self.take("(") {
            let verdict = self.any_of()?;
            return self.take(")").then_some(verdict);
        }
        let name = self.next()?;
        if ["OR", "AND", "WITH", ")"].contains(&name) {
            return None;
        }
        if self.take("WITH") {
            let exception = self.next()?;
            return Some(self.allowed.contains(&format!("{name} WITH {exception}")));
        }
        Some(self.allowed.contains(name))
    }

    fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.words.split_first()?;
        self.words = rest;
        Some(first)
    }

    fn take(&mut self, word: &str) -> bool {
        let matches = self.words.first() == Some(&word);
        if matches {
            self.words = &self.words[1..];
        }
        matches
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{package, tree};
    use super::*;

    fn allowed() -> BTreeSet<String> {
        ["MIT", "Apache-2.0 WITH LLVM-exception", "Unicode-3.0"]
            .map(str::to_owned)
            .into()
    }

    #[test]
    fn expressions_are_evaluated() {
        for (expression, verdict) in [
            ("MIT", Some(true)),
            ("GPL-3.0-only", Some(false)),
            ("MIT OR GPL-3.0-only", Some(true)),
            ("GPL-3.0-only/MIT", Some(true)),
            ("MIT AND GPL-3.0-only", Some(false)),
            ("(MIT OR Apache-2.0) AND Unicode-3.0", Some(true)),
            ("Apache-2.0", Some(false)),
            ("Apache-2.0 WITH LLVM-exception OR GPL-2.0-only", Some(true)),
            ("GPL-2.0-only OR MIT AND LGPL-2.1-only", Some(false)),
            ("MIT OR", None),
            ("(MIT", None),
            ("MIT MIT", None),
            ("", None),
        ] {
            assert_eq!(accepts(&allowed(), expression), verdict, "{expression}");
        }
    }

    #[test]
    fn a_crate_without_a_licence_is_refused() {
        let metadata = tree(vec![package("a", None, None), package("b", Some("MIT"), None)], &[]);
        assert_eq!(check(&allowed(), &metadata), ["a states no licence"]);
    }
}
