//! Who may do what: tokens, their rights, and the gate at which both are asked for.
//!
//! **The promise.** Where tokens are required, no call of a client does anything before its token was recognised and, keyspace by
//! keyspace, found to have the right. A stranger learns nothing: every token that is not good is refused in the same words, and a
//! missing right says only what was asked for. What is refused costs one hash and a look into memory, never the metadata store.
//!
//! **The protocol.** A client sends `authorization: Bearer fulcrum_<id>_<secret>` with every call and stream ([`text`]). The [`Guard`] of a
//! service finds the record by its id and compares hashes. The secret is 256 random bits, which nobody can try out, so a plain fast hash is
//! right: slow ones protect what people choose, and would let strangers burn the CPU. The [`Gate`] before each service does so once
//! a call and puts the [`Caller`] into the request; services ask it, per keyspace, by what the request says (`wire::rights`), and
//! [`authorize`] decides. Operators' verbs and what they need are one table ([`Verb`]).
//!
//! Records come from the metadata store by the same watch as the cluster map, and stay as they are while the store is down. A record
//! that changes or expires ends what runs under it: the gate ends the stream, in both directions.
//!
//! Services show each other a secret of the cluster ([`InternalSecret`]); clients' tokens are of no use at their internal gates.
//!
//! **Left out.** Users, groups and roles; rights on parts of a keyspace; limits by token. Whether the way to the service is
//! encrypted is not seen here: tokens are sent as they are.

mod caller;
mod config;
mod gate;
mod guard;
mod internal;
mod refused;
mod rights;
pub mod text;
mod token;
mod verbs;

#[cfg(test)]
mod tests;

pub use caller::Caller;
pub use config::AuthConfig;
pub use gate::Gate;
pub use guard::Guard;
pub use internal::{Internal, InternalSecret};
pub use rights::{Grant, Scope, authorize};
pub use token::{NotAToken, TOKENS_MAX, TokenId, TokenRecord, TokenTable};
pub use verbs::Verb;
