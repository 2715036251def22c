//! The wire format, and every conversion to and from it. Wire types stop here and in each service's `service.rs`.
//!
//! Conversions *from* the wire never trust it: a missing or unknown field is a [`Malformed`], which names the field.
//! [`batch`] has the messages that carry many items, [`types`] converts what all services share, [`map`] what operators and
//! smart clients see, [`shard`] what routers and shard-nodes exchange, [`watch`] what watches ask and are told,
//! [`transactions`] what all say of transactions, [`transacting`] what clients ask of them and are told, [`steps`] what is asked
//! of a group for one, [`cut`] and [`backup`] what is asked of groups and routers for a backup, [`peer`] what replicas say to
//! each other, [`claims`] what receipts say that are passed on, [`timeout`] reads how long a client waits, [`rights`] says what each request needs, [`status`] maps refusals to gRPC statuses with typed details and back.

pub mod backup;
pub mod batch;
pub mod claims;
pub mod cut;
pub mod map;
pub mod peer;
pub mod rights;
pub mod shard;
pub mod status;
pub mod steps;
pub mod timeout;
pub mod trace;
pub mod transacting;
pub mod transactions;
pub mod types;
pub mod watch;

/// Generated code, nested as its packages are.
#[allow(missing_docs, clippy::all, reason = "generated code")]
mod generated {
    pub mod fulcrum {
        pub mod v1 {
            tonic::include_proto!("fulcrum.v1");
        }
        pub mod internal {
            pub mod v1 {
                tonic::include_proto!("fulcrum.internal.v1");
            }
        }
    }
}

/// Between our own services.
pub use generated::fulcrum::internal::v1 as internal;
/// The public API.
pub use generated::fulcrum::v1;

/// The encoded descriptors of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/fulcrum_descriptors.bin"));

/// A message that does not make sense; says which field and why.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("malformed message: {0}")]
pub struct Malformed(pub String);

impl Malformed {
    /// A field that must be there and is not.
    #[must_use]
    pub fn missing(field: &str) -> Self {
        Self(format!("{field} is missing"))
    }
}

impl From<Malformed> for fulcrum_types::Refusal {
    fn from(malformed: Malformed) -> Self {
        fulcrum_types::Refusal::Invalid {
            reason: malformed.to_string(),
        }
    }
}
