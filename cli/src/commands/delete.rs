//! `fulcrum delete`.

use super::written;
use crate::args::DeleteArgs;
use crate::context::{Context, Ending};
use fulcrum_types::{Condition, Version};

/// Removes a key.
pub async fn run(context: &Context, args: &DeleteArgs) -> Ending {
    let key = args.key.bytes()?;
    let (keyspace, session) = context.keyspace(&args.key.keyspace).await?;
    let delete = keyspace.delete(&key);
    let delete = match args.if_version {
        Some(version) => delete.only_if(Condition::VersionIs(Version(version))),
        None => delete,
    };
    written::show(context, &session, "delete", &args.key.named(), delete.await)
}
