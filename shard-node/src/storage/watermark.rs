//! Through which batch a store is known to be synced, beside the store.
//!
//! Written after each sync, in place and without a sync of its own: what it says is true whenever it was written. See
//! [`journal`](super::journal) for what it is good for.

use super::directory::Directory;
use super::error::StorageError;
use super::journal::checksum;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, Write};

const NAME: &str = "synced";

/// The file, open.
pub(super) struct Watermark {
    file: File,
    tag: u64,
    through: u64,
}

impl Watermark {
    /// Opens the file, or makes it: then nothing is known to be synced.
    pub(super) fn open(directory: &Directory) -> Result<Self, StorageError> {
        let path = directory.file(NAME);
        let tag = directory.tag();
        let failed = |e| directory.io_error(e);
        let options = || File::options().read(true).write(true).open(&path);
        let mut file = match options() {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                directory.write_file(NAME, &encode(tag, 0)).map_err(failed)?;
                options().map_err(failed)?
            }
            other => other.map_err(failed)?,
        };
        let mut record = Vec::new();
        file.read_to_end(&mut record).map_err(failed)?;
        let Some(through) = decode(tag, &record) else {
            return Err(directory.corrupt(&path, "not readable".into()));
        };
        Ok(Watermark { file, tag, through })
    }

    /// All batches through this were synced.
    pub(super) fn through(&self) -> u64 {
        self.through
    }

    /// Takes in that all batches through `number` are synced.
    pub(super) fn raise(&mut self, number: u64) -> io::Result<()> {
        if number > self.through {
            self.file.rewind()?;
            self.file.write_all(&encode(self.tag, number))?;
            self.through = number;
        }
        Ok(())
    }

    /// As [`Watermark::raise`], and makes it durable.
    pub(super) fn settle(&mut self, number: u64) -> io::Result<()> {
        self.raise(number)?;
        self.file.sync_data()
    }
}

fn encode(tag: u64, through: u64) -> [u8; 12] {
    let number = through.to_be_bytes();
    let mut record = [0; 12];
    record[..8].copy_from_slice(&number);
    record[8..].copy_from_slice(&checksum(tag, &number).to_be_bytes());
    record
}

fn decode(tag: u64, record: &[u8]) -> Option<u64> {
    let (number, stored) = record.split_first_chunk::<8>()?;
    (checksum(tag, number).to_be_bytes() == stored).then(|| u64::from_be_bytes(*number))
}
