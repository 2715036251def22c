//! The small language of `fulcrum txn run`: one command a line, see `fulcrum txn run --help`.
//!
//! Text in, commands out; what is wrong is named by line, column and reason, and nothing that is given here can make it panic.
//! Left out: variables, arithmetic and branches. What needs them is a program: the client library has closures for it.

mod words;

use crate::value::Encoding;
use bytes::Bytes;
use fulcrum_common::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use fulcrum_types::{Condition, Version};
use std::fmt;
use words::{Word, words};

/// A line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Of which keyspace.
    pub keyspace: String,
    /// Of which key.
    pub key: Bytes,
    /// What.
    pub verb: Verb,
}

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Show the value.
    Get,
    /// Write it.
    Put(Bytes),
    /// Remove it.
    Delete,
    /// Only if this holds.
    If(Condition),
}

/// How keys and values are written down in it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Codes {
    /// Keys.
    pub keys: Encoding,
    /// Values.
    pub values: Encoding,
}

/// What is wrong with a script, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What, and what would be right.
    pub reason: String,
}

impl fmt::Display for ScriptError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.reason)
    }
}

/// Something wrong within a line.
#[derive(Debug)]
struct Wrong {
    column: usize,
    reason: String,
}

impl Wrong {
    fn at(column: usize, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Wrong { column, reason }
    }
}

/// Reads a script.
///
/// # Errors
/// The first thing that is wrong with it. A script without commands is wrong, too.
pub fn parse(source: &[u8], codes: Codes) -> Result<Vec<Command>, ScriptError> {
    let mut commands = Vec::new();
    let mut line = 0;
    for bytes in source.split(|byte| *byte == b'\n') {
        line += 1;
        let read = text(bytes).and_then(words).and_then(|words| command(words, codes));
        match read {
            Ok(command) => commands.extend(command),
            Err(Wrong { column, reason }) => return Err(ScriptError { line, column, reason }),
        }
    }
    if commands.is_empty() {
        return Err(ScriptError {
            line,
            column: 1,
            reason: "no command: a script has at least one get, put, delete or if".to_owned(),
        });
    }
    Ok(commands)
}

fn text(line: &[u8]) -> Result<&str, Wrong> {
    std::str::from_utf8(line).map_err(|error| {
        let valid = line.get(..error.valid_up_to()).unwrap_or_default();
        let column = String::from_utf8_lossy(valid).chars().count() + 1;
        Wrong::at(
            column,
            "not UTF-8: give what is no text in hexadecimal (--hex-key, --hex) or --base64",
        )
    })
}

fn command(words: Line, codes: Codes) -> Result<Option<Command>, Wrong> {
    let mut words = words;
    let Some(verb) = words.next() else { return Ok(None) };
    const VERBS: &str = "a line begins with get, put, delete or if";
    if !matches!(verb.text.as_str(), "get" | "put" | "delete" | "if") {
        return Err(Wrong::at(
            verb.column,
            format!("unknown command '{}': {VERBS}", shown(&verb.text)),
        ));
    }
    let keyspace = words.need("the keyspace")?.text;
    let key = key(&words.need("the key")?, codes)?;
    let verb = match verb.text.as_str() {
        "get" => Verb::Get,
        "put" => Verb::Put(value(&words.need("the value")?, codes)?),
        "delete" => Verb::Delete,
        _ => Verb::If(condition(&mut words, codes)?),
    };
    words.end()?;
    Ok(Some(Command { keyspace, key, verb }))
}

const CONDITIONS: &str = "exists, absent, = VALUE or version = N";

fn condition(words: &mut Line, codes: Codes) -> Result<Condition, Wrong> {
    let word = words.need(CONDITIONS)?;
    match word.text.as_str() {
        "exists" => Ok(Condition::Exists),
        "absent" => Ok(Condition::Absent),
        "=" => Ok(Condition::ValueIs(value(&words.need("the value")?, codes)?)),
        "version" => {
            let sign = words.need("= and the version")?;
            if sign.text != "=" {
                return Err(Wrong::at(
                    sign.column,
                    "a version is compared with =, as in version = 7",
                ));
            }
            let number = words.need("the version")?;
            let version = number.text.parse().map_err(|_| {
                let reason = format!("'{}' is no version: a version is a number", shown(&number.text));
                Wrong::at(number.column, reason)
            })?;
            Ok(Condition::VersionIs(Version(version)))
        }
        other => {
            let reason = format!(
                "unknown condition '{}': use {CONDITIONS}, each word by itself",
                shown(other)
            );
            Err(Wrong::at(word.column, reason))
        }
    }
}

