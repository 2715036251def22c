//! Compiles the protocol buffers without `protoc`, and keeps the descriptors for gRPC reflection.

use prost::Message;
use std::path::PathBuf;
use std::{env, error::Error, fs};

const FILES: [&str; 9] = [
    "proto/fulcrum/v1/types.proto",
    "proto/fulcrum/v1/kv.proto",
    "proto/fulcrum/v1/admin.proto",
    "proto/fulcrum/v1/transactions.proto",
    "proto/fulcrum/v1/backup.proto",
    "proto/fulcrum/internal/v1/transactions.proto",
    "proto/fulcrum/internal/v1/cut.proto",
    "proto/fulcrum/internal/v1/shard.proto",
    "proto/fulcrum/internal/v1/peer.proto",
];

/// Messages that are nothing but a repeated field: `src/wire/batch.rs` has them.
const BATCHES: [&str; 6] = [
    ".fulcrum.v1.PipelineRequest",
    ".fulcrum.v1.PipelineResponse",
    ".fulcrum.v1.TransactionPipelineRequest",
    ".fulcrum.v1.TransactionPipelineResponse",
    ".fulcrum.internal.v1.RequestBatch",
    ".fulcrum.internal.v1.ResponseBatch",
];

/// Rare and large parts of messages that are handled by the million: boxed, they do not make all the others large.
const BOXED: [&str; 9] = [
    ".fulcrum.v1.PipelineAnswer.answer.error",
    ".fulcrum.v1.TransactionAnswer.answer.error",
    ".fulcrum.internal.v1.Request.operation.transaction",
    ".fulcrum.internal.v1.Request.operation.cut",
    ".fulcrum.internal.v1.Response.result.error",
    ".fulcrum.internal.v1.Response.result.changes",
    ".fulcrum.internal.v1.Response.result.transaction",
    ".fulcrum.internal.v1.Response.result.cut",
    ".fulcrum.internal.v1.Response.receipt",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("fulcrum_descriptors.bin"), descriptors.encode_to_vec())?;
    let mut build = tonic_prost_build::configure().bytes(".");
    for batch in BATCHES {
        let (_, name) = batch.rsplit_once('.').unwrap_or_default();
        build = build.extern_path(batch, format!("crate::wire::batch::{name}"));
    }
    for part in BOXED {
        build = build.boxed(part);
    }
    build.compile_fds(descriptors)?;
    Ok(())
}
