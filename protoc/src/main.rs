//! Stands in for `protoc` in the build scripts of crates that insist on one.
//!
//! The promise: the workspace builds on a machine that has the Rust toolchain and nothing else. `etcd-client` runs
//! `$PROTOC` when it is built; `.cargo/config.toml` points that at `.cargo/protoc`, which builds and calls this program.
//! It answers with the descriptors that `protoc` would write, made by `protox`, which our own build script uses too: so
//! nothing is downloaded for it. Whoever sets PROTOC gets theirs.
//!
//! Left out: code generation (plugins), and every flag that prost's build support does not use; they are refused.

mod arguments;

use arguments::Arguments;
use protox::Compiler;
use std::error::Error;
use std::process::ExitCode;

fn main() -> ExitCode {
    let words = std::env::args_os().skip(1);
    match Arguments::parse(words)
        .map_err(Into::into)
        .and_then(|arguments| compile(&arguments))
    {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fulcrum-protoc: {error}");
            ExitCode::FAILURE
        }
    }
}

fn compile(arguments: &Arguments) -> Result<(), Box<dyn Error>> {
    let mut compiler = Compiler::new(&arguments.includes)?;
    compiler.include_imports(arguments.with_imports);
    compiler.include_source_info(arguments.with_source_info);
    compiler.open_files(&arguments.files)?;
    std::fs::write(&arguments.output, compiler.encode_file_descriptor_set())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message;

    #[test]
    fn descriptors_are_whole_and_errors_name_the_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("a.proto"), "syntax = \"proto3\"; package a; message A {}").unwrap();
        std::fs::write(
            path("b.proto"),
            "syntax = \"proto3\"; import \"a.proto\"; message B { a.A a = 1; }",
        )
        .unwrap();
        let arguments = |file: &str| Arguments {
            includes: vec![folder.path().to_owned()],
            output: path("set"),
            with_imports: true,
            files: vec![path(file)],
            ..Arguments::default()
        };
        compile(&arguments("b.proto")).unwrap();
        let set = std::fs::read(path("set")).unwrap();
        let set = prost_types::FileDescriptorSet::decode(set.as_slice()).unwrap();
        let names: Vec<&str> = set.file.iter().map(|file| file.name()).collect();
        assert_eq!(names, ["a.proto", "b.proto"]);

        std::fs::write(path("c.proto"), "syntax = \"proto3\"; message C { Missing m = 1; }").unwrap();
        let error = compile(&arguments("c.proto")).unwrap_err();
        assert!(error.to_string().contains("Missing"), "{error}");
    }
}
