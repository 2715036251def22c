//! Keys, their limits, and the slot that a key falls into (DESIGN section 4).
//!
//! The slot is the xxh3 hash of the *partition key* modulo the number of slots. The partition key is what the keyspace says:
//! the part inside the first non-empty `{...}`, or what stands before a delimiter; else the whole key. Keys with the same
//! partition key share a slot and so a group, for ever.

use crate::limits::{MAX_BATCH_BYTES, MAX_BATCH_OPS, MAX_KEY_BYTES, MAX_VALUE_BYTES};
use fulcrum_types::{Condition, Mutation, Refusal, SLOTS, Slot, WriteOp};
use thiserror::Error;
use xxhash_rust::xxh3::xxh3_64;

/// A key, value or batch that breaks a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LimitError {
    /// The key has no bytes.
    #[error("the key is empty: a key has 1 to {MAX_KEY_BYTES} bytes")]
    EmptyKey,
    /// The key is too long.
    #[error("the key has {0} bytes: the limit is {MAX_KEY_BYTES}")]
    KeyTooLong(usize),
    /// The value is too large.
    #[error("the value has {0} bytes: the limit is {MAX_VALUE_BYTES}")]
    ValueTooLarge(usize),
    /// No operations.
    #[error("the batch is empty: write at least one key")]
    EmptyBatch,
    /// Too many operations at once.
    #[error("the batch has {0} operations: the limit is {MAX_BATCH_OPS}; split it")]
    TooManyOps(usize),
    /// Too many bytes at once.
    #[error("the batch has {0} bytes: the limit is {MAX_BATCH_BYTES}; split it")]
    BatchTooLarge(usize),
}

impl From<LimitError> for Refusal {
    fn from(error: LimitError) -> Self {
        Refusal::Invalid {
            reason: error.to_string(),
        }
    }
}

/// Checks the length of a key.
pub const fn validate_key(key: &[u8]) -> Result<(), LimitError> {
    match key.len() {
        0 => Err(LimitError::EmptyKey),
        1..=MAX_KEY_BYTES => Ok(()),
        len => Err(LimitError::KeyTooLong(len)),
    }
}

/// Checks the size of a value. An empty one is a value.
pub const fn validate_value(value: &[u8]) -> Result<(), LimitError> {
    if value.len() > MAX_VALUE_BYTES {
        return Err(LimitError::ValueTooLarge(value.len()));
    }
    Ok(())
}

/// Checks the size of a batch: its operations, and the bytes of its keys and values together.
pub const fn validate_batch(ops: usize, bytes: usize) -> Result<(), LimitError> {
    if ops > MAX_BATCH_OPS {
        return Err(LimitError::TooManyOps(ops));
    }
    if bytes > MAX_BATCH_BYTES {
        return Err(LimitError::BatchTooLarge(bytes));
    }
    Ok(())
}

/// Bytes of a write's key and of what it carries.
#[must_use]
pub fn bytes_of(op: &WriteOp) -> usize {
    let value = match &op.mutation {
        Mutation::Put { value, .. } => value.len(),
        Mutation::Delete => 0,
    };
    let expected = match &op.condition {
        Condition::ValueIs(value) => value.len(),
        _ => 0,
    };
    op.key.len() + value + expected
}

/// Checks one write: its key, its value, and the value that it expects.
pub fn validate_write(op: &WriteOp) -> Result<(), LimitError> {
    validate_key(&op.key)?;
    if let Mutation::Put { value, .. } = &op.mutation {
        validate_value(value)?;
    }
    if let Condition::ValueIs(value) = &op.condition {
        validate_value(value)?;
    }
    Ok(())
}

/// Checks writes that are ordered together, each of them and all.
pub fn validate_writes<'a>(ops: impl Iterator<Item = &'a WriteOp>) -> Result<(), LimitError> {
    let (mut count, mut bytes) = (0, 0);
    for op in ops {
        validate_write(op)?;
        count += 1;
        bytes += bytes_of(op);
    }
    if count == 0 {
        return Err(LimitError::EmptyBatch);
    }
    validate_batch(count, bytes)
}

/// Checks keys that are read together.
pub fn validate_keys<K: AsRef<[u8]>>(keys: &[K]) -> Result<(), LimitError> {
    validate_batch(keys.len(), 0)?;
    keys.iter().try_for_each(|key| validate_key(key.as_ref()))
}

/// Which part of a key decides its slot. A keyspace's choice; it never changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Partitioning {
    /// The part inside the first non-empty `{...}`, else the whole key.
    #[default]
    HashTag,
    /// The part before the first such byte, if there is one and something stands before it; else the whole key.
    Delimiter(u8),
}

impl Partitioning {
    /// The part of `key` that decides its slot.
    #[must_use]
    pub fn partition_key(self, key: &[u8]) -> &[u8] {
        match self {
            Partitioning::HashTag => hash_tag(key).unwrap_or(key),
            Partitioning::Delimiter(delimiter) => match key.iter().position(|b| *b == delimiter) {
                Some(at) if at > 0 => &key[..at],
                _ => key,
            },
        }
    }
}

fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let mut rest = key;
    loop {
        let open = rest.iter().position(|b| *b == b'{')?;
        rest = &rest[open + 1..];
        let close = rest.iter().position(|b| *b == b'}')?;
        if close > 0 {
            return Some(&rest[..close]);
        }
        rest = &rest[close + 1..];
    }
}

