//! The part of `protoc`'s command line that build scripts use: `-I DIR`, `-o FILE`, two switches, and the files.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// What is to be compiled, and where the descriptors go.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) includes: Vec<PathBuf>,
    pub(crate) output: PathBuf,
    pub(crate) with_imports: bool,
    pub(crate) with_source_info: bool,
    pub(crate) files: Vec<PathBuf>,
}

/// Why a command line cannot be followed.
type Refusal = String;

impl Arguments {
    /// Reads a command line without the program's name. What is not known is refused: guessed at, it would give other
    /// code than `protoc` does.
    pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Self, Refusal> {
        let mut parsed = Self::default();
        let mut words = words.into_iter();
        while let Some(word) = words.next() {
            let text = word.to_string_lossy().into_owned();
            let mut value = |short: &str, long: &str| value_of(&word, &text, short, long, &mut words);
            if let Some(folder) = value("-I", "--proto_path")? {
                parsed.includes.push(folder.into());
            } else if let Some(file) = value("-o", "--descriptor_set_out")? {
                parsed.output = file.into();
            } else if text == "--include_imports" {
                parsed.with_imports = true;
            } else if text == "--include_source_info" {
                parsed.with_source_info = true;
            } else if text.starts_with('-') {
                return Err(format!("{text} is not known: set PROTOC to a protoc that knows it"));
            } else {
                parsed.files.push(word.into());
            }
        }
        match () {
            () if parsed.files.is_empty() => Err("no .proto file is named".to_owned()),
            () if parsed.output.as_os_str().is_empty() => Err("-o FILE is missing".to_owned()),
            () => Ok(parsed),
        }
    }
}

/// The value of a flag, if `word` is that flag: `-I DIR`, `-IDIR`, `--proto_path=DIR` or `--proto_path DIR`.
fn value_of(
    word: &OsStr,
    text: &str,
    short: &str,
    long: &str,
    rest: &mut impl Iterator<Item = OsString>,
) -> Result<Option<OsString>, Refusal> {
    if word == short || word == long {
        let value = rest.next().ok_or_else(|| format!("{text} wants a value"))?;
        return Ok(Some(value));
    }
    let attached = text
        .strip_prefix(long)
        .and_then(|value| value.strip_prefix('='))
        .or_else(|| text.strip_prefix(short));
    Ok(attached.map(OsString::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Arguments, Refusal> {
        Arguments::parse(words.iter().map(OsString::from))
    }

    #[test]
    fn what_build_scripts_say_is_understood() {
        let expected = Arguments {
            includes: vec!["proto".into(), "more".into()],
            output: "out/set".into(),
            with_imports: true,
            with_source_info: true,
            files: vec!["proto/a.proto".into(), "proto/b.proto".into()],
        };
        let switches = ["--include_imports", "--include_source_info"];
        let files = ["proto/a.proto", "proto/b.proto"];
        let apart = ["-o", "out/set", "-I", "proto", "-I", "more"];
        let joined = ["--descriptor_set_out=out/set", "-Iproto", "--proto_path=more"];
        for folders in [&apart[..], &joined[..]] {
            assert_eq!(parse(&[&switches[..], folders, &files].concat()).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        for (words, named) in [
            (&["-o", "x", "--experimental_x", "a.proto"][..], "--experimental_x"),
            (&["-o"], "-o"),
            (&["a.proto"], "-o FILE"),
            (&["-o", "x"], ".proto"),
        ] {
            let refusal = parse(words).unwrap_err();
            assert!(refusal.contains(named), "{refusal}");
        }
    }
}
