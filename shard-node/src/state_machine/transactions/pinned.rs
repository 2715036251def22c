//! Transactions in the pinned state of a cut: intents, and what their home groups had decided by then.

use super::find;
use super::intents::decode;
use super::record::{Committed, Record};
use crate::state_machine::damaged;
use crate::storage::{Generation, Reader, StorageError};
use bytes::Bytes;
use fulcrum_types::{CutIntent, CutVerdict, GroupId, ReplicatedTime, TransactionId};

/// The intent on a key, as it stands there.
pub(in crate::state_machine) fn intent(
    state: &impl Reader,
    group: GroupId,
    generation: Generation,
    at: ReplicatedTime,
    key: Bytes,
    stored: Bytes,
) -> Result<CutIntent, StorageError> {
    let (id, becomes) = decode(stored)?;
    let Some(Record::Prepared(prepared)) = find(state, group, generation, id)? else {
        return Err(damaged("intent", "of no prepared transaction"));
    };
    Ok(CutIntent {
        key,
        id,
        fingerprint: prepared.fingerprint,
        home: prepared.home,
        becomes: becomes.visible(at),
    })
}

/// What a home group had decided, to one who holds an intent. A commit is on record here as long as some participant may hold one; only
/// if that one's state is older than this is it to be looked for beyond the horizon, where records may be gone.
pub(crate) fn verdicts(
    state: &impl Reader,
    group: GroupId,
    generation: Generation,
    at: ReplicatedTime,
    horizon_ms: u64,
    ids: &[TransactionId],
) -> Result<Vec<CutVerdict>, StorageError> {
    let one = |id: &TransactionId| {
        Ok(match find(state, group, generation, *id)? {
            Some(Record::Committed(Committed { fingerprint, .. })) => CutVerdict::Committed(fingerprint),
            Some(_) => CutVerdict::NotCommitted,
            None if at.0 > id.begun_at_ms.saturating_add(horizon_ms) => CutVerdict::TooOld,
            None => CutVerdict::NotCommitted,
        })
    };
    ids.iter().map(one).collect()
}
