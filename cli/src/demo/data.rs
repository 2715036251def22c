//! The data set of the demo: the Unicode character table, carried in the binary.

use crate::exit::Failure;
use crate::records::{Format, Record, RecordReader};
use std::io::Cursor;

static CHARACTERS: &[u8] = include_bytes!("../../../data/unicode/characters.tsv.gz");

/// All records, in the order of the file.
pub(super) fn records() -> Result<Vec<Record>, Failure> {
    let broken = |why: String| Failure::file("the data set of this build cannot be read", why);
    let reader = RecordReader::open(Cursor::new(CHARACTERS), Some(Format::Tsv)).map_err(|e| broken(e.to_string()))?;
    reader
        .map(|line| {
            line.map_err(|e| broken(e.to_string()))?
                .map_err(|e| broken(e.to_string()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_enough_records_and_their_keys_are_distinct() {
        let records = records().unwrap();
        let keys: std::collections::BTreeSet<_> = records.iter().map(|record| &record.key).collect();
        assert_eq!(keys.len(), records.len());
        assert!(keys.len() > 30_000);
    }
}
