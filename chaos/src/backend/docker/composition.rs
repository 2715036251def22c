//! The compose file of a cluster: for each member a machine, and a process on it.
//!
//! A *machine* is a container that sleeps: it holds the member's name, address and network, and its small disk if it shall have one. The member's
//! own container lives in the machine's network, as containers of a pod do. So what happens to a process does not happen to its machine: when
//! it is killed the address stays, its kernel answers for a while, a link that is cut stays cut, and a full disk stays full.
//!
//! Everything else is as in `deploy/compose.yaml`: a user without rights, a read-only root, no capabilities, volumes for data. Nothing is published: the
//! command reaches members by their addresses. The file is JSON, which is YAML.

use super::super::Member;
use super::{METRICS_PORT, SERVICE_PORT, Setup};
use serde_json::{Map, Value, json};
use std::path::Path;

/// On everything that belongs to a cluster; its value is the cluster's folder, whose lock says whether it is still somebody's.
pub(super) const LABEL: &str = "fulcrum.chaos";
pub(super) const DATA: &str = "/var/lib/fulcrum";
const ETCD_DATA: &str = "/var/lib/etcd";
const FAILPOINTS: &str = "/run/fulcrum-failpoints";
const CLUSTER: &str = "chaos";
/// Enough for the engine's journals and a run's data.
const SMALL_DISK: &str = "size=256m,uid=10001,gid=10001,mode=0755";

/// The name of a member's container, or of its machine's.
pub(super) fn container(project: &str, service: &str) -> String {
    format!("{project}-{service}")
}

/// The service that is a member's machine.
pub(super) fn machine(member: Member) -> String {
    format!("{member}-machine")
}

/// The volume with a member's data; routers have none.
pub(super) fn volume(project: &str, member: Member) -> String {
    format!("{project}-{member}")
}

/// The file.
pub(super) fn document(setup: &Setup, project: &str, folder: &Path, failpoints: &Path) -> Value {
    let label = json!({LABEL: folder});
    let mut services = Map::new();
    let mut volumes = Map::new();
    for member in super::all(setup) {
        let machine_name = machine(member);
        let mut machine = service(setup.image.as_str(), project, &machine_name, &label);
        machine["command"] = json!(["sleep", "infinity"]);
        machine["stop_signal"] = json!("SIGKILL");
        machine["hostname"] = json!(member.to_string());
        machine["networks"] = json!({"cluster": {"aliases": [member.to_string()]}});
        let image = match member {
            Member::Etcd => &setup.etcd_image,
            Member::Node(_) | Member::Router(_) => &setup.image,
        };
        let mut process = service(image, project, &member.to_string(), &label);
        process["command"] = json!(command(member));
        process["network_mode"] = json!(format!("service:{machine_name}"));
        process["depends_on"] = json!([machine_name]);
        if !matches!(member, Member::Router(_)) {
            let mut disk = json!({"name": volume(project, member), "labels": label});
            let mut mounts = vec![format!("{member}:{}", data(member))];
            if setup.small_disks && matches!(member, Member::Node(_)) {
                disk["driver"] = json!("local");
                disk["driver_opts"] = json!({"type": "tmpfs", "device": "tmpfs", "o": SMALL_DISK});
                // What is in memory is there for as long as somebody has it mounted.
                machine["volumes"] = json!(mounts);
            }
            volumes.insert(member.to_string(), disk);
            if let Member::Node(_) = member {
                mounts.push(format!("{}:{FAILPOINTS}", failpoints.display()));
                process["environment"] = json!({"FULCRUM__SHARD_NODE__FAILPOINTS": format!("{FAILPOINTS}/{member}")});
            }
            process["volumes"] = json!(mounts);
        }
        services.insert(machine_name, machine);
        services.insert(member.to_string(), process);
    }
    json!({
        "version": "3.9",
        "services": services,
        "networks": {"cluster": {"name": format!("{project}-network"), "labels": label}},
        "volumes": volumes,
    })
}

