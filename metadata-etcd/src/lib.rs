//! The metadata store of a cluster of processes: etcd (its v3 API), behind the [`Metadata`](fulcrum_common::Metadata) trait.
//!
//! The promise: the trait's, and with it the one on which replication rests: an error says "surely not applied" only if that
//! is sure ([`fate`]). Everything else about a write is *unknown*, and is never taken for a refusal or for a lost lease.
//!
//! Reading order: [`config`] is what an operator may set; [`fate`] reads errors; `store` maps the trait's calls to etcd's;
//! `members` asks one member after the other, with tokens; `tls` has certificates; `watch` follows changes. One call is one
//! request to one member of etcd; only a request that never left this process, since the member could not be connected to, goes
//! to the next. Nothing is cached.
//!
//! A watch ends when its connection breaks, when the member that serves it loses its leader, or when etcd has compacted what
//! it should tell next; the typed layer lists again and watches from there, which is all that the trait asks for.
//!
//! Left out: resuming a watch inside this crate; etcd's namespaces, for which a prefix of keys does; finding etcd's members by
//! itself.

pub mod config;
pub mod fate;

mod members;
mod store;
mod tls;
mod watch;

#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;

pub use config::EtcdConfig;
pub use store::EtcdMetadata;