/// The slot of `key`.
#[must_use]
pub fn slot_of(key: &[u8], partitioning: Partitioning) -> Slot {
    let hash = xxh3_64(partitioning.partition_key(key));
    // Below SLOTS, so it fits.
    Slot((hash % u64::from(SLOTS)) as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_are_named() {
        assert_eq!(validate_key(b""), Err(LimitError::EmptyKey));
        assert_eq!(validate_key(&[b'k'; MAX_KEY_BYTES]), Ok(()));
        let error = validate_key(&[b'k'; MAX_KEY_BYTES + 1]).unwrap_err();
        assert_eq!(error.to_string(), "the key has 4097 bytes: the limit is 4096");
        assert_eq!(validate_value(b""), Ok(()));
        assert_eq!(validate_value(&vec![0; MAX_VALUE_BYTES]), Ok(()));
        let error = validate_value(&vec![0; MAX_VALUE_BYTES + 1]).unwrap_err();
        assert!(error.to_string().contains("1048576"), "{error}");
        assert_eq!(validate_batch(1025, 0), Err(LimitError::TooManyOps(1025)));
        assert_eq!(
            validate_batch(1, MAX_BATCH_BYTES + 1),
            Err(LimitError::BatchTooLarge(MAX_BATCH_BYTES + 1))
        );
    }

    #[test]
    fn all_that_a_write_carries_is_checked_and_counted() {
        let put = |key: usize, value: usize, condition| WriteOp {
            key: vec![b'k'; key].into(),
            condition,
            mutation: Mutation::Put {
                value: vec![0; value].into(),
                ttl: None,
            },
        };
        let expecting = |bytes: usize| Condition::ValueIs(vec![0; bytes].into());
        let good = put(3, 20, expecting(100));
        assert_eq!((bytes_of(&good), validate_write(&good)), (123, Ok(())));
        let too_large = LimitError::ValueTooLarge(MAX_VALUE_BYTES + 1);
        for (bad, error) in [
            (put(0, 1, Condition::None), LimitError::EmptyKey),
            (put(1, MAX_VALUE_BYTES + 1, Condition::None), too_large),
            (put(1, 1, expecting(MAX_VALUE_BYTES + 1)), too_large),
        ] {
            assert_eq!(validate_write(&bad), Err(error));
            assert_eq!(validate_writes([&good, &bad].into_iter()), Err(error));
        }
        assert_eq!(validate_writes(std::iter::empty()), Err(LimitError::EmptyBatch));
        let many = vec![put(1, MAX_VALUE_BYTES, Condition::None); 8];
        assert_eq!(
            validate_writes(many.iter()),
            Err(LimitError::BatchTooLarge(8 * (MAX_VALUE_BYTES + 1)))
        );
    }

    #[test]
    fn hash_tags() {
        let part = |key: &'static str| Partitioning::HashTag.partition_key(key.as_bytes());
        assert_eq!(part("plain"), b"plain");
        assert_eq!(part("user:{42}:name"), b"42");
        assert_eq!(part("{a}{b}"), b"a");
        assert_eq!(part("x{}{b}"), b"b");
        assert_eq!(part("x{}y"), b"x{}y");
        assert_eq!(part("x{open"), b"x{open");
        assert_eq!(part("}{a}"), b"a");
        assert_eq!(part("{{a}}"), b"{a");
    }

    #[test]
    fn delimiters() {
        let part = |key: &'static str| Partitioning::Delimiter(b'/').partition_key(key.as_bytes());
        assert_eq!(part("a/b/c"), b"a");
        assert_eq!(part("abc"), b"abc");
        assert_eq!(part("/abc"), b"/abc");
        assert_eq!(part("{x}y/z"), b"{x}y");
    }

    #[test]
    fn related_keys_share_a_slot() {
        let tag = Partitioning::HashTag;
        assert_eq!(slot_of(b"cart:{u7}", tag), slot_of(b"{u7}:orders", tag));
        let delimiter = Partitioning::Delimiter(b':');
        assert_eq!(slot_of(b"u7:cart", delimiter), slot_of(b"u7:orders", delimiter));
    }

    /// Data is where these say. If one changes, every stored key is in the wrong place.
    #[test]
    fn golden_slots() {
        assert_eq!(xxh3_64(b""), 0x2d06_8005_38d3_94c2, "the algorithm's own test vector");
        let keys = [
            "a",
            "user:1",
            "user:{42}:name",
            "caf\u{e9}",
            "k0000000001",
            "a key of more than sixteen bytes",
        ];
        let slots = keys.map(|key| slot_of(key.as_bytes(), Partitioning::HashTag).0);
        assert_eq!(slots, [543, 257, 401, 639, 909, 906]);
    }

    #[test]
    fn slots_are_even() {
        let mut counts = vec![0u32; usize::from(SLOTS)];
        for i in 0..200_000 {
            counts[usize::from(slot_of(format!("user{i}").as_bytes(), Partitioning::HashTag).0)] += 1;
        }
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        // Mean 195, standard deviation 14.
        assert!(*least > 120 && *most < 270, "{least}..{most}");
    }
}