fn service(image: &str, project: &str, name: &str, label: &Value) -> Value {
    json!({
        "image": image,
        "container_name": container(project, name),
        "labels": label,
        // Whoever is killed stays so until it is healed.
        "restart": "no",
        "read_only": true,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
    })
}

fn data(member: Member) -> &'static str {
    match member {
        Member::Etcd => ETCD_DATA,
        Member::Node(_) | Member::Router(_) => DATA,
    }
}

fn command(member: Member) -> Vec<String> {
    let service = format!("0.0.0.0:{SERVICE_PORT}");
    let metrics = format!("0.0.0.0:{METRICS_PORT}");
    let clients = format!("http://0.0.0.0:{SERVICE_PORT}");
    let etcd = format!("http://{}:{SERVICE_PORT}", Member::Etcd);
    let common = [
        "--etcd",
        &etcd,
        "--cluster-id",
        CLUSTER,
        "--listen",
        &service,
        "--metrics-listen",
        &metrics,
        "--insecure-listen",
    ];
    let words: Vec<String> = match member {
        Member::Etcd => [
            "etcd",
            "--name=etcd",
            "--data-dir=/var/lib/etcd/data",
            "--listen-client-urls",
            &clients,
            "--advertise-client-urls",
            &etcd,
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--initial-advertise-peer-urls=http://127.0.0.1:2380",
            "--initial-cluster=etcd=http://127.0.0.1:2380",
        ]
        .map(str::to_owned)
        .to_vec(),
        Member::Router(_) => [&["fulcrum-router"], &common[..]]
            .concat()
            .into_iter()
            .map(str::to_owned)
            .collect(),
        Member::Node(node) => {
            let (number, zone) = (node.0.to_string(), format!("zone-{}", node.0));
            let (data, advertise) = (format!("{DATA}/data"), format!("{member}:{SERVICE_PORT}"));
            let own = [
                "--node",
                &number,
                "--zone",
                &zone,
                "--data-dir",
                &data,
                "--advertise",
                &advertise,
            ];
            [&["fulcrum-shard-node"], &common[..], &own]
                .concat()
                .into_iter()
                .map(str::to_owned)
                .collect()
        }
    };
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(small_disks: bool) -> Value {
        let setup = Setup {
            nodes: 3,
            routers: 2,
            image: "fulcrum:1".to_owned(),
            etcd_image: "etcd:1".to_owned(),
            small_disks,
        };
        document(
            &setup,
            "fulcrum-chaos-7",
            Path::new("/folder"),
            Path::new("/folder/failpoints"),
        )
    }

    #[test]
    fn every_member_lives_on_a_machine_that_outlives_it_and_nobody_has_rights() {
        let made = made(false);
        let services = made["services"].as_object().unwrap();
        assert_eq!(services.len(), 2 * 6);
        for member in ["etcd", "node-1", "node-3", "router-2"] {
            let process = &services[member];
            assert_eq!(process["network_mode"], format!("service:{member}-machine"));
            assert_eq!(process["container_name"], format!("fulcrum-chaos-7-{member}"));
        }
        for service in services.values() {
            assert_eq!(service["read_only"], true);
            assert_eq!(service["cap_drop"], json!(["ALL"]));
            assert_eq!(service["labels"][LABEL], "/folder");
            assert!(service.get("ports").is_none());
        }
        assert_eq!(services["etcd"]["image"], "etcd:1");
        assert_eq!(made["volumes"].as_object().unwrap().len(), 4);
        assert!(
            services["node-1-machine"].get("volumes").is_none(),
            "its volume can be taken away"
        );
    }

    #[test]
    fn a_small_disk_is_held_by_its_machine() {
        let made = made(true);
        assert_eq!(
            made["services"]["node-2-machine"]["volumes"],
            json!(["node-2:/var/lib/fulcrum"])
        );
        assert_eq!(made["volumes"]["node-2"]["driver_opts"]["type"], "tmpfs");
        assert!(made["volumes"]["etcd"].get("driver_opts").is_none());
    }
}
