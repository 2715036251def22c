//! The docker engine, by its command line: what is asked of it, and what it says when it cannot.
//!
//! The client and compose (the plugin, or docker-compose 1.29) are the only way to it. Every call has a deadline, for an engine that hangs is no reason to hang, too.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use thiserror::Error;
use tokio::process::Command;

/// Creating and removing a whole cluster takes its time on a loaded machine.
const ANSWERS_WITHIN: Duration = Duration::from_secs(120);
/// The engine's own address, if nobody names another one.
const LOCAL: &str = "unix://";

/// Why there is no cluster of containers.
#[derive(Debug, Error)]
pub enum DockerError {
    /// There is no client.
    #[error("there is no docker on the path: install its client and engine (Debian: docker.io)")]
    NoClient,
    /// Nobody answers.
    #[error("the docker engine does not answer: start it, or name its socket in DOCKER_HOST ({0})")]
    NoEngine(String),
    /// The engine is on another machine.
    #[error(
        "DOCKER_HOST names an engine on another machine ({0}): containers are reached by their addresses, so it must be this one"
    )]
    Elsewhere(String),
    /// There is no compose.
    #[error("there is no compose: install docker's plugin for it, or docker-compose 1.29 or newer")]
    NoCompose,
    /// An image is missing.
    #[error("the engine has no image {0}: {1}")]
    NoImage(String, &'static str),
    /// It did not do what it was told.
    #[error("{command}: {reason}")]
    Refused {
        /// As one would type it.
        command: String,
        /// Its own words.
        reason: String,
    },
    /// It did not answer in time.
    #[error("{command}: no answer within {} s: look at the engine's log", ANSWERS_WITHIN.as_secs())]
    Silent {
        /// As one would type it.
        command: String,
    },
}

type Answer<T> = Result<T, DockerError>;

/// An engine that answers.
#[derive(Clone, Debug)]
pub struct Engine {
    /// How compose is called.
    compose: Vec<String>,
}

impl Engine {
    /// Finds it.
    ///
    /// # Errors
    /// What is missing.
    pub async fn find() -> Answer<Self> {
        let host = std::env::var("DOCKER_HOST").unwrap_or_default();
        if !host.is_empty() && !host.starts_with(LOCAL) {
            return Err(DockerError::Elsewhere(host));
        }
        if !super::on_path("docker") {
            return Err(DockerError::NoClient);
        }
        match call("docker", &["version", "--format", "{{.Server.Version}}"]).await {
            Ok(_) => {}
            Err(DockerError::Refused { reason, .. }) => return Err(DockerError::NoEngine(reason)),
            Err(other) => return Err(other),
        }
        for compose in [&["docker", "compose"][..], &["docker-compose"]] {
            let words = [&compose[1..], &["version"]].concat();
            if super::on_path(compose[0]) && call(compose[0], &words).await.is_ok() {
                let compose = compose.iter().map(|word| (*word).to_owned()).collect();
                return Ok(Self { compose });
            }
        }
        Err(DockerError::NoCompose)
    }

    /// Runs the client; what it printed.
    ///
    /// # Errors
    /// Its own words.
    pub async fn docker(&self, words: &[&str]) -> Answer<String> {
        call("docker", words).await
    }

    /// Runs compose on a file.
    ///
    /// # Errors
    /// Its own words.
    pub async fn compose(&self, project: &str, file: &Path, words: &[&str]) -> Answer<String> {
        let file = file.display().to_string();
        let before: Vec<&str> = self.compose[1..].iter().map(String::as_str).collect();
        let words = [&before[..], &["--project-name", project, "--file", &file], words].concat();
        call(&self.compose[0], &words).await
    }

    /// Whether the engine has an image.
    ///
    /// # Errors
    /// It has not.
    pub async fn has_image(&self, image: &str, how: &'static str) -> Answer<()> {
        match self.docker(&["image", "inspect", "--format", "{{.Id}}", image]).await {
            Ok(_) => Ok(()),
            Err(DockerError::Refused { .. }) => Err(DockerError::NoImage(image.to_owned(), how)),
            Err(other) => Err(other),
        }
    }

    /// Lines that the client printed.
    ///
    /// # Errors
    /// Its own words.
    pub async fn lines(&self, words: &[&str]) -> Answer<Vec<String>> {
        let said = self.docker(words).await?;
        Ok(said
            .lines()
            .map(str::to_owned)
            .filter(|line| !line.is_empty())
            .collect())
    }
}

/// Runs a program that must succeed; what it printed.
pub(super) async fn call(program: &str, words: &[&str]) -> Answer<String> {
    let shown = || format!("{program} {}", words.join(" "));
    let refused = |reason: String| DockerError::Refused {
        command: shown(),
        reason,
    };
    let running = Command::new(program)
        .args(words)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        // Ctrl-C is for this command, which ends the cluster itself.
        .process_group(0)
        .kill_on_drop(true)
        .output();
    let output = match tokio::time::timeout(ANSWERS_WITHIN, running).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(refused(error.to_string())),
        Err(_) => return Err(DockerError::Silent { command: shown() }),
    };
    match output.status.success() {
        true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
        false => Err(refused(String::from_utf8_lossy(&output.stderr).trim().to_owned())),
    }
}

/// Whether the system has a program.
pub(super) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|folder: PathBuf| folder.join(program))
        .any(|program| program.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_a_program_cannot_do_is_told_with_its_words() {
        assert_eq!(call("echo", &["a", "b"]).await.unwrap(), "a b\n");
        let error = call("ls", &["/no/such/folder"]).await.unwrap_err();
        assert!(
            error.to_string().starts_with("ls /no/such/folder: ") && error.to_string().contains("No such file"),
            "{error}"
        );
        assert!(matches!(
            call("no-such-program", &[]).await.unwrap_err(),
            DockerError::Refused { .. }
        ));
        assert!(on_path("ls") && !on_path("no-such-program"));
    }

    #[test]
    fn errors_say_what_to_do() {
        let missing = DockerError::NoImage("fulcrum:0.1.0".to_owned(), "`cargo xtask image` builds it");
        assert_eq!(
            missing.to_string(),
            "the engine has no image fulcrum:0.1.0: `cargo xtask image` builds it"
        );
        assert!(DockerError::NoClient.to_string().contains("install"));
        assert!(
            DockerError::NoEngine("refused".to_owned())
                .to_string()
                .contains("start it")
        );
    }
}
