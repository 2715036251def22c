//! Reads a data file, block by block.

use super::Record;
use super::file::{self, Block, Damage, HEAD};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

const BUFFER: usize = 256 * 1024;

/// A data file that is being read.
pub struct DataFile {
    input: Input,
    block: u64,
    keys: u64,
    ended: bool,
}

/// Passes what is read, and makes the checksum of it. Opens the file when it is read on.
struct Input {
    path: PathBuf,
    file: Option<BufReader<File>>,
    /// Bytes so far.
    read: u64,
    hasher: Xxh3,
}

impl Read for Input {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let file = match &mut self.file {
            Some(file) => file,
            closed => {
                let mut file = File::open(&self.path)?;
                file.seek(SeekFrom::Start(self.read))?;
                closed.insert(BufReader::with_capacity(BUFFER, file))
            }
        };
        let read = file.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.read += read as u64;
        Ok(read)
    }
}

fn io_damage(error: &io::Error) -> Damage {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Damage::Short,
        _ => Damage::Io(error.to_string()),
    }
}

impl DataFile {
    /// Opens the file with that number of a group.
    pub fn open(path: &Path, group: u64, number: u32) -> Result<Self, Damage> {
        let mut input = Input {
            path: path.to_owned(),
            file: None,
            read: 0,
            hasher: Xxh3::new(),
        };
        let mut head = [0; HEAD];
        input.read_exact(&mut head).map_err(|error| io_damage(&error))?;
        file::check_head(&head, group, number)?;
        Ok(DataFile {
            input,
            block: 0,
            keys: 0,
            ended: false,
        })
    }

    /// The next records; none at the end.
    pub fn next_block(&mut self) -> Result<Option<Vec<Record>>, Damage> {
        if self.ended {
            return Ok(None);
        }
        self.block += 1;
        match file::read(&mut self.input, self.block)? {
            Block::Records(records) => {
                self.keys += records.len() as u64;
                Ok(Some(records))
            }
            Block::End(total) if total == self.keys => {
                self.ended = true;
                let mut more = [0];
                match self.input.read(&mut more) {
                    Ok(0) => Ok(None),
                    Ok(_) => Err(Damage::Long),
                    Err(error) => Err(io_damage(&error)),
                }
            }
            Block::End(_) => Err(Damage::Content(self.block)),
        }
    }

    /// Closes it until it is read on: whoever reads many at once keeps none open.
    pub fn rest(&mut self) {
        self.input.file = None;
    }

    /// Keys so far.
    #[must_use]
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The checksum of all of it, once it is read to its end.
    #[must_use]
    pub fn checksum(&self) -> String {
        format!("{:032x}", self.input.hasher.digest128())
    }
}
