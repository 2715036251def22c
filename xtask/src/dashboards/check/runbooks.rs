//! Commands of `fulcrum` that runbooks name exist: each is asked for its help.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::process;

const FOLDER: &str = "docs/runbooks";
const PROGRAM: &str = "fulcrum ";

/// A subcommand, and the flags that it is said to have.
#[derive(Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Named {
    command: Vec<String>,
    flags: Vec<String>,
}

/// Asks the program for every command that a runbook names.
pub(super) fn check(root: &Path, fulcrum: &Path) -> Result<u8> {
    let mut named = BTreeSet::new();
    for entry in std::fs::read_dir(root.join(FOLDER)).with_context(|| format!("list {FOLDER}"))? {
        let path = entry?.path();
        let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        named.extend(commands(&text));
    }
    let mut code = 0;
    for one in &named {
        let mut help = Command::new(fulcrum);
        help.args(&one.command).arg("--help").stderr(Stdio::null());
        let help = process::output_of(&mut help).map(|help| String::from_utf8_lossy(&help).into_owned());
        let missing = match &help {
            Err(_) => Some("the command"),
            Ok(help) => one.flags.iter().map(String::as_str).find(|flag| !help.contains(*flag)),
        };
        if let Some(missing) = missing {
            println!("fulcrum {}: there is no {missing}", one.command.join(" "));
            code = 1;
        }
    }
    println!("{} commands are named", named.len());
    Ok(if named.is_empty() { 1 } else { code })
}

/// What stands in code, beginning with the program's name: words in small letters, then what a reader fills in, and flags.
fn commands(text: &str) -> Vec<Named> {
    let codes = text.split('`').skip(1).step_by(2);
    let commands = codes.filter_map(|code| code.strip_prefix(PROGRAM));
    commands.map(command).collect()
}

fn command(text: &str) -> Named {
    let mut named = Named::default();
    let mut is_command = true;
    for word in text.split_whitespace() {
        let is_flag = word.starts_with('-');
        is_command &= !is_flag && word.chars().all(|c| c.is_ascii_lowercase());
        if is_command {
            named.command.push(word.to_owned());
        }
        if is_flag {
            named.flags.push(word.to_owned());
        }
    }
    named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_flags_are_found_and_what_a_reader_fills_in_is_not() {
        let text = "Use `fulcrum failover replay GROUP --yes`, not `fulcrum_x_total` or `etcdctl x`; `fulcrum status`.";
        let word = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let replay = Named {
            command: word(&["failover", "replay"]),
            flags: word(&["--yes"]),
        };
        let status = Named {
            command: word(&["status"]),
            flags: Vec::new(),
        };
        assert_eq!(commands(text), [replay, status]);
    }
}
