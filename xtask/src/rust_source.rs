//! Just enough of Rust's syntax to ask which paths a file names, outside comments, strings and test code.
//!
//! No parser crate: a mask over comments and literals, a tokeniser for identifiers and `::`, and the expansion of `use`
//! trees. Macros that assemble paths from pieces are not seen.

/// A path as the source spells it, `use` groups expanded: `std::fs::File`, `std::time::*`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NamedPath {
    pub(crate) line: usize,
    pub(crate) path: String,
}

/// Every path of one or more segments that the text names outside comments, literals and `#[cfg(test)]` items.
pub(crate) fn named_paths(text: &str) -> Vec<NamedPath> {
    let code = without_tests(&mask(text));
    let tokens = tokens(&code);
    let mut found = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        at = if matches!(tokens[at].kind, Kind::Name(_)) {
            path(&tokens, at, "", &mut found)
        } else {
            at + 1
        };
    }
    found
}

enum Kind<'a> {
    Name(&'a str),
    PathSeparator,
    Symbol(char),
}

struct Token<'a> {
    line: usize,
    kind: Kind<'a>,
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut found = Vec::new();
    for (index, text) in code.lines().enumerate() {
        let line = index + 1;
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let name = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let (kind, length) = match first {
                _ if name > 0 => (Kind::Name(&rest[..name]), name),
                ':' if rest.starts_with("::") => (Kind::PathSeparator, 2),
                other => (Kind::Symbol(other), other.len_utf8()),
            };
            if !matches!(kind, Kind::Symbol(c) if c.is_whitespace()) {
                found.push(Token { line, kind });
            }
            rest = &rest[length..];
        }
    }
    found
}

