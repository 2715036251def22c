//! Runs `testscripts/*.txt`: stories of one behaviour each, with the expected output in the file.
//!
//! A block is comments (`#`), commands, `---`, and what they print, up to an empty line. `UPDATE_GOLDEN=1` rewrites the
//! output; read the difference before you keep it. The verbs are those of [`script`].

mod script;
mod world;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

fn replay(text: &str) -> String {
    replay_with(script::Script::default(), text)
}

fn replay_with(mut script: script::Script, text: &str) -> String {
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

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testscripts");
    let files = std::fs::read_dir(&folder).expect("testscripts");
    let mut paths: Vec<_> = files.map(|f| f.expect("a file").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "txt"));
    paths.sort();
    paths
}

/// Each planted bug changes at least one story.
#[cfg(feature = "planted-bugs")]
#[test]
fn planted_bugs_change_a_story() {
    use fulcrum_two_phase::planted::Bug;
    let stories: Vec<_> = scripts()
        .into_iter()
        .map(|p| (std::fs::read_to_string(&p).expect("a script"), p))
        .collect();
    let mut survivors = Vec::new();
    // Cuts are made by a core of their own: its story is beside it, and changes with its bug.
    for bug in Bug::ALL.iter().filter(|bug| **bug != Bug::TrustLapsedHolds) {
        let differs = |text: &str| {
            let script = || script::Script::with_bug(*bug);
            std::panic::catch_unwind(|| replay_with(script(), text)).map_or(true, |actual| actual != text)
        };
        let found: Vec<_> = stories.iter().filter(|(text, _)| differs(text)).collect();
        let names = found
            .iter()
            .filter_map(|(_, p)| p.file_stem()?.to_str())
            .collect::<Vec<_>>()
            .join(" ");
        println!("{:<26} {names}", bug.name());
        if found.is_empty() {
            survivors.push(bug.name());
        }
    }
    assert!(survivors.is_empty(), "no story tells of {survivors:?}");
}

#[test]
fn scripts_print_what_they_say() {
    let update = std::env::var_os("UPDATE_GOLDEN").is_some();
    let mut wrong = Vec::new();
    for path in &scripts() {
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
