//! What tests do to the files of a data directory.

use crate::storage::testing::Random;
use std::fs;
use std::path::{Path, PathBuf};

/// All files below a directory, in order.
pub(super) fn all(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(all(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

pub(super) fn copy(from: &Path, to: &Path) {
    for path in all(from) {
        let target = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(target.parent().unwrap()).unwrap();
        fs::copy(path, target).unwrap();
    }
}

/// The newest journal.
pub(super) fn journal(directory: &Path) -> PathBuf {
    let files = all(&directory.join("store"));
    let journals = files.into_iter().filter(|p| p.extension().is_some_and(|e| e == "jnl"));
    journals.max().expect("a journal")
}

/// Cuts what the engine made its journal larger by, ahead of what it writes, down to a few zeros: small files make fast tests.
pub(super) fn trim(journal: &Path) -> usize {
    let bytes = fs::read(journal).unwrap();
    let written = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let file = fs::File::options().write(true).open(journal).unwrap();
    file.set_len(written as u64 + 100).unwrap();
    written
}

/// Damages a file in one of many ways. Says how.
pub(super) fn damage(path: &Path, random: &mut Random) -> String {
    let mut bytes = fs::read(path).unwrap();
    let length = bytes.len() as u64;
    let at = random.below(length.max(1)) as usize;
    let end = (at + 1 + random.below(600) as usize).min(bytes.len());
    let what = match random.below(if bytes.is_empty() { 2 } else { 7 }) {
        0 => {
            fs::remove_file(path).unwrap();
            return "removed".into();
        }
        1 => {
            bytes.extend((0..1 + random.below(300)).map(|_| random.next() as u8));
            "grown".to_owned()
        }
        2 => {
            bytes[at] ^= 1 << random.below(8);
            format!("bit flipped at {at}")
        }
        3 => {
            bytes[at..end].fill(0);
            format!("zeros from {at} to {end}")
        }
        4 => {
            bytes[at..end].fill_with(|| random.next() as u8);
            format!("noise from {at} to {end}")
        }
        5 => {
            bytes.truncate(at);
            format!("cut at {at}")
        }
        _ => {
            let from = random.below(length) as usize;
            let taken = bytes[from..(from + end - at).min(bytes.len())].to_vec();
            bytes[at..at + taken.len().min(end - at)].copy_from_slice(&taken[..taken.len().min(end - at)]);
            format!("bytes from {from} copied to {at}")
        }
    };
    fs::write(path, bytes).unwrap();
    what
}
