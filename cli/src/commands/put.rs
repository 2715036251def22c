//! `fulcrum put`.

use super::written;
use crate::args::PutArgs;
use crate::context::{Context, Ending, value_from};

/// Writes a key.
pub async fn run(context: &Context, args: &PutArgs) -> Ending {
    let key = args.key.bytes()?;
    let value = value_from(&args.value, args.encoding.encoding())?;
    let (keyspace, session) = context.keyspace(&args.key.keyspace).await?;
    let put = keyspace.put(&key, value);
    let put = match args.ttl {
        Some(ttl) => put.expires_in(ttl),
        None => put,
    };
    written::show(context, &session, "put", &args.key.named(), put.await)
}
