//! Backups on disk: what a directory holds, how it is written and read, and what is checked.
//!
//! **The promise.** A directory without `.partial` in its name is a whole backup, on the device. Whatever has changed in it since, a bit of
//! any file, a file that is missing, too many, cut short or in another's place, is found by [`check()`], and named.
//!
//! **The format.** `MANIFEST.json` ([`manifest`]) says what was cut and when, and lists every file with its size, its number of keys and its
//! checksum; `MANIFEST.sum` has the manifest's own. A data file ([`mod@file`]) belongs to one group: a head that names it, blocks of
//! compressed records, each with a checksum, and an end that counts them. Keys ascend within a group, over all its files.
//!
//! **Left out**: versions of values (a restored value has a new one), and encryption. Checksums find accidents, not forgers.

pub mod check;
pub mod file;
pub mod manifest;
pub mod reader;
pub mod writer;

pub use check::{Problem, check};
pub use manifest::Manifest;

use bytes::Bytes;

/// A key as a backup has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The key.
    pub key: Bytes,
    /// Its value.
    pub value: Bytes,
    /// When it expires, milliseconds since the Unix epoch; 0 means never.
    pub expires_at_ms: u64,
}

impl Record {
    /// Bytes of key and value.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.key.len() + self.value.len()) as u64
    }

    /// Whether its time is over by then.
    #[must_use]
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.expires_at_ms != 0 && self.expires_at_ms <= now_ms
    }
}

#[cfg(test)]
mod tests;
