//! Batches on the wire: messages with one repeated field and nothing else.
//!
//! Their items are encoded one by one as they come up, and decoded one by one as they are handled, so that a batch is never
//! held as a vector of large structs that grows, moves and is thrown away. To the wire it makes no difference: the bytes are
//! those of `message { repeated Item items = 1; }`.

use super::types::micros;
use super::v1::pipeline_op::Op;
use super::{Malformed, internal, v1};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{
    self, DecodeContext, WireType, decode_key, decode_varint, encode_key, encode_varint, skip_field,
};
use prost::{DecodeError, Message};
use std::collections::VecDeque;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

/// `fulcrum.v1.PipelineRequest`.
pub type PipelineRequest = Batch<v1::PipelineOp>;
/// `fulcrum.v1.PipelineResponse`.
pub type PipelineResponse = Batch<v1::PipelineAnswer>;
/// `fulcrum.v1.TransactionPipelineRequest`.
pub type TransactionPipelineRequest = Batch<v1::TransactionCall>;
/// `fulcrum.v1.TransactionPipelineResponse`.
pub type TransactionPipelineResponse = Batch<v1::TransactionAnswer>;
/// `fulcrum.internal.v1.RequestBatch`.
pub type RequestBatch = Batch<internal::Request>;
/// `fulcrum.internal.v1.ResponseBatch`.
pub type ResponseBatch = Batch<internal::Response>;

const ITEMS: u32 = 1;
/// Size of a batch of answers, about: see [`BatchBuilder::of_at_most`].
pub const ANSWER_BYTES: usize = 48 * 1024;
/// A batch is closed before it grows beyond this. One larger item still goes, alone.
const BATCH_BYTES: usize = 4 * 1024 * 1024;

/// Encoded items.
pub struct Batch<M> {
    encoded: Bytes,
    item: PhantomData<fn() -> M>,
}

/// Batches in the making: one, or more if there is too much for one.
pub struct BatchBuilder<M> {
    most: usize,
    encoded: BytesMut,
    /// Batches that are full, oldest first.
    full: VecDeque<Bytes>,
    item: PhantomData<fn(M)>,
}

/// Bytes of a field of this length, with what stands before it.
fn framed(tag: u32, length: usize) -> usize {
    encoding::key_len(tag) + encoding::encoded_len_varint(length as u64) + length
}

impl<M> Default for BatchBuilder<M> {
    fn default() -> Self {
        Self {
            most: BATCH_BYTES,
            encoded: BytesMut::new(),
            full: VecDeque::new(),
            item: PhantomData,
        }
    }
}

impl<M> BatchBuilder<M> {
    /// Closes batches before they grow beyond so many bytes: whoever receives one decodes it while the next is on its way.
    #[must_use]
    pub fn of_at_most(bytes: usize) -> Self {
        Self {
            most: bytes.min(BATCH_BYTES),
            ..Self::default()
        }
    }
}

impl<M: Message> BatchBuilder<M> {
    /// Adds an item.
    pub fn push(&mut self, item: &M) {
        self.begin(item.encoded_len());
        item.encode_raw(&mut self.encoded);
    }

    /// Makes room for an item of this length, and writes what stands before it.
    fn begin(&mut self, length: usize) {
        if !self.encoded.is_empty() && self.encoded.len() + length > self.most {
            self.full.push_back(self.encoded.split().freeze());
        }
        self.encoded.reserve(length + 11);
        encode_key(ITEMS, WireType::LengthDelimited, &mut self.encoded);
        encode_varint(length as u64, &mut self.encoded);
    }

    /// Writes what stands before a field of this length.
    fn begin_field(&mut self, tag: u32, length: usize) {
        encode_key(tag, WireType::LengthDelimited, &mut self.encoded);
        encode_varint(length as u64, &mut self.encoded);
    }

    /// Whether it holds nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.encoded.is_empty() && self.full.is_empty()
    }

    /// Bytes of the batch that is not full yet.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    /// The oldest batch. There may be more: look at [`BatchBuilder::is_empty`].
    pub fn take(&mut self) -> Batch<M> {
        let full = self.full.pop_front();
        let encoded = full.unwrap_or_else(|| self.encoded.split().freeze());
        Batch {
            encoded,
            item: PhantomData,
        }
    }
}

/// Which answer of a pipeline an encoded message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PassedOn {
    /// A [`v1::GetResponse`].
    Get,
    /// A [`v1::WriteResponse`].
    Write,
}

impl BatchBuilder<v1::PipelineAnswer> {
    /// Adds an answer that is encoded already.
    pub fn pass_on(&mut self, id: u64, kind: PassedOn, message: &Bytes) {
        let tag = match kind {
            PassedOn::Get => 2,
            PassedOn::Write => 3,
        };
        let length = encoding::uint64::encoded_len(1, &id) + encoding::bytes::encoded_len(tag, message);
        self.begin(length);
        encoding::uint64::encode(1, &id, &mut self.encoded);
        encoding::bytes::encode(tag, message, &mut self.encoded);
    }
}

