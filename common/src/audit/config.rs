//! What an operator may set.

use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Where operators' verbs are written down: section `[audit]` of routers and coordinators.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// A file that lines are appended to, beside the log; none: the log alone.
    pub file: Option<PathBuf>,
    /// A verb that cannot be written there is refused. Off: it is done all the same.
    pub required: bool,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self {
            file: None,
            required: true,
        }
    }
}
