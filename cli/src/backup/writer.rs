//! Writes a backup: data files of a bounded size, then the manifest, all of it on the device before it gets its name.

use super::Record;
use super::file::{self, BLOCK_BYTES};
use super::manifest::{FileEntry, MANIFEST, MANIFEST_SUM, Manifest, checksum};
use bytes::BytesMut;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use xxhash_rust::xxh3::Xxh3;

/// The same error, and which file it is about.
fn of(path: &Path) -> impl Fn(io::Error) -> io::Error + '_ {
    move |error| io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A data file takes no more records once it has so many bytes.
pub const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What the name of a directory ends with as long as not all is in it.
const UNFINISHED: &str = "partial";

/// Whether a directory is named as a backup that was never finished.
#[must_use]
pub fn is_unfinished(folder: &Path) -> bool {
    folder.extension().is_some_and(|end| end == UNFINISHED)
}

/// Where a backup of that name is put together.
#[must_use]
pub fn unfinished(whole: &Path) -> Option<PathBuf> {
    whole.file_name().map(|name| partial_of(whole, name))
}

fn partial_of(whole: &Path, name: &OsStr) -> PathBuf {
    let mut partial = name.to_owned();
    partial.push(".");
    partial.push(UNFINISHED);
    whole.with_file_name(partial)
}

/// A backup on its way into a directory.
#[derive(Debug)]
pub struct Target {
    partial: PathBuf,
    whole: PathBuf,
}

impl Target {
    /// Makes the directory in which it is put together.
    ///
    /// # Errors
    /// There is something of that name already, or it cannot be made.
    pub fn create(whole: &Path) -> io::Result<Self> {
        let Some(name) = whole.file_name() else {
            let reason = format!("{} has no name of its own: name a new directory", whole.display());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        };
        // A slash at its end belongs to no name.
        let whole = whole.with_file_name(name);
        if is_unfinished(&whole) {
            let reason = format!(
                "{} is named as a backup that was never finished: name another directory",
                whole.display()
            );
            return Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        }
        let partial = partial_of(&whole, name);
        for taken in [&whole, &partial] {
            // Also a link that leads nowhere.
            if taken.is_symlink() || taken.try_exists().map_err(of(taken))? {
                let reason = format!(
                    "{} is there already: name another directory, or remove it",
                    taken.display()
                );
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, reason));
            }
        }
        fs::create_dir(&partial).map_err(of(&partial))?;
        Ok(Target { partial, whole })
    }

    /// Where it is put together.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.partial
    }

    /// Removes what was written so far, to begin anew.
    pub fn clear(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.partial).map_err(of(&self.partial))? {
            let path = entry.map_err(of(&self.partial))?.path();
            fs::remove_file(&path).map_err(of(&path))?;
        }
        Ok(())
    }

    /// Writes the manifest, and gives the whole its name. What cannot be written to its end is removed.
    pub fn finish(self, manifest: &Manifest) -> io::Result<()> {
        if let Err(error) = self.complete(manifest) {
            let reason = format!("{error}; {}", self.abandon());
            return Err(io::Error::new(error.kind(), reason));
        }
        fs::rename(&self.partial, &self.whole).map_err(|error| {
            let all = self.partial.display();
            let reason = format!("{error}; all of it is in {all}: give it another name, then it is a backup");
            io::Error::new(error.kind(), reason)
        })?;
        let parent = self.whole.parent().filter(|parent| !parent.as_os_str().is_empty());
        sync_folder(parent.unwrap_or(Path::new("."))).map_err(|error| {
            let all = self.whole.display();
            let reason = format!("{error}; all of it is in {all}, but a power cut may take the name: run `sync`");
            io::Error::new(error.kind(), reason)
        })
    }

    fn complete(&self, manifest: &Manifest) -> io::Result<()> {
        for (_, _, entry) in manifest.files() {
            let path = self.partial.join(&entry.name);
            if fs::symlink_metadata(&path).map_err(of(&path))?.len() != entry.size {
                let reason = format!("{}: somebody else has changed it meanwhile", path.display());
                return Err(io::Error::other(reason));
            }
        }
        let text = serde_json::to_vec_pretty(manifest).map_err(io::Error::other)?;
        write_whole(&self.partial.join(MANIFEST), &text)?;
        let sum = format!("{}\n", checksum(&text));
        write_whole(&self.partial.join(MANIFEST_SUM), sum.as_bytes())?;
        sync_folder(&self.partial)
    }

    /// Removes all of it; says what became of it.
    #[must_use]
    pub fn abandon(self) -> String {
        match fs::remove_dir_all(&self.partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                // Its name shows that it is no backup.
                let left = self.partial.display();
                format!("what was written is in {left} and could not be removed ({error}): remove it")
            }
            _ => "what was written was removed".to_owned(),
        }
    }
}

fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path).map_err(of(path))?;
    file.write_all(content).map_err(of(path))?;
    file.sync_all().map_err(of(path))
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = File::open(path).map_err(of(path))?;
    folder.sync_all().map_err(of(path))
}

/// Writes the files of one group.
pub struct GroupWriter {
    folder: PathBuf,
    group: u64,
    /// After so many bytes a file is full.
    file_bytes: u64,
    /// After so many bytes of records a block is.
    block_bytes: usize,
    open: Option<Open>,
    done: Vec<FileEntry>,
    /// Keys so far.
    pub keys: u64,
    /// Bytes of keys and values so far.
    pub bytes: u64,
}

struct Open {
    name: String,
    path: PathBuf,
    file: File,
    size: u64,
    keys: u64,
    hasher: Xxh3,
    content: BytesMut,
    records: u32,
}

impl Open {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes).map_err(of(&self.path))?;
        self.hasher.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    fn end_block(&mut self) -> io::Result<()> {
        if self.records == 0 {
            return Ok(());
        }
        let block = file::records(&self.content, self.records)?;
        self.append(&block)?;
        self.content.clear();
        self.records = 0;
        Ok(())
    }
}

impl GroupWriter {
    /// For a group's files in that directory.
    #[must_use]
    pub fn new(folder: &Path, group: u64) -> Self {
        Self::with_blocks(folder, group, FILE_BYTES, BLOCK_BYTES)
    }

    pub(super) fn with_blocks(folder: &Path, group: u64, file_bytes: u64, block_bytes: usize) -> Self {
        GroupWriter {
            folder: folder.to_owned(),
            group,
            file_bytes,
            block_bytes,
            open: None,
            done: Vec::new(),
            keys: 0,
            bytes: 0,
        }
    }

    /// Adds the next record, in the order of the keys.
    pub fn add(&mut self, record: &Record) -> io::Result<()> {
        let open = match &mut self.open {
            Some(open) => open,
            closed => closed.insert(open(&self.folder, self.group, self.done.len())?),
        };
        file::put_record(&mut open.content, record);
        open.records += 1;
        open.keys += 1;
        self.keys += 1;
        self.bytes += record.bytes();
        if open.content.len() >= self.block_bytes {
            open.end_block()?;
        }
        if open.size >= self.file_bytes {
            self.close()?;
        }
        Ok(())
    }

    fn close(&mut self) -> io::Result<()> {
        let Some(mut open) = self.open.take() else {
            return Ok(());
        };
        open.end_block()?;
        open.append(&file::end(open.keys))?;
        open.file.sync_all().map_err(of(&open.path))?;
        self.done.push(FileEntry {
            name: open.name,
            size: open.size,
            keys: open.keys,
            checksum: format!("{:032x}", open.hasher.digest128()),
        });
        Ok(())
    }

    /// Ends the group: its files.
    pub fn finish(mut self) -> io::Result<Vec<FileEntry>> {
        self.close()?;
        Ok(self.done)
    }
}

fn open(folder: &Path, group: u64, before: usize) -> io::Result<Open> {
    let number = u32::try_from(before + 1).map_err(io::Error::other)?;
    let name = file::name(group, number);
    let path = folder.join(&name);
    let mut open = Open {
        file: File::create_new(&path).map_err(of(&path))?,
        name,
        path,
        size: 0,
        keys: 0,
        hasher: Xxh3::new(),
        content: BytesMut::with_capacity(BLOCK_BYTES + BLOCK_BYTES / 4),
        records: 0,
    };
    open.append(&file::head(group, number))?;
    Ok(open)
}
