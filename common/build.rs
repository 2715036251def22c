//! Compiles the protocol buffers without `protoc`, and keeps the descriptors for gRPC reflection.

use prost::Message;
use std::path::PathBuf;
use std::{env, error::Error, fs};

const FILES: [&str; 7] = [
    "proto/fulcrum/v1/types.proto",
    "proto/fulcrum/v1/kv.proto",
    "proto/fulcrum/v1/admin.proto",
    "proto/fulcrum/v1/transactions.proto",
    "proto/fulcrum/internal/v1/transactions.proto",
    "proto/fulcrum/internal/v1/shard.proto",
    "proto/fulcrum/internal/v1/peer.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(FILES, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("fulcrum_descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
