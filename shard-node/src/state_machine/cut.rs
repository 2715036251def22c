//! Cuts as replicated state, and the state of a cut as it is read.
//!
//! **The promise.** From the entry that holds a group to the one that releases it the group promises nothing new and commits nothing
//! new: what is decided at its home is decided before the hold, or not at all. All else goes on: plain writes, aborts, resolutions.
//! Whether a hold lasted is told by the log alone: its end is a time of the log, and the release says whether that came first.
//!
//! **The protocol.** [`StateMachine::cut`] applies a step; [`StateMachine::is_held`] is asked before a promise or a commit. One record is
//! kept, of the last cut: a step that comes twice finds it. [`page`] and `verdicts` read a pinned state: keys with their
//! intents, and what a home group had decided. Who puts both together is the reader.
//!
//! **Left out**: pins, which are each replica's own (`node/cuts.rs`).

use super::transactions::Moment;
use super::value::Record;
use super::{ApplyOutcome, ApplyRefusal, StateMachine, damaged};
use crate::node::Bug;
use crate::storage::{
    Decoder, Generation, Malformed, Reader, STATE_PREFIX, Space, StateKind, StorageError, Store, put_varint, state_key,
    state_range,
};
use bytes::{BufMut, Bytes, BytesMut};
use fulcrum_types::{CutAnswer, CutId, CutPage, CutPoint, CutStep, Epoch, GroupId, Index, LogPosition, ReplicatedTime};

/// Records looked at for one page, whatever they are: a turn of the node must not take long.
const RECORDS_A_PAGE: usize = 8_192;

/// The last cut of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    id: CutId,
    point: CutPoint,
    /// It is over once the log's time is past this.
    until_ms: u64,
    /// It was released in time.
    released: bool,
}

impl Hold {
    /// The one that a state has, if any.
    pub(super) fn load(
        reader: &impl Reader,
        group: GroupId,
        generation: Generation,
    ) -> Result<Option<Self>, StorageError> {
        let found = reader.get(Space::State, &key(group, generation))?;
        found.map(Self::decode).transpose().map_err(|e| damaged("cut", e))
    }

    fn holds(&self, now: ReplicatedTime) -> bool {
        !self.released && now.0 <= self.until_ms
    }

    fn encode(self) -> Bytes {
        let mut buffer = BytesMut::with_capacity(48);
        put_varint(&mut buffer, self.id.0);
        put_varint(&mut buffer, self.point.position.epoch.0);
        put_varint(&mut buffer, self.point.position.index.0);
        put_varint(&mut buffer, self.point.time.0);
        put_varint(&mut buffer, self.until_ms);
        buffer.put_u8(self.released.into());
        buffer.freeze()
    }

    fn decode(record: Bytes) -> Result<Self, Malformed> {
        let mut decoder = Decoder::new(record);
        let hold = Hold {
            id: CutId(decoder.varint()?),
            point: CutPoint {
                position: LogPosition {
                    epoch: Epoch(decoder.varint()?),
                    index: Index(decoder.varint()?),
                },
                time: ReplicatedTime(decoder.varint()?),
            },
            until_ms: decoder.varint()?,
            released: match decoder.u8()? {
                0 => false,
                1 => true,
                other => return Err(Malformed::Tag(other)),
            },
        };
        decoder.finish()?;
        Ok(hold)
    }
}

fn key(group: GroupId, generation: Generation) -> Bytes {
    state_key(group, generation, StateKind::Cut, &[])
}

impl StateMachine {
    /// Whether nothing new may be promised or committed now.
    pub(super) fn is_held(&self, moment: Moment) -> bool {
        !self.has(Bug::PromiseWhileHeld) && self.hold.is_some_and(|hold| hold.holds(moment.time))
    }

