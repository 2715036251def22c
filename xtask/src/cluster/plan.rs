//! Who is in a cluster, at which port, and how it is called.

use std::path::Path;

use serde::{Deserialize, Serialize};

pub(crate) const MAX_NODES: u16 = 40;
pub(crate) const MAX_ROUTERS: u16 = 10;
/// The first router is where `fulcrum` looks by itself.
pub(crate) const FULCRUM_LOOKS_AT: u16 = 7400;

const NODES_AT: u16 = 10;
const COORDINATOR_AT: u16 = 60;
const ETCD_AT: u16 = 70;
const ETCD_PEERS_AT: u16 = 71;
const METRICS_AT: u16 = 100;
pub(crate) const CLUSTER: &str = "local";

/// The shape of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) nodes: u16,
    pub(crate) routers: u16,
    pub(crate) base_port: u16,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            nodes: 3,
            routers: 1,
            base_port: FULCRUM_LOOKS_AT,
        }
    }
}

/// What a process is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    Etcd,
    Node,
    Router,
    Coordinator,
}

impl Role {
    pub(crate) fn program(self) -> &'static str {
        match self {
            Role::Etcd => "etcd",
            Role::Node => "fulcrum-shard-node",
            Role::Router => "fulcrum-router",
            Role::Coordinator => "fulcrum-coordinator",
        }
    }
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) name: String,
    pub(crate) role: Role,
    /// Its number among those of its role.
    number: u16,
    port: u16,
}

impl Plan {
    /// All of them, in the order in which they start.
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> + use<> {
        let base = self.base_port;
        let member = move |role, name: String, number, at| Member {
            name,
            role,
            number,
            port: base + at,
        };
        let etcd = [member(Role::Etcd, "etcd".to_owned(), 1, ETCD_AT)];
        let nodes = (1..=self.nodes).map(move |n| member(Role::Node, format!("node-{n}"), n, NODES_AT + n));
        let routers = (1..=self.routers).map(move |n| member(Role::Router, format!("router-{n}"), n, n - 1));
        let coordinator = [member(Role::Coordinator, "coordinator".to_owned(), 1, COORDINATOR_AT)];
        etcd.into_iter().chain(nodes).chain(routers).chain(coordinator)
    }
}

impl Member {
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    fn metrics_address(&self) -> String {
        match self.role {
            Role::Etcd => self.address(),
            _ => format!("127.0.0.1:{}", self.port + METRICS_AT),
        }
    }

    /// What is scraped.
    pub(crate) fn metrics(&self) -> String {
        format!("http://{}/metrics", self.metrics_address())
    }

    /// What it is started with; its data goes into `data`.
    pub(crate) fn arguments(&self, plan: &Plan, data: &Path) -> Vec<String> {
        let own = data.join(&self.name).display().to_string();
        if self.role == Role::Etcd {
            return self.etcd_arguments(plan, own);
        }
        let etcd = format!("http://127.0.0.1:{}", plan.base_port + ETCD_AT);
        let mut arguments = flags([
            ("--etcd", etcd),
            ("--cluster-id", CLUSTER.to_owned()),
            ("--listen", self.address()),
            ("--metrics-listen", self.metrics_address()),
        ]);
        if self.role == Role::Node {
            arguments.extend(flags([
                ("--node", self.number.to_string()),
                ("--zone", format!("zone-{}", self.number)),
                ("--data-dir", own),
            ]));
        }
        arguments
    }

    fn etcd_arguments(&self, plan: &Plan, data: String) -> Vec<String> {
        let clients = format!("http://{}", self.address());
        let peers = format!("http://127.0.0.1:{}", plan.base_port + ETCD_PEERS_AT);
        flags([
            ("--name", CLUSTER.to_owned()),
            ("--data-dir", data),
            ("--initial-cluster", format!("{CLUSTER}={peers}")),
            ("--listen-client-urls", clients.clone()),
            ("--advertise-client-urls", clients),
            ("--listen-peer-urls", peers.clone()),
            ("--initial-advertise-peer-urls", peers),
        ])
    }
}

fn flags<const N: usize>(flags: [(&str, String); N]) -> Vec<String> {
    flags
        .into_iter()
        .flat_map(|(flag, value)| [flag.to_owned(), value])
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_largest_cluster_uses_no_port_twice_and_stays_within_200_of_the_first() {
        let plan = Plan {
            nodes: MAX_NODES,
            routers: MAX_ROUTERS,
            base_port: 60_000,
        };
        let members: Vec<Member> = plan.members().collect();
        let mut ports: Vec<u16> = members.iter().map(|member| member.port).collect();
        ports.push(plan.base_port + ETCD_PEERS_AT);
        let own_metrics = members.iter().filter(|member| member.role != Role::Etcd);
        ports.extend(own_metrics.map(|member| member.port + METRICS_AT));
        assert_eq!(ports.iter().collect::<BTreeSet<_>>().len(), ports.len());
        assert!(ports.iter().all(|port| (60_000..=60_200).contains(port)), "{ports:?}");
    }
}
