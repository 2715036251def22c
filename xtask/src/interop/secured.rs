//! A second cluster beside the first, in which everything is encrypted and nobody does anything without a certificate and a token.
//!
//! It is small (a shard-node and a router, over the etcd of the first, under a name of its own): what is tested here is the door. Its tests
//! find where it is, the certificates, those of a stranger, and the root token in the environment.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::cluster::patience::until;
use crate::http;
use crate::package::succeeds;
use crate::process::{Background, output_of};

const CLUSTER: &str = "secured";
const READY_WITHIN: Duration = Duration::from_secs(30);
const PROBE_WITHIN: Duration = Duration::from_secs(1);
const MAX_ANSWER_BYTES: u64 = 64 * 1024;
/// Above all ports of the first cluster.
const PORTS_AT: u16 = 180;

/// Two processes, which are killed with this: nobody needs their data any more.
pub(super) struct Secured {
    folder: PathBuf,
    router: String,
    root_token: String,
    running: Vec<Background>,
}

impl Secured {
    /// Makes certificates and secrets anew, starts both processes, and waits until they are ready.
    ///
    /// # Errors
    /// What could not be made or started.
    pub(super) fn start(folder: PathBuf, programs: &Path, etcd: &str, base_port: u16) -> Result<Self> {
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
        }
        std::fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let fulcrum = || Command::new(programs.join("fulcrum"));
        for name in ["certs", "strangers"] {
            succeeds(fulcrum().args(["cert", "dev", "--dir"]).arg(folder.join(name)))?;
        }
        let secret = |kind: &str| -> Result<String> {
            let text = output_of(fulcrum().args(["token", "generate", kind]))?;
            Ok(String::from_utf8_lossy(&text).into_owned())
        };
        let (internal, root_token) = (secret("internal")?, secret("root")?);
        let write = |name: &str, text: &str| -> Result<PathBuf> {
            let path = folder.join(name);
            std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(path)
        };
        let settings = format!(
            "[auth]\nrequired = true\ninternal_secret_file = {:?}\nroot_token_file = {:?}\n",
            write("internal-secret", &internal)?,
            write("root-token", &root_token)?,
        );
        let settings = write("settings.toml", &settings)?;
        let port = base_port + PORTS_AT;
        let mut secured = Self {
            router: format!("127.0.0.1:{}", port + 1),
            root_token: root_token.trim().to_owned(),
            folder,
            running: Vec::new(),
        };
        let node = secured.folder.join("node-1");
        let node = [
            "--node",
            "1",
            "--data-dir",
            node.to_str().context("a path that is no text")?,
        ];
        for (program, port, own) in [
            ("fulcrum-shard-node", port, &node[..]),
            ("fulcrum-router", port + 1, &[]),
        ] {
            println!("starting {program}, encrypted");
            let mut command = Command::new(programs.join(program));
            command.args(["--etcd", etcd, "--cluster-id", CLUSTER]).args(own);
            command.args(["--listen", &format!("127.0.0.1:{port}")]);
            command.args(["--metrics-listen", &metrics(port)]);
            command.arg("--config").arg(&settings);
            secured.spawn(command, program, port)?;
        }
        Ok(secured)
    }

    fn spawn(&mut self, mut command: Command, name: &str, port: u16) -> Result<()> {
        for (flag, file) in [
            ("--tls-ca", "ca.pem"),
            ("--tls-cert", "service.pem"),
            ("--tls-key", "service.key"),
        ] {
            command.arg(flag).arg(self.certificates().join(file));
        }
        let path = self.folder.join(format!("{name}.log"));
        let log = File::create(&path).with_context(|| format!("make {}", path.display()))?;
        command.stdout(log.try_clone()?).stderr(log);
        let mut started = Background::start(&mut command)?;
        let ready = until(READY_WITHIN, || {
            let answer = http::get(&metrics(port), "/readyz", PROBE_WITHIN, MAX_ANSWER_BYTES);
            let ready = answer.is_ok_and(|answer| answer.is_ok());
            let has_ended = !matches!(started.ended(), Ok(None));
            (ready || has_ended).then_some(ready)
        });
        self.running.push(started);
        if ready != Some(true) {
            bail!("{name} is not ready; look into {}", path.display());
        }
        Ok(())
    }

    /// Of the cluster's own authority.
    pub(super) fn certificates(&self) -> PathBuf {
        self.folder.join("certs")
    }

    /// Where it is, and what opens it.
    pub(super) fn describe(&self, command: &mut Command) {
        command
            .env("FULCRUM_SECURED_ROUTER", &self.router)
            .env("FULCRUM_CERTS", self.certificates())
            .env("FULCRUM_STRANGERS", self.folder.join("strangers"))
            .env("FULCRUM_ROOT_TOKEN", &self.root_token);
    }
}

fn metrics(port: u16) -> String {
    format!("127.0.0.1:{}", port + 10)
}