    pub(super) fn cut(&mut self, store: &mut Store, moment: Moment, step: CutStep) -> ApplyOutcome {
        let answer = match step {
            CutStep::Hold { id, hold } => match self.hold.filter(|held| held.id == id || held.holds(moment.time)) {
                Some(held) if held.id != id => return ApplyOutcome::Refused(ApplyRefusal::BeingCut),
                // It came twice, and must not begin anew.
                Some(held) if held.holds(moment.time) => CutAnswer::Held(held.point),
                Some(_) => CutAnswer::Lapsed,
                None => {
                    let point = CutPoint {
                        position: LogPosition {
                            epoch: moment.epoch,
                            index: moment.index,
                        },
                        time: moment.time,
                    };
                    let until_ms = moment.time.0.saturating_add(super::millis(hold));
                    self.keep_hold(
                        store,
                        Hold {
                            id,
                            point,
                            until_ms,
                            released: false,
                        },
                    );
                    CutAnswer::Held(point)
                }
            },
            CutStep::Release { id } => match self.hold.filter(|held| held.id == id) {
                Some(held) if held.released || held.holds(moment.time) => {
                    self.keep_hold(store, Hold { released: true, ..held });
                    CutAnswer::Held(held.point)
                }
                _ => CutAnswer::Lapsed,
            },
            CutStep::End { id } => {
                if let Some(held) = self.hold.filter(|held| held.id == id && !held.released) {
                    self.keep_hold(store, Hold { until_ms: 0, ..held });
                }
                CutAnswer::Done
            }
            CutStep::Keep { .. } => CutAnswer::Done,
        };
        ApplyOutcome::Cut(answer)
    }

    fn keep_hold(&mut self, store: &mut Store, hold: Hold) {
        store.put(Space::State, key(self.group, self.generation), hold.encode());
        self.hold = Some(hold);
    }
}

/// The keys of a pinned state from `start` on, in order: about `max_bytes` of them, at least one if there is any. A key's value and the
/// intent on it are never on two pages.
pub(crate) fn page(
    state: &impl Reader,
    group: GroupId,
    generation: Generation,
    at: ReplicatedTime,
    start: &[u8],
    max_bytes: usize,
) -> Result<CutPage, StorageError> {
    let range = |kind| {
        let from = state_key(group, generation, kind, start);
        let (_, to) = state_range(group, generation, kind);
        state.range(Space::State, &from, &to).peekable()
    };
    let (mut values, mut intents) = (range(StateKind::Value), range(StateKind::Intent));
    let mut page = CutPage::default();
    let (mut bytes, mut looked_at) = (0, 0);
    loop {
        let value = next_key(values.peek())?;
        let intent = next_key(intents.peek())?;
        let Some(key) = value.iter().chain(&intent).min().cloned() else {
            return Ok(page);
        };
        if bytes >= max_bytes || looked_at >= RECORDS_A_PAGE {
            page.next = Some(key);
            return Ok(page);
        }
        looked_at += 1;
        bytes += key.len();
        if value.as_ref() == Some(&key)
            && let Some(found) = values.next().transpose()?
        {
            let record = Record::decode(found.1).map_err(|e| damaged("value", e))?;
            if let Some(versioned) = record.visible(at) {
                bytes += versioned.value.len();
                page.rows.push((key.clone(), versioned));
            }
        }
        if intent.as_ref() == Some(&key)
            && let Some(found) = intents.next().transpose()?
        {
            bytes += found.1.len();
            let read = super::transactions::pinned::intent(state, group, generation, at, key, found.1)?;
            page.intents.push(read);
        }
    }
}

type Peeked<'a> = Option<&'a Result<(Bytes, Bytes), StorageError>>;

fn next_key(peeked: Peeked<'_>) -> Result<Option<Bytes>, StorageError> {
    match peeked {
        Some(Ok((key, _))) => Ok(Some(key.slice(STATE_PREFIX..))),
        Some(Err(error)) => Err(error.clone()),
        None => Ok(None),
    }
}