impl BatchBuilder<internal::Request> {
    /// Adds a request to read one key: as if `read` were its operation and `key` the query, but encoded from where they are.
    pub fn push_read_of_one(&mut self, request: &internal::Request, read: &internal::Read, key: &Bytes) {
        const KEY: u32 = 7;
        self.begin_read(request, read, encoding::bytes::encoded_len(KEY, key));
        encoding::bytes::encode(KEY, key, &mut self.encoded);
    }

    /// The same for a joint.
    pub fn push_joint(&mut self, request: &internal::Request, read: &internal::Read, keys: &[Bytes]) {
        const JOINT: u32 = 8;
        const KEYS: u32 = 1;
        let joint = encoding::bytes::encoded_len_repeated(KEYS, keys);
        self.begin_read(request, read, framed(JOINT, joint));
        self.begin_field(JOINT, joint);
        encoding::bytes::encode_repeated(KEYS, keys, &mut self.encoded);
    }

    /// Writes what stands before a query of so many bytes.
    fn begin_read(&mut self, request: &internal::Request, read: &internal::Read, query: usize) {
        const READ: u32 = 6;
        let inner = read.encoded_len() + query;
        self.begin(request.encoded_len() + framed(READ, inner));
        request.encode_raw(&mut self.encoded);
        self.begin_field(READ, inner);
        read.encode_raw(&mut self.encoded);
    }
}

/// What whoever passes an answer on should know of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct About {
    /// The bound of staleness that its receipt proves.
    pub staleness: Option<Duration>,
    /// Served at a weaker level than the one asked.
    pub weaker: bool,
}

impl BatchBuilder<internal::Response> {
    /// Adds an answer that its asker passes on: `message` is encoded where it is to be, without a buffer of its own.
    pub fn push_to_pass_on(&mut self, id: u64, message: &impl Message, about: &About) {
        const PASSED_ON: u32 = 8;
        const MESSAGE: u32 = 1;
        let about = internal::PassedOn {
            message: Bytes::new(),
            staleness_us: about.staleness.map(micros),
            weaker: about.weaker,
        };
        let inner = message.encoded_len();
        let passed_on = framed(MESSAGE, inner) + about.encoded_len();
        self.begin(encoding::uint64::encoded_len(1, &id) + framed(PASSED_ON, passed_on));
        encoding::uint64::encode(1, &id, &mut self.encoded);
        self.begin_field(PASSED_ON, passed_on);
        self.begin_field(MESSAGE, inner);
        message.encode_raw(&mut self.encoded);
        about.encode_raw(&mut self.encoded);
    }

    /// Adds the answers to a joint, each a message of its own, all with this receipt, which is encoded once: for values
    /// [`v1::GetResponse`]s, for outcomes [`v1::WriteResponse`]s, which look alike.
    pub fn push_many_to_pass_on<M: Message>(
        &mut self,
        id: u64,
        values: &[Option<M>],
        receipt: v1::Receipt,
        about: &About,
        refused: Vec<internal::RefusedOfMany>,
    ) {
        const PASSED_ON_MANY: u32 = 11;
        const MESSAGES: u32 = 1;
        const VALUE: u32 = 1;
        let about = internal::PassedOnMany {
            messages: Vec::new(),
            staleness_us: about.staleness.map(micros),
            weaker: about.weaker,
            refused,
        };
        let receipt = v1::GetResponse {
            value: None,
            receipt: Some(receipt),
        };
        let receipt = receipt.encode_to_vec();
        let length_of = |value: &Option<M>| {
            let value = value.as_ref().map_or(0, |value| framed(VALUE, value.encoded_len()));
            value + receipt.len()
        };
        let messages: usize = values.iter().map(|value| framed(MESSAGES, length_of(value))).sum();
        let many = messages + about.encoded_len();
        self.begin(encoding::uint64::encoded_len(1, &id) + framed(PASSED_ON_MANY, many));
        encoding::uint64::encode(1, &id, &mut self.encoded);
        self.begin_field(PASSED_ON_MANY, many);
        for value in values {
            self.begin_field(MESSAGES, length_of(value));
            if let Some(value) = value {
                self.begin_field(VALUE, value.encoded_len());
                value.encode_raw(&mut self.encoded);
            }
            self.encoded.put_slice(&receipt);
        }
        about.encode_raw(&mut self.encoded);
    }
}

impl<M: Message> FromIterator<M> for Batch<M> {
    fn from_iter<I: IntoIterator<Item = M>>(items: I) -> Self {
        let mut builder = BatchBuilder::default();
        items.into_iter().for_each(|item| builder.push(&item));
        let full: Vec<Bytes> = std::mem::take(&mut builder.full).into();
        let encoded = [full.concat().as_slice(), &builder.encoded].concat().into();
        Batch {
            encoded,
            item: PhantomData,
        }
    }
}

