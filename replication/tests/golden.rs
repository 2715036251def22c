//! Runs `testscripts/*.txt`: stories of one behaviour each, with the expected output in the file.
//!
//! A block is comments (`#`), commands, `---`, and what they print, up to an empty line. `UPDATE_GOLDEN=1` rewrites the
//! output; read the difference before you keep it. The verbs are those of [`script`].

mod script;
mod world;

use std::fmt::Write as _;
use std::path::Path;

fn replay(text: &str) -> String {
    let mut script = script::Script::default();
    let mut out = String::new();
    for block in text.split("\n\n").map(str::trim).filter(|b| !b.is_empty()) {
        let commands = block.split("\n---").next().unwrap_or_default();
        let _ = writeln!(out, "{commands}");
        let has_commands = commands.lines().any(|l| !l.starts_with('#'));
        if !has_commands {
            out.push('\n');
            continue;
        }
        let mut printed = Vec::new();
        for command in commands.lines().filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
            match script.run(command) {
                Ok(lines) => printed.extend(lines),
                Err(error) => printed.push(format!("error: {command}: {error}")),
            }
        }
        if printed.is_empty() {
            printed.push("ok".into());
        }
        let _ = writeln!(out, "---\n{}\n", printed.join("\n"));
    }
    out.trim_end().to_string() + "\n"
}

#[test]
fn scripts_print_what_they_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut paths: Vec<_> = std::fs::read_dir(&folder)
        .expect("testscripts")
        .map(|f| f.expect("a file").path())
        .collect();
    paths.sort();
    let mut wrong = Vec::new();
    for path in paths.iter().filter(|p| p.extension().is_some_and(|e| e == "txt")) {
        let expected = std::fs::read_to_string(path).expect("a script");
        let actual = replay(&expected);
        if update {
            std::fs::write(path, &actual).expect("written");
        }
        let first = expected.lines().zip(actual.lines()).find(|(e, a)| e != a);
        if actual.contains("error: ") || actual.contains("BROKEN") {
            wrong.push(format!("{}: an error in the output", path.display()));
        } else if let (Some((e, a)), false) = (first, update) {
            wrong.push(format!("{}:\n  expected {e}\n  printed  {a}", path.display()));
        } else if expected != actual && !update {
            wrong.push(format!("{}: lengths differ", path.display()));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
