//! Where a request belongs in a trace: the W3C trace context, as text in headers and as 25 bytes in batches.
//!
//! It says nothing of what is done, and nothing depends on it: it is carried beside a request, never in a log, a core or a hash.

use std::fmt;

const VERSION: &str = "00";
const SAMPLED: u8 = 1;
/// Trace, span, flags.
const BYTES: usize = 16 + 8 + 1;

/// A span of a trace that others' spans are children of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Of the whole trace; never 0.
    pub trace: u128,
    /// Of the span; never 0.
    pub span: u64,
    /// Whether the spans of this trace are recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// The same as a child's parent, if it is to have children at all.
    #[must_use]
    pub fn if_sampled(self) -> Option<Self> {
        self.sampled.then_some(self)
    }

    /// From the value of a `traceparent` header. Of later versions what is known of is read, as the standard wants.
    #[must_use]
    pub fn from_traceparent(text: &str) -> Option<Self> {
        let (version, rest) = text.trim().split_once('-')?;
        let mut fields = rest.splitn(4, '-');
        let (trace, span, flags) = (fields.next()?, fields.next()?, fields.next()?);
        let hex = |text: &str, digits| {
            let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            text.len() == digits && text.bytes().all(is_digit)
        };
        let known = hex(version, 2) && version != "ff" && (version != VERSION || fields.next().is_none());
        if !known || !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return None;
        }
        let sampled = u8::from_str_radix(flags, 16).ok()? & SAMPLED != 0;
        let (trace, span) = (
            u128::from_str_radix(trace, 16).ok()?,
            u64::from_str_radix(span, 16).ok()?,
        );
        Self::new(trace, span, sampled)
    }

    /// From bytes as [`TraceContext::to_bytes`] makes them; what makes no sense is no context, as with a header.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (trace, rest) = bytes.split_first_chunk::<16>()?;
        let (span, flags) = rest.split_first_chunk::<8>()?;
        let sampled = flags.first()? & SAMPLED != 0;
        Self::new(u128::from_be_bytes(*trace), u64::from_be_bytes(*span), sampled)
    }

    fn new(trace: u128, span: u64, sampled: bool) -> Option<Self> {
        (trace != 0 && span != 0).then_some(Self { trace, span, sampled })
    }

    /// 16 bytes of the trace and 8 of the span, big endian, and one of flags.
    #[must_use]
    pub fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.trace.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.span.to_be_bytes());
        bytes[24] = if self.sampled { SAMPLED } else { 0 };
        bytes
    }

    /// The trace's id as people see it.
    #[must_use]
    pub fn trace_id(self) -> String {
        format!("{:032x}", self.trace)
    }
}

/// As a `traceparent` header has it.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.sampled);
        write!(f, "{VERSION}-{:032x}-{:016x}-{flags:02x}", self.trace, self.span)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn text_and_bytes_say_the_same() {
        let context = TraceContext::from_traceparent(PARENT).unwrap();
        assert!(context.sampled && context.span == 0x00f0_67aa_0ba9_02b7);
        assert_eq!(context.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        assert_eq!(context.to_string(), PARENT);
        assert_eq!(TraceContext::from_bytes(&context.to_bytes()), Some(context));
        let unsampled = TraceContext {
            sampled: false,
            ..context
        };
        assert_eq!(TraceContext::from_bytes(&unsampled.to_bytes()), Some(unsampled));
        assert_eq!(TraceContext::from_traceparent(&unsampled.to_string()), Some(unsampled));
        assert_eq!((unsampled.if_sampled(), context.if_sampled()), (None, Some(context)));
    }

    #[test]
    fn a_later_version_may_say_more_and_this_one_may_not() {
        let later = format!("01{}-more", &PARENT[2..]);
        assert_eq!(
            TraceContext::from_traceparent(&later),
            TraceContext::from_traceparent(PARENT)
        );
        assert_eq!(TraceContext::from_traceparent(&format!("{PARENT}-more")), None);
    }

    #[test]
    fn nonsense_is_no_context() {
        for bad in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-+0f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::from_traceparent(bad), None, "{bad}");
        }
        assert_eq!(TraceContext::from_bytes(&[]), None);
        assert_eq!(TraceContext::from_bytes(&[0; 25]), None);
        assert_eq!(TraceContext::from_bytes(&[1; 26]), None);
    }
}
