//! Reads records from a file or from standard input, compressed or not, in bounded memory.

use super::{Format, LineError, Record};
use flate2::read::MultiGzDecoder;
use fulcrum_common::limits::{MAX_KEY_BYTES, MAX_VALUE_BYTES};
use std::io::{self, BufRead, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use thiserror::Error;

/// JSON may take six characters for one byte.
const MAX_LINE_BYTES: usize = 6 * (MAX_KEY_BYTES + MAX_VALUE_BYTES) + 1024;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Why a file cannot be read any further.
#[derive(Debug, Error)]
#[error("the input cannot be read behind line {line}: {source}")]
pub struct ReadError {
    /// The last line that was read.
    pub line: u64,
    /// Why not.
    pub source: io::Error,
}

/// Reads records line by line. An iterator over records and over lines that are none; ends after a [`ReadError`].
pub struct RecordReader {
    input: Box<dyn BufRead + Send>,
    format: Format,
    line: u64,
    consumed: Arc<AtomicU64>,
    failed: bool,
}

struct Counting<R> {
    inner: R,
    consumed: Arc<AtomicU64>,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.consumed.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

impl RecordReader {
    /// Looks at the first bytes: gzip or not, and without a `format` which one it is.
    pub fn open(input: impl Read + Send + 'static, format: Option<Format>) -> Result<Self, ReadError> {
        let wrong = |source| ReadError { line: 0, source };
        let consumed = Arc::new(AtomicU64::new(0));
        let counting = Counting {
            inner: input,
            consumed: Arc::clone(&consumed),
        };
        let mut raw = BufReader::with_capacity(64 * 1024, Whole(counting));
        let compressed = raw.fill_buf().map_err(wrong)?.starts_with(&GZIP_MAGIC);
        let mut input: Box<dyn BufRead + Send> = match compressed {
            true => Box::new(BufReader::with_capacity(64 * 1024, MultiGzDecoder::new(raw))),
            false => Box::new(raw),
        };
        let format = match format {
            Some(format) => format,
            None => sniff(input.fill_buf().map_err(wrong)?),
        };
        Ok(RecordReader {
            input,
            format,
            line: 0,
            consumed,
            failed: false,
        })
    }

    /// Bytes of the file consumed so far, for progress: of the compressed file, if it is one.
    #[must_use]
    pub fn consumed(&self) -> Arc<AtomicU64> {
        Arc::clone(&self.consumed)
    }

    fn parse(&self, line: &[u8]) -> Result<Record, LineError> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.format.parse(line).map_err(|reason| self.refused(reason))
    }

    fn refused(&self, reason: String) -> LineError {
        LineError {
            line: self.line,
            reason,
        }
    }

    /// The next line with its end; empty at the end of the input. A longer one than any record needs is passed over.
    fn next_line(&mut self, line: &mut Vec<u8>) -> io::Result<bool> {
        line.clear();
        let limit = MAX_LINE_BYTES as u64 + 1;
        self.input.by_ref().take(limit).read_until(b'\n', line)?;
        if line.len() <= MAX_LINE_BYTES {
            return Ok(true);
        }
        let mut ended = line.ends_with(b"\n");
        while !ended {
            let buffered = self.input.fill_buf()?;
            let end = buffered.iter().position(|byte| *byte == b'\n');
            let used = end.map_or(buffered.len(), |at| at + 1);
            ended = end.is_some() || used == 0;
            self.input.consume(used);
        }
        Ok(false)
    }
}

/// Fills the buffer as far as it can, so that the first look sees more than the first byte of a pipe.
struct Whole<R>(R);

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len().min(2) {
            match self.0.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if filled == 0 => return Err(error),
                Err(_) => break,
            }
        }
        Ok(filled)
    }
}

/// JSON lines begin with a brace; a key of the other format may, too, but hardly with what follows.
fn sniff(start: &[u8]) -> Format {
    let mut visible = start.iter().filter(|byte| !byte.is_ascii_whitespace());
    match (visible.next(), visible.next()) {
        (Some(b'{'), Some(b'"' | b'}')) => Format::JsonLines,
        _ => Format::Tsv,
    }
}

impl Iterator for RecordReader {
    type Item = Result<Result<Record, LineError>, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.failed {
            return None;
        }
        let mut line = Vec::new();
        let whole = match self.next_line(&mut line) {
            Ok(whole) => whole,
            Err(source) => {
                self.failed = true;
                return Some(Err(ReadError {
                    line: self.line,
                    source,
                }));
            }
        };
        if line.is_empty() {
            return None;
        }
        self.line += 1;
        if !whole {
            let reason = format!("longer than {MAX_LINE_BYTES} bytes, which no record needs");
            return Some(Ok(Err(self.refused(reason))));
        }
        Some(Ok(self.parse(&line)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::Rng;
    use flate2::{Compression, write::GzEncoder};
    use std::io::{Cursor, Write};

    fn read(bytes: Vec<u8>, format: Option<Format>) -> Vec<Result<Record, LineError>> {
        let reader = RecordReader::open(Cursor::new(bytes), format).unwrap();
        reader.map(|line| line.unwrap()).collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn malformed_lines_are_numbered_and_passed_over() {
        let lines = read(b"a\t1\nbroken\n\nb\t2\r\nc\t3".to_vec(), None);
        let numbers: Vec<u64> = lines.iter().filter_map(|l| l.as_ref().err().map(|e| e.line)).collect();
        assert_eq!(numbers, [2, 3]);
        let values: Vec<Bytes> = lines.into_iter().flatten().map(|record| record.value).collect();
        assert_eq!(values, ["1", "2", "3"]);
    }

    use bytes::Bytes;

    #[test]
    fn compression_and_format_are_told_by_the_first_bytes() {
        let json = b"{\"key\":\"k\",\"value\":\"v\"}\n";
        assert_eq!(read(gzip(json), None), read(json.to_vec(), Some(Format::JsonLines)));
        assert_eq!(read(b"{tag}\tv\n".to_vec(), None)[0].as_ref().unwrap().key, "{tag}");
        assert!(read(Vec::new(), None).is_empty());
        assert!(read(gzip(b""), None).is_empty());
    }

    #[test]
    fn a_cut_compressed_file_is_an_error_and_not_an_end() {
        let mut bytes = gzip(&b"key\tvalue\n".repeat(10_000));
        bytes.truncate(bytes.len() - 20);
        let reader = RecordReader::open(Cursor::new(bytes), None).unwrap();
        assert!(reader.last().unwrap().is_err());
    }

    #[test]
    fn a_line_without_end_takes_no_more_memory_than_the_longest_record() {
        let long = io::repeat(b'x').take(3 * MAX_LINE_BYTES as u64);
        let reader = RecordReader::open(long.chain(Cursor::new(b"\na\t1\n")), Some(Format::Tsv)).unwrap();
        let lines: Vec<_> = reader.map(|line| line.unwrap()).collect();
        assert!(lines[0].as_ref().unwrap_err().reason.contains("longer than"));
        assert_eq!(lines[1].as_ref().unwrap().key, "a");
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn random_bytes_do_no_harm() {
        let mut rng = Rng::new(77);
        for length in 0..300 {
            let mut bytes: Vec<u8> = (0..length).map(|_| rng.next_u64() as u8).collect();
            if length % 3 == 0 {
                bytes.splice(0..0, [0x1f, 0x8b, 8, 0]);
            }
            if let Ok(reader) = RecordReader::open(Cursor::new(bytes), None) {
                reader.for_each(drop);
            }
        }
    }
}
