//! Limits that clients meet. Every refusal for one of them names it.

use std::time::Duration;

/// Longest key.
pub const MAX_KEY_BYTES: usize = 4 * 1024;
/// Largest value.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;
/// Most operations in one batch request.
pub const MAX_BATCH_OPS: usize = 1024;
/// Most bytes of keys and values in one batch request.
pub const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Most keys that a transaction reads, tests and writes.
pub const MAX_TRANSACTION_KEYS: usize = 1024;
/// Most bytes of keys and values in a transaction.
pub const MAX_TRANSACTION_BYTES: usize = 8 * 1024 * 1024;
/// Most groups that a transaction touches.
pub const MAX_PARTICIPANTS: usize = 32;
/// Longest transaction, from before its first read to its decision, by each group's replicated time (rules 13 to 15).
pub const LONGEST_TRANSACTION: Duration = Duration::from_secs(30);
/// Most rows that one scan of one group returns.
pub const MAX_SCAN_ROWS: u32 = 10_000;
/// Rows of a scan that names no limit.
pub const DEFAULT_SCAN_ROWS: u32 = 1_000;
/// Most bytes of keys and values that one scan of one group returns, about.
pub const MAX_SCAN_BYTES: u32 = 4 * 1024 * 1024;
/// Most bytes of changes that one step of a watch in one group returns, about: what one entry changed is never parted.
pub const MAX_CHANGES_BYTES: u32 = 1024 * 1024;
/// Largest message on any stream or call; above the largest batch with its framing.
pub const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Longest name of a keyspace or cluster.
pub const MAX_NAME_BYTES: usize = 63;

const _: () = assert!(MAX_TRANSACTION_BYTES <= MAX_BATCH_BYTES);
const _: () = assert!(MAX_BATCH_BYTES > MAX_VALUE_BYTES + MAX_KEY_BYTES);
const _: () = assert!(MAX_MESSAGE_BYTES >= 2 * MAX_BATCH_BYTES);
