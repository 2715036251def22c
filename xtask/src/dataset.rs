//! The data set that the demo imports: one record for each character of the Unicode Character Database.
//!
//! Output is what `fulcrum import` reads, one `key<TAB>value` a line with `\\`, `\t`, `\n` and `\r` escaped, and gzip around
//! it. Keys are `char/U+0041`; values are JSON objects that leave out what is empty. Ranges that the table only outlines
//! (ideographs, private use) are skipped: they name no character. The same table always gives the same bytes.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use flate2::{Compression, GzBuilder};
use serde::Serialize;

use crate::workspace::root;

/// Where the data set lives, from the workspace's root.
const DATA_SET: &str = "data/unicode/characters.tsv.gz";

/// `cargo xtask dataset`
pub(crate) fn rebuild(table: &Path, output: Option<&Path>) -> Result<u8> {
    let text = std::fs::read_to_string(table).with_context(|| format!("read {}", table.display()))?;
    let path = output.map_or_else(|| root().join(DATA_SET), Path::to_owned);
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    // No name and no time in the header, so that the file depends on the table alone.
    let mut gzip = GzBuilder::new()
        .mtime(0)
        .write(BufWriter::new(file), Compression::best());
    let mut records = 0_u64;
    for (number, line) in text.lines().enumerate() {
        let at = || format!("{}:{}", table.display(), number + 1);
        let Some((key, value)) = record(line).with_context(at)? else {
            continue;
        };
        writeln!(gzip, "{}\t{}", escape(&key), escape(&value)).with_context(|| format!("write {}", path.display()))?;
        records += 1;
    }
    let written = gzip.finish().and_then(|mut buffer| buffer.flush());
    written.with_context(|| format!("write {}", path.display()))?;
    let bytes = std::fs::metadata(&path)
        .with_context(|| format!("look at {}", path.display()))?
        .len();
    println!("{}: {records} records, {bytes} bytes", path.display());
    Ok(0)
}

#[derive(Serialize)]
struct Character<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    char: Option<char>,
    name: &'a str,
    category: &'a str,
    #[serde(skip_serializing_if = "is_zero")]
    combining: u8,
    bidi: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    decomposition: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    numeric: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    mirrored: bool,
    #[serde(skip_serializing_if = "str::is_empty")]
    old_name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    upper: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lower: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it with a reference")]
fn is_zero(class: &u8) -> bool {
    *class == 0
}

/// The record of one line of the table (its fields are those of UAX #44), or `None` for an end of a range.
fn record(line: &str) -> Result<Option<(String, String)>> {
    let fields: Vec<&str> = line.split(';').collect();
    ensure!(
        fields.len() == 15,
        "expected 15 fields separated by semicolons, found {}",
        fields.len()
    );
    let (code, name, category) = (fields[0], fields[1], fields[2]);
    if name.ends_with(", First>") || name.ends_with(", Last>") {
        return Ok(None);
    }
    let point = u32::from_str_radix(code, 16).with_context(|| format!("code point `{code}`"))?;
    // Control characters have no shape to show.
    let char = if category.starts_with('C') {
        None
    } else {
        char::from_u32(point)
    };
    let mapping = |field: &str| (!field.is_empty()).then(|| format!("U+{field}"));
    let character = Character {
        char,
        name,
        category,
        combining: fields[3]
            .parse()
            .with_context(|| format!("combining class `{}`", fields[3]))?,
        bidi: fields[4],
        decomposition: fields[5],
        numeric: fields[8],
        mirrored: fields[9] == "Y",
        old_name: fields[10],
        upper: mapping(fields[12]),
        lower: mapping(fields[13]),
        title: mapping(fields[14]),
    };
    Ok(Some((format!("char/U+{code}"), serde_json::to_string(&character)?)))
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('\t', "\\t")
        .replace('\n', "\\n")
        .replace('\r', "\\r")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::io::Read;

    use super::*;

    #[test]
    fn a_line_becomes_a_record() {
        let (key, value) = record("0041;LATIN CAPITAL LETTER A;Lu;0;L;;;;;N;;;;0061;")
            .unwrap()
            .unwrap();
        assert_eq!(key, "char/U+0041");
        assert_eq!(
            value,
            r#"{"char":"A","name":"LATIN CAPITAL LETTER A","category":"Lu","bidi":"L","lower":"U+0061"}"#
        );
    }

    #[test]
    fn the_ends_of_ranges_are_no_characters() {
        assert!(
            record("4E00;<CJK Ideograph, First>;Lo;0;L;;;;;N;;;;;")
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_line_of_another_format_is_refused() {
        let error = record("0041;LATIN CAPITAL LETTER A").unwrap_err().to_string();
        assert!(error.contains("expected 15 fields"), "{error}");
    }

    #[test]
    fn separators_are_escaped() {
        assert_eq!(escape("a\tb\\c\nd"), r"a\tb\\c\nd");
    }

    #[test]
    fn the_shipped_file_is_large_enough_small_enough_and_well_formed() {
        let packed = std::fs::read(root().join(DATA_SET)).unwrap();
        assert!(packed.len() <= 1_000_000, "{} bytes", packed.len());
        let mut text = String::new();
        flate2::read::GzDecoder::new(packed.as_slice())
            .read_to_string(&mut text)
            .unwrap();
        let mut keys = BTreeSet::new();
        for line in text.lines() {
            let (key, value) = line.split_once('\t').unwrap();
            let value: serde_json::Value = serde_json::from_str(&value.replace("\\\\", "\\")).unwrap();
            assert!(value["name"].is_string(), "{line}");
            assert!(keys.insert(key), "{key} twice");
        }
        assert!(keys.len() >= 30_000, "{} records", keys.len());
    }
}
