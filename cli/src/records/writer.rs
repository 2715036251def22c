//! Writes records to a file or to standard output, compressed if wanted.

use super::{Format, Record};
use flate2::{Compression, write::GzEncoder};
use std::io::{self, BufWriter, Write};

enum Sink {
    Plain(BufWriter<Box<dyn Write + Send>>),
    Gzip(GzEncoder<BufWriter<Box<dyn Write + Send>>>),
}

/// Writes records line by line.
pub struct RecordWriter {
    sink: Sink,
    format: Format,
    line: Vec<u8>,
}

impl RecordWriter {
    /// Writes to `output`.
    pub fn new(output: Box<dyn Write + Send>, format: Format, gzip: bool) -> Self {
        let output = BufWriter::with_capacity(64 * 1024, output);
        let sink = match gzip {
            true => Sink::Gzip(GzEncoder::new(output, Compression::default())),
            false => Sink::Plain(output),
        };
        RecordWriter {
            sink,
            format,
            line: Vec::new(),
        }
    }

    /// Writes one record.
    pub fn write(&mut self, record: &Record) -> io::Result<()> {
        self.line.clear();
        self.format.write(record, &mut self.line);
        self.line.push(b'\n');
        match &mut self.sink {
            Sink::Plain(output) => output.write_all(&self.line),
            Sink::Gzip(output) => output.write_all(&self.line),
        }
    }

    /// Writes what is left. Without it the end is missing.
    pub fn finish(self) -> io::Result<()> {
        match self.sink {
            Sink::Plain(mut output) => output.flush(),
            Sink::Gzip(encoder) => encoder.finish()?.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::records::RecordReader;
    use std::io::Cursor;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn files_read_back_in_every_format() {
        let records: Vec<Record> = (0..1000)
            .map(|n| Record {
                key: format!("key\t{n}").into(),
                value: vec![n as u8; n % 50].into(),
            })
            .collect();
        for format in [Format::Tsv, Format::JsonLines] {
            for gzip in [false, true] {
                let file = Shared::default();
                let mut writer = RecordWriter::new(Box::new(file.clone()), format, gzip);
                records.iter().for_each(|record| writer.write(record).unwrap());
                writer.finish().unwrap();
                let bytes = file.0.lock().unwrap().clone();
                let read = RecordReader::open(Cursor::new(bytes), None).unwrap();
                let read: Vec<Record> = read.map(|line| line.unwrap().unwrap()).collect();
                assert_eq!(read, records);
            }
        }
    }
}
