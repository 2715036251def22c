//! The words of a line: bare, in single quotes as they are, or in double quotes with escapes.

use super::{Line, Wrong};
use std::iter::Peekable;
use std::str::Chars;

/// A word, and where it begins.
#[derive(Debug)]
pub(super) struct Word {
    pub(super) text: String,
    /// From 1, in characters.
    pub(super) column: usize,
}

struct Letters<'a> {
    rest: Peekable<Chars<'a>>,
    /// Of the next letter, from 1.
    column: usize,
}

impl Letters<'_> {
    fn next(&mut self) -> Option<char> {
        let letter = self.rest.next()?;
        self.column += 1;
        Some(letter)
    }

    fn peek(&mut self) -> Option<char> {
        self.rest.peek().copied()
    }
}

pub(super) fn words(line: &str) -> Result<Line, Wrong> {
    let line = line.strip_suffix('\r').unwrap_or(line);
    let mut letters = Letters {
        rest: line.chars().peekable(),
        column: 1,
    };
    let mut words = Vec::new();
    let mut end = 1;
    while let Some(first) = letters.peek() {
        let column = letters.column;
        let text = match first {
            ' ' | '\t' => {
                letters.next();
                continue;
            }
            '#' => break,
            '\'' | '"' => quoted(&mut letters)?,
            _ => bare(&mut letters)?,
        };
        words.push(Word { text, column });
        end = letters.column;
    }
    Ok(Line {
        words: words.into_iter(),
        end,
    })
}

fn bare(letters: &mut Letters<'_>) -> Result<String, Wrong> {
    let mut text = String::new();
    while let Some(letter) = letters.peek() {
        match letter {
            ' ' | '\t' => break,
            '\'' | '"' => return Err(Wrong::at(letters.column, "a quote within a word: quote the whole word")),
            _ => text.push(letter),
        }
        letters.next();
    }
    Ok(text)
}

fn quoted(letters: &mut Letters<'_>) -> Result<String, Wrong> {
    let begin = letters.column;
    let open = || Wrong::at(begin, "this quote is not closed on its line");
    let quote = letters.next().ok_or_else(open)?;
    let mut text = String::new();
    loop {
        let column = letters.column;
        let letter = letters.next().ok_or_else(open)?;
        if letter == quote {
            break;
        }
        if letter == '\\' && quote == '"' {
            let escaped = letters.next().ok_or_else(open)?;
            text.push(unescaped(escaped).ok_or_else(|| {
                let found = escaped.escape_debug();
                Wrong::at(
                    column,
                    format!("unknown escape '\\{found}': use \\\\, \\\", \\t, \\n or \\r"),
                )
            })?);
            continue;
        }
        text.push(letter);
    }
    match letters.peek() {
        None | Some(' ' | '\t') => Ok(text),
        Some(_) => Err(Wrong::at(letters.column, "a space must follow the closing quote")),
    }
}

fn unescaped(letter: char) -> Option<char> {
    match letter {
        '\\' | '"' => Some(letter),
        't' => Some('\t'),
        'n' => Some('\n'),
        'r' => Some('\r'),
        _ => None,
    }
}