fn key(word: &Word, codes: Codes) -> Result<Bytes, Wrong> {
    let key = codes
        .keys
        .decode(&word.text)
        .map_err(|why| Wrong::at(word.column, format!("the key is {why}")))?;
    match key.len() {
        0 => Err(Wrong::at(word.column, "a key is not empty")),
        length if length > MAX_KEY_BYTES => {
            let reason = format!("a key of {length} bytes: at most {MAX_KEY_BYTES} are allowed");
            Err(Wrong::at(word.column, reason))
        }
        _ => Ok(key.into()),
    }
}

fn value(word: &Word, codes: Codes) -> Result<Bytes, Wrong> {
    let value = codes.values.decode(&word.text);
    let value = value.map_err(|why| Wrong::at(word.column, format!("the value is {why}")))?;
    if value.len() > MAX_VALUE_BYTES {
        let reason = format!(
            "a value of {} bytes: at most {MAX_VALUE_BYTES} are allowed",
            value.len()
        );
        return Err(Wrong::at(word.column, reason));
    }
    Ok(value.into())
}

/// The beginning of a word, as a message shows it.
fn shown(word: &str) -> String {
    const LONGEST: usize = 24;
    let dots = if word.chars().nth(LONGEST).is_some() { "..." } else { "" };
    let begin: String = word.chars().take(LONGEST).collect();
    format!("{}{dots}", begin.escape_debug())
}

/// The words of a line that are still to be read.
struct Line {
    words: std::vec::IntoIter<Word>,
    /// Behind the last one.
    end: usize,
}

impl Line {
    fn next(&mut self) -> Option<Word> {
        self.words.next()
    }

    fn need(&mut self, what: &str) -> Result<Word, Wrong> {
        let end = self.end;
        self.words
            .next()
            .ok_or_else(|| Wrong::at(end, format!("the line ends too early: {what} is missing")))
    }

