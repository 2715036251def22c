//! A cluster of its own for a command: ended when the command is done with it.

use std::path::PathBuf;

use anyhow::{Context, Result};

use super::{Ledger, UpArgs, down, up};

/// A cluster that is ended when this is dropped.
pub(crate) struct Cluster {
    folder: PathBuf,
    pub(crate) ledger: Ledger,
    pub(crate) programs: PathBuf,
    args: UpArgs,
}

impl Cluster {
    pub(crate) fn start(folder: PathBuf, args: UpArgs) -> Result<Self> {
        // What an interrupted run has left.
        down(&folder)?;
        let (ledger, programs) = up(&folder, &args)?;
        let args = UpArgs {
            programs: Some(programs.clone()),
            ..args
        };
        Ok(Self {
            folder,
            ledger,
            programs,
            args,
        })
    }

    /// Without warning.
    pub(crate) fn kill(&self, name: &str) -> Result<()> {
        let started = self
            .ledger
            .running(name)
            .with_context(|| format!("{name} does not run"))?;
        started.kill();
        Ok(())
    }

    /// Starts what was killed.
    pub(crate) fn repair(&mut self) -> Result<()> {
        (self.ledger, _) = up(&self.folder, &self.args)?;
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Err(error) = down(&self.folder) {
            eprintln!(
                "the cluster could not be ended: {error:#}; try `cargo xtask cluster --folder {} down`",
                self.folder.display()
            );
        }
    }
}
