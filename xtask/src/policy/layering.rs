//! Who may depend on whom, and what keeps the protocol cores pure.
//!
//! A pure crate has no runtime, transport, clock or source of randomness anywhere in its tree of normal dependencies, and
//! its source names nothing of `std` that touches the world. Both are needed: `std` is in no manifest. Dev-dependencies
//! and test code are free.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::rust_source::named_paths;
use crate::workspace::{Metadata, Package};

/// The crates that decide and do not act.
const PURE: [&str; 4] = [
    "fulcrum-types",
    "fulcrum-replication",
    "fulcrum-placement",
    "fulcrum-two-phase",
];

/// Crates that bring a runtime, a transport, a clock, randomness or I/O.
#[rustfmt::skip]
const IMPURE_CRATES: [&str; 30] = [
    "async-std", "async-trait", "chrono", "coarsetime", "crossbeam-channel", "fastrand", "fjall", "futures", "getrandom",
    "h2", "hyper", "libc", "log", "mio", "minstant", "nix", "parking_lot", "prost", "quanta", "rand", "rand_core", "rustix",
    "signal-hook", "smol", "socket2", "time", "tokio", "tonic", "tracing", "web-time",
];

/// What a pure crate may not name, and why.
const IMPURE_PATHS: [(&str, &str); 9] = [
    (
        "std::collections::HashMap",
        "its order differs from run to run: BTreeMap",
    ),
    (
        "std::collections::HashSet",
        "its order differs from run to run: BTreeSet",
    ),
    ("std::env", "options come in as arguments"),
    ("std::fs", "no I/O: an effect asks for it"),
    ("std::io", "no I/O: an effect asks for it"),
    ("std::net", "no I/O: an effect asks for it"),
    ("std::process", "no I/O: an effect asks for it"),
    ("std::thread", "one caller steps the core"),
    ("std::time::Instant", "time comes in as an argument"),
];

/// As [`IMPURE_PATHS`], wherever they are imported from.
const IMPURE_NAMES: [(&str, &str); 2] = [
    ("Instant", "time comes in as an argument"),
    ("SystemTime", "time comes in as an argument"),
];

/// The members of the workspace that a member may build on. A member that is not listed may build on any.
const LAYERS: [(&str, &[&str]); 10] = [
    ("fulcrum-types", &[]),
    ("fulcrum-replication", &["fulcrum-types"]),
    ("fulcrum-two-phase", &["fulcrum-types"]),
    ("fulcrum-placement", &["fulcrum-types"]),
    (
        "fulcrum-common",
        &["fulcrum-types", "fulcrum-replication", "fulcrum-placement"],
    ),
    ("fulcrum-metadata-etcd", &["fulcrum-types", "fulcrum-common"]),
    (
        "fulcrum-shard-node",
        &[
            "fulcrum-types",
            "fulcrum-common",
            "fulcrum-replication",
            "fulcrum-placement",
        ],
    ),
    (
        "fulcrum-coordinator",
        &["fulcrum-types", "fulcrum-common", "fulcrum-two-phase"],
    ),
    (
        "fulcrum-router",
        &[
            "fulcrum-types",
            "fulcrum-common",
            "fulcrum-replication",
            "fulcrum-placement",
            "fulcrum-two-phase",
            "fulcrum-coordinator",
        ],
    ),
    (
        "fulcrum-client",
        &[
            "fulcrum-types",
            "fulcrum-common",
            "fulcrum-replication",
            "fulcrum-placement",
        ],
    ),
];

pub(super) fn check(metadata: &Metadata) -> Result<Vec<String>> {
    let mut found = layers(metadata);
    for name in PURE {
        let package = metadata.members().find(|package| package.name == name);
        let package = package.with_context(|| format!("{name} must be pure, but is no member of the workspace"))?;
        found.extend(impure_dependencies(metadata, package));
        let folder = package.manifest_path.parent().unwrap_or(Path::new(".")).join("src");
        for file in sources(&folder)? {
            let text = std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?;
            let shown = format!("{name}: {}", file.strip_prefix(&folder).unwrap_or(&file).display());
            found.extend(
                impure_names(&text)
                    .into_iter()
                    .map(|(line, what)| format!("{shown}:{line}: {what}")),
            );
        }
    }
    Ok(found)
}

/// What a package needs in order to run: ids of its direct normal dependencies.
fn normal_dependencies<'a>(metadata: &'a Metadata, id: &str) -> Vec<&'a str> {
    let node = metadata.resolve.nodes.iter().find(|node| node.id == id);
    let dependencies = node.into_iter().flat_map(|node| &node.deps);
    let normal = dependencies.filter(|dependency| dependency.dep_kinds.iter().any(|kind| kind.kind.is_none()));
    normal.map(|dependency| dependency.pkg.as_str()).collect()
}

