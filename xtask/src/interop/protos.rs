//! The protocol buffers: buf's rules of style, and that what an earlier revision could say can still be said.
//!
//! The rules and the reasons for each exception are in `common/proto/buf.yaml`.

use std::process::{Command, Stdio};

use anyhow::Result;

use super::tools::Tools;
use crate::process;
use crate::report::Report;
use crate::workspace::root;

/// A step for each.
pub(super) fn check(report: &mut Report, tools: &Tools, against: Option<&str>) -> Result<()> {
    report.step("protos: style", || {
        process::run(tools.buf().args(["lint", "common/proto"]).current_dir(root()))
    })?;
    report.step("protos: compatibility", || {
        let revision = match against {
            Some(named) => named.to_owned(),
            None => base()?,
        };
        println!("compared with {revision}");
        let earlier = format!(".git#ref={revision},subdir=common/proto");
        process::run(
            tools
                .buf()
                .args(["breaking", "common/proto", "--against", &earlier])
                .current_dir(root()),
        )
    })
}

/// The newest tag; without one, where this branch left main.
fn base() -> Result<String> {
    let git = |arguments: &[&str]| {
        let output = process::output_of(
            Command::new("git")
                .current_dir(root())
                .args(arguments)
                .stderr(Stdio::null()),
        );
        output.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    };
    git(&["describe", "--tags", "--abbrev=0"]).or_else(|_| git(&["merge-base", "HEAD", "main"]))
}
