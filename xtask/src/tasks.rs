//! What each command does, as the cargo calls that one would otherwise type.

use std::process::Command;

use anyhow::{Result, bail};

use crate::etcd::{self, Etcd};
use crate::report::Report;
use crate::workspace::{Metadata, cargo, root};
use crate::{policy, process, tidy};

/// A program of the workspace that a command hands over to.
pub(crate) struct Binary {
    package: &'static str,
    name: &'static str,
    release: bool,
    /// Features of the package that it needs.
    features: &'static [&'static str],
}

pub(crate) const SIM: Binary = Binary {
    package: "fulcrum-tests",
    name: "sim",
    release: false,
    features: &[],
};
pub(crate) const MUTANTS: Binary = Binary {
    package: "fulcrum-tests",
    name: "mutants",
    release: false,
    features: &["planted-bugs"],
};
pub(crate) const BENCH: Binary = Binary {
    package: "fulcrum-bench",
    name: "fulcrum-bench",
    release: true,
    features: &[],
};

/// `cargo xtask test`
pub(crate) fn test(seeds: u64) -> Result<u8> {
    println!(
        "Needed: the Rust toolchain. Nothing else has to be installed; cargo fetches the crates, apt-get an etcd."
    );
    let mut report = Report::new("test");
    let mut totals = Totals::default();
    let mut left_out = None;
    report.step("etcd for the tests", || {
        if let Etcd::LeftOut(reason) = etcd::ensure(root())? {
            println!("left out: the tests that need etcd ({reason})");
            left_out = Some(reason);
        }
        Ok(0)
    })?;
    report.step("unit and end-to-end tests", || {
        let mut tests = cargo(&["test", "--workspace", "--locked", "--no-fail-fast"]);
        if left_out.is_some() {
            tests.env(etcd::VARIABLE, etcd::WITHOUT);
        }
        process::run_observed(&mut tests, |line| totals.add(line))
    })?;
    report.step(&format!("simulation, {seeds} seeds"), || {
        run_binary(&SIM, &["--seeds".into(), seeds.to_string()])
    })?;
    report.step(&format!("simulation of transactions, {seeds} seeds"), || {
        run_binary(&SIM, &["--transactions".into(), "--seeds".into(), seeds.to_string()])
    })?;
    // With the bugs compiled in some tests ask that they are found: nobody would see when these fail.
    report.step("planted bugs in the tests of cores and nodes", || {
        let cores: &[&str] = &["--package", "fulcrum-replication", "--package", "fulcrum-two-phase"];
        let nodes: &[&str] = &["--package", "fulcrum-shard-node", "--lib"];
        let mut code = 0;
        for packages in [cores, nodes] {
            let mut tests = cargo(&["test", "--locked", "--no-fail-fast", "--features", "planted-bugs"]);
            code = code.max(process::run_observed(tests.args(packages), |line| totals.add(line))?);
        }
        Ok(code)
    })?;
    report.step("planted bugs", || run_binary(&MUTANTS, &["--quick".into()]))?;
    let code = report.finish();
    if let Some(reason) = left_out {
        println!("NOT RUN: the tests that need etcd, though they count as passed ({reason})");
    }
    println!(
        "{} passed, {} failed, {} ignored",
        totals.passed, totals.failed, totals.ignored
    );
    Ok(code)
}

/// `cargo xtask verify`
pub(crate) fn verify() -> Result<u8> {
    ensure_component("fmt", "rustfmt")?;
    ensure_component("clippy", "clippy")?;
    let mut report = Report::new("verify");
    report.step("format", || process::run(&mut cargo(&["fmt", "--all", "--check"])))?;
    report.step("clippy", || {
        let flags = [
            "clippy",
            "--workspace",
            "--all-targets",
            "--locked",
            "--",
            "-D",
            "warnings",
        ];
        process::run(&mut cargo(&flags))
    })?;
    report.step("rustdoc", || {
        let flags = [
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
            "--locked",
        ];
        process::run(cargo(&flags).env("RUSTDOCFLAGS", "-D warnings"))
    })?;
    report.step("dependency policy", || {
        let outcome = policy::check(root(), &Metadata::load()?)?;
        outcome.notes.iter().for_each(|note| println!("note: {note}"));
        Ok(print_findings(&outcome.violations))
    })?;
    report.step("tidy", tidy)?;
    Ok(report.finish())
}

/// `cargo xtask tidy`
pub(crate) fn tidy() -> Result<u8> {
    let tree = tidy::Tree::load(root())?;
    Ok(print_findings(&tidy::check(&tree)))
}

/// `cargo xtask fix`
pub(crate) fn fix() -> Result<u8> {
    ensure_component("fmt", "rustfmt")?;
    ensure_component("clippy", "clippy")?;
    let mut report = Report::new("fix");
    report.step("clippy", || {
        process::run(&mut cargo(&[
            "clippy",
            "--workspace",
            "--all-targets",
            "--fix",
            "--allow-dirty",
            "--allow-staged",
        ]))
    })?;
    report.step("format", || process::run(&mut cargo(&["fmt", "--all"])))?;
    Ok(report.finish())
}

/// Builds a program of the workspace and hands over to it.
pub(crate) fn run_binary(binary: &Binary, flags: &[String]) -> Result<u8> {
    let mut command = cargo(&["run", "--quiet", "--locked"]);
    if binary.release {
        command.arg("--release");
    }
    for feature in binary.features {
        command.args(["--features", feature]);
    }
    command
        .args(["--package", binary.package, "--bin", binary.name, "--"])
        .args(flags);
    process::run(&mut command)
}

/// Formatter and clippy are optional parts of a toolchain: fetch one that is missing, the ordinary way.
fn ensure_component(subcommand: &str, component: &str) -> Result<()> {
    let present = |subcommand: &str| {
        process::output_of(cargo(&[subcommand, "--version"]).stderr(std::process::Stdio::null())).is_ok()
    };
    if present(subcommand) {
        return Ok(());
    }
    println!("{component} is not part of this toolchain: installing it with rustup");
    process::run(Command::new("rustup").args(["component", "add", component]))?;
    if !present(subcommand) {
        bail!("{component} is missing and rustup could not add it: install it, then run this again");
    }
    Ok(())
}

fn print_findings(findings: &[String]) -> u8 {
    findings.iter().for_each(|finding| println!("{finding}"));
    if findings.is_empty() {
        return 0;
    }
    println!("{} to repair", findings.len());
    1
}

/// The sum over the `test result:` lines of all test binaries.
#[derive(Debug, Default, PartialEq, Eq)]
struct Totals {
    passed: u64,
    failed: u64,
    ignored: u64,
}

impl Totals {
    fn add(&mut self, line: &str) {
        let Some(result) = line.trim().strip_prefix("test result: ") else {
            return;
        };
        for part in result.split([';', '.']) {
            let mut words = part.split_whitespace();
            let (Some(count), Some(what)) = (words.next(), words.next()) else {
                continue;
            };
            let Ok(count) = count.parse::<u64>() else { continue };
            match what {
                "passed" => self.passed += count,
                "failed" => self.failed += count,
                "ignored" => self.ignored += count,
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Totals;

    #[test]
    fn totals_add_up_over_test_binaries() {
        let mut totals = Totals::default();
        totals.add("running 3 tests");
        totals.add("test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s");
        totals.add("test result: FAILED. 4 passed; 2 failed; 0 ignored; 0 measured; 7 filtered out; finished in 1.20s");
        assert_eq!(
            totals,
            Totals {
                passed: 7,
                failed: 2,
                ignored: 1
            }
        );
    }
}
