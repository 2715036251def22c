//! Files with secrets: whoever can read one has what it opens.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Says so if every user of the machine can read the file of a setting. Mounted secrets are links: what counts is the file behind them. That its
/// group can read it is how pods get at it, and no reason to warn.
pub fn warn_if_open(setting: &str, path: &Path) {
    if is_open(path) {
        tracing::warn!(
            setting,
            file = %path.display(),
            "every user of this machine can read this secret: chmod 0600 it (0440 with a group), and replace it if it may have been read"
        );
    }
}

fn is_open(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|about| about.permissions().mode() & 0o004 != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_open_if_everybody_can_read_what_is_behind_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (file, link) = (folder.path().join("file"), folder.path().join("link"));
        std::fs::write(&file, "secret").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        let open = |mode: u32| {
            std::fs::set_permissions(&file, std::fs::Permissions::from_mode(mode)).unwrap();
            (is_open(&file), is_open(&link))
        };
        assert_eq!(open(0o644), (true, true));
        assert_eq!(open(0o604), (true, true));
        for closed in [0o600, 0o400, 0o640, 0o440] {
            assert_eq!(open(closed), (false, false), "{closed:o}");
        }
        assert!(!is_open(&folder.path().join("none")), "who reads it says so");
    }
}
