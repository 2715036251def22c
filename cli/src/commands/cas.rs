//! `fulcrum cas`: writes a key if it is as expected, else exits with 4 and changes nothing.

use super::written;
use crate::args::CasArgs;
use crate::context::{Context, Ending, value_from};
use crate::exit::Failure;
use fulcrum_types::{Condition, Version};

/// Writes a key on a condition.
pub async fn run(context: &Context, args: &CasArgs) -> Ending {
    let key = args.key.bytes()?;
    let condition = condition(args)?;
    let value = value_from(&args.value, args.encoding.encoding())?;
    let (keyspace, session) = context.keyspace(&args.key.keyspace).await?;
    let put = keyspace.put(&key, value).only_if(condition);
    let put = match args.ttl {
        Some(ttl) => put.expires_in(ttl),
        None => put,
    };
    written::show(context, &session, "cas", &args.key.named(), put.await)
}

fn condition(args: &CasArgs) -> Result<Condition, Failure> {
    if let Some(expected) = &args.expect {
        let expected = args.encoding.encoding().decode(expected);
        let expected = expected.map_err(|why| Failure::usage("--expect", why))?;
        return Ok(Condition::ValueIs(expected.into()));
    }
    if let Some(version) = args.expect_version {
        return Ok(Condition::VersionIs(Version(version)));
    }
    match (args.expect_absent, args.expect_exists) {
        (true, _) => Ok(Condition::Absent),
        (_, true) => Ok(Condition::Exists),
        _ => Err(Failure::usage(
            "cas",
            "say what is expected: --expect, --expect-version, --expect-absent or --expect-exists",
        )),
    }
}