    fn end(&mut self) -> Result<(), Wrong> {
        match self.words.next() {
            None => Ok(()),
            Some(word) => {
                let reason = format!(
                    "'{}' is too much: quote a word that has spaces in it",
                    shown(&word.text)
                );
                Err(Wrong::at(word.column, reason))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Rng;

    fn read(source: &str) -> Result<Vec<Command>, ScriptError> {
        parse(source.as_bytes(), Codes::default())
    }

    fn one(keyspace: &str, key: &str, verb: Verb) -> Command {
        Command {
            keyspace: keyspace.to_owned(),
            key: key.to_owned().into(),
            verb,
        }
    }

    #[test]
    fn every_command_is_read() {
        let script = "\
            # an order\n\
            get stock apples\r\n\
            \n\
            if stock apples = 1   # the last one\n\
            if orders 'order 7' absent\n\
            if stock pears exists\n\
            if stock pears version = 12\n\
            \tdelete stock apples\n\
            put orders 'order 7' \"2\\tapples \\\"red\\\"\\\\\"\n\
            put orders a#1 ''";
        assert_eq!(
            read(script).unwrap(),
            [
                one("stock", "apples", Verb::Get),
                one("stock", "apples", Verb::If(Condition::ValueIs("1".into()))),
                one("orders", "order 7", Verb::If(Condition::Absent)),
                one("stock", "pears", Verb::If(Condition::Exists)),
                one("stock", "pears", Verb::If(Condition::VersionIs(Version(12)))),
                one("stock", "apples", Verb::Delete),
                one("orders", "order 7", Verb::Put("2\tapples \"red\"\\".into())),
                one("orders", "a#1", Verb::Put("".into())),
            ]
        );
    }

    #[test]
    fn keys_and_values_may_be_encoded() {
        let codes = Codes {
            keys: Encoding::Hex,
            values: Encoding::Base64,
        };
        let read = parse(b"put k ff00 Zm9v", codes).unwrap();
        assert_eq!(
            (read[0].key.as_ref(), &read[0].verb),
            ([0xff, 0].as_slice(), &Verb::Put("foo".into()))
        );
        let wrong = parse(b"get k ff00\nput k f Zm9v", codes).unwrap_err();
        assert_eq!((wrong.line, wrong.column), (2, 7), "{wrong}");
    }

    #[test]
    fn what_is_wrong_is_named_where_it_is() {
        for (source, line, column, says) in [
            ("", 1, 1, "no command"),
            ("# nothing\n\n", 3, 1, "no command"),
            ("get k a\nfetch k a", 2, 1, "unknown command 'fetch'"),
            ("get", 1, 4, "the keyspace is missing"),
            ("get k  # a", 1, 6, "the key is missing"),
            ("get k a b", 1, 9, "'b' is too much"),
            ("put k a", 1, 8, "the value is missing"),
            ("put k a two words", 1, 13, "too much"),
            ("if k a", 1, 7, "exists, absent"),
            ("if k a =", 1, 9, "the value is missing"),
            ("if k a =1", 1, 8, "each word by itself"),
            ("if k a version 7", 1, 16, "compared with ="),
            ("if k a version = seven", 1, 18, "'seven' is no version"),
            ("if k a version = -1", 1, 18, "is no version"),
            ("get k ''", 1, 7, "not empty"),
            ("get k 'a", 1, 7, "is not closed"),
            ("get é \"a", 1, 7, "is not closed"),
            ("get k \"a\\q\"", 1, 9, "unknown escape"),
            ("get k \"a\\", 1, 7, "is not closed"),
            ("get k 'a'b", 1, 10, "a space"),
            ("get k a'b", 1, 8, "quote"),
        ] {
            let wrong = read(source).unwrap_err();
            assert_eq!((wrong.line, wrong.column), (line, column), "{source:?}: {wrong}");
            assert!(wrong.reason.contains(says), "{source:?}: {wrong}");
        }
        let wrong = parse(b"get k a\nget \xc3\xa9 \xff", Codes::default()).unwrap_err();
        assert_eq!((wrong.line, wrong.column), (2, 7), "{wrong}");
        let long = format!("get k {}", "k".repeat(MAX_KEY_BYTES + 1));
        assert!(read(&long).unwrap_err().reason.contains("4096"));
    }

    #[test]
    fn random_bytes_and_random_words_do_no_harm() {
        const WORDS: [&str; 20] = [
            "get", "put", "delete", "if", "k", "a", "=", "version", "exists", "absent", "'", "\"", "\\", "#", " ",
            "\t", "\n", "é", "7", "''",
        ];
        let mut rng = Rng::new(11);
        for round in 0..20_000 {
            let length = rng.below(40);
            let source: Vec<u8> = if round % 2 == 0 {
                (0..length).map(|_| rng.next_u64() as u8).collect()
            } else {
                let word = |_| format!("{} ", WORDS[rng.below(20) as usize]);
                (0..length).map(word).collect::<String>().into_bytes()
            };
            let lines = source.split(|byte| *byte == b'\n').count();
            if let Err(wrong) = parse(&source, Codes::default()) {
                let line = source
                    .split(|byte| *byte == b'\n')
                    .nth(wrong.line - 1)
                    .unwrap_or_default();
                let within = String::from_utf8_lossy(line).chars().count() + 1;
                assert!(
                    wrong.line <= lines && (1..=within).contains(&wrong.column),
                    "{source:?}: {wrong}"
                );
            }
        }
    }

    /// What is quoted reads back, whatever it is.
    #[test]
    fn quoted_words_read_back() {
        let mut rng = Rng::new(12);
        for _ in 0..5_000 {
            let length = 1 + rng.below(12) as usize;
            let value: String = (0..length).map(|_| char::from(rng.next_u64() as u8)).collect();
            let mut quoted = String::from("put k a \"");
            for letter in value.chars() {
                match letter {
                    '\\' | '"' => quoted.extend(['\\', letter]),
                    '\n' => quoted.push_str("\\n"),
                    other => quoted.push(other),
                }
            }
            let read = read(&(quoted + "\"")).unwrap();
            assert_eq!(read[0].verb, Verb::Put(value.into()));
        }
    }
}
