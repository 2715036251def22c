//! Trace contexts on the wire: headers of single calls, a few bytes beside operations on streams.

use bytes::Bytes;
use fulcrum_types::TraceContext;
use tonic::metadata::{MetadataMap, MetadataValue};
use tonic::{Response, Status};

const TRACEPARENT: &str = "traceparent";

/// As batches have it: nothing for what is not recorded.
#[must_use]
pub fn to_wire(context: Option<TraceContext>) -> Bytes {
    match context.and_then(TraceContext::if_sampled) {
        Some(context) => Bytes::copy_from_slice(&context.to_bytes()),
        None => Bytes::new(),
    }
}

/// From a batch. What makes no sense is no context: no request fails for its trace. Nor is what is not recorded, whoever sends it along.
#[must_use]
pub fn from_wire(bytes: &[u8]) -> Option<TraceContext> {
    match bytes {
        [] => None,
        bytes => TraceContext::from_bytes(bytes).and_then(TraceContext::if_sampled),
    }
}

/// What a caller says of its trace.
#[must_use]
pub fn from_metadata(metadata: &MetadataMap) -> Option<TraceContext> {
    TraceContext::from_traceparent(metadata.get(TRACEPARENT)?.to_str().ok()?)
}

/// Tells a server of a request's trace, or a client of an answer's, if it is recorded.
pub fn into_metadata(context: Option<TraceContext>, metadata: &mut MetadataMap) {
    let Some(context) = context else { return };
    if let Ok(value) = MetadataValue::try_from(context.to_string()) {
        metadata.insert(TRACEPARENT, value);
    }
}

/// An answer, or what is told instead, with its trace if that is recorded.
pub fn told_in<T>(
    context: Option<TraceContext>,
    mut answer: Result<Response<T>, Status>,
) -> Result<Response<T>, Status> {
    let metadata = match &mut answer {
        Ok(response) => response.metadata_mut(),
        Err(status) => status.metadata_mut(),
    };
    into_metadata(context, metadata);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_come_back_from_bytes_and_headers_and_nonsense_is_none() {
        let context = TraceContext {
            trace: 1 << 100,
            span: 7,
            sampled: true,
        };
        assert_eq!(from_wire(&to_wire(Some(context))), Some(context));
        let mut metadata = MetadataMap::new();
        assert_eq!(from_metadata(&metadata), None);
        into_metadata(None, &mut metadata);
        assert!(metadata.is_empty());
        into_metadata(Some(context), &mut metadata);
        assert_eq!(from_metadata(&metadata), Some(context));
        let unsampled = TraceContext {
            sampled: false,
            ..context
        };
        assert!(to_wire(Some(unsampled)).is_empty() && to_wire(None).is_empty());
        assert_eq!((from_wire(b""), from_wire(b"nonsense")), (None, None));
        let brought = from_wire(&unsampled.to_bytes());
        assert_eq!(brought, None, "whoever sends it, what is not recorded is not followed");
    }
}
