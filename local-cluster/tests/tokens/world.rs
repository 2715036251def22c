//! A cluster in which tokens are required, and clients that show what they are told to show.

use fulcrum_client::{Client, Config, Grant, KeyspaceSpec, Token};
use fulcrum_common::audit::AuditConfig;
use fulcrum_common::auth::AuthConfig;
use fulcrum_common::auth::text::{INTERNAL, ROOT, Secret};
use fulcrum_common::wire::v1;
use fulcrum_common::wire::v1::admin_client::AdminClient;
use fulcrum_common::wire::v1::backup_client::BackupClient;
use fulcrum_common::wire::v1::kv_client::KvClient;
use fulcrum_common::wire::v1::transactions_client::TransactionsClient;
use fulcrum_local_cluster::{LocalCluster, LocalClusterOptions, MetricsPorts};
use fulcrum_types::{NodeId, TransactionId};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Channel;
use tonic::{Request, Status};

/// Generous: a loaded machine is no bug.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Shows a header, or none.
#[derive(Clone)]
pub struct Shows(pub Option<String>);

impl Interceptor for Shows {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(shown) = &self.0 {
            request.metadata_mut().insert("authorization", shown.parse().unwrap());
        }
        request.set_timeout(PATIENCE);
        Ok(request)
    }
}

pub type Shown = InterceptedService<Channel, Shows>;

/// What shows a header at an address.
pub fn channel(address: SocketAddr, shown: Option<&str>) -> Shown {
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    InterceptedService::new(endpoint.connect_lazy(), Shows(shown.map(str::to_owned)))
}

/// The clients of one token.
#[derive(Clone)]
pub struct Calls {
    pub kv: KvClient<Shown>,
    pub transactions: TransactionsClient<Shown>,
    pub admin: AdminClient<Shown>,
    pub backup: BackupClient<Shown>,
}

pub struct World {
    pub folder: TempDir,
    pub cluster: LocalCluster,
    pub root: String,
}

fn secret(folder: &Path, id: &str) -> (PathBuf, String) {
    let text = Secret::random().unwrap().to_text(id);
    let path = folder.join(id);
    std::fs::write(&path, &text).unwrap();
    (path, text)
}

impl World {
    /// With keyspaces `a` and `b`.
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (root_token_file, root) = secret(folder.path(), ROOT);
        let (internal_secret_file, _) = secret(folder.path(), INTERNAL);
        let options = LocalClusterOptions {
            auth: AuthConfig {
                required: true,
                root_token_file: Some(root_token_file),
                internal_secret_file: Some(internal_secret_file),
            },
            audit: AuditConfig {
                file: Some(folder.path().join("audit")),
                ..AuditConfig::default()
            },
            metrics: MetricsPorts::Any,
            data_dir: Some(folder.path().join("data")),
            ..LocalClusterOptions::default()
        };
        let world = Self {
            cluster: LocalCluster::start(options).await.unwrap(),
            folder,
            root,
        };
        let spec = KeyspaceSpec {
            groups: Some(2),
            ..KeyspaceSpec::default()
        };
        let root = world.client(&world.root).await;
        for keyspace in ["a", "b"] {
            root.admin().create_keyspace(keyspace, spec.clone()).await.unwrap();
            root.keyspace(keyspace).put("k", "v").within(PATIENCE).await.unwrap();
        }
        world
    }

    pub fn router(&self) -> SocketAddr {
        self.cluster.router_address()
    }

    pub fn node(&self) -> SocketAddr {
        self.cluster.node_address(NodeId(1)).unwrap()
    }

    pub async fn client(&self, token: &str) -> Client {
        let config = Config::new(self.router().to_string()).token(Token::new(token).unwrap());
        Client::connect(config).await.unwrap()
    }

    /// A new token with these rights.
    pub async fn token(&self, name: &str, rights: &[&str]) -> String {
        self.expiring(name, rights, None).await
    }

    pub async fn expiring(&self, name: &str, rights: &[&str], expires: Option<Duration>) -> String {
        let rights: Vec<Grant> = rights.iter().map(|right| right.parse().unwrap()).collect();
        let admin = self.client(&self.root).await.admin();
        admin.create_token(name, &rights, expires).await.unwrap().text
    }

    pub fn calls(&self, at: SocketAddr, token: &str) -> Calls {
        let channel = channel(at, Some(&format!("Bearer {token}")));
        Calls {
            kv: KvClient::new(channel.clone()),
            transactions: TransactionsClient::new(channel.clone()),
            admin: AdminClient::new(channel.clone()),
            backup: BackupClient::new(channel),
        }
    }

    /// All lines of the audit log.
    pub fn audit(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("audit")).unwrap()
    }
}

pub fn get(keyspace: &str) -> v1::GetRequest {
    v1::GetRequest {
        keyspace: keyspace.into(),
        key: "k".into(),
        options: None,
    }
}

pub fn put(keyspace: &str) -> v1::PutRequest {
    v1::PutRequest {
        keyspace: keyspace.into(),
        key: "k".into(),
        value: "v".into(),
        ..v1::PutRequest::default()
    }
}

/// That the key has a value.
pub fn condition() -> v1::Condition {
    v1::Condition {
        must: Some(v1::condition::Must::Exists(v1::condition::Exists {})),
    }
}

pub fn write(condition: Option<v1::Condition>) -> v1::Write {
    v1::Write {
        key: "k".into(),
        condition,
        mutation: Some(v1::write::Mutation::Delete(v1::write::Delete {})),
    }
}

/// A transaction that reads in some keyspaces and writes in others.
pub fn commit(id: TransactionId, reads: &[&str], writes: &[&str]) -> v1::CommitRequest {
    let read = |keyspace: &&str| v1::commit_request::CheckedRead {
        keyspace: (*keyspace).into(),
        key: "other".into(),
        ..Default::default()
    };
    let write = |keyspace: &&str| v1::commit_request::KeyWrite {
        keyspace: (*keyspace).into(),
        write: Some(write(None)),
    };
    v1::CommitRequest {
        id: Some(id.into()),
        first_attempt: Some(id.into()),
        reads: reads.iter().map(read).collect(),
        writes: writes.iter().map(write).collect(),
        ..v1::CommitRequest::default()
    }
}

pub fn scan(keyspace: &str) -> v1::ScanRequest {
    v1::ScanRequest {
        keyspace: keyspace.into(),
        ..v1::ScanRequest::default()
    }
}

pub fn watch(keyspace: &str) -> v1::WatchRequest {
    v1::WatchRequest {
        keyspace: keyspace.into(),
        ..v1::WatchRequest::default()
    }
}

pub fn batch(keyspace: &str, condition: Option<v1::Condition>) -> v1::BatchWriteRequest {
    v1::BatchWriteRequest {
        keyspace: keyspace.into(),
        writes: vec![write(condition)],
        ..v1::BatchWriteRequest::default()
    }
}
