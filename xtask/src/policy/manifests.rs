//! The root manifest is the one place for versions and lints: members say `workspace = true` and nothing else.

use std::path::Path;

use anyhow::{Context, Result};
use toml::{Table, Value};

use crate::workspace::Metadata;

const INHERITED: [&str; 5] = ["version", "edition", "rust-version", "license", "publish"];
const DEPENDENCIES: [&str; 3] = ["dependencies", "dev-dependencies", "build-dependencies"];

pub(super) fn check(root: &Path, metadata: &Metadata) -> Result<Vec<String>> {
    let mut found = wildcards(&read(&root.join("Cargo.toml"))?);
    for member in metadata.members() {
        let manifest = read(&member.manifest_path)?;
        found.extend(
            not_inherited(&manifest)
                .into_iter()
                .map(|what| format!("{}: {what}", member.name)),
        );
    }
    Ok(found)
}

fn read(path: &Path) -> Result<Table> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    toml::from_str(&text).with_context(|| format!("parse {}", path.display()))
}

fn wildcards(root: &Table) -> Vec<String> {
    let dependencies = root
        .get("workspace")
        .and_then(|workspace| workspace.get("dependencies"));
    let dependencies = dependencies.and_then(Value::as_table).into_iter().flatten();
    let version = |value: &Value| {
        value
            .as_str()
            .or_else(|| value.get("version")?.as_str())
            .map(str::to_owned)
    };
    dependencies
        .filter(|(_, value)| version(value).is_some_and(|version| version.contains('*')))
        .map(|(name, _)| format!("{name}: the root manifest allows any version; name one"))
        .collect()
}

fn not_inherited(manifest: &Table) -> Vec<String> {
    let mut found = Vec::new();
    let inherits = |value: Option<&Value>| {
        value
            .and_then(|value| value.get("workspace"))
            .and_then(Value::as_bool)
            .unwrap_or(false)
    };
    for key in INHERITED {
        if !inherits(manifest.get("package").and_then(|package| package.get(key))) {
            found.push(format!("package.{key} does not come from the workspace"));
        }
    }
    if !inherits(manifest.get("lints")) {
        found.push("lints do not come from the workspace".into());
    }
    let per_target = manifest.get("target").and_then(Value::as_table).into_iter().flatten();
    let sections = per_target
        .filter_map(|(_, section)| section.as_table())
        .chain([manifest]);
    for section in sections {
        let tables = DEPENDENCIES.iter().filter_map(|name| section.get(*name)?.as_table());
        for (name, value) in tables.flatten() {
            if !inherits(Some(value)) {
                found.push(format!("the version of {name} is not the workspace's"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "[package]\nname = \"a\"\nversion.workspace = true\nedition.workspace = true\n\
        rust-version.workspace = true\nlicense.workspace = true\npublish.workspace = true\n\
        [lints]\nworkspace = true\n[dependencies]\nbytes = { workspace = true, features = [\"serde\"] }\n";

    fn problems(manifest: &str) -> Vec<String> {
        not_inherited(&toml::from_str(manifest).unwrap())
    }

    #[test]
    fn a_manifest_that_inherits_everything_passes() {
        assert_eq!(problems(GOOD), [""; 0]);
    }

    #[test]
    fn what_is_set_in_a_member_is_named() {
        let planted = GOOD.replace("version.workspace = true\nedition", "version = \"0.1.0\"\nedition");
        assert_eq!(problems(&planted), ["package.version does not come from the workspace"]);
        assert_eq!(
            problems(&GOOD.replace("[lints]\nworkspace = true\n", "")),
            ["lints do not come from the workspace"]
        );
        for section in [
            "dev-dependencies",
            "build-dependencies",
            "target.'cfg(unix)'.dependencies",
        ] {
            let planted = format!("{GOOD}[{section}]\nrand = \"0.9\"\n");
            assert_eq!(
                problems(&planted),
                ["the version of rand is not the workspace's"],
                "{section}"
            );
        }
    }

    #[test]
    fn a_version_that_means_any_is_refused() {
        let root: Table =
            toml::from_str("[workspace.dependencies]\na = \"*\"\nb = { version = \"*\" }\nc = \"1\"").unwrap();
        assert_eq!(wildcards(&root).len(), 2);
    }
}