fn is_name(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Reads the path that starts at `at` under `prefix`, keeps what it names, and returns where it ends.
fn path(tokens: &[Token<'_>], mut at: usize, prefix: &str, found: &mut Vec<NamedPath>) -> usize {
    let mut spelled = prefix.to_owned();
    let line = tokens[at].line;
    loop {
        match tokens.get(at).map(|token| &token.kind) {
            Some(Kind::Name(name)) => spelled = join(&spelled, name),
            Some(Kind::Symbol('*')) if !spelled.is_empty() => spelled = join(&spelled, "*"),
            Some(Kind::Symbol('{')) if !spelled.is_empty() => return group(tokens, at + 1, &spelled, found),
            _ => break,
        }
        at += 1;
        if !matches!(tokens.get(at).map(|token| &token.kind), Some(Kind::PathSeparator)) {
            break;
        }
        at += 1;
    }
    found.push(NamedPath { line, path: spelled });
    at
}

/// Reads the members of a `use` group up to its closing brace.
fn group(tokens: &[Token<'_>], mut at: usize, prefix: &str, found: &mut Vec<NamedPath>) -> usize {
    while let Some(token) = tokens.get(at) {
        at = match token.kind {
            Kind::Symbol('}') => return at + 1,
            Kind::Name(_) => path(tokens, at, prefix, found),
            Kind::Symbol('*') => path(tokens, at, prefix, found),
            _ => at + 1,
        };
    }
    at
}

fn join(prefix: &str, name: &str) -> String {
    if prefix.is_empty() {
        name.to_owned()
    } else {
        format!("{prefix}::{name}")
    }
}

/// The text with comments and literals blanked; lines stay where they are.
pub(crate) fn mask(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut masked = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = literal_end(&chars, at);
        if end == at {
            masked.push(chars[at]);
            at += 1;
            continue;
        }
        masked.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        at = end;
    }
    masked
}

/// Where the comment or literal that starts at `at` ends; `at` itself if none does.
fn literal_end(chars: &[char], at: usize) -> usize {
    let next = chars.get(at + 1).copied();
    match (chars[at], next) {
        ('/', Some('/')) => position(chars, at, |c| c == '\n'),
        ('/', Some('*')) => block_comment_end(chars, at),
        ('"', _) => string_end(chars, at + 1),
        ('r', Some('"' | '#')) if !follows_name(chars, at) => raw_string_end(chars, at),
        ('b' | 'c', Some('r')) if !follows_name(chars, at) && raw_string_end(chars, at + 1) > at + 1 => {
            raw_string_end(chars, at + 1)
        }
        ('\'', Some('\\')) => position(chars, at + 3, |c| c == '\'') + 1,
        ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
        _ => at,
    }
    .min(chars.len())
}

fn follows_name(chars: &[char], at: usize) -> bool {
    let before = at.checked_sub(1).map(|before| chars[before]);
    before.is_some_and(|c| is_name(c) && !(c == 'b' || c == 'c'))
}

fn position(chars: &[char], from: usize, wanted: impl Fn(char) -> bool) -> usize {
    (from..chars.len()).find(|at| wanted(chars[*at])).unwrap_or(chars.len())
}

fn block_comment_end(chars: &[char], start: usize) -> usize {
    let (mut at, mut depth) = (start, 0_usize);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
            ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    at
}

fn string_end(chars: &[char], mut at: usize) -> usize {
    while at < chars.len() {
        match chars[at] {
            '\\' => at += 2,
            '"' => return at + 1,
            _ => at += 1,
        }
    }
    at
}

fn raw_string_end(chars: &[char], start: usize) -> usize {
    let quote = position(chars, start + 1, |c| c != '#');
    if chars.get(quote) != Some(&'"') {
        return start;
    }
    let hashes = quote - start - 1;
    let closes = |at: usize| chars[at] == '"' && chars[at + 1..].iter().take_while(|c| **c == '#').count() >= hashes;
    (quote + 1..chars.len())
        .find(|at| closes(*at))
        .map_or(chars.len(), |at| at + 1 + hashes)
}

/// Masked code without the items under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(MARK) {
        kept.push_str(&rest[..start]);
        let item = &rest[start..];
        let end = item_end(item);
        kept.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    kept + rest
}

/// Where an item ends: at its first `;` outside braces, or at the brace that closes its body.
fn item_end(item: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in item.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth <= 1 => return at + 1,
            '}' => depth -= 1,
            ';' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    item.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths_of(text: &str) -> Vec<String> {
        named_paths(text).into_iter().map(|named| named.path).collect()
    }

    #[test]
    fn use_groups_are_expanded() {
        let found = paths_of("use std::{fs, time::{Duration, Instant as I}, net::*};");
        for path in ["std::fs", "std::time::Duration", "std::time::Instant", "std::net::*"] {
            assert!(found.iter().any(|one| one == path), "{path} in {found:?}");
        }
    }

    #[test]
    fn paths_in_expressions_are_seen_with_their_line() {
        let found = named_paths("fn f() {\n    let t = std::time::Instant::now();\n}\n");
        assert!(
            found.contains(&NamedPath {
                line: 2,
                path: "std::time::Instant::now".into()
            }),
            "{found:?}"
        );
    }

    #[test]
    fn comments_strings_and_characters_name_nothing() {
        let text = "// std::fs\n/* std::net /* std::fs */ */ \"std::fs\" r#\"std::net \" std::fs\"# b\"std::fs\" '\\'' '\"' 'a' br\"std::fs\"";
        assert_eq!(
            paths_of(text).iter().filter(|path| path.contains("std")).count(),
            0,
            "{:?}",
            paths_of(text)
        );
    }

    #[test]
    fn lifetimes_do_not_start_a_literal() {
        assert!(paths_of("fn f<'a>(x: &'a str) { std::fs::read(x) }").contains(&"std::fs::read".to_owned()));
    }

    #[test]
    fn test_items_are_left_out_and_what_follows_them_is_not() {
        let found = named_paths("#[cfg(test)]\nmod tests { fn f() { std::fs::read(); } }\nuse std::net;\n");
        assert!(
            !found.iter().any(|named| named.path.starts_with("std::fs")),
            "{found:?}"
        );
        assert!(
            found.contains(&NamedPath {
                line: 3,
                path: "std::net".into()
            }),
            "{found:?}"
        );
        assert!(paths_of("#[cfg(test)]\nmod tests;\nuse std::fs;").contains(&"std::fs".to_owned()));
    }
}