fn layers(metadata: &Metadata) -> Vec<String> {
    let names: BTreeMap<&str, &str> = metadata
        .members()
        .map(|member| (member.id.as_str(), member.name.as_str()))
        .collect();
    let mut found = Vec::new();
    for (name, allowed) in LAYERS {
        let Some(member) = metadata.members().find(|member| member.name == name) else {
            continue;
        };
        let below = normal_dependencies(metadata, &member.id)
            .into_iter()
            .filter_map(|id| names.get(id));
        let wrong = below.filter(|dependency| !allowed.contains(dependency));
        found.extend(wrong.map(|dependency| format!("{name} may not depend on {dependency}: it is not below it")));
    }
    found
}

fn impure_dependencies(metadata: &Metadata, package: &Package) -> Vec<String> {
    let names: BTreeMap<&str, &str> = metadata
        .packages
        .iter()
        .map(|one| (one.id.as_str(), one.name.as_str()))
        .collect();
    let mut seen = BTreeSet::new();
    let mut waiting = vec![(package.id.as_str(), package.name.clone())];
    let mut found = Vec::new();
    while let Some((id, way)) = waiting.pop() {
        for dependency in normal_dependencies(metadata, id) {
            if !seen.insert(dependency) {
                continue;
            }
            let name = names.get(dependency).copied().unwrap_or(dependency);
            let way = format!("{way} -> {name}");
            if IMPURE_CRATES.contains(&name) || name.starts_with("tonic-") || name.starts_with("tokio-") {
                found.push(format!("{} must be pure, but needs {name} ({way})", package.name));
            }
            waiting.push((dependency, way));
        }
    }
    found.sort();
    found
}

/// The Rust files below a folder that are not test code.
fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let path = entry.with_context(|| format!("list {}", folder.display()))?.path();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        if stem == "tests" || stem.ends_with("_test") || stem.ends_with("_tests") {
            continue;
        }
        if path.is_dir() {
            files.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

fn impure_names(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for named in named_paths(text) {
        let path = named.path.replacen("core::", "std::", 1);
        let by_path = IMPURE_PATHS.iter().find(|(impure, _)| reaches(&path, impure));
        let by_name = || {
            IMPURE_NAMES
                .iter()
                .find(|(name, _)| path.split("::").any(|segment| segment == *name))
        };
        if let Some((_, reason)) = by_path.or_else(by_name) {
            found.push((named.line, format!("`{}` in a pure crate: {reason}", named.path)));
        }
    }
    found
}

/// Whether a path names `impure`, something inside it, or everything around it.
fn reaches(path: &str, impure: &str) -> bool {
    let inside = path
        .strip_prefix(impure)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"));
    let around = path
        .strip_suffix('*')
        .is_some_and(|around| !around.is_empty() && impure.starts_with(around));
    inside || around
}

#[cfg(test)]
mod tests {
    use super::super::tests::{package, tree};
    use super::*;

    #[test]
    fn an_impure_dependency_is_found_however_deep_and_test_helpers_are_free() {
        let packages = ["fulcrum-replication", "bytes", "helper", "getrandom", "tempfile"];
        let packages = packages.map(|name| package(name, None, None)).to_vec();
        let edges = [
            ("fulcrum-replication", "bytes", None),
            ("fulcrum-replication", "tempfile", Some("dev")),
            ("bytes", "helper", None),
            ("helper", "getrandom", None),
            ("tempfile", "getrandom", None),
        ];
        let core = packages[0].clone();
        let found = impure_dependencies(&tree(packages.clone(), &edges), &core);
        let way = "fulcrum-replication -> bytes -> helper -> getrandom";
        assert_eq!(
            found,
            [format!("fulcrum-replication must be pure, but needs getrandom ({way})")]
        );
        assert_eq!(impure_dependencies(&tree(packages, &edges[..3]), &core), [""; 0]);
    }

    #[test]
    fn a_lower_layer_does_not_know_a_higher_one() {
        let packages = ["fulcrum-types", "fulcrum-client", "fulcrum-router"].map(|name| package(name, None, None));
        let edges = [
            ("fulcrum-client", "fulcrum-types", None),
            ("fulcrum-client", "fulcrum-router", None),
        ];
        let found = layers(&tree(packages.to_vec(), &edges));
        assert_eq!(
            found,
            ["fulcrum-client may not depend on fulcrum-router: it is not below it"]
        );
    }

    #[test]
    fn the_world_is_found_however_it_is_imported() {
        for planted in [
            "use std::time::Instant;",
            "use std::{collections::BTreeMap, thread};",
            "use std::time::*;",
            "use std::time;\nfn f() { time::SystemTime::now(); }",
            "fn f() { std::fs::read(\"x\"); }",
            "use std::collections::{BTreeMap, HashMap};",
        ] {
            assert_eq!(impure_names(planted).len(), 1, "{planted}: {:?}", impure_names(planted));
        }
    }

    #[test]
    fn pure_code_and_tests_pass() {
        let text = "//! No std::fs here.\nuse std::time::Duration;\nuse std::{collections::BTreeMap, fmt};\n\
                    #[cfg(test)]\nmod tests { use std::fs; }\n";
        assert_eq!(impure_names(text), []);
    }
}
