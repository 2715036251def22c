//! What the engine takes on trust in its directory, checked before it does.
//!
//! It checks its blocks as it reads them. But it believes the list of a keyspace's tables whatever its checksum says, and
//! takes a keyspace whose list is gone for one that was never finished, and removes it.

use super::backend::Space;
use super::directory::Directory;
use super::error::StorageError;
use std::fs;
use std::io;
use std::path::Path;
use xxhash_rust::xxh3::xxh3_128;

/// The engine's keyspaces: the spaces, the marks, and the one in which it lists them.
const KEYSPACES: usize = Space::ALL.len() + 2;

/// Checks a store in which batches through `synced` are known to be durable.
pub(super) fn check(directory: &Directory, synced: u64) -> Result<(), StorageError> {
    let store = directory.engine();
    let failed = |e| directory.io_error(e);
    let begun = store.join("version").try_exists().map_err(failed)?;
    if synced == 0 && !begun {
        // It ended while being made: it never held anything.
        return if store.try_exists().map_err(failed)? {
            fs::remove_dir_all(&store).map_err(failed)
        } else {
            Ok(())
        };
    }
    let keyspaces = store.join("keyspaces");
    let mut complete = 0;
    for entry in fs::read_dir(&keyspaces).into_iter().flatten() {
        let keyspace = entry.map_err(failed)?.path();
        if !keyspace.join("current").try_exists().map_err(failed)? {
            continue;
        }
        complete += 1;
        if !is_list_whole(&keyspace).map_err(failed)? {
            return Err(directory.corrupt(&keyspace, "its list of tables is damaged".into()));
        }
    }
    if synced > 0 && (complete < KEYSPACES || !begun) {
        return Err(directory.corrupt(&store, "files are missing".into()));
    }
    Ok(())
}

/// `current` names the list in force and its checksum.
fn is_list_whole(keyspace: &Path) -> io::Result<bool> {
    let current = fs::read(keyspace.join("current"))?;
    let Some((number, rest)) = current.split_first_chunk::<8>() else {
        return Ok(false);
    };
    let Some((checksum, _)) = rest.split_first_chunk::<16>() else {
        return Ok(false);
    };
    match fs::read(keyspace.join(format!("v{}", u64::from_le_bytes(*number)))) {
        Ok(list) => Ok(xxh3_128(&list) == u128::from_le_bytes(*checksum)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(e),
    }
}
