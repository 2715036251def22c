//! Files of records, for `fulcrum import` and `fulcrum export`.
//!
//! Two formats, one record a line: tab-separated (`key<TAB>value`, binary-safe, with `\\`, `\t`, `\n` and `\r` escaped)
//! and JSON lines (`{"key":"k","value":"v"}`; `key_base64` and `value_base64` for what is no text). Input may be
//! compressed with gzip, told by its first bytes. A line that is no record is named with its number and the reason, and
//! the reader goes on behind it; what is written reads back the same, byte for byte.

mod json_lines;
mod reader;
mod tsv;
mod writer;

pub use reader::{ReadError, RecordReader};
pub use writer::RecordWriter;

use bytes::Bytes;
use fulcrum_common::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use std::path::Path;
use std::str::FromStr;
use thiserror::Error;

/// One record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
}

impl Record {
    fn checked(key: Vec<u8>, value: Vec<u8>) -> Result<Self, String> {
        if key.is_empty() {
            return Err("the key is empty".to_owned());
        }
        if key.len() > MAX_KEY_BYTES {
            return Err(format!(
                "the key has {} bytes, at most {MAX_KEY_BYTES} are allowed",
                key.len()
            ));
        }
        if value.len() > MAX_VALUE_BYTES {
            return Err(format!(
                "the value has {} bytes, at most {MAX_VALUE_BYTES} are allowed",
                value.len()
            ));
        }
        Ok(Record {
            key: key.into(),
            value: value.into(),
        })
    }
}

/// A line that is no record.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("line {line}: {reason}")]
pub struct LineError {
    /// Counted from 1.
    pub line: u64,
    /// What is wrong with it.
    pub reason: String,
}

/// How records are written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// `key<TAB>value`.
    Tsv,
    /// One JSON object a line.
    JsonLines,
}

impl Format {
    /// The format that a file's name tells, with or without `.gz` behind it.
    #[must_use]
    pub fn of_name(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_str()?.to_ascii_lowercase();
        let name = name.strip_suffix(".gz").unwrap_or(&name);
        match name.rsplit_once('.')?.1 {
            "tsv" | "tab" => Some(Format::Tsv),
            "jsonl" | "ndjson" | "json" => Some(Format::JsonLines),
            _ => None,
        }
    }

    fn parse(self, line: &[u8]) -> Result<Record, String> {
        match self {
            Format::Tsv => tsv::parse(line),
            Format::JsonLines => json_lines::parse(line),
        }
    }

    fn write(self, record: &Record, line: &mut Vec<u8>) {
        match self {
            Format::Tsv => tsv::write(record, line),
            Format::JsonLines => json_lines::write(record, line),
        }
    }
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tsv" => Ok(Format::Tsv),
            "jsonl" => Ok(Format::JsonLines),
            other => Err(format!("unknown format '{other}': use tsv or jsonl")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Rng;

    #[test]
    fn names_tell_the_format() {
        let of = |name: &str| Format::of_name(Path::new(name));
        assert_eq!(of("data/characters.tsv.gz"), Some(Format::Tsv));
        assert_eq!(of("x.JSONL"), Some(Format::JsonLines));
        assert_eq!(of("x.ndjson.gz"), Some(Format::JsonLines));
        assert_eq!(of("x.csv"), None);
        assert_eq!(of("tsv"), None);
        assert_eq!(of("-"), None);
    }

    #[test]
    fn what_is_written_reads_back() {
        let mut rng = Rng::new(42);
        for length in 1..300 {
            let mut bytes = |length| -> Vec<u8> { (0..length).map(|_| rng.next_u64() as u8).collect() };
            let record = Record::checked(bytes(length), bytes(length * 2)).unwrap();
            for format in [Format::Tsv, Format::JsonLines] {
                let mut line = Vec::new();
                format.write(&record, &mut line);
                assert!(!line.contains(&b'\n'));
                assert_eq!(format.parse(&line).as_ref(), Ok(&record));
            }
        }
    }

    #[test]
    fn random_lines_do_no_harm() {
        let mut rng = Rng::new(43);
        const PIECES: [&[u8]; 12] = [
            b"{",
            b"}",
            b"\"key\"",
            b":",
            b"\"",
            b"\\",
            b"\t",
            b"value_base64",
            b",",
            b"u12",
            b"\xff",
            b"1",
        ];
        for _ in 0..5_000 {
            let mut line = Vec::new();
            for _ in 0..rng.below(12) {
                line.extend_from_slice(PIECES[rng.below(12) as usize]);
            }
            for format in [Format::Tsv, Format::JsonLines] {
                if let Ok(record) = format.parse(&line) {
                    assert!(!record.key.is_empty());
                }
            }
        }
    }

    #[test]
    fn limits_are_named() {
        let error = |key: usize, value: usize| Record::checked(vec![b'k'; key], vec![0; value]).unwrap_err();
        assert_eq!(error(0, 1), "the key is empty");
        assert!(error(MAX_KEY_BYTES + 1, 0).contains("at most 4096"));
        assert!(error(1, MAX_VALUE_BYTES + 1).contains("at most 1048576"));
    }
}
