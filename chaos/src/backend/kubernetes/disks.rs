//! The volumes of nodes, as files of the machine that they are on.

use super::command::{Release, inside};
use anyhow::{Context, Result, bail};
use serde_json::Value;

/// A node's volume.
#[derive(Clone, Debug)]
pub(super) struct Volume {
    machine: String,
    path: String,
}

impl Volume {
    /// The one of this node, by its claim.
    pub(super) async fn of(release: &Release, claim: &str) -> Result<Self> {
        let volume = release
            .kubectl(&["get", "pvc", claim, "--output", "jsonpath={.spec.volumeName}"])
            .await?;
        let said = release
            .kubectl(&["get", "pv", volume.trim(), "--output", "json"])
            .await?;
        read(&serde_json::from_str(&said).context("understand what kubectl says of a volume")?)
    }

    /// Removes all that is in it.
    pub(super) async fn empty(&self) -> Result<()> {
        let line = r#"find "$1" -mindepth 1 -delete && [ -z "$(ls -A "$1")" ]"#;
        inside(&self.machine, line, &[&self.path]).await.map(drop)
    }

    /// Puts a file in it, in the place of one of that name.
    pub(super) async fn put(&self, name: &str, text: &str) -> Result<()> {
        let line = r#"printf '%s' "$3" >"$1/$2.new" && mv "$1/$2.new" "$1/$2""#;
        inside(&self.machine, line, &[&self.path, name, text]).await.map(drop)
    }

    /// Reads one.
    pub(super) async fn take(&self, name: &str) -> Result<String> {
        inside(&self.machine, r#"cat "$1/$2""#, &[&self.path, name]).await
    }
}

/// Volumes that are directories of one machine: local ones, and those of kind's provisioner.
fn read(volume: &Value) -> Result<Volume> {
    let spec = &volume["spec"];
    let path = [&spec["local"]["path"], &spec["hostPath"]["path"]]
        .into_iter()
        .find_map(Value::as_str);
    let machine = spec["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"][0].as_str();
    match (path, machine) {
        (Some(path), Some(machine)) if path.len() > 1 => Ok(Volume {
            machine: machine.to_owned(),
            path: path.to_owned(),
        }),
        _ => bail!("the volume {} is no directory of a machine", volume["metadata"]["name"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_directories_of_a_machine_are_touched() {
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchExpressions": [{"values": ["m1"]}]}]}});
        let volume = |spec: Value| read(&json!({"metadata": {"name": "v"}, "spec": spec}));
        let local = volume(json!({"local": {"path": "/var/local/1"}, "nodeAffinity": affinity})).unwrap();
        assert_eq!((local.machine.as_str(), local.path.as_str()), ("m1", "/var/local/1"));
        assert!(volume(json!({"hostPath": {"path": "/var/1"}, "nodeAffinity": affinity})).is_ok());
        assert!(volume(json!({"local": {"path": "/"}, "nodeAffinity": affinity})).is_err());
        assert!(volume(json!({"csi": {"driver": "x"}})).is_err());
    }
}
