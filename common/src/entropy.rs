//! Chance comes in here: identities that must not recur, such as boot ids and data ids. Not for keys or secrets.

use std::hash::{BuildHasher, RandomState};
use std::io::Read;

/// A random number other than zero, which means "none" in most ids.
#[must_use]
pub fn random_u64() -> u64 {
    loop {
        let value = from_system().unwrap_or_else(from_hasher);
        if value != 0 {
            return value;
        }
    }
}

fn from_system() -> Option<u64> {
    let mut bytes = [0; 8];
    std::fs::File::open("/dev/urandom").ok()?.read_exact(&mut bytes).ok()?;
    Some(u64::from_le_bytes(bytes))
}

/// Without `/dev/urandom`: the keys of a fresh hash map are seeded by the system once a thread and differ every time; the
/// process id and thread keep two of them apart.
fn from_hasher() -> u64 {
    RandomState::new().hash_one((std::process::id(), std::thread::current().id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_differ() {
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| random_u64()).collect();
        assert_eq!(drawn.len(), 100);
        let drawn: std::collections::BTreeSet<u64> = (0..100).map(|_| from_hasher()).collect();
        assert_eq!(drawn.len(), 100);
    }
}
