//! Encryption of connections, and who may open one (docs/security.md).
//!
//! **The promise.** With `[tls]` set every connection of a service is TLS 1.3, both ways authenticated where services speak with each other;
//! nothing falls back to plain text or to an older version. Without it everything is as it was, and nobody listens where other machines can
//! connect unless told to.
//!
//! **How.** `config` is what an operator sets, [`pem`] and `material` make rustls's configurations of the files, and refuse what would
//! not work. `live` keeps them up to date: files that changed are taken for new connections, files that make no sense are not. `serve` accepts
//! connections without letting anybody hold up anybody else, `connect` makes them, `client` is the same for clients. `role` tells the
//! cluster's own processes from everybody else by a name in their certificates. `explain` turns what rustls says into what a person can do,
//! and `refusals` counts and logs it.
//!
//! Left out: revocation lists (certificates are to be short-lived), and which rights a client has once it is let in.

mod client;
mod config;
mod connect;
mod explain;
mod live;
mod material;
pub mod pem;
mod refusals;
mod role;
mod serve;
mod validity;

pub use client::{ClientFiles, ClientTls};
pub use config::{ClientCertificates, TlsConfig, check_server_name};
pub use connect::{Dialer, Encrypted, Heard, handshake};
pub use live::Tls;
pub use role::{OnlyServices, PeerRole};
pub use serve::{Acceptor, Connection, ConnectionInfo, Port, connections};
pub use validity::has_expired;
