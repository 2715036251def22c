//! Which crates may be depended on, and by whom.
//!
//! `deny.toml` holds the lists (in cargo-deny's format, so that tool can be used as well); the checks run over
//! `cargo metadata`, which covers every platform and the whole tree. [`licences`] reads licence expressions, [`manifests`]
//! keeps versions and lints in one place, [`layering`] keeps the protocol cores pure. Advisories are left to cargo-deny:
//! they need a database that has to be fetched.

mod layering;
mod licences;
mod manifests;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::workspace::Metadata;

/// The one registry that crates may come from, as cargo names it.
const DEFAULT_REGISTRY: &str = concat!("registry+https://github.com/rust-lang/crates", ".io-index");

#[derive(Deserialize)]
struct Policy {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    #[serde(rename = "crate")]
    name: String,
    reason: String,
}

/// What must be repaired, and what is only worth knowing.
pub(crate) struct Outcome {
    pub(crate) violations: Vec<String>,
    pub(crate) notes: Vec<String>,
}

/// Holds the workspace against `deny.toml`.
pub(crate) fn check(root: &Path, metadata: &Metadata) -> Result<Outcome> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
    let policy: Policy = toml::from_str(&text).context("parse deny.toml")?;
    let mut violations = licences::check(&policy.licenses.allow, metadata);
    violations.extend(banned(&policy.bans.deny, metadata));
    violations.extend(sources(metadata));
    violations.extend(manifests::check(root, metadata)?);
    violations.extend(layering::check(metadata)?);
    Ok(Outcome {
        violations,
        notes: duplicates(metadata),
    })
}

fn banned(bans: &[Ban], metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in &metadata.packages {
        let Some(ban) = bans.iter().find(|ban| ban.name == package.name) else {
            continue;
        };
        found.push(format!(
            "{} {} is banned: {}",
            package.name, package.version, ban.reason
        ));
    }
    found
}

fn sources(metadata: &Metadata) -> Vec<String> {
    let mut found = Vec::new();
    for package in &metadata.packages {
        let name = &package.name;
        match package.source.as_deref() {
            Some(DEFAULT_REGISTRY) => {}
            None if metadata.workspace_members.contains(&package.id) => {}
            None => found.push(format!("{name} comes from a folder that is no member of the workspace")),
            Some(other) => found.push(format!(
                "{name} comes from {other}: only the default registry is allowed"
            )),
        }
    }
    found
}

fn duplicates(metadata: &Metadata) -> Vec<String> {
    let mut versions: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for package in &metadata.packages {
        versions.entry(&package.name).or_default().insert(&package.version);
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    several
        .map(|(name, versions)| format!("{name} in {} versions: {versions:?}", versions.len()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workspace::{Dependency, DependencyKind, Node, Package, Resolve};

    pub(super) fn package(name: &str, licence: Option<&str>, source: Option<&str>) -> Package {
        Package {
            id: name.into(),
            name: name.into(),
            version: "1.0.0".into(),
            license: licence.map(str::to_owned),
            source: source.map(str::to_owned),
            manifest_path: format!("/{name}/Cargo.toml").into(),
        }
    }

    /// A tree in which each edge is (from, to, kind).
    pub(super) fn tree(packages: Vec<Package>, edges: &[(&str, &str, Option<&str>)]) -> Metadata {
        let edge = |(_, to, kind): &(&str, &str, Option<&str>)| Dependency {
            pkg: (*to).into(),
            dep_kinds: vec![DependencyKind {
                kind: kind.map(str::to_owned),
            }],
        };
        let node = |package: &Package| Node {
            id: package.id.clone(),
            deps: edges
                .iter()
                .filter(|(from, _, _)| *from == package.id)
                .map(edge)
                .collect(),
        };
        let nodes = packages.iter().map(node).collect();
        let members = packages
            .iter()
            .filter(|package| package.source.is_none())
            .map(|package| package.id.clone());
        Metadata {
            workspace_members: members.collect(),
            resolve: Resolve { nodes },
            packages,
        }
    }

    #[test]
    fn a_banned_crate_is_named_with_the_reason() {
        let bans = [Ban {
            name: "openssl-sys".into(),
            reason: "needs a system library".into(),
        }];
        let packages = vec![
            package("openssl-sys", None, Some(DEFAULT_REGISTRY)),
            package("bytes", None, None),
        ];
        assert_eq!(
            banned(&bans, &tree(packages, &[])),
            ["openssl-sys 1.0.0 is banned: needs a system library"]
        );
    }

    #[test]
    fn crates_come_from_the_default_registry_or_the_workspace() {
        let elsewhere = Some("git+https://example.org/x");
        let mut metadata = tree(
            vec![
                package("a", None, Some(DEFAULT_REGISTRY)),
                package("b", None, elsewhere),
                package("c", None, None),
            ],
            &[],
        );
        assert_eq!(sources(&metadata).len(), 1, "{:?}", sources(&metadata));
        metadata.workspace_members.clear();
        assert_eq!(sources(&metadata).len(), 2, "{:?}", sources(&metadata));
    }

    #[test]
    fn two_versions_of_a_crate_are_reported() {
        let mut newer = package("syn", None, None);
        newer.version = "2.0.0".into();
        let metadata = tree(
            vec![package("syn", None, None), newer, package("bytes", None, None)],
            &[],
        );
        assert_eq!(duplicates(&metadata), ["syn in 2 versions: {\"1.0.0\", \"2.0.0\"}"]);
    }
}
