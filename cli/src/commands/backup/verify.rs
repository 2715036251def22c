//! `fulcrum backup verify`: everything in a backup is as it was written. Needs no cluster.

use super::{damaged, tell};
use crate::args::BackupVerifyArgs;
use crate::backup::{Manifest, check, check::manifest};
use crate::context::{Context, Ending};
use crate::exit::Failure;
use crate::progress::Progress;
use crate::render::{count, span};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Verifies one.
pub async fn run(context: &Context, args: &BackupVerifyArgs) -> Ending {
    let (manifest, took) = whole(&args.directory).await?;
    tell(context, &manifest, took, || {
        format!(
            "{} is whole: {} keys of {} keyspaces in {} files, checked in {}\n",
            args.directory.display(),
            count(manifest.keys()),
            manifest.keyspaces.len(),
            manifest.files().count(),
            span(took)
        )
    })
}

/// The manifest of a backup all of which was checked.
pub(super) async fn whole(folder: &Path) -> Result<(Manifest, Duration), Failure> {
    let manifest = manifest(folder).map_err(|problem| damaged(folder, &[problem]))?;
    let progress = Arc::new(Progress::start("verify", Some(manifest.keys())));
    let (shown, of) = (Arc::clone(&progress), folder.to_owned());
    let checked = tokio::task::spawn_blocking(move || check(&of, manifest, |keys| shown.add(keys))).await;
    let checked = checked.map_err(|error| Failure::file("cannot check the backup", error))?;
    let took = Arc::into_inner(progress).map(Progress::finish).unwrap_or_default();
    match checked {
        Ok(manifest) => Ok((manifest, took)),
        Err(problems) => Err(damaged(folder, &problems)),
    }
}
