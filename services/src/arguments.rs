//! The command lines, as `--help` shows them. A flag goes over every other source of the same setting.

use clap::{Args, Parser};
use fulcrum_common::config::Overrides;
use std::net::SocketAddr;
use std::path::PathBuf;

/// What all processes say at the end of `--help`.
const SETTINGS: &str = "\
Settings come from defaults, then the file of --config (TOML), then the environment, then flags; the later wins.
A setting `section.key` is FULCRUM__SECTION__KEY in the environment: FULCRUM__ETCD__ENDPOINTS, FULCRUM__ETCD__PASSWORD.
An unknown setting is refused by its name. docs/operations.md lists them all.

Once it serves, the process prints one line of JSON to standard output; logs go to standard error.
SIGTERM or Ctrl-C stop it in good order, a second one at once.

Exit codes:
  0  stopped in good order
  1  cannot start or go on; the last line says why
  2  wrong usage or settings";

/// A shard-node of a cluster: stores, replicates and serves the replicas of many groups.
#[derive(Debug, Parser)]
#[command(name = "fulcrum-shard-node", version, after_help = SETTINGS)]
pub struct ShardNodeArguments {
    /// This node's number in the cluster, the same in every life: 1 or more
    #[arg(long, value_name = "N")]
    pub node: Option<u64>,
    /// Directory of its data; refused if it is another node's or another cluster's
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where clients, routers and other nodes connect; port 0: any free one [default: 127.0.0.1:7401]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// The address that others are told, if it is not that of --listen
    #[arg(long, value_name = "HOST:PORT")]
    pub advertise: Option<String>,
    /// Its failure zone: replicas of a group are kept in different ones
    #[arg(long, value_name = "NAME")]
    pub zone: Option<String>,
    /// What all processes take.
    #[command(flatten)]
    pub shared: Shared,
}

/// A router of a cluster: the stateless front door that clients connect to.
#[derive(Debug, Parser)]
#[command(name = "fulcrum-router", version, after_help = SETTINGS)]
pub struct RouterArguments {
    /// Where clients connect; port 0: any free one [default: 127.0.0.1:7400]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// What all processes take.
    #[command(flatten)]
    pub shared: Shared,
}

/// A coordinator of a cluster: serves transactions and nothing else, as every router does in its own process, too.
#[derive(Debug, Parser)]
#[command(name = "fulcrum-coordinator", version, after_help = SETTINGS)]
pub struct CoordinatorArguments {
    /// Where clients connect; port 0: any free one [default: 127.0.0.1:7450]
    #[arg(long, value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// What all processes take.
    #[command(flatten)]
    pub shared: Shared,
}

/// What all processes take.
#[derive(Debug, Args)]
pub struct Shared {
    /// File with settings (TOML)
    #[arg(long, env = "FULCRUM_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name of the cluster; the first process that names it founds it [default: fulcrum]
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// etcd's endpoints, separated by commas [default: http://127.0.0.1:2379]
    #[arg(long, value_name = "URLS")]
    pub etcd: Option<String>,
    /// Where /metrics, /healthz and /readyz are served; nowhere without it
    #[arg(long, value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,
    /// Listen where other machines can connect, without encryption
    #[arg(long)]
    pub insecure_listen: bool,
    /// Certificate of this process (PEM): encrypts all connections, together with --tls-key and --tls-ca
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Its key (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// The authority that signs for all processes and clients (PEM)
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// Which events are logged: `info`, or by module as in `info,fulcrum_router=debug`
    #[arg(long, value_name = "FILTER")]
    pub log: Option<String>,
    /// How they are logged: `human` or `json`
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

impl Shared {
    /// As settings; those of the service itself are in `section`, the cluster's name is where `cluster_id` says.
    fn overrides(&self, section: &str, cluster_id: &str) -> Overrides {
        let insecure = self.insecure_listen.then_some(true);
        let file = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        Overrides::default()
            .set(cluster_id, self.cluster_id.as_ref())
            .set("etcd.endpoints", self.etcd.as_ref())
            .set(&format!("{section}.metrics_listen"), self.metrics_listen)
            .set(&format!("{section}.insecure_listen"), insecure)
            .set("tls.cert", file(&self.tls_cert))
            .set("tls.key", file(&self.tls_key))
            .set("tls.ca", file(&self.tls_ca))
            .set("telemetry.filter", self.log.as_ref())
            .set("telemetry.format", self.log_format.as_ref())
    }
}

impl ShardNodeArguments {
    /// As settings.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        self.shared
            .overrides("shard_node", "shard_node.cluster_id")
            .set("shard_node.node", self.node)
            .set("shard_node.data_dir", self.data_dir.as_ref().map(|path| path.display()))
            .set("shard_node.listen", self.listen)
            .set("shard_node.advertise", self.advertise.as_ref())
            .set("shard_node.zone", self.zone.as_ref())
    }
}

impl RouterArguments {
    /// As settings.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        self.shared
            .overrides("router", "cluster_id")
            .set("router.listen", self.listen)
    }
}

impl CoordinatorArguments {
    /// As settings.
    #[must_use]
    pub fn overrides(&self) -> Overrides {
        self.shared
            .overrides("coordinator", "cluster_id")
            .set("coordinator.listen", self.listen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_lines_are_consistent() {
        ShardNodeArguments::command().debug_assert();
        RouterArguments::command().debug_assert();
        CoordinatorArguments::command().debug_assert();
    }
}