impl<M: Message + Default> Batch<M> {
    /// The items, each decoded when it is asked for. Nothing comes after one that makes no sense.
    #[must_use]
    pub fn items(self) -> Items<M> {
        Items {
            rest: self.encoded,
            item: PhantomData,
        }
    }

    /// How many items it holds, decoded or not. Costs a look at each one's length.
    #[must_use]
    pub fn count(&self) -> usize {
        let mut rest: &[u8] = &self.encoded;
        let mut count = 0;
        while let Ok(Some(length)) = next_item(&mut rest) {
            rest.advance(length);
            count += 1;
        }
        count
    }
}

/// A [`v1::PipelineAnswer`] whose message is not decoded yet: by whoever waits for it, it will be.
#[derive(Clone, PartialEq, Message)]
pub struct EncodedAnswer {
    /// Of the operation.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// A [`v1::GetResponse`].
    #[prost(bytes = "bytes", optional, tag = "2")]
    pub get: Option<Bytes>,
    /// A [`v1::WriteResponse`].
    #[prost(bytes = "bytes", optional, tag = "3")]
    pub write: Option<Bytes>,
    /// Why there is no answer.
    #[prost(message, optional, boxed, tag = "4")]
    pub error: Option<Box<v1::Error>>,
}

impl PipelineResponse {
    /// The answers, without a look into them.
    #[must_use]
    pub fn encoded_answers(self) -> Items<EncodedAnswer> {
        Items {
            rest: self.encoded,
            item: PhantomData,
        }
    }
}

/// Bytes of the key and value of an operation: what budgets count.
#[must_use]
pub fn payload_bytes(op: &Op) -> usize {
    match op {
        Op::Get(get) => get.key.len(),
        Op::Put(put) => put.key.len() + put.value.len(),
        Op::Delete(delete) => delete.key.len(),
    }
}

/// Decodes a batch item by item.
pub struct Items<M> {
    rest: Bytes,
    item: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Iterator for Items<M> {
    type Item = Result<M, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        let decoded = match next_item(&mut self.rest) {
            Ok(Some(length)) => M::decode(self.rest.split_to(length)),
            Ok(None) => return None,
            Err(error) => Err(error),
        };
        if decoded.is_err() {
            self.rest.clear();
        }
        Some(decoded.map_err(|error| Malformed(error.to_string())))
    }
}

/// The length of the next item, which is at the beginning of `rest` then; what else there is before it is skipped.
fn next_item(rest: &mut impl Buf) -> Result<Option<usize>, DecodeError> {
    while rest.has_remaining() {
        let (tag, wire_type) = decode_key(rest)?;
        if tag != ITEMS || wire_type != WireType::LengthDelimited {
            skip_field(wire_type, tag, rest, DecodeContext::default())?;
            continue;
        }
        let length = decode_varint(rest)?;
        return match usize::try_from(length) {
            Ok(length) if length <= rest.remaining() => Ok(Some(length)),
            _ => Err(too_short()),
        };
    }
    Ok(None)
}

/// The error that the decoder itself gives for bytes that end early.
fn too_short() -> DecodeError {
    match decode_varint(&mut Bytes::new()) {
        Err(error) => error,
        Ok(_) => unreachable!("nothing cannot be decoded"),
    }
}

impl<M> Default for Batch<M> {
    fn default() -> Self {
        Self {
            encoded: Bytes::new(),
            item: PhantomData,
        }
    }
}

impl<M> Clone for Batch<M> {
    fn clone(&self) -> Self {
        Self {
            encoded: self.encoded.clone(),
            item: PhantomData,
        }
    }
}

impl<M> fmt::Debug for Batch<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Batch({} bytes)", self.encoded.len())
    }
}

impl<M> PartialEq for Batch<M> {
    fn eq(&self, other: &Self) -> bool {
        self.encoded == other.encoded
    }
}

impl<M> Message for Batch<M> {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.encoded);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != ITEMS || wire_type != WireType::LengthDelimited {
            return skip_field(wire_type, tag, buffer, context);
        }
        let length = usize::try_from(decode_varint(buffer)?).map_err(|_| too_short())?;
        if length > buffer.remaining() {
            return Err(too_short());
        }
        let mut encoded = BytesMut::from(&self.encoded[..]);
        encode_key(ITEMS, WireType::LengthDelimited, &mut encoded);
        encode_varint(length as u64, &mut encoded);
        encoded.put(buffer.take(length));
        self.encoded = encoded.freeze();
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.encoded.len()
    }

    fn clear(&mut self) {
        self.encoded.clear();
    }

    /// Takes the bytes as they are: [`Items`] looks at them.
    fn merge(&mut self, mut buffer: impl Buf) -> Result<(), DecodeError> {
        let more = buffer.copy_to_bytes(buffer.remaining());
        self.encoded = if self.encoded.is_empty() {
            more
        } else {
            [&self.encoded[..], &more[..]].concat().into()
        };
        Ok(())
    }
}

#[cfg(test)]
mod tests;
